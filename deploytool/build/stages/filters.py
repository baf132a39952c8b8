"""What git makes of files on their way into the work tree: filters (Git LFS, git-crypt, …), ends of lines, exports.

Pure. git passes a file on as it is where an attribute names a filter that nobody has set up, without a word: a release
would
hold Git LFS' pointers in place of pictures. And an index believes that a file is up to date whatever a filter that was
set up later, or a changed attribute, would make of it.

`git archive` leaves out what `export-ignore` names, and fills in `$Format:…$` where `export-subst` says so; a build
does the same.
"""

#: For scripts that have `git.PREPARE`. `d_here` holds git's options for the repository, whose index is the revision's.
FILTERS = r"""
d_attribute_files() {  # those outside of the revision that git reads as well, a line each; $1 is the git directory
  local d_file
  if [ -z "${d_attributes_of_user+known}" ]; then
    d_attributes_of_user=$(d_git config --type=path --get core.attributesFile) ||
      d_attributes_of_user=${XDG_CONFIG_HOME:-${HOME:-}/.config}/git/attributes
    # Older versions of git can't tell it.
    d_attributes_of_system=$(git var GIT_ATTR_SYSTEM 2>/dev/null) || d_attributes_of_system=/etc/gitattributes
  fi
  for d_file in "$1/info/attributes" "$d_attributes_of_user" "$d_attributes_of_system"; do
    if [ -f "$d_file" ] && [ -r "$d_file" ]; then printf '%s\n' "$d_file"; fi
  done
}

d_contents() {  # of the files whose names come in
  local d_file
  while IFS= read -r d_file; do cat -- "$d_file"; done
}

d_conversion() {  # a digest of all that decides what git makes of the revision's files; $1 is the git directory
  { d_git "${d_here[@]}" ls-files --stage -z -- ':(top,glob)**/.gitattributes'
    d_attribute_files "$1" | d_contents
    d_git "${d_here[@]}" config -z --get-regexp \
      '^(filter\..*|core\.(eol|autocrlf|attributesfile|symlinks|filemode|checkroundtripencoding))$' || true
  } | sha256sum | cut -d ' ' -f 1
}

d_attributes_hold() {  # whether any attributes speak of $2; $1 is the git directory
  d_git "${d_here[@]}" grep --cached -q -I -e "$2" -- ':(top,glob)**/.gitattributes' ||
    d_attribute_files "$1" | d_contents | grep -q -e "$2"
}

d_with_attribute() { d_git "${d_here[@]}" check-attr --cached -z --stdin "$1" | sed -z -n 'h;n;n;/^set$/{x;p}'; }

# Sets two lists in the git directory $1, of names that end with NUL: what of the revision $2 is left out, and what is
# filled in. As for `git archive`, a directory is left out with all that is in it, and so is a submodule.
d_find_exports() {
  : >"$1/deploytool-unexported"
  : >"$1/deploytool-substituted"
  if [ -z "$d_exports" ] || ! d_attributes_hold "$1" export-; then return; fi
  { d_git "${d_here[@]}" ls-tree -r -d -z --name-only --full-tree "$2" | sed -z 's|$|/|'
    d_git "${d_here[@]}" ls-files -z
  } | d_with_attribute export-ignore |
    xargs -0 -r git "${d_git_options[@]}" "${d_here[@]}" --literal-pathspecs ls-files -z -- |
    LC_ALL=C sort -z -u >"$1/deploytool-unexported"
  d_git "${d_here[@]}" ls-files -z | d_exported "$1" | d_with_attribute export-subst >"$1/deploytool-substituted"
}

d_exported() { LC_ALL=C sort -z | LC_ALL=C comm -z -23 - "$1/deploytool-unexported"; }  # of the names that come in

d_filtered() {  # the revision's files that have a filter: its name, a tab, and the file; $1 is the git directory
  if ! d_attributes_hold "$1" filter; then return 0; fi
  d_git "${d_here[@]}" ls-files -z | d_exported "$1" |
    d_git "${d_here[@]}" check-attr --cached -z --stdin filter | tr '\n\0' '?\n' |
    awk 'NR % 3 == 1 { path = $0 }
      NR % 3 == 0 && $0 != "unspecified" && $0 != "unset" && $0 != "set" { print $0 "\t" path }'
}

d_filter_program() {  # the program of the filter $1, if it can be told from its command; fails if there is no filter
  local d_command d_word d_second d_kind d_any=
  for d_kind in process smudge clean; do
    d_command=$(d_git "${d_here[@]}" config --get "filter.$1.$d_kind") || continue
    d_any=yes
    if [ "$d_kind" != clean ] && [ -n "$d_command" ]; then break; fi
    d_command=
  done
  [ -n "$d_any" ] || return 1
  read -r d_word d_second <<<"$d_command" || true
  case $d_word in
    # Shell text, or a place in the work tree that is not there yet.
    *[!A-Za-z0-9_./+-]* | [!/]*/*) ;;
    git) case $d_second in lfs | "lfs "*) printf '%s\n' git-lfs ;; esac ;;
    *) printf '%s\n' "$d_word" ;;
  esac
}

# Stops where a filter is asked for that git would leave out. Sets `d_filters`: those that make something.
d_check_filters() {  # $1 is the git directory
  local d_list d_name d_program d_bad=
  d_filters=()
  d_list=$(d_filtered "$1")
  if [ -z "$d_list" ]; then return 0; fi
  while IFS= read -r d_name; do
    if ! d_program=$(d_filter_program "$d_name"); then
      d_program=
    elif [ -z "$d_program" ] || command -v -- "$d_program" >/dev/null; then
      d_filters+=("$d_name")
      continue
    fi
    d_bad=yes
    while IFS=$'\t' read -r d_kind d_path; do
      if [ "$d_kind" = "$d_name" ]; then d_result problem "$d_name" "${d_program:--}" "$d_path"; fi
    done <<<"$d_list"
  done < <(cut -f 1 <<<"$d_list" | sort -u)
  if [ -n "$d_bad" ]; then exit "$d_filter_missing"; fi
}
"""

#: In the copy `$d_copy`, whose revision is `$d_revision`: the same before there is a work tree. What is set up on the
#: build server is told only where it decides something, so that all others go on having the releases they have.
IN_REVISION = r"""
d_convert() {
  local d_here=(--git-dir="$d_copy")
  export GIT_INDEX_FILE=$d_copy/deploytool-filters
  if ! d_git "${d_here[@]}" grep -q -I -e filter -e export- "$d_revision" -- ':(top,glob)**/.gitattributes' &&
     [ -z "$(d_attribute_files "$d_copy")" ] && ! d_git "${d_here[@]}" config --get core.eol >/dev/null; then return; fi
  rm -f -- "$GIT_INDEX_FILE"
  d_git "${d_here[@]}" read-tree "$d_revision"
  d_find_exports "$d_copy" "$d_revision"
  d_check_filters "$d_copy"
  local d_name d_known
  for d_name in unexported substituted; do
    d_known=$(tr -cd '\0' <"$d_copy/deploytool-$d_name" | wc -c)
    if [ "$d_known" != 0 ]; then d_result "$d_name" "$d_known"; fi
    rm -f -- "$d_copy/deploytool-$d_name"
  done
  d_known=$(
    for d_name in "${d_filters[@]}"; do
      printf '%s\n' "$d_name"
      d_git "${d_here[@]}" config --get-regexp '^filter\.' | grep -i -F -- "filter.$d_name." || true
    done
    d_attribute_files "$d_copy" | d_contents
    d_git "${d_here[@]}" config --get core.eol || true
  )
  rm -f -- "$GIT_INDEX_FILE"
  if [ -n "$d_known" ]; then
    d_known=$(sha256sum <<<"$d_known")
    d_result conversion "${d_known%% *}"
  fi
}
d_filters=()
d_attribute_files "$d_copy" >/dev/null
# A subshell: the index is nobody else's.
( d_convert )
"""
