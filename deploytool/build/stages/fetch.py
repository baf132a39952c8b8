"""First stage: the mirror is brought up to date, and a branch, tag or SHA becomes a revision. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploytool.build.stages import filters, git, shell, version_managers
from deploytool.build.stages.version_managers import Unmanaged, unfit, unmanaged
from deploytool.connection.paths import Place
from deploytool.connection.step import CODES, NUMBER, Step, groups, only_value
from deploytool.model.release import SHA, Revision
from deploytool.settings.recipes import RECIPES

if TYPE_CHECKING:
    from deploytool.settings import Settings

# A copy is a bare git directory that has all that the repository has, hidden references, too.
COPY = r"""
d_new_copy() {  # in the directory $1, which is empty: a copy without content yet; $2 is how it names objects
  local d_format=()
  if [ "${2:-sha1}" != sha1 ]; then d_format=("--object-format=$2"); fi
  d_git init --quiet --bare --template= "${d_format[@]}" "$1"
  d_git --git-dir="$1" config remote.origin.url "$d_repository"
  d_git --git-dir="$1" config remote.origin.fetch '+refs/*:refs/*'
}

d_copied() {  # where the copy in $1 is from; nothing if there is none
  d_git --git-dir="$1" config --get remote.origin.url 2>/dev/null || true
}

# A repository may be shallow itself: then git would leave out what hangs on its edge.
d_fetch() { d_git --git-dir="$1" fetch --quiet --prune --update-shallow origin; }

d_answers() {  # and sets `d_names`: how the repository names objects
  local d_advertised
  d_advertised=$(d_git ls-remote --quiet -- "$d_repository") || return
  d_names=sha1
  if [[ $d_advertised =~ ^[0-9a-f]{64} ]]; then d_names=sha256; fi
}

d_fill() {  # the new copy in $1, which can read its objects from those of $2, too, if there is one
  d_new_copy "$1" "${d_names:-}" || return
  if [ -n "${2:-}" ]; then printf '%s\n' "$2" >"$1/objects/info/alternates"; fi
  d_fetch "$1"
}
"""

_UPDATE = r"""
mkdir -p -- "$d_application_root"

# The caller holds the workspace's lock: a lock file or a half-made mirror belongs to a run that was killed.
rm -rf -- "$d_mirror".new.* "$d_mirror".old.*
if [ -d "$d_mirror" ]; then find "$d_mirror" -name '*.lock' -type f -delete; fi

d_make_mirror() {
  local d_new
  d_answers || d_fail "$d_repository_unreachable" "$d_repository"
  d_new=$(mktemp -d "$d_mirror.new.XXXXXX")
  chmod 755 "$d_new"
  if ! d_fill "$d_new"; then
    rm -rf -- "$d_new"
    d_fail "$d_mirror_unusable" "$d_mirror"
  fi
  if [ -e "$d_mirror" ]; then mv -- "$d_mirror" "$d_mirror.old.$$"; fi
  mv -- "$d_new" "$d_mirror"
  rm -rf -- "$d_mirror.old.$$"
}

if [ "$(d_copied "$d_mirror")" != "$d_repository" ]; then
  echo "making a mirror of $d_repository"
  d_make_mirror
elif ! d_fetch "$d_mirror"; then
  # Either the repository does not answer, or our mirror is damaged.
  echo "the mirror can't be updated; creating it again"
  d_make_mirror
fi
d_copy=$d_mirror
"""

# In the copy $d_copy: which commit is meant. A reference is a branch, else a tag, else what CI systems call either:
# `refs/…`, `heads/…`, `pull/12/merge`, `origin/…`, `HEAD`. By its full name each is only what it says.
RESOLVE = r"""
d_commit() { d_git --git-dir="$d_copy" rev-parse --verify --quiet "$1^{commit}"; }

# Only a plain name: `main~3` and the like would be read as an expression.
d_named() { d_git --git-dir="$d_copy" show-ref --verify --quiet "$1" && d_revision=$(d_commit "$1") && d_full=$1; }

d_revision='' d_full='' d_sha=$d_reference
case $d_reference in
  HEAD)
    d_head=$(d_git ls-remote --quiet --symref -- "$d_repository" HEAD) ||
      d_fail "$d_repository_unreachable" "$d_repository"
    d_sha=$(sed -n 's/\tHEAD$//; /^[0-9a-f]*$/p' <<<"$d_head")
    d_named "$(sed -n 's/^ref: \(.*\)\tHEAD$/\1/p' <<<"$d_head")" || true
    ;;
  refs/*) d_named "$d_reference" || true ;;
  *)
    d_named "refs/heads/$d_reference" || d_named "refs/tags/$d_reference" || d_named "refs/$d_reference" ||
      case $d_reference in origin/*) d_named "refs/heads/${d_reference#origin/}" ;; esac || true
    ;;
esac
case $d_full in
  refs/heads/*) d_kind=heads ;;
  refs/tags/*) d_kind=tags ;;
  *) d_kind=refs ;;
esac
if [ "$d_full" = "refs/heads/$d_reference" ] && d_tagged=$(d_commit "refs/tags/$d_reference"); then
  if [ "$d_tagged" != "$d_revision" ]; then d_result namesake "$d_tagged"; fi
fi
if [ -z "$d_revision" ] && [[ $d_sha =~ ^[0-9a-fA-F]{4,64}$ ]]; then
  d_kind=sha
  # What no branch holds any more can still be had by its full name.
  if [[ ${#d_sha} =~ ^(40|64)$ ]] && ! d_commit "$d_sha" >/dev/null; then
    d_git --git-dir="$d_copy" fetch --quiet --no-tags origin "$d_sha" 2>/dev/null || true
  fi
  d_candidates=$(d_git --git-dir="$d_copy" rev-parse --disambiguate="$d_sha" |
    d_git --git-dir="$d_copy" cat-file --batch-check='%(objecttype) %(objectname)' | sed -n 's/^commit //p')
  case $d_candidates in *$'\n'*) d_fail "$d_ambiguous_revision" "$d_reference" ;; esac
  d_revision=$d_candidates
fi
if [ -z "$d_revision" ]; then d_fail "$d_unknown_revision" "$d_reference"; fi

d_result revision "$d_revision"
d_result kind "$d_kind"
d_result committed_at "$(d_git --git-dir="$d_copy" show --no-patch --format=%ct "$d_revision")"
d_result subject "$(d_git --git-dir="$d_copy" show --no-patch --encoding=UTF-8 --format=%s "$d_revision")"
"""

# What else decides the bytes of a release.
INPUTS = r"""
d_missing=()
for d_file in "${d_linked_files[@]}"; do
  if [ -f "$d_shared/$d_file" ] && [ -r "$d_shared/$d_file" ]; then
    d_digest=$(sha256sum <"$d_shared/$d_file")
    d_result linked_file "${d_digest%% *}" "$d_file"
  else
    d_missing+=("$d_shared/$d_file")
  fi
done
if [ "${#d_missing[@]}" -gt 0 ]; then
  for d_file in "${d_missing[@]}"; do d_result problem "$d_file"; done
  d_fail "$d_linked_file_missing"
fi
for d_tool in "${d_tools[@]}"; do
  if ! d_version=$("$d_tool" --version 2>&1 3>&-); then
    echo "$d_version"
    if command -v -- "$d_tool" >/dev/null; then d_tool="$d_tool --version"; fi
    d_fail "$d_tool_missing" "$d_tool"
  fi
  d_result tool "$d_tool" "${d_version%%$'\n'*}"
done
"""


def fetch(settings: "Settings", place: Place, reference: str) -> Step:
    """Update the mirror, find the revision of `reference`, and read what else decides the bytes; see `fetched`.

    The caller holds the workspace's lock. `RESOLVE` says what a reference may be; a SHA has at least 4 digits.
    """
    return Step(
        "fetch",
        shell.script(
            head(settings, place, {"d_application_root": place.application_root, "d_reference": reference}),
            git.PREPARE,
            COPY,
            _UPDATE,
            RESOLVE,
            filters.FILTERS,
            filters.IN_REVISION,
            version_managers.use(settings, version_managers.IN_REVISION),
            INPUTS,
            version_managers.asked(settings),
        ),
        settings.build.timeout_seconds,
    )


def head(settings: "Settings", place: Place, variables: Mapping[str, str | Sequence[str]]) -> str:
    """The environment and the variables of a script that is made of these parts, and `variables`."""
    env = {**RECIPES[settings.build.recipe].env, **settings.build.env}
    return shell.script(
        git.BEFORE_ENVIRONMENT,
        shell.environment(env, settings.build.path),
        shell.assignments(
            {
                **CODES,
                "d_mirror": place.mirror,
                "d_shared": place.shared,
                "d_subdirectory": place.subdirectory,
                "d_linked_files": settings.build.linked_files,
                "d_tools": RECIPES[settings.build.recipe].programs(env),
                "d_exports": "yes" if settings.build.export_attributes else "",
                **git.variables(git.remote(settings.repository)),
                **variables,
            }
        ),
    )


@dataclass(frozen=True, slots=True)
class LinkedFileDigest:
    """One of `build.linked_files` and the sha256 of its content, 64 hex digits."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """What `fetch` found out."""

    revision: Revision
    #: heads (a branch), tags, refs (another reference) or sha
    kind: str
    #: seconds since 1970, from the commit
    committed_at: int
    subject: str
    linked_files: tuple[LinkedFileDigest, ...]
    #: program → first line of its `--version`
    tools: Mapping[str, str]
    #: versions that files ask for and no version manager sees to
    unmanaged: tuple[Unmanaged, ...] = ()
    #: a digest of what git's configuration there makes of the revision's files; empty if it takes them as they are
    conversion: str = ""
    #: what a tag of the branch's name is, if that is another commit
    namesake: Revision | None = None
    #: how many files of the revision are left out, and how many filled in, as `git archive` would
    unexported: int = 0
    substituted: int = 0

    @property
    def exports(self) -> Mapping[str, bool]:
        """For a key: whether the bytes are `git archive`'s. Where attributes ask for nothing, keys of before hold."""
        return {"export_attributes": True} if self.unexported or self.substituted else {}


def remarks(reference: str, fetched: Fetched) -> Iterator[str]:
    """What whoever deploys that reference should know."""
    yield from unfit(fetched.unmanaged, fetched.tools)
    if fetched.namesake is not None:
        yield (
            f"{reference} is a branch, and a tag at {fetched.namesake[:10]}, too: deploying the branch; "
            f"use --branch refs/tags/{reference} for the tag"
        )
    if fetched.exports:
        yield (
            f"as for `git archive`, files left out (export-ignore): {fetched.unexported}, filled in (export-subst): "
            f"{fetched.substituted}; `build.export_attributes: false` takes all as they are"
        )


def fetched(results: Sequence[str]) -> Fetched:
    """Read the result lines of `fetch`. Raises StepError where an answer is missing: an empty one must not pass."""
    linked_files = groups(results, "linked_file", r"([0-9a-f]{64})\t(.+)", "fetch")
    conversion = groups(results, "conversion", "([0-9a-f]{64})", "fetch")
    namesake = groups(results, "namesake", f"({SHA})", "fetch")
    return Fetched(
        revision=Revision(only_value(results, "revision", SHA, "fetch")),
        kind=only_value(results, "kind", "heads|tags|refs|sha", "fetch"),
        committed_at=int(only_value(results, "committed_at", NUMBER, "fetch")),
        subject=only_value(results, "subject", ".*", "fetch"),
        linked_files=tuple(LinkedFileDigest(name, digest) for digest, name in linked_files),
        tools={each[0]: each[1] for each in groups(results, "tool", r"([^\t]+)\t(.*)", "fetch")},
        unmanaged=unmanaged(results, "fetch"),
        conversion=conversion[0][0] if conversion else "",
        namesake=Revision(namesake[0][0]) if namesake else None,
        unexported=_count(results, "unexported"),
        substituted=_count(results, "substituted"),
    )


def _count(results: Sequence[str], key: str) -> int:
    found = groups(results, key, f"({NUMBER})", "fetch")
    return int(found[0][0]) if found else 0
