"""How git is called on the build server: it never asks, runs no hooks, and nobody sees its credentials. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

_WITH_USER = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^/]*)@(?P<host>[^/@]*)(?P<path>(?:/.*)?)", re.S
)


#: The oldest one that all of this was tried with. Before 2.18 git can't tell which attributes a user has set, and would
#: take files as they are in silence.
LEAST_VERSION = "2.20"


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository's URL without credentials, and the credentials that stood in it, decoded."""

    url: str
    #: scheme and host to which the credentials may be given, and to no other
    site: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def remote(repository: str) -> Remote:
    """Take the credentials out of a URL. A path and `user@host:path` come back unchanged.

    ssh knows no password in a URL, so one that stands there is dropped, and the user stays.
    """
    match = _WITH_USER.fullmatch(repository)
    if not match:
        return Remote(repository)
    scheme, host, path = match["scheme"], match["host"], match["path"]
    user, colon, password = match["user"].partition(":")
    if scheme.lower() not in {"http", "https"}:
        return Remote(f"{scheme}://{user}@{host}{path}")
    site = f"{scheme}://{host}"
    return Remote(f"{site}{path}", site, unquote(user), unquote(password) if colon else None)


def variables(origin: Remote) -> Mapping[str, str]:
    """For the head of a script that uses git."""
    return {
        "d_repository": origin.url,
        "d_site": origin.site or "",
        "d_username": origin.username or "",
        "d_password": origin.password or "",
        "d_has_password": "" if origin.password is None else "yes",
        "d_least_git": LEAST_VERSION,
    }


# The repository that encloses the caller (fab run from a git hook) must not become ours, nor decide what a new
# one is like. Nobody is there whom a window could ask (`GIT_ASKPASS` may be a program that knows).
BEFORE_ENVIRONMENT = """
umask 022
unset GIT_DEFAULT_HASH GIT_DEFAULT_REF_FORMAT SSH_ASKPASS
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR GIT_PREFIX GIT_NAMESPACE GIT_OBJECT_DIRECTORY \\
  GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_CONFIG GIT_CONFIG_COUNT GIT_CONFIG_PARAMETERS GIT_GRAFT_FILE \\
  GIT_INTERNAL_SUPER_PREFIX GIT_NO_REPLACE_OBJECTS GIT_REPLACE_REF_BASE GIT_SHALLOW_FILE GIT_IMPLICIT_WORK_TREE \\
  GIT_QUARANTINE_PATH GIT_ATTR_SOURCE GIT_LITERAL_PATHSPECS GIT_GLOB_PATHSPECS GIT_NOGLOB_PATHSPECS GIT_ICASE_PATHSPECS
"""

#: needs `CODES` and `d_least_git`
VERSION = r"""
d_check_git() {
  local d_version
  d_version=$(git --version)
  if [[ $d_version =~ ([0-9]+)[.]([0-9]+)[0-9.]* ]] &&
     ((BASH_REMATCH[1] * 1000 + BASH_REMATCH[2] < ${d_least_git%.*} * 1000 + ${d_least_git#*.})); then
    printf 'problem\t%s\t%s\n' "${BASH_REMATCH[0]}" "$d_least_git" >&3
    exit "$d_git_too_old"
  fi
}
"""

# Credentials travel in the environment of git and its helper; what stands in argv is only the variables' names.
_PREPARE = r"""
export GIT_TERMINAL_PROMPT=0
if [ -z "${GIT_SSH_COMMAND:-}${GIT_SSH:-}" ] && ! git config --get core.sshCommand >/dev/null; then
  export GIT_SSH_COMMAND='ssh -o BatchMode=yes -o ConnectTimeout=30'
fi
case $d_repository in "~/"*) d_repository=$HOME/${d_repository#"~/"} ;; esac
d_git_options=(
  -c advice.detachedHead=false -c init.defaultBranch=main -c core.hooksPath=/dev/null
  -c core.symlinks=true -c core.fileMode=true -c core.ignoreCase=false -c core.ignoreStat=false
  -c core.autocrlf=false -c core.fsmonitor=false -c core.checkStat=default -c core.trustctime=true -c checkout.workers=0
  -c gc.autoDetach=false -c maintenance.autoDetach=false -c core.logAllRefUpdates=false
  -c init.defaultObjectFormat=sha1 -c init.defaultRefFormat=files
  -c submodule.alternateLocation=no
)
if [ -n "$d_site" ]; then
  export DEPLOYTOOL_GIT_USERNAME=$d_username DEPLOYTOOL_GIT_PASSWORD=$d_password
  d_helper='!d() { test "$1" = get || exit 0; printf "username=%s\n" "$DEPLOYTOOL_GIT_USERNAME"'
  if [ -n "$d_has_password" ]; then
    # An empty helper clears the list: nobody else's helper is asked, or told to store the password.
    d_git_options+=(-c "credential.$d_site.helper=")
    d_helper+='; printf "password=%s\n" "$DEPLOYTOOL_GIT_PASSWORD"'
  fi
  d_git_options+=(-c "credential.$d_site.helper=$d_helper; }; d")
fi
d_git() { git "${d_git_options[@]}" "$@"; }
d_result() { local IFS=$'\t'; printf '%s\n' "$*" >&3; }
d_fail() { local d_code=$1; shift; if [ $# -gt 0 ]; then d_result problem "$@"; fi; exit "$d_code"; }
command -v git >/dev/null || d_fail "$d_tool_missing" git
d_check_git
"""
PREPARE = VERSION + _PREPARE
