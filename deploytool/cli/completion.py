"""What a shell offers when Tab is pressed in a `fab` command line. Opens no connection and reads no settings.

`candidates` is pure; releases come from what commands have seen before, branches from git and from there.
"""

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool.cli.seen_names import recall
from deploytool.text.untrusted import printable

#: the flag and the environment that stands before its command → what the flag's value may be
Values = Callable[[str, str | None], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What may be typed after `fab`. The contexts are those of Invoke's parser."""

    #: fab's own flags
    core: Any
    #: by the words that they are typed as: environments and all tasks
    contexts: Mapping[str, Any]
    environments: Sequence[str]
    #: tasks that stand after an environment
    commands: Sequence[str]
    values: Values

    @property
    def others(self) -> list[str]:
        """Tasks of the user's own: they may need no environment."""
        ours = {*self.commands, *self.environments}
        # An environment stands there by the name of its file as well, with `_` where the word has `-`.
        return sorted(name for name in self.contexts if name.replace("_", "-") not in ours)


def words_of(typed: str) -> list[str]:
    """The words of a command line up to the cursor, without `fab` itself; the last is the one to be completed.

    bash makes words of their own out of `--release=x`: three.
    """
    words = typed.replace("=", " ").split()[1:]
    return [*words, ""] if not words or typed[-1].isspace() or typed[-1] == "=" else words


def candidates(words: Sequence[str], known: Vocabulary) -> list[str]:
    """What the last of `words` may become. Not yet narrowed to what it begins with: shells do that."""
    context, environment, open_flag = known.core, None, None
    for word in words[:-1]:
        if open_flag is not None:
            open_flag = None
        elif word.startswith("-"):
            argument = context.flags.get(word)
            open_flag = word if argument is not None and argument.takes_value else None
        elif word in known.contexts:
            context = known.contexts[word]
            name = word.replace("_", "-")
            environment = name if name in known.environments else environment
    if open_flag is not None and context is known.core:
        return [*known.environments, *known.commands, *known.others] if open_flag in ("--help", "-h") else []
    if open_flag is not None:
        return list(known.values(open_flag, environment))
    if words[-1].startswith("-"):
        return list(context.flag_names())
    if environment is None:
        return [*known.environments, *known.others]
    return [*known.commands, *known.others]


def values_in(project: Path, environments: Sequence[str], environ: Mapping[str, str]) -> Values:
    """The values of flags, from what is on this machine."""

    def values(flag: str, environment: str | None) -> Sequence[str]:
        match flag:
            case "--release":
                return _lines(recall(project, environ).releases)
            case "--branch":
                seen = recall(project, environ).branches
                return _lines(dict.fromkeys((*_git_names(project), *seen)))
            case "--from":
                return [name for name in environments if name != environment]
            case _:
                return ()

    return values


def _lines(names: Iterable[str]) -> list[str]:
    """Those of the names that a shell can be told: a line holds each, as it is."""
    return [name for name in names if printable(name) == name]


def _git_names(project: Path) -> list[str]:
    """Branches and tags of the repository that the project is in; none if it is in none."""
    asked = [
        "git",
        "-C",
        str(project),
        "for-each-ref",
        "--format=%(refname)",
        "refs/heads",
        "refs/remotes",
        "refs/tags",
    ]
    try:
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError:
        return []
    names = []
    for line in done.stdout.split("\n")[:-1]:
        _, kind, name = line.split("/", 2)
        # Of another's branch the build server knows the name without the remote's.
        short = name.partition("/")[2] if kind == "remotes" else name
        if kind != "remotes" or short != "HEAD":
            names.append(short)
    return names


# --- what a shell runs when it starts

#: Each hands the words up to the cursor to `fab`, by the name that was typed, and offers files where that says nothing.
SCRIPTS: Mapping[str, str] = {
    "bash": """\
# Completion of fab for bash: in ~/.bashrc, eval "$(deploytool completion bash)"
_deploytool_fab() {
    local each
    # In `--release=x` bash takes = for a word.
    local typed=${COMP_WORDS[COMP_CWORD]#=}
    COMPREPLY=()
    # Not by `compgen -W`, which runs what stands in the name of a branch; and quoted, as bash puts it in as it is.
    while IFS= read -r each; do
        if [[ $each == "$typed"* ]]; then
            printf -v each %q "$each"
            COMPREPLY+=("$each")
        fi
    done < <("${1/#\\~/$HOME}" --complete -- "${COMP_WORDS[@]:0:COMP_CWORD+1}" 2>/dev/null)
}
# The newest release comes first, where bash is new enough (4.4) to leave the order alone.
complete -o nosort -o default -F _deploytool_fab fab 2>/dev/null || complete -o default -F _deploytool_fab fab
""",
    "zsh": """\
# Completion of fab for zsh: in ~/.zshrc after compinit, eval "$(deploytool completion zsh)"
_deploytool_fab() {
    local -a found
    found=(${(f)"$("${words[1]/#\\~/$HOME}" --complete -- "${(@)words[1,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then
        compadd -V fab -- "${found[@]}"
    else
        _files
    fi
}
compdef _deploytool_fab fab
""",
    "fish": """\
# Completion of fab for fish: deploytool completion fish >~/.config/fish/completions/fab.fish
function __deploytool_fab
    set -l typed (commandline --tokenize --cut-at-cursor --current-process)
    $typed[1] --complete -- $typed (commandline --current-token --cut-at-cursor) 2>/dev/null
end
complete --command fab --no-files --keep-order --arguments '(__deploytool_fab)'
""",
}
