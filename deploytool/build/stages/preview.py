"""In place of the first stage, for looking ahead: what `fetch` would find out, without a change anywhere. Pure."""

import posixpath
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deploytool.build.stages import filters, git, shell, version_managers
from deploytool.build.stages.compare import COMPARE, variables
from deploytool.build.stages.fetch import COPY, INPUTS, RESOLVE, head
from deploytool.connection.paths import Place
from deploytool.connection.step import Step, values
from deploytool.worker.standalone import PLACEHOLDERS

if TYPE_CHECKING:
    from deploytool.settings import Settings

# The mirror may be behind, and to bring it up to date would be a change: a copy of a moment takes its place, and with
# it goes whatever happens to us, but for SIGKILL. It is named before it is made, so that no signal comes too early.
_SCRATCH = r"""
d_scratch=${TMPDIR:-/tmp}/deploytool-plan.$$.$RANDOM$RANDOM
d_clean_up() {
  trap '' HUP INT TERM
  local d_try
  # A part of git that was ended with us may be writing still.
  for d_try in 1 2 3 4 5; do
    if rm -rf -- "$d_scratch".*; then return; fi
    sleep 0.1
  done
}
trap d_clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
"""

# Objects that the mirror has are read from there and not fetched again. Packs are kept as they come: git marks an
# object that it unpacks, and finds in the mirror already, with a new time there, and that is a change.
_COPY_OF_A_MOMENT = r"""
d_git_options+=(
  -c fetch.unpackLimit=1 -c transfer.unpackLimit=1 -c gc.auto=0 -c maintenance.auto=false
  -c fetch.writeCommitGraph=false
)

d_take() { d_copy=$(mktemp -d "$d_scratch.XXXXXX") && d_fill "$d_copy" "$@"; }

d_taken=
if [ "$(d_copied "$d_mirror")" = "$d_repository" ] && [ -d "$d_mirror/objects" ]; then
  d_names=$(d_git --git-dir="$d_mirror" config --get extensions.objectFormat) || d_names=sha1
  if d_take "$d_mirror/objects"; then d_taken=yes; else echo "the mirror is of no use; doing without it"; fi
fi
if [ -z "$d_taken" ]; then
  d_answers || d_fail "$d_repository_unreachable" "$d_repository"
  d_take || d_fail "$d_mirror_unusable" "${d_copy:-$d_scratch}"
fi
"""

_COMPARED = r"""
if [ -n "$d_live_revision" ]; then d_compare "$d_copy" "$d_live_revision" "$d_revision"; fi
"""

# Which files of the revision lie where the hosts put links. A name may hold a line break, a result may not.
_HIDDEN = r"""
if [ "${#d_linked[@]}" -gt 0 ]; then
  d_git --git-dir="$d_copy" ls-tree -r -z --name-only "$d_revision" -- "${d_linked[@]}" | tr '\n\0' '?\n' |
    sed -n '1,1000s/^/hidden\t/p' >&3
fi
"""


def preview(settings: "Settings", place: Place, reference: str, live_revision: str | None = None) -> Step:
    """Find out what `fetch` would, and what lies between the live revision and that one. No lock is needed.

    The results are read with `fetched`, and with `compared` if there is a live revision. References are found by the
    rules of `fetch`, and problems have its codes. All that is written is a directory below TMPDIR, which is removed.
    """
    return Step(
        "preview",
        shell.script(
            head(
                settings,
                place,
                {
                    **variables(settings, place),
                    "d_reference": reference,
                    "d_live_revision": live_revision or "",
                    "d_linked": [_in_repository(settings, path) for path in linked_paths(settings)],
                },
            ),
            git.PREPARE,
            _SCRATCH,
            COPY,
            _COPY_OF_A_MOMENT,
            RESOLVE,
            filters.FILTERS,
            filters.IN_REVISION,
            version_managers.use(settings, version_managers.IN_REVISION),
            INPUTS,
            version_managers.asked(settings),
            COMPARE,
            _COMPARED,
            _HIDDEN,
        ),
        settings.build.timeout_seconds,
    )


def linked_paths(settings: "Settings") -> tuple[str, ...]:
    """What each host of the environment links into a release."""
    return tuple(dict.fromkeys((*settings.linked_dirs, *settings.linked_files)))


def hidden(settings: "Settings", results: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Linked path → the files of the revision that lie there, counted from the application's directory."""
    top = "" if settings.subdirectory == "." else f"{settings.subdirectory}/"
    names = [name.removeprefix(top) for name in values(results, "hidden")]
    names = [name for name in names if posixpath.basename(name).encode() not in PLACEHOLDERS]
    found = {
        path: tuple(name for name in names if name == path or name.startswith(f"{path}/"))
        for path in linked_paths(settings)
    }
    return {path: below for path, below in found.items() if below}


def _in_repository(settings: "Settings", path: str) -> str:
    return posixpath.normpath(posixpath.join(settings.subdirectory, path))
