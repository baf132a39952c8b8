"""What the operator gets to read for each mistake in `config/*.yml`, and what comes out where there is none."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deploytool.errors import SettingsError, UsageError
from deploytool.settings import (
    Settings,
    effective_settings,
    environments,
    load_every_environment,
    load_settings,
)
from deploytool.settings.recipes import RECIPES

GOOD = """\
application: shop
repository: git@git.example.com:acme/shop.git
deploy_to: /var/www/shop
build: {server: deploy@build.example.com}
store: {url: s3://acme-deploys/shop}
roles:
  web: {hosts: {node_meta: {role: web}}}
"""

DESIGN_EXAMPLE = """\
application: shop
repository: git@git.example.com:acme/shop.git
branch: main
subdirectory: .
deploy_to: /var/www/shop
keep_releases: 5
linked_dirs: [log, tmp/pids, public/uploads]
linked_files: [config/database.yml, .env]
build:
  server: deploy@build.example.com:22
  gateway: jump@bastion.example.com
  forward_agent: false
  root: /var/tmp/deploytool
  recipe: rails
  env: {RAILS_ENV: production}
  path: ["~/.rbenv/shims"]
  dependencies: [bundle install]
  assets: [bin/rails assets:precompile]
  migrate: [bin/rails db:migrate]
  linked_files: [config/master.key]
  exclude: [tmp, log, spec, node_modules]
  compression: gzip
  timeout_seconds: 1800
store:
  url: s3://acme-deploys/shop
  endpoint_url: null
  region: ap-northeast-1
  credentials: build_server
  keep_releases: 20
consul:
  address: http://127.0.0.1:8500
  token_file: null
roles:
  web:
    deploy_to: /var/www/shop
    hosts: {node_meta: {role: web}}
    restart: [sudo systemctl reload unicorn]
    verify: {pid_file: tmp/pids/unicorn.pid}
    hooks: {pre: [], post: [], success: [], failure: []}
  batch:
    hosts: {service: batch}
    verify: {url: "http://127.0.0.1:8080/healthz", expect: "{{ revision }}", command: "true"}
wait: {fetch_seconds: 600, activate_seconds: 300, hook_seconds: 120, stable_seconds: 2}
"""

Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Writes `config/<name>.yml` for each keyword, `deploy` and an empty `production` by default."""

    def write(**files: str | bytes) -> Path:
        config = tmp_path / "config"
        config.mkdir(exist_ok=True)
        for name, text in {"deploy": GOOD, "production": "", **files}.items():
            (config / f"{name}.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


def problems(directory: Path, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(directory, "production", environ or {})
    return caught.value.problems


def only_problem(directory: Path, environ: Mapping[str, str] | None = None) -> str:
    found = problems(directory, environ)
    assert len(found) == 1, found
    return found[0]


# What is accepted


def test_hosts_go_at_once_and_stay_unless_the_settings_say_otherwise(project: Project) -> None:
    loaded = load_settings(project(), "production", {})
    assert (loaded.in_waves, loaded.rollout.waves, loaded.rollout.on_failure) == (False, ("100%",), "halt")
    assert loaded.proof_seconds == loaded.wait.stable_seconds


@pytest.mark.parametrize(
    "said",
    [
        "rollout: {waves: [1, 25%, 100%], pause_after: 2, min_healthy_seconds: 10}",
        "rollout: {canary: {nodes: [app1]}, pause_after: 1, min_healthy_seconds: 10}",
        "rollout: {min_healthy_seconds: 10}\nroles: {web: {rollout: {waves: [1, 100%]}}}",
    ],
)
def test_proofs_of_a_rollout_in_waves_are_held_for_longer(project: Project, said: str) -> None:
    loaded = load_settings(project(production=said), "production", {})
    assert (loaded.in_waves, loaded.proof_seconds) == (True, 10)


def test_role_has_waves_of_its_own_and_the_rest_of_the_environment(project: Project) -> None:
    said = "rollout: {waves: [1, 100%], max_failures: 10%}\nroles: {web: {rollout: {waves: ['5', 100%]}}}"
    loaded = load_settings(project(production=said), "production", {})
    assert loaded.rollout_of("web").waves == ("5", "100%")
    assert loaded.rollout_of("web").max_failures == "10%"


def test_every_key_of_the_designs_example_is_accepted(project: Project) -> None:
    loaded = load_settings(project(deploy=DESIGN_EXAMPLE), "production", {})

    assert loaded.environment == "production"
    assert loaded.linked_dirs == ("log", "tmp/pids", "public/uploads")
    assert loaded.build.server == "deploy@build.example.com:22"
    assert loaded.build.path == ("~/.rbenv/shims",)
    assert loaded.build.env["RAILS_ENV"] == "production"
    assert loaded.store.endpoint_url is None
    assert list(loaded.roles) == ["web", "batch"]
    assert loaded.roles["web"].hosts.node_meta == {"role": "web"}
    assert loaded.roles["batch"].verify.expect == "{{ revision }}"
    assert loaded.wait.stable_seconds == 2


def test_defaults_are_those_of_the_design(project: Project) -> None:
    loaded = load_settings(project(), "production", {})

    assert (loaded.branch, loaded.subdirectory, loaded.keep_releases) == ("main", ".", 5)
    assert (loaded.build.root, loaded.build.recipe) == ("/var/tmp/deploytool", "none")
    assert (loaded.build.compression, loaded.build.timeout_seconds) == ("gzip", 1800)
    assert (loaded.build.gateway, loaded.build.forward_agent, loaded.build.ssh_config) == (None, False, None)
    assert (loaded.store.credentials, loaded.store.keep_releases) == ("build_server", 20)
    assert (loaded.consul.address, loaded.consul.token_file) == (None, None)
    assert loaded.roles["web"].hooks.pre == ()
    assert loaded.wait.model_dump() == {
        "fetch_seconds": 600,
        "activate_seconds": 300,
        "hook_seconds": 120,
        "stable_seconds": 5,
    }
    assert not loaded.build.is_local


def test_the_projects_own_samples_are_valid() -> None:
    project = Path(__file__).parents[2]
    for environment in ("production", "staging"):
        loaded = load_settings(project, environment, {})
        assert (loaded.application, loaded.build.recipe, set(loaded.roles)) == ("shop", "django", {"web", "batch"})


def test_maps_are_merged_deeply_and_lists_are_replaced(project: Project) -> None:
    base = (
        GOOD.replace("build: {", "build: {env: {A: a, B: b}, ") + "linked_dirs: [log, tmp]\nwait: {hook_seconds: 9}\n"
    )
    over = (
        "linked_dirs: [media]\nbuild: {env: {B: other, C: c}}\nwait: {fetch_seconds: 5}\nroles: {web: {restart: x}}\n"
    )
    loaded = load_settings(project(deploy=base, production=over), "production", {})

    assert loaded.linked_dirs == ("media",)
    assert loaded.build.env == {"A": "a", "B": "other", "C": "c"}
    assert (loaded.wait.hook_seconds, loaded.wait.fetch_seconds) == (9, 5)
    assert loaded.roles["web"].hosts.node_meta == {"role": "web"}


def test_a_bare_command_is_a_list_of_one(project: Project) -> None:
    over = "build: {migrate: rake db, assets: a}\nroles: {web: {restart: r, hooks: {pre: p}}}"
    loaded = load_settings(project(production=over), "production", {})

    assert (loaded.build.migrate, loaded.build.assets) == (("rake db",), ("a",))
    assert (loaded.roles["web"].restart, loaded.roles["web"].hooks.pre) == (("r",), ("p",))


def test_settings_can_not_be_changed(project: Project) -> None:
    loaded = load_settings(project(), "production", {})

    with pytest.raises(ValidationError):
        loaded.branch = "other"
    with pytest.raises(TypeError):
        loaded.roles["new"] = loaded.roles["web"]  # type: ignore[index]
    with pytest.raises(TypeError):
        loaded.build.env["new"] = "x"  # type: ignore[index]


def test_settings_can_be_dumped_for_a_build_key(project: Project) -> None:
    dumped = load_settings(project(deploy=DESIGN_EXAMPLE), "production", {}).model_dump(mode="json")

    assert dumped["build"]["env"]["RAILS_ENV"] == "production"
    assert dumped["roles"]["batch"]["hosts"] == {"node_meta": None, "service": "batch", "nodes": None}


def test_a_role_may_deploy_to_a_directory_of_its_own(project: Project) -> None:
    over = "roles: {batch: {deploy_to: /srv/batch/, hosts: {service: batch}}}"
    loaded = load_settings(project(production=over), "production", {})

    assert loaded.deploy_to_of("web") == "/var/www/shop"
    assert loaded.deploy_to_of("batch") == "/srv/batch"


ODD = 'it\'s $(id) "x" `y`'


def test_spaces_quotes_and_command_substitutions_are_accepted_in_every_path(project: Project) -> None:
    said = {
        "repository": f"/srv/{ODD}",
        "subdirectory": ODD,
        "deploy_to": f"/var/{ODD}",
        "linked_dirs": [f"{ODD}/d"],
        "linked_files": [f"{ODD}/f"],
        "build": {
            "root": f"~/{ODD}",
            "path": [f"/opt/{ODD}"],
            "linked_files": [ODD],
            "exclude": [ODD],
            "ssh_config": ODD,
        },
        "store": {"url": f"file:///srv/{ODD}"},
        "consul": {"token_file": f"/etc/{ODD}"},
        "roles": {"web": {"deploy_to": f"/srv/{ODD}", "verify": {"pid_file": f"{ODD}.pid"}}},
    }
    loaded = load_settings(project(production=yaml.safe_dump(said)), "production", {})

    assert loaded.deploy_to == f"/var/{ODD}"
    assert loaded.build.root == f"~/{ODD}"
    assert loaded.store.url == f"file:///srv/{ODD}"
    assert loaded.deploy_to_of("web") == f"/srv/{ODD}"


@pytest.mark.parametrize(
    "hook",
    [
        'echo "status: ok"',
        'curl -H "X-A: 1" http://127.0.0.1/ # notify',
        "[ -f /etc/hosts ] && echo yes",
        "{ echo a; echo b; }",
        "*/5 is not an alias",
        '"quoted" first',
        "echo `date`",
        "if true; then\n  echo a\nfi\n",
        "printf 'a\tb'",
        "yes",
        "{% raw %}docker ps --format '{{.Names}}'{% endraw %}",
        "echo ${HOME:-x} $HOME $(id)",
    ],
)
def test_a_quoted_hook_arrives_as_it_was_written(project: Project, hook: str) -> None:
    over = yaml.safe_dump({"roles": {"web": {"hooks": {"post": [hook]}}}})

    assert load_settings(project(production=over), "production", {}).roles["web"].hooks.post == (hook,)


def test_aliases_and_merge_keys_are_understood(project: Project) -> None:
    over = """\
roles:
  web: &web {hosts: {service: web}, restart: r}
  batch: {<<: *web, hosts: {service: batch}}
"""
    deploy = GOOD.replace("node_meta: {role: web}", "service: web")
    loaded = load_settings(project(deploy=deploy, production=over), "production", {})

    assert loaded.roles["batch"].restart == ("r",)
    assert loaded.roles["batch"].hosts.service == "batch"


# Recipes


def test_a_recipe_gives_what_is_not_given(project: Project) -> None:
    loaded = load_settings(project(production="build: {recipe: rails, migrate: null}"), "production", {})

    assert loaded.build.dependencies == RECIPES["rails"].dependencies
    assert loaded.build.migrate == RECIPES["rails"].migrate
    assert loaded.linked_dirs == RECIPES["rails"].linked_dirs
    assert loaded.linked_files == RECIPES["rails"].linked_files
    assert loaded.build.linked_files == RECIPES["rails"].build_linked_files
    assert dict(RECIPES["rails"].env).items() <= dict(loaded.build.env).items()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ("", RECIPES["django"].migrate_pending),
        (", migrate: null, migrate_pending: null", RECIPES["django"].migrate_pending),
        # What the recipe knows of its own command, it does not know of another.
        (", migrate: own", ()),
        (", migrate: own, migrate_pending: asks", ("asks",)),
        (", migrate_pending: []", ()),
    ],
)
def test_a_recipe_knows_what_is_pending_for_its_own_command(
    project: Project, build: str, expected: tuple[str, ...]
) -> None:
    loaded = load_settings(project(production=f"build: {{recipe: django{build}}}"), "production", {})
    assert loaded.build.migrate_pending == expected
    assert loaded.build.migrate_after == ()


def test_what_is_given_replaces_the_recipes_line(project: Project) -> None:
    over = "linked_dirs: [media]\nbuild: {recipe: rails, migrate: [], assets: own, env: {RAILS_ENV: test}}"
    loaded = load_settings(project(production=over), "production", {})

    assert (loaded.build.migrate, loaded.build.assets) == ((), ("own",))
    assert loaded.build.dependencies == RECIPES["rails"].dependencies
    assert loaded.linked_dirs == ("media",)
    assert loaded.build.env["RAILS_ENV"] == "test"


def test_a_recipes_inputs_are_those_of_its_own_commands(project: Project) -> None:
    def inputs(build: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        loaded = load_settings(project(production=f"build: {{recipe: rails, {build}}}"), "production", {})
        return loaded.build.dependencies_inputs, loaded.build.assets_inputs

    rails = RECIPES["rails"]
    assert inputs("path: []") == (rails.dependencies_inputs, rails.assets_inputs)
    assert inputs("dependencies: own") == ((), rails.assets_inputs)
    assert inputs("assets: own") == (rails.dependencies_inputs, ())
    assert inputs("assets: own, assets_inputs: [src, '*.css']") == (rails.dependencies_inputs, ("src", "*.css"))
    assert inputs("assets_inputs: []") == (rails.dependencies_inputs, ())


@pytest.mark.parametrize("pathspec", ["/etc", "../other", "a/../../b", "''"])
def test_inputs_stay_inside_the_application(project: Project, pathspec: str) -> None:
    with pytest.raises(SettingsError, match=r"build.assets_inputs\[0\]"):
        load_settings(project(production=f"build: {{assets: x, assets_inputs: [{pathspec}]}}"), "production", {})


# The operator's environment


def test_a_variable_is_put_in_anywhere_in_a_value_and_is_a_secret(project: Project) -> None:
    over = "repository: https://ci:${TOKEN}@git.example.com/shop\nbuild: {env: {A: '${TOKEN}', B: 'x${EMPTY}'}}"
    loaded = load_settings(project(production=over), "production", {"TOKEN": "s3cret", "EMPTY": ""})

    assert loaded.repository == "https://ci:s3cret@git.example.com/shop"
    assert loaded.build.env == {"A": "s3cret", "B": "x"}
    assert loaded.secrets == ("s3cret",)


def test_passwords_in_urls_and_the_webhook_are_secrets_wherever_they_are_written(project: Project) -> None:
    over = (
        "repository: https://ci:p%40ssw0rd@git.example.com/shop\nbuild: {env: {DATABASE_URL: 'mysql://a:hunter22@db/x'}}"
        "\nnotify: {webhook: 'https://hooks.example.com/services/T0/B0/let-me-in'}"
    )
    directory = project(production=over)
    path = "/services/T0/B0/let-me-in"
    secrets = ("p%40ssw0rd", "hunter22", f"https://hooks.example.com{path}", path)
    assert set(load_settings(directory, "production", {}).secrets) == set(secrets)

    shown = {row.path: row.value for row in effective_settings(directory, "production", {})}
    assert shown["repository"] == "https://ci:***@git.example.com/shop"
    assert shown["build.env.DATABASE_URL"] == "mysql://a:***@db/x"
    assert shown["notify.webhook"] == "***"


def test_a_password_that_is_a_name_shown_everywhere_is_not_masked(project: Project) -> None:
    over = "application: storefront\nbuild: {env: {URL: 'postgres://storefront:storefront@localhost/x'}}"
    assert load_settings(project(production=over), "production", {}).secrets == ()


def test_two_dollars_make_a_literal_and_other_dollars_are_left_alone(project: Project) -> None:
    over = (
        "build: {env: {A: '$${NAME} $NAME $(id)'}, migrate: 'echo ${X:-1}'}\nroles: {web: {restart: 'echo $${HOME}'}}"
    )
    loaded = load_settings(project(production=over), "production", {})

    assert loaded.build.env["A"] == "${NAME} $NAME $(id)"
    assert loaded.build.migrate == ("echo ${X:-1}",)
    assert loaded.roles["web"].restart == ("echo ${HOME}",)
    assert loaded.secrets == ()


def test_an_unset_variable_is_named_once_and_says_how_to_write_the_literal(project: Project) -> None:
    sentence = only_problem(project(production="build:\n  server: ${BUILD_SERVER}"))

    assert sentence.startswith("config/production.yml:2: build.server: needs the environment variable BUILD_SERVER")
    assert "$${BUILD_SERVER}" in sentence


@pytest.mark.parametrize(
    "said",
    [
        "restart: 'echo ${TOKEN}'",
        "restart: [a, 'echo ${TOKEN}']",
        "hooks: {post: ['echo ${TOKEN}']}",
        "verify: {command: 'check ${TOKEN}'}",
        "verify: {url: 'http://x/${TOKEN}'}",
        "verify: {pid_file: '${TOKEN}'}",
    ],
)
@pytest.mark.parametrize("environ", [{}, {"TOKEN": "s3cret"}])
def test_a_secret_is_refused_in_what_hosts_run(project: Project, said: str, environ: dict[str, str]) -> None:
    sentence = only_problem(project(production=f"roles: {{web: {{{said}}}}}"), environ)

    assert "must not use ${TOKEN}" in sentence
    assert "$${TOKEN}" in sentence
    assert "s3cret" not in sentence


def test_operators_own_hooks_may_hold_a_secret_and_what_else_a_shell_expands(project: Project) -> None:
    over = "hooks: {on_failure: 'curl -u ${TOKEN} $URL ${X:-y}', before_go: [a, b]}"
    loaded = load_settings(project(production=over), "production", {"TOKEN": "s3cret"})

    assert loaded.hooks.on_failure == ("curl -u s3cret $URL ${X:-y}",)
    assert loaded.hooks.before_go == ("a", "b")
    assert loaded.secrets == ("s3cret",)


@pytest.mark.parametrize("environ", [{}, {"NAME": "s3cret"}])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("application", "application: ${NAME}"),
        ("branch", "branch: ${NAME}"),
        ("subdirectory", "subdirectory: apps/${NAME}"),
        ("deploy_to", "deploy_to: /var/www/${NAME}"),
        ("keep_releases", "keep_releases: ${NAME}"),
        ("linked_dirs[0]", "linked_dirs: ['${NAME}']"),
        ("linked_files[1]", "linked_files: [a, '${NAME}']"),
        ("store.url", "store: {url: 's3://acme/${NAME}'}"),
        ("roles.web.deploy_to", "roles: {web: {deploy_to: '/srv/${NAME}'}}"),
        ("roles.b.hosts.nodes[0]", "roles: {b: {hosts: {nodes: ['${NAME}']}}}"),
    ],
)
def test_a_secret_is_refused_where_it_would_be_published(
    project: Project, path: str, said: str, environ: dict[str, str]
) -> None:
    sentence = only_problem(project(production=said), environ)

    assert f" {path}: must not use ${{NAME}}: it is a secret" in sentence
    assert "s3cret" not in sentence


def test_a_secret_is_welcome_where_only_the_build_server_sees_it(project: Project) -> None:
    over = """\
repository: https://ci:${TOKEN}@git.example.com/shop
build: {env: {A: '${TOKEN}'}, migrate: 'echo ${TOKEN}', assets: ['echo ${TOKEN}'], server: '${TOKEN}'}
store: {endpoint_url: 'http://${TOKEN}'}
consul: {token_file: '/etc/${TOKEN}'}
"""
    assert load_settings(project(production=over), "production", {"TOKEN": "s3cret"}).secrets == ("s3cret",)


def test_the_projects_own_directory_is_no_secret_and_may_stand_everywhere(project: Project) -> None:
    over = "deploy_to: ${DEPLOYTOOL_PROJECT}/x\nstore: {url: 'file://${DEPLOYTOOL_PROJECT}/store'}"
    directory = project(production=over)
    loaded = load_settings(directory, "production", {"DEPLOYTOOL_PROJECT": "not this"})

    assert (loaded.deploy_to, loaded.store.url) == (f"{directory}/x", f"file://{directory}/store")
    assert loaded.secrets == ()


@pytest.mark.parametrize("value", ["2", "12345"])
def test_a_short_value_is_refused_rather_than_masked_in_every_line(project: Project, value: str) -> None:
    over = "build: {env: {WORKERS: '${WORKERS}'}}"
    sentence = only_problem(project(production=over), {"WORKERS": value})

    assert "build.env.WORKERS: uses ${WORKERS}, whose value has fewer than 6 characters" in sentence
    assert "Write the value into the file" in sentence


@pytest.mark.parametrize("value", ["production", "roduct", "storefront"])
def test_a_value_that_is_in_a_name_shown_everywhere_is_refused(project: Project, value: str) -> None:
    over = "application: storefront\nbuild: {env: {RAILS_ENV: '${RAILS_ENV}'}}"
    sentence = only_problem(project(production=over), {"RAILS_ENV": value})

    assert "whose value is in the name of the environment, the application or a role" in sentence


def test_short_values_of_other_environments_do_not_matter(project: Project) -> None:
    directory = project(staging="build: {env: {WORKERS: '${WORKERS}'}}")

    assert load_every_environment(directory, "production", {"WORKERS": "2"})["production"].secrets == ()
    with pytest.raises(SettingsError):
        load_every_environment(directory, "staging", {"WORKERS": "2"})


def test_a_shells_default_is_refused_where_no_shell_will_see_it(project: Project) -> None:
    assert "only ${NAME} is supported" in only_problem(project(production="branch: ${BRANCH:-main}"))


def test_a_variable_that_is_no_text_is_refused(project: Project) -> None:
    sentence = only_problem(project(production="repository: x${B}"), {"B": "\udcff"})

    assert "is not UTF-8" in sentence


def test_no_secret_is_in_any_problem_or_repr(project: Project) -> None:
    over = """\
application: ${S}
branch: -${S}
deploy_to: ${S}
linked_dirs: ["${S}", "${S}/x"]
linked_files: ["${S}"]
build: {gateway: "${S}", root: "${S}", path: ["${S}"], linked_files: ["/${S}", "/${S}"], exclude: ["../${S}"],
  server: "${S} x", recipe: "${S}", compression: "${S}", env: {A: "${S}"}, timeout_seconds: "${S}"}
store: {url: "${S}", region: "${S} x", endpoint_url: "http://${S}:99999", credentials: "${S}"}
consul: {address: "${S}", token_file: "${S}"}
roles: {web: {hosts: {node_meta: null, nodes: ["${S}", "${S}"]}}, two: {hosts: {nodes: ["${S}"]}}}
"""
    found = problems(project(production=over), {"S": "hunter2 HUNTER"})

    assert len(found) > 10
    assert "hunter2" not in "\n".join(found)
    good = load_settings(project(production="build: {env: {A: '${S}'}}"), "production", {"S": "hunter2"})
    assert "hunter2" not in f"{good!r} {good} {good.build!r} {good.build}"


# Mistakes

WRONG = [
    ("aplication: x", "config/production.yml:1: aplication: is not a setting. Did you mean application?"),
    ("keep-releases: 5", "Did you mean keep_releases?"),
    ("compression: zstd", "Did you mean build.compression?"),
    ("zzz: 1", "zzz: is not a setting. Known here: application, repository,"),
    ("roles: {web: {hook: {}}}", "roles.web.hook: is not a setting. Did you mean hooks?"),
    ("roles: {web: {hooks: {befor: x}}}", "Known here: pre, post, success, failure, drain, undrain"),
    ("environment: x", "environment: is not a setting"),
    ("secrets: [x]", "secrets: is not a setting"),
    ("directory: x", "directory: is not a setting"),
    ("build: {compression: gzp}", "build.compression: must be one of gzip, zstd, none. Did you mean gzip?"),
    ("build: {recipe: djanog}", "Did you mean django?"),
    ("store: {credentials: oprator}", "Did you mean operator?"),
    ("branch: 1.10", 'branch: must be text, but YAML reads 1.10 as a number. Put it in quotes: "1.10".'),
    ("branch: 1_0", "YAML reads 1_0 as a number"),
    ("branch: yes", 'YAML reads yes as a truth value. Put it in quotes: "yes".'),
    ("branch: 2024-01-01", "YAML reads 2024-01-01 as a date"),
    ("branch: 22:22", "YAML reads 22:22 as a number"),
    ("branch:", "branch: has no value, but must be text"),
    ("branch: [a]", "branch: must be text, not a list"),
    ("branch: {a: b}", "branch: must be text, but YAML reads it as a map"),
    ("branch: --upload-pack=x", "branch: must not start with `-`"),
    ('branch: "a\\nb"', "branch: must not contain line breaks"),
    ("branch: ''", "branch: is empty"),
    ("repository: --upload-pack=x", "repository: must not start with `-`"),
    ("keep_releases: '5'", "keep_releases: must be a whole number, written without quotes"),
    ("keep_releases: 5.0", "keep_releases: must be a whole number"),
    ("keep_releases: yes", "keep_releases: must be a whole number"),
    ("keep_releases: .nan", "keep_releases: must be a whole number"),
    ("keep_releases: 0", "keep_releases: must be between 1 and"),
    ("keep_releases: -1", "keep_releases: must be between 1 and"),
    ("store: {keep_releases: 0}", "store.keep_releases: must be between 1 and"),
    ("wait: {hook_seconds: 0}", "wait.hook_seconds: must be between 1 and"),
    (
        "wait: {stable_seconds: 300}",
        "wait.activate_seconds: must be more than 840, twice hook_seconds + stable_seconds",
    ),
    ("wait: {activate_seconds: 200}", "wait.activate_seconds: must be more than 250"),
    (
        "rollout: {min_healthy_seconds: 60}",
        "wait.activate_seconds: must be more than 360, twice hook_seconds + rollout.min_healthy_seconds",
    ),
    ("rollout: {waves: [1, 50%]}", "rollout.waves: must end with 100%"),
    ("rollout: {waves: []}", "rollout.waves: must end with 100%"),
    ("rollout: {waves: [101%, 100%]}", "rollout.waves[0]: must be a number of hosts, such as 1, or a share of them"),
    ("rollout: {waves: [0, 100%]}", "rollout.waves[0]: must be a number of hosts"),
    ("rollout: {waves: [yes, 100%]}", "rollout.waves[0]: must be a number of hosts"),
    ("rollout: {canary: {nodes: []}}", "rollout.canary.nodes: is empty"),
    ("rollout: {pause_after: 1}", "rollout.pause_after: must be less than 1, the number of waves"),
    ("rollout: {waves: [1, 100%], pause_after: 2}", "rollout.pause_after: must be less than 2"),
    ("rollout: {canary: {nodes: [a]}, pause_after: 2}", "rollout.pause_after: must be less than 2"),
    ("rollout: {max_failures: -1}", "rollout.max_failures: must be a number of hosts"),
    ("rollout: {on_failure: pray}", "rollout.on_failure: must be one of"),
    ("roles: {web: {rollout: {waves: [1]}}}", "roles.web.rollout.waves: must end with 100%"),
    ("build: {timeout_seconds: 99999999999999999999999}", "build.timeout_seconds: must be between"),
    ("build: {forward_agent: 'yes'}", "build.forward_agent: must be true or false"),
    ("build: {forward_agent: 1}", "build.forward_agent: must be true or false"),
    ("build: {env: {A: 1}}", "build.env.A: must be text, but YAML reads it as a number"),
    ("build: {env: {A-B: x}}", "build.env.A-B: is not a variable's name"),
    ("build: {env: [a]}", "build.env: must be a map"),
    ("build: {migrate: 5}", "build.migrate: must be a list"),
    ("build: {migrate: ['']}", "build.migrate[0]: is an empty command"),
    ("build: {migrate: ''}", "build.migrate: is an empty command"),
    ("build: {path: [bin]}", "build.path[0]: must start with `/`"),
    ("build: {path: ['/a:/b']}", "write two entries"),
    ("build: {root: work}", "build.root: must start with `/`"),
    ("build: {server: 'a b'}", "build.server: must look like user@host"),
    ("build: {server: 'h:99999'}", "build.server: has a port"),
    ("build: {server: -oProxyCommand=x}", "build.server: must look like user@host"),
    ("build: {gateway: local}", "build.gateway: must look like user@host"),
    ("build: {exclude: [/tmp]}", "build.exclude[0]: must be a relative path"),
    ("build: {linked_files: [a, ./a]}", "build.linked_files[1]: is listed twice"),
    ("build: []", "build: must be a map"),
    ("consul:", "consul: has no value, but must be a map"),
    ("consul: {address: '127.0.0.1:8500'}", "consul.address: must look like http://"),
    ("store: {url: gs://x}", "store.url: must start with s3:// or file:///"),
    ("store: {url: file://var/x}", "store.url: must name an absolute directory, with three slashes"),
    ("store: {url: 's3://'}", "store.url: must look like s3://bucket/prefix"),
    ("store: {url: 's3://bucket/a?b'}", "store.url: must not contain `?`"),
    ("consul: {address: 'http://127.0.0.1:99999'}", "consul.address: has a port that is not between 1 and 65535"),
    ("consul: {address: 'https://consul:x'}", "consul.address: has a port that is not between 1 and 65535"),
    ("consul: {address: 'http://:8500'}", "consul.address: has no host"),
    ("consul: {address: 'http://[::1'}", "consul.address: has a host that is not valid"),
    ("store: {endpoint_url: 'http://127.0.0.1:65536'}", "store.endpoint_url: has a port that is not between 1 and"),
    ("store: {endpoint_url: 'http://127.0.0.1:0/x'}", "store.endpoint_url: has a port that is not between 1 and"),
    ("roles: {web: {verify: {url: 'http://127.0.0.1:99999/'}}}", "roles.web.verify.url: has a port that is not"),
    ("store: {endpoint_url: localhost}", "store.endpoint_url: must look like http://"),
    ('store: {endpoint_url: "http://a\\e[2J"}', "store.endpoint_url: must not contain line breaks or other control"),
    ('linked_files: ["a\\u202eb"]', "linked_files[0]: must not contain line breaks or other control characters"),
    ('branch: "a\\x9b2J"', "branch: must not contain line breaks or other control characters"),
    ("application: Shop", "application: is not a valid name: a name starts with"),
    ("application: a/b", "application: is not a valid name"),
    ("deploy_to: var/www", "deploy_to: must be an absolute path"),
    ("deploy_to: /", "deploy_to: must not be the root directory"),
    ("deploy_to: /a/../b", "deploy_to: must not contain `..`"),
    ("subdirectory: ../x", "subdirectory: must be a relative path inside the repository"),
    ("subdirectory: /x", "subdirectory: must be a relative path inside the repository"),
    ("linked_dirs: log", "linked_dirs: must be a list"),
    ("linked_dirs: [/log]", "linked_dirs[0]: must be a relative path"),
    ("linked_dirs: [a/../../b]", "linked_dirs[0]: must not contain `..`"),
    ("linked_dirs: [.]", "linked_dirs[0]: must be a path inside the release"),
    ("linked_dirs: [log, log/]", "linked_dirs[1]: is listed twice: it is already in linked_dirs (log)"),
    ("linked_dirs: [tmp/pids, tmp]", "linked_dirs[1]: and linked_dirs (tmp/pids) are inside each other"),
    (
        "{linked_dirs: [config], linked_files: [config/a]}",
        "linked_files[0]: and linked_dirs (config) are inside each other",
    ),
    ("{build: {recipe: rails}, linked_files: [log/x]}", "linked_files[0]: and linked_dirs (log) are inside each other"),
    ("roles: {Web: {hosts: {service: x}}}", "roles.Web: can't be a role's name"),
    ("roles: {on: {hosts: {service: x}}}", 'roles.on: is a key that YAML reads as a truth value: write "on"'),
    ("roles: {b: {}}", "roles.b.hosts: is missing: {node_meta: {role: web}}"),
    ("roles: {b: {hosts: {}}}", "roles.b.hosts: must have exactly one of node_meta, service and nodes, but has none"),
    ("roles: {web: {hosts: {service: x}}}", "has node_meta and service. Maps of both files are merged"),
    ("roles: {b: {hosts: {nodes: []}}}", "roles.b.hosts.nodes: is empty"),
    ("roles: {b: {hosts: {nodes: [x, x]}}}", "roles.b.hosts.nodes[1]: lists x twice"),
    ("roles: {b: {hosts: {nodes: [a/b]}}}", "roles.b.hosts.nodes[0]: must not contain spaces or `/`"),
    ("roles: {b: {hosts: {node_meta: {role: web}}}}", "roles.b: has the same hosts and the same deploy_to"),
    ("roles: {b: {hosts: {nodes: [x, y]}}, c: {hosts: {nodes: [y]}}}", "roles.c: has the same hosts"),
    (
        "{consul: {address: 'file:///b'}, roles: {w: {deploy_to: /srv/w, hosts: {nodes: [x, y]}}}}",
        "roles.w.deploy_to: must start with /pretend/host/ here",
    ),
    ("roles: {web: {verify: {expect: x}}}", "roles.web.verify.expect: needs `verify.url`"),
    ("roles: {web: {verify: {url: 'ftp://x'}}}", "roles.web.verify.url: must start with http://"),
    ("roles: {web: {verify: {pid_file: ../x}}}", "roles.web.verify.pid_file: must not contain `..`"),
    ("roles: {web: {restart: '{{ relese }}'}}", "roles.web.restart: uses `relese`, which is not defined. Did you"),
    (
        "roles: {web: {restart: [a, '{{ zzz }}']}}",
        "roles.web.restart[1]: uses `zzz`, which is not defined. Defined are",
    ),
    ("hooks: {pre: x}", "hooks.pre: is not a setting here. Did you mean roles.<role>.hooks.pre?"),
    ("hooks: {before_deploy: x}", "hooks.before_deploy: is not a setting. Did you mean before_"),
    ("hooks: {before_go: ['']}", "hooks.before_go[0]: is an empty command"),
    ("roles: {web: {hooks: {drain: x}}}", "roles.web.hooks.drain: needs `undrain` as well"),
    ("roles: {web: {hooks: {drain: x, undrain: '{{ release'}}}", "roles.web.hooks.undrain: is not a Jinja template"),
    ("roles: {web: {hooks: {pre: '{{ release'}}}", "roles.web.hooks.pre: is not a Jinja template"),
    ("roles: {web: {hooks: {pre: '{{ release | nope }}'}}}", "No filter named 'nope'"),
    ("roles: {web: {hooks: {pre: '{{ release.x.y }}'}}}", "roles.web.hooks.pre: can't be rendered"),
    ("roles: {web: {hooks: {pre: \"docker ps --format '{{.Names}}'\"}}}", "{% raw %}"),
    ("roles: {web: {verify: {command: '{{ x }}'}}}", "roles.web.verify.command: uses `x`"),
    ('roles: {web: {restart: "a\\0b"}}', "roles.web.restart: contains a NUL character"),
    ("roles: {web: {restart: \"{{ '\\\\x00' }}\"}}", "renders to text with a NUL character"),
    ("roles: {web: {restart: [echo: ok]}}", "roles.web.restart[0]: must be text, but YAML reads it as a map"),
    ("branch: !!python/name:os.system x", "branch: has the YAML tag"),
    ("branch: !secret x", "branch: has the YAML tag !secret"),
    ("keep_releases: !!int many", "keep_releases: has the YAML tag !!int, but its value does not match"),
    ("? [a]\n: b", "has a list or a map as a key"),
    ("branch: a\nbranch: b", "config/production.yml:2: branch: is defined twice; the first one is in line 1"),
    ("build:\n  root: /a\n  root: /b", "config/production.yml:3: build.root: is defined twice"),
    ("- a", "config/production.yml:1: must contain settings, one `key: value` per line"),
    ("hello", "must contain settings"),
    ("a: [", "config/production.yml:1: is not YAML"),
    ("branch: a: b", "config/production.yml:1: is not YAML: mapping values are not allowed here. A value that"),
    ("build:\n\troot: /x", "config/production.yml:2: is not YAML"),
    ("branch: `x`", "is not YAML"),
    ("branch: a\n---\nbranch: b", "is not YAML"),
    ("branch: *x", "is not YAML"),
    ("branch: \x07", "config/production.yml:1: is not YAML: it contains the control character U+0007"),
    ('branch: "\\U99999999"', "is not YAML"),
    ("a: " + "[" * 5000, "is nested too deeply"),
    ("branch: &a [*a]", "is nested too deeply"),
    (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)),
        "too many values",
    ),
    (b"branch: a\nbuild: \xff", "config/production.yml:2: is not UTF-8 from this line on"),
    ("branch: a".encode("utf-16"), "is not UTF-8"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG, ids=[sentence[:60] for _, sentence in WRONG])
def test_a_mistake_is_named_alone_with_its_place_and_cure(project: Project, text: str | bytes, sentence: str) -> None:
    assert sentence in only_problem(project(production=text))


def test_a_tab_is_named_as_such(project: Project) -> None:
    assert "Indent with spaces" in only_problem(project(production="build:\n\troot: /x"))


def test_what_is_missing_is_named_with_its_meaning(project: Project) -> None:
    found = problems(project(deploy="build: {}\nstore: {}"))

    assert [sentence.split(": ")[1] for sentence in found] == [
        "application",
        "repository",
        "deploy_to",
        "roles",
        "build.server",
        "store.url",
    ]
    assert "config/deploy.yml:1: build.server: is missing: the build server, user@host:port, or local." in found


def test_no_role_at_all_is_a_mistake(project: Project) -> None:
    assert "roles: is empty" in only_problem(
        project(deploy=GOOD.replace("roles:\n  web: {hosts: {node_meta: {role: web}}}", "roles: {}"))
    )


def test_all_mistakes_of_both_files_are_named_in_one_run(project: Project) -> None:
    found = problems(
        project(
            deploy=GOOD + "keep_releases: many\nlinked_dirs: [a, a]\nbuidl: 1\n",
            production="branch: 1.10\nroles:\n  web:\n    restart: '{{ x }}'\n    verify: {expect: x}\nwait: 1\n",
        )
    )

    places = [sentence.split(": ", 2)[:2] for sentence in found]
    assert places == [
        ["config/deploy.yml:8", "keep_releases"],
        ["config/deploy.yml:9", "linked_dirs[1]"],
        ["config/deploy.yml:10", "buidl"],
        ["config/production.yml:1", "branch"],
        ["config/production.yml:4", "roles.web.restart"],
        ["config/production.yml:5", "roles.web.verify.expect"],
        ["config/production.yml:6", "wait"],
    ]


def test_pydantics_own_words_never_show(project: Project) -> None:
    shown = "\n".join(sentence for text, _ in WRONG for sentence in problems(project(production=text)))
    for leak in ("Input should", "Extra inputs", "valid string", "pydantic", "Value error", "Field required"):
        assert leak not in shown


# Environments and files


def test_environments_are_the_files_beside_deploy_yml(project: Project) -> None:
    directory = project(staging="")
    for name in (".hidden.yml", "notes.txt", "Odd Name.yml", "old.yaml"):
        (directory / "config" / name).touch()
    (directory / "config" / "folder.yml").mkdir()

    assert environments(directory) == ("production", "staging")
    assert environments(directory / "config") == ()


def test_names_of_environments_are_known_without_loading_pydantic_or_jinja() -> None:
    code = "import sys, deploytool.settings as s; s.environments; print({'pydantic', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "set()"


def test_an_unknown_environment_is_told_which_ones_exist(project: Project) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(project(staging=""), "prodution", {})

    assert not isinstance(caught.value, SettingsError)
    assert str(caught.value) == (
        "There is no environment 'prodution'. Did you mean production?\nhint: environments: production, staging"
    )


@pytest.mark.parametrize("name", ["../config/production", "", "a\0b", "deploy", "Odd Name", "x" * 5000])
def test_a_strange_environment_is_refused(project: Project, name: str) -> None:
    directory = project()
    (directory / "config" / "Odd Name.yml").touch()
    with pytest.raises(UsageError):
        load_settings(directory, name, {})


def test_a_yaml_suffix_is_recognised(project: Project) -> None:
    directory = project()
    (directory / "config" / "qa.yaml").touch()
    with pytest.raises(UsageError, match=r"Rename config/qa\.yaml"):
        load_settings(directory, "qa", {})


def test_a_directory_without_config_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, "production", {})

    assert caught.value.problems == ("config: this directory does not exist.",)
    assert caught.value.hint is not None


@pytest.mark.parametrize("name", ["workspace", "build", "unlock", "rollback", "app-server", "app_server"])
def test_an_environment_named_like_a_command_or_a_lock_is_refused(project: Project, name: str) -> None:
    directory = project(**{name: ""})

    assert environments(directory) == ("production",)
    with pytest.raises(SettingsError) as every:
        load_every_environment(directory, "production", {})
    (sentence,) = every.value.problems
    assert sentence.startswith(f"config/{name}.yml: can't be an environment: `{name.replace('_', '-')}` is ")
    with pytest.raises(UsageError) as chosen:
        load_settings(directory, name, {})
    assert "Rename the file" in chosen.value.message


def test_environments_that_are_one_on_the_command_line_are_refused(project: Project) -> None:
    directory = project(**{"a-b": "", "a_b": ""})

    assert environments(directory) == ("a-b", "production")
    with pytest.raises(SettingsError) as caught:
        load_every_environment(directory, "production", {})
    assert caught.value.problems == (
        "config/a_b.yml: conflicts with config/a-b.yml: the command line treats `_` and `-` as the same. "
        "Rename one of them.",
    )


def test_a_missing_deploy_yml_is_the_only_problem_it_makes(project: Project) -> None:
    directory = project()
    (directory / "config" / "deploy.yml").unlink()

    assert only_problem(directory).startswith(
        "config/deploy.yml: does not exist; it has the settings that all environments share."
    )


def test_a_broken_file_hides_neither_the_other_nor_invents_missing_values(project: Project) -> None:
    found = problems(project(deploy="a: [", production="branch: 1.10"))

    assert len(found) == 2
    assert "is not YAML" in found[0]
    assert "1.10" in found[1]


# All environments


def test_an_unset_variable_matters_only_in_the_chosen_environment(project: Project) -> None:
    over = """\
repository: ${REPOSITORY}
build: {server: '${SERVER}', compression: '${COMPRESSION}', env: {A: '${A}'}}
store: {endpoint_url: '${URL}'}
"""
    directory = project(staging=over)

    loaded = load_every_environment(directory, "production", {})
    assert list(loaded) == ["production", "staging"]
    assert loaded["staging"].build.server == "${SERVER}"
    assert loaded["staging"].store.endpoint_url == "${URL}"
    assert loaded["staging"].secrets == ()
    with pytest.raises(SettingsError) as caught:
        load_every_environment(directory, "staging", {})
    assert len(caught.value.problems) == 5


def test_a_mistake_in_the_shared_file_is_named_once_and_those_of_all_files_are_named(project: Project) -> None:
    directory = project(
        deploy=GOOD.replace("application: shop\n", "") + "keep_releases: 0\n",
        production="branch: 1.10",
        staging="application: x\nwait: 1",
    )
    (directory / "config" / "My Env.yml").touch()
    with pytest.raises(SettingsError) as caught:
        load_every_environment(directory, "staging", {})

    found = caught.value.problems
    assert sum("keep_releases" in sentence for sentence in found) == 1
    assert "config/deploy.yml: application: is missing for production: the application's name." in found
    assert any(sentence.startswith("config/My Env.yml: can't be an environment") for sentence in found)
    assert any(sentence.startswith("config/staging.yml:2: wait") for sentence in found)
    assert len(found) == 5


def test_what_is_missing_everywhere_is_named_once(project: Project) -> None:
    with pytest.raises(SettingsError) as caught:
        load_every_environment(project(deploy=GOOD.replace("application: shop\n", ""), staging=""), "staging", {})

    assert caught.value.problems == ("config/deploy.yml: application: is missing: the application's name.",)


# What is in effect


def test_each_setting_is_shown_with_its_source_and_secrets_masked(project: Project) -> None:
    over = """\
branch: next
repository: https://ci:${TOKEN}@git.example.com/$${x}
build: {recipe: rails, migrate: [], env: {KEY: '${TOKEN}'}, path: ['/opt/${TOKEN}', /bin]}
"""
    rows = effective_settings(project(production=over), "production", {"TOKEN": "s3cret"})
    shown = {row.path: (row.value, row.source) for row in rows}

    assert shown["application"] == ("shop", "config/deploy.yml")
    assert shown["branch"] == ("next", "config/production.yml")
    assert shown["repository"] == ("https://ci:***@git.example.com/${x}", "config/production.yml")
    assert shown["keep_releases"] == (5, "default")
    assert shown["build.dependencies"] == (list(RECIPES["rails"].dependencies), "recipe rails")
    assert shown["linked_files"] == (["config/database.yml", "config/master.key"], "recipe rails")
    assert shown["build.linked_files"] == (["config/database.yml", "config/master.key"], "recipe rails")
    assert shown["build.migrate"] == ([], "config/production.yml")
    assert shown["build.env.RAILS_ENV"] == ("production", "recipe rails")
    assert shown["build.env.KEY"] == ("***", "config/production.yml")
    assert shown["build.path"] == (["/opt/***", "/bin"], "config/production.yml")
    assert shown["roles.web.hosts.node_meta.role"] == ("web", "config/deploy.yml")
    assert shown["roles.web.hooks.pre"] == ([], "default")
    assert shown["build.forward_agent"] == (False, "default")
    assert shown["store.region"] == (None, "default")
    assert "s3cret" not in repr(rows)
    assert not {"environment", "secrets", "directory"} & set(shown)


def test_project_directory_is_no_secret_and_a_secret_beside_it_is_masked(project: Project) -> None:
    over = (
        "build: {root: '${DEPLOYTOOL_PROJECT}/var', path: ['${DEPLOYTOOL_PROJECT}/${TOKEN}/bin']}\n"
        "consul: {token_file: '${DEPLOYTOOL_PROJECT}/$${TOKEN}'}\n"
    )
    directory = project(production=over)
    shown = {row.path: row.value for row in effective_settings(directory, "production", {"TOKEN": "s3cret"})}
    assert shown["build.root"] == f"{directory}/var"
    assert shown["build.path"] == [f"{directory}/***/bin"]
    assert shown["consul.token_file"] == f"{directory}/${{TOKEN}}"


# Whatever is written

KEYS = st.sampled_from(
    [
        *(name for name in Settings.model_fields),
        *("server", "env", "url", "web", "hosts", "nodes", "node_meta", "restart", "verify", "hooks", "pre", "expect"),
        *("command", "migrate", "recipe", "fetch_seconds", "stable_seconds", "[key]", "<<", "yes", "1"),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.binary(max_size=3)
    | st.text(max_size=8)
    | st.sampled_from(
        ["${X}", "${SET}", "$${X}", "{{ release }}", "{{ x", "../x", "/x", "local", "s3://bucket/x", "-x"]
    )
)
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=6)
)


def load_whatever(directory: Path) -> None:
    for load in (load_settings, load_every_environment, effective_settings):
        try:
            load(directory, "production", {"SET": "s3cret"})
        except UsageError as error:
            assert "s3cret" not in str(error)  # noqa: PT017


fuzzing = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzing
@given(deploy=st.just(yaml.safe_load(GOOD)) | JUNK, production=JUNK)
def test_no_yaml_raises_anything_but_a_settings_error(project: Project, deploy: object, production: object) -> None:
    load_whatever(project(deploy=yaml.dump(deploy), production=yaml.dump(production), other=""))


@fuzzing
@given(production=st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"%@`,? \n\t<#~.0", max_size=60))
def test_no_file_raises_anything_but_a_settings_error(project: Project, production: str | bytes) -> None:
    load_whatever(project(production=production))


@fuzzing
@given(hook=st.text(alphabet="{}%#'\"| .()[]release1+-_\n", max_size=40))
def test_no_hook_raises_anything_but_a_settings_error(project: Project, hook: str) -> None:
    over = yaml.safe_dump({"roles": {"web": {"restart": hook}}})
    load_whatever(project(production=over))


# --- what `deploytool init` could not know


def test_value_that_is_still_to_be_filled_in_is_told_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    text = GOOD.replace("deploy@build.example.com", "FILL_IN").replace("{role: web}", "{role: FILL_IN}")
    (tmp_path / "config/deploy.yml").write_text(f"{text}linked_files: [FILL_IN/.env, NOT_FILL_IN_EITHER]\n")
    (tmp_path / "config/production.yml").touch()
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, "production", {})
    assert caught.value.problems == (
        "config/deploy.yml:4: build.server: is still to be filled in: the build server, user@host:port, or local.",
        "config/deploy.yml:7: roles.web.hosts.node_meta.role: is still to be filled in.",
        "config/deploy.yml:8: linked_files[0]: is still to be filled in: files that are linked from shared/.",
    )


def test_environment_that_is_still_to_be_filled_in_keeps_no_other_from_its_deploy(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/deploy.yml").write_text(GOOD)
    (tmp_path / "config/staging.yml").touch()
    production = "build: {server: FILL_IN, recipe: FILL_IN, root: FILL_IN}\nstore: {url: FILL_IN}\n"
    (tmp_path / "config/production.yml").write_text(production)
    assert set(load_every_environment(tmp_path, "staging", {})) == {"production", "staging"}
    with pytest.raises(SettingsError) as caught:
        load_every_environment(tmp_path, "production", {})
    assert len(caught.value.problems) == 4


# --- settings apart from an application's own files


def test_settings_in_config_deploy_leave_the_rest_of_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config/deploy").mkdir(parents=True)
    (tmp_path / "config/deploy.yml").write_text("service: of Kamal's\n")
    (tmp_path / "config/database.yml").write_text("default: {adapter: sqlite3}\n")
    (tmp_path / "config/deploy/deploy.yml").write_text(GOOD)
    (tmp_path / "config/deploy/production.yml").write_text("branch: stable\n")
    assert environments(tmp_path) == ("production",)
    assert load_every_environment(tmp_path, "production", {})["production"].branch == "stable"
    sources = {row.path: row.source for row in effective_settings(tmp_path, "production", {})}
    assert sources["branch"] == "config/deploy/production.yml"
    assert sources["application"] == "config/deploy/deploy.yml"
    (tmp_path / "config/deploy/production.yml").write_text("brnch: stable\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path, "production", {})
    assert caught.value.problems[0].startswith("config/deploy/production.yml:1: brnch: is not a setting.")


def test_directory_of_capistranos_alone_holds_no_settings(tmp_path: Path) -> None:
    (tmp_path / "config/deploy").mkdir(parents=True)
    (tmp_path / "config/deploy/production.rb").touch()
    (tmp_path / "config/deploy.yml").write_text(GOOD)
    (tmp_path / "config/staging.yml").touch()
    assert environments(tmp_path) == ("staging",)
