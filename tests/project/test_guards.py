"""What one forgets who adds a setting, a recipe, a module or a command: each of these fails then."""

import itertools
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from invoke.tasks import Task
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploytool import tasks
from deploytool.build import stages
from deploytool.build.build import build_inputs
from deploytool.build.stages import LinkedFileDigest, cache
from deploytool.cli.completion import Vocabulary, candidates
from deploytool.hosts.manifest import role_manifest
from deploytool.hosts.scripts import values_of
from deploytool.init.proposal import Given, propose
from deploytool.init.survey import Survey
from deploytool.model.release import Revision
from deploytool.settings.model import Build, Verify
from deploytool.settings.recipes import RECIPES
from deploytool.worker import pinned
from deploytool.worker.own_isal import VERSION, VERSION_FOR_LATER, version_for
from tests.support.manifests import DEPLOYMENT, RELEASE, given_settings
from tools.lock import wanted

ROOT = Path(__file__).parents[2]
HOST = ROOT / "templates/host"

#: settings of `build` that decide no byte of a release, and why not
NOT_IN_THE_BUILD_KEY = {
    **dict.fromkeys(("server", "gateway", "forward_agent", "ssh_config", "transport", "root"), "where it is built"),
    "timeout_seconds": "how long that may take",
    **dict.fromkeys(("migrate", "migrate_pending", "migrate_after"), "run on the database, after the build"),
    "linked_files": "their contents are in the key, by `Fetched.linked_files`",
    "allow_paths": "decides whether an archive is published, not what is in it",
    "export_attributes": "in the key by `Fetched.exports`, where the revision has such attributes",
}
#: the same for what a cached stage makes; beside its own commands and inputs
NOT_IN_A_STAGE_KEY = {
    **NOT_IN_THE_BUILD_KEY,
    "exclude": "applied when the archive is packed",
    "compression": "applied when the archive is packed",
}


#: One deployment keeps its proof, and a later one, which asks for something else, undoes its own switch.
KEEPS_AND_TAKES = """
room=$1 strength= notes= boot_seconds= switch_previous=
heard_with() { :; }
restart_commands() { :; }
keep_kit || exit 9
eval "verify_$0=other"
take_kit "releases/$release"
eval "printf %s \\"\\$verify_$0\\""
"""


class Noting:
    """Settings that note which of them were read."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values=values, read=set())

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return self.values[name]


def noting_build() -> Noting:
    defaults = Build.model_construct(server="local", dependencies=("one",), dependencies_inputs=("two",))
    return Noting(**{name: getattr(defaults, name, None) for name in Build.model_fields})


FETCHED = stages.Fetched(Revision("0" * 40), "main", 0, "", (LinkedFileDigest("a", "b"),), {})


def test_setting_of_build_is_in_the_build_key_or_on_the_list_of_those_that_decide_no_byte() -> None:
    build = noting_build()
    settings: Any = SimpleNamespace(build=build, application="shop", subdirectory=".")
    build_inputs(settings, FETCHED, "gzip 1")
    assert set(Build.model_fields) - build.read == set(NOT_IN_THE_BUILD_KEY), (
        "put it into `build_inputs` of build/build.py, or on NOT_IN_THE_BUILD_KEY with the reason"
    )


def test_setting_of_build_is_in_the_keys_of_cached_stages_or_on_the_list_of_those_that_decide_nothing_there() -> None:
    build = noting_build()
    settings: Any = SimpleNamespace(build=build, application="shop", subdirectory=".")
    place: Any = SimpleNamespace(kept="/kept", workspace="/workspace", work_tree="/workspace")
    cache.take(settings, place, FETCHED)
    assert set(Build.model_fields) - build.read == set(NOT_IN_A_STAGE_KEY), (
        "put it into `_known` of build/stages/cache.py, or on NOT_IN_A_STAGE_KEY with the reason"
    )


@pytest.mark.parametrize("name", Verify.model_fields)
def test_setting_of_verify_is_in_the_kit_that_an_undo_proves_with(name: str, tmp_path: Path) -> None:
    changed: Any = {"port": 8000, "as_before": False}.get(name, "changed")
    manifest = role_manifest(given_settings(verify={name: changed}), "web", RELEASE, DEPLOYMENT)
    script = "\n".join(values_of(manifest)) + "\n" + (HOST / "switch.sh").read_text() + KEEPS_AND_TAKES
    said = subprocess.run(["sh", "-c", script, name, str(tmp_path)], capture_output=True, text=True, check=True)
    assert said.stdout == {"port": "8000", "as_before": "no"}.get(name, "changed")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_known_to_the_docs_and_proposes_settings_that_hold(name: str) -> None:
    described = name == "none" or f"\n## {name}\n" in (ROOT / "docs/recipes.md").read_text()
    assert described, f"docs/recipes.md needs a section `## {name}`"
    assert f"`{name}`" in (ROOT / "docs/settings.md").read_text(), "run `make docs`"
    for file in ("README.md", "README.ja.md", "config/deploy.yml"):
        assert name == "none" or re.search(rf"(?m)recipes.md.*\b{name}\b", (ROOT / file).read_text()), (
            f"the list of recipes in {file} lacks {name}"
        )
    proposed = propose(Survey("shop", {}, None, "config", (), None), Given(recipe=name))
    assert f"recipe: {name}" in proposed.files["config/deploy.yml"]


def modules() -> list[str]:
    package = ROOT / "deploytool"
    found = (path.relative_to(package) for path in package.rglob("*.py") if path.name != "__init__.py")
    return sorted(str(path.with_suffix("")) for path in found)


def test_map_shows_every_module_and_none_that_is_gone() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    (drawn,) = re.findall(r"(?s)<!-- the map -->\n\n```\n(.*?)```", text)
    shown, room = [], ""
    for line in drawn.splitlines():
        if found := re.match(r"( *)([\w/]+?)(/|\.py)(?: |$)", line):
            spaces, name, kind = found.groups()
            if kind == "/":
                room = name if not spaces else f"{room.split('/')[0]}/{name}"
            else:
                shown.append(name if not spaces else f"{room}/{name}")
    assert sorted(shown) == modules()


def test_every_command_is_listed() -> None:
    """A task that is written and stands in no group is not there for users."""
    written = {each.name for each in vars(tasks).values() if isinstance(each, Task)}
    assert written == {each.name for each in tasks.COMMANDS}


@pytest.mark.parametrize("command", [each.name.replace("_", "-") for each in tasks.COMMANDS])
def test_command_is_in_the_docs_and_completed(command: str) -> None:
    assert re.search(rf"`fab ENV {command}\b", (ROOT / "docs/commands.md").read_text())
    contexts = dict.fromkeys(tasks.make_namespace(["staging"]).task_names, SimpleNamespace())
    known = Vocabulary(SimpleNamespace(flags={}), contexts, ["staging"], list(contexts), lambda flag, environment: ())
    assert command in candidates(["staging", ""], known)


def test_an_example_runs_no_action_that_somebody_can_move() -> None:
    """A tag can be moved to another commit; a commit's hash can't."""
    used = re.findall(r"uses: (.+)", (ROOT / "examples/ci/github-actions.yml").read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


def test_an_example_leaves_no_token_in_the_work_tree_and_installs_only_what_was_locked() -> None:
    workflow = yaml.safe_load((ROOT / "examples/ci/github-actions.yml").read_text())
    for job in workflow["jobs"].values():
        (checkout,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@"))
        assert checkout["with"]["persist-credentials"] is False
    for name in ("github-actions.yml", "gitlab-ci.yml"):
        text = (ROOT / "examples/ci" / name).read_text()
        installs = re.findall(r"pip install .*", text)
        assert installs
        assert all("--require-hashes -r requirements-deploy.txt" in line for line in installs)
        assert re.search(r'fab production deploy --release "\$RELEASE"', text)


def pinned_in(text: str) -> dict[str, list[str]]:
    """Each package of a lock file by its name, as PyPI writes it, with its versions."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", text):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


@pytest.mark.parametrize("name", wanted())
def test_a_changed_dependency_is_in_the_lock_files(name: str) -> None:
    """`make lock` writes them."""
    locked = pinned_in((ROOT / "requirements" / f"{name}.txt").read_text())
    missing = [
        each
        for each in map(Requirement, wanted()[name])
        if not any(each.specifier.contains(version) for version in locked.get(canonicalize_name(each.name), ()))
    ]
    assert missing == []


@pytest.mark.parametrize(
    "text",
    [*(path.read_text() for path in sorted((ROOT / "requirements").iterdir())), pinned.BOTO3, pinned.ISAL],
    ids=[*(path.name for path in sorted((ROOT / "requirements").iterdir())), "boto3", "isal"],
)
def test_every_locked_package_has_hashes_and_no_index_is_named(text: str) -> None:
    lines = [line.removesuffix(" \\") for line in text.splitlines() if line and not line.startswith("#")]
    packages = [line for line in lines if not line.startswith(" ")]
    assert packages
    assert [each for each in packages if not re.match(r"[A-Za-z0-9._-]+==[^\s;]+( ; .+)?$", each)] == []
    assert [
        each for each in lines if each.startswith(" ") and not re.fullmatch(" +--hash=sha256:[0-9a-f]{64}", each)
    ] == []
    for before, after in itertools.pairwise([*lines, ""]):
        assert before.startswith(" ") or after.startswith(" "), before


def test_the_worker_installs_the_isal_that_the_build_key_names() -> None:
    assert pinned_in(pinned.ISAL) == {"isal": [VERSION, VERSION_FOR_LATER]}
    for python in ((3, 8), (3, 9), (3, 11), (3, 13), (3, 14), (3, 15)):
        full = {"python_full_version": f"{python[0]}.{python[1]}.1"}
        for text, packages in ((pinned.ISAL, {"isal": version_for(python)}), (pinned.BOTO3, {"boto3": None})):
            heads = [line.removesuffix(" \\") for line in text.splitlines() if re.match(r"[a-z]", line)]
            applying = [each for each in map(Requirement, heads) if each.marker is None or each.marker.evaluate(full)]
            # Each package once, whatever the Python.
            assert len({each.name for each in applying}) == len(applying)
            for name, version in packages.items():
                (found,) = (each for each in applying if each.name == name)
                assert version is None or found.specifier.contains(version)
