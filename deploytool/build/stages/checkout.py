"""Second stage: the work tree becomes exactly the revision, whatever the last build left there. Pure."""

from typing import TYPE_CHECKING

from deploytool.build.stages import cache, filters, git, inside, shell, version_managers
from deploytool.build.stages.fetch import Fetched
from deploytool.connection.paths import Place
from deploytool.connection.step import CODES, Step
from deploytool.settings.recipes import RECIPES

if TYPE_CHECKING:
    from deploytool.settings import Settings

# The index of the last build is kept where no command of the user's looks for it, and put back with its own time: so
# git knows which files it need not read. It trusts inode, size and both times of change down to the nanosecond,
# whatever the user's configuration says, and reads what is as young as the index. (An index that trusts less, or is
# younger than the work tree, is deceived by two commits in one second with files of equal size.)
_SETTLE = r"""
d_settle() {  # in the current directory, which has its own .git: $1 is the revision; $2: whether its exports count
  local d_dir d_path d_list d_conversion d_filter d_required d_exports
  # Its own: a submodule has others, and is settled in the middle.
  local d_filters=()
  local d_here=(--git-dir=.git --work-tree=.)
  d_dir=$(d_git "${d_here[@]}" rev-parse --absolute-git-dir)
  d_take_index "$d_dir"
  if ! d_git "${d_here[@]}" read-tree -m "$1"; then
    rm -f -- "$d_dir/index"
    d_git "${d_here[@]}" read-tree "$1"
  fi
  # Not in a subshell: it is looked up once.
  d_attribute_files "$d_dir" >/dev/null
  d_exports=${2:-}
  d_find_exports "$d_dir" "$1"
  d_check_filters "$d_dir"
  d_conversion=$(d_conversion "$d_dir")

  # A directory that was a submodule, or becomes one, is made anew with all the rest.
  d_git "${d_here[@]}" ls-files --stage -z | sed -z -n 's/^160000 [0-9a-f]* 0\t//p' |
    d_exported "$d_dir" >"$d_dir/deploytool-submodules.new"
  if ! cmp -s "$d_dir/deploytool-submodules.new" "$d_dir/deploytool-submodules"; then
    find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf -- {} +
  fi
  mv -- "$d_dir/deploytool-submodules.new" "$d_dir/deploytool-submodules"

  # Only what can be entered can be removed. Files wait until those are gone that are kept elsewhere under another name.
  find . -name .git -prune -o -type d ! -perm 755 -exec chmod 755 {} +
  d_git "${d_here[@]}" clean -ffdxq
  find . -name .git -prune -o -type f ! -perm 644 ! -perm 755 -exec chmod u=rwX,go=rX {} +
  if [ "$(cat -- "$d_dir/deploytool-conversion" 2>/dev/null)" = "$d_conversion" ]; then
    d_git "${d_here[@]}" update-index -q --refresh >/dev/null || true
  else
    # A refresh would find files unchanged that git would now write in another way: all are written again.
    rm -f -- "$d_dir/index"
    d_git "${d_here[@]}" read-tree "$1"
  fi
  # Where a filter fails, git would take the file as it is, unless the filter is required.
  d_required=()
  for d_filter in "${d_filters[@]}"; do
    if d_makes_something "$d_filter"; then d_required+=(-c "filter.$d_filter.required=true"); fi
  done
  if ! d_git "${d_required[@]}" "${d_here[@]}" checkout-index --all --force --index --quiet; then
    [ "${#d_filters[@]}" = 0 ] || d_fail "$d_filter_failed" "${d_filters[*]}"
    return 1
  fi
  d_git "${d_here[@]}" update-ref --no-deref HEAD "$1"

  while read -r -d '' -u 9 d_path; do
    d_submodule "$d_path"
  done 9<"$d_dir/deploytool-submodules"
  d_verify "$1"
  d_refuse_pointers "$d_dir"
  # In this order: an index without its conversion only means that all is written again.
  rm -f -- "$d_dir/deploytool-conversion"
  cp -p -- "$d_dir/index" "$d_dir/deploytool-index.new"
  if [ -s "$d_dir/deploytool-unexported" ] || [ -s "$d_dir/deploytool-substituted" ]; then d_export "$1"; fi
  mv -- "$d_dir/deploytool-index.new" "$d_dir/deploytool-index"
  printf '%s\n' "$d_conversion" >"$d_dir/deploytool-conversion"
}

# The index that is kept has what is exported, as the work tree has; to git commands of a build nothing seems changed.
d_export() {  # of the revision $1, which the work tree in the current directory holds
  local d_path d_new=$d_dir/deploytool-exported
  rm -rf -- "$d_new"
  mkdir -- "$d_new"
  # By the mirror, whose references `$Format:%D$` tells.
  if [ -s "$d_dir/deploytool-substituted" ]; then
    xargs -0 git "${d_git_options[@]}" --git-dir="$d_mirror" --literal-pathspecs archive --format=tar "$1" -- \
      <"$d_dir/deploytool-substituted" | tar -x -i -f - -C "$d_new"
  fi
  while read -r -d '' -u 8 d_path; do
    if [ -f "$d_path" ] && [ ! -L "$d_path" ]; then cat -- "$d_new/$d_path" >"./$d_path"; fi
  done 8<"$d_dir/deploytool-substituted"
  rm -rf -- "$d_new"
  local d_index=$d_dir/deploytool-index.new d_attributes='/\(^\|\/\)\.gitattributes$/'
  GIT_INDEX_FILE=$d_index d_git "${d_here[@]}" update-index -z --stdin <"$d_dir/deploytool-substituted"
  sed -z "$d_attributes d" <"$d_dir/deploytool-unexported" |
    GIT_INDEX_FILE=$d_index d_git "${d_here[@]}" update-index -z --force-remove --stdin
  # Attributes go on saying how files are compared.
  sed -z -n "$d_attributes p" <"$d_dir/deploytool-unexported" |
    GIT_INDEX_FILE=$d_index d_git "${d_here[@]}" update-index -z --skip-worktree --stdin
  cat -- "$d_dir/deploytool-substituted" "$d_dir/deploytool-unexported" |
    d_git "${d_here[@]}" update-index -z --skip-worktree --stdin
  xargs -0 -r rm -rf -- <"$d_dir/deploytool-unexported"
  sed -z -n 's|/[^/]*$||p' <"$d_dir/deploytool-unexported" | sort -z -u |
    xargs -0 -r rmdir -p --ignore-fail-on-non-empty -- 2>/dev/null || true
}

d_makes_something() {  # the filter $1, on the way out of the repository
  local d_kind
  for d_kind in process smudge; do
    if [ -n "$(d_git "${d_here[@]}" config --get "filter.$1.$d_kind")" ]; then return 0; fi
  done
  return 1
}

# Git LFS can be told to leave its pointers (`git lfs install --skip-smudge`): then nothing fails.
d_refuse_pointers() {  # unless the settings or the revision ask for that
  local d_name d_path
  if [[ " ${d_filters[*]} " != *" lfs "* ]] || [ -n "$d_skips_lfs" ]; then return 0; fi
  if d_git "${d_here[@]}" config --get-regexp '^lfs[.]fetch(include|exclude)$' >/dev/null ||
     { [ -f .lfsconfig ] && d_git config --file .lfsconfig --get-regexp '^lfs[.]fetch(include|exclude)$' >/dev/null; }
  then return 0; fi
  while IFS=$'\t' read -r d_name d_path; do
    if [ "$d_name" = lfs ] && [ -f "$d_path" ] && [ ! -L "$d_path" ] &&
       [ "$(head -c 42 -- "$d_path" | tr -d '\0')" = "version https://git-lfs.github.com/spec/v1" ]; then
      d_fail "$d_filter_failed" "lfs: $d_path is still a pointer"
    fi
  done < <(d_filtered "$1")
}

d_take_index() {  # $1 is the git directory
  rm -f -- "$1/index"
  if [ ! -f "$1/deploytool-index" ]; then return 0; fi
  # An index of a time to come says that the clock was set back: nothing that it knows can be trusted.
  : >"$1/deploytool-now"
  if [ "$1/deploytool-index" -nt "$1/deploytool-now" ]; then rm -f -- "$1/deploytool-index"; return 0; fi
  cp -p -- "$1/deploytool-index" "$1/index"
}

# Whoever names the repository by a path has its submodules beside it, and git takes those by path only if asked to.
# What the user or GIT_ALLOW_PROTOCOL says has the last word.
d_by_path=()
case $d_repository in
  /* | file://*)
    if ! d_git config --get-regexp '^protocol[.](file[.])?allow$' >/dev/null; then
      d_by_path=(-c protocol.file.allow=always)
    fi
    ;;
esac

d_submodule() {  # $1 is its path below the current directory, which holds a settled work tree
  local d_revision d_reached
  d_revision=$(d_git --git-dir=.git --work-tree=. rev-parse ":$1")
  if ! { d_git --git-dir=.git --work-tree=. submodule --quiet init -- "$1" &&
         d_git --git-dir=.git --work-tree=. submodule --quiet sync -- "$1" &&
         d_git "${d_by_path[@]}" --git-dir=.git --work-tree=. submodule --quiet update --force --checkout -- "$1"
       } 9<&-; then
    d_fail "$d_submodule_failed" "$1"
  fi
  d_reached=$PWD
  cd -- "$1"
  d_settle "$d_revision"
  cd -- "$d_reached"
}

d_verify() {  # the work tree in the current directory holds the revision $1 and nothing else
  local d_dir d_path d_bad=0
  local d_here=(--git-dir=.git --work-tree=.)
  d_dir=$(d_git "${d_here[@]}" rev-parse --absolute-git-dir)
  d_git "${d_here[@]}" update-index -q --really-refresh >/dev/null || true
  d_git "${d_here[@]}" diff-files --name-only --ignore-submodules=all -z >"$d_dir/deploytool-differ"
  while read -r -d '' -u 8 d_path; do
    # Line endings that .gitattributes and the repository disagree about: what git itself would write is right.
    if [ -f "$d_path" ] && [ ! -L "$d_path" ] &&
       d_git "${d_here[@]}" cat-file --filters "$1:$d_path" | cmp -s - "$d_path"; then continue; fi
    d_result problem "$d_path"
    d_bad=1
  done 8<"$d_dir/deploytool-differ"
  d_git "${d_here[@]}" ls-files --others --directory --no-empty-directory -z >"$d_dir/deploytool-differ"
  while read -r -d '' -u 8 d_path; do
    d_result problem "$d_path"
    d_bad=1
  done 8<"$d_dir/deploytool-differ"
  [ "$d_bad" = 0 ] || exit "$d_work_tree_not_clean"
}
"""

_CHECKOUT = r"""
d_work_tree_of_its_own() {  # objects come from the mirror: nothing is fetched twice
  local d_format=() d_names
  if d_names=$(d_git --git-dir="$d_mirror" config --get extensions.objectFormat); then
    d_format=("--object-format=$d_names")
  fi
  d_git init --quiet --template= "${d_format[@]}" -- "$d_workspace"
  mkdir -p -- "$d_workspace/.git/objects/info"
  printf '%s\n' "$d_mirror/objects" >"$d_workspace/.git/objects/info/alternates"
}

d_attempt() {
  mkdir -p -- "$d_workspace"
  cd -- "$d_workspace"
  if [ ! -d .git ]; then d_work_tree_of_its_own; fi
  # The caller holds the workspace's lock: a lock file belongs to a run that was killed.
  find .git -name '*.lock' -type f -delete
  # Where git kept a log of HEAD once, each build adds a line for ever, whatever it is configured to.
  rm -rf .git/logs
  # For `git describe` and `git log` of build steps: tags, and where a shallow history ends.
  rm -rf .git/refs/tags .git/shallow
  d_git --git-dir="$d_mirror" for-each-ref --format='%(objectname) %(refname)' refs/tags >.git/packed-refs
  if [ -f "$d_mirror/shallow" ]; then cp -- "$d_mirror/shallow" .git/shallow; fi
  # Relative URLs of submodules count from here.
  d_git --git-dir=.git config remote.origin.url "$d_repository"
  d_settle "$d_revision" "$d_export_attributes"
}

# `if d_attempt` would switch `set -e` off inside it.
set +e
( set -e; d_attempt ) 3>/dev/null
d_status=$?
if [ "$d_status" != 0 ]; then
  echo "the workspace can't be updated to $d_revision; creating it again"
  chmod -R u+rwX -- "$d_workspace" 2>/dev/null
  find "$d_workspace/" -mindepth 1 -maxdepth 1 -exec rm -rf -- {} +
  d_stuck=$(find "$d_workspace/" -mindepth 1 \( ! -type d -o -empty \) -printf 'problem\t%P\n')
  if [ -n "$d_stuck" ]; then
    printf '%s\n' "$d_stuck" >&3
    exit "$d_work_tree_not_clean"
  fi
  ( set -e; d_attempt )
  d_status=$?
fi
set -e
case $d_status in
  0) ;;
  "$d_submodule_failed" | "$d_filter_missing" | "$d_filter_failed") exit "$d_status" ;;
  *) exit "$d_work_tree_not_clean" ;;
esac
"""

_ENTER = r"""
case /$d_subdirectory/ in */../*) d_fail "$d_subdirectory_missing" "$d_subdirectory" ;; esac
d_inside "$d_workspace" "$d_subdirectory/."
if [ ! -d "$d_work_tree" ]; then
  if [ -s "$d_workspace/.git/deploytool-unexported" ]; then
    echo "export-ignore leaves out files of the revision; build.export_attributes: false takes them"
  fi
  d_fail "$d_subdirectory_missing" "$d_subdirectory"
fi
cd -P -- "$d_work_tree"
"""

_FINISH = r"""
d_missing=()
for d_file in "${d_linked_files[@]}"; do d_inside . "$d_file"; done
for d_file in "${d_linked_files[@]}"; do
  if [ ! -e "$d_shared/$d_file" ]; then
    d_missing+=("$d_shared/$d_file")
    continue
  fi
  mkdir -p -- "$(dirname -- "./$d_file")"
  rm -rf -- "./$d_file"
  ln -s -- "$d_shared/$d_file" "./$d_file"
done
if [ "${#d_missing[@]}" -gt 0 ]; then
  for d_file in "${d_missing[@]}"; do d_result problem "$d_file"; done
  d_fail "$d_linked_file_missing"
fi

rm -rf REVISION
printf '%s\n' "$d_revision" >REVISION
d_result work_tree "$PWD"
"""


def checkout(settings: "Settings", place: Place, fetched: Fetched, *, reuse: bool = True) -> Step:
    """Put the revision into the work tree, with submodules, linked files and the file REVISION; see `checked_out`.

    The caller holds the workspace's lock. Whatever else lay in the workspace is removed; with `reuse`, what stages made
    of equal inputs is put back.
    """
    return Step(
        "checkout",
        shell.script(
            git.BEFORE_ENVIRONMENT,
            shell.environment({**RECIPES[settings.build.recipe].env, **settings.build.env}, settings.build.path),
            shell.assignments(
                {
                    **CODES,
                    "d_mirror": place.mirror,
                    "d_workspace": place.workspace,
                    "d_work_tree": place.work_tree,
                    "d_directory": place.work_tree,
                    "d_subdirectory": place.subdirectory,
                    "d_shared": place.shared,
                    "d_revision": fetched.revision,
                    "d_linked_files": settings.build.linked_files,
                    "d_export_attributes": "yes" if settings.build.export_attributes else "",
                    "d_skips_lfs": "yes" if "GIT_LFS_SKIP_SMUDGE" in settings.build.env else "",
                    **git.variables(git.remote(settings.repository)),
                }
            ),
            git.PREPARE,
            inside.INSIDE,
            filters.FILTERS,
            _SETTLE,
            cache.aside(place, reuse=reuse),
            _CHECKOUT,
            _ENTER,
            version_managers.use(settings, version_managers.IN_DIRECTORY),
            cache.take(settings, place, fetched),
            _FINISH,
        ),
        settings.build.timeout_seconds,
    )
