"""What may be typed: Invoke's parser, with one clear line and exit code 2 for what is unknown or not whole."""

import ast
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from invoke.exceptions import Exit, ParseError
from invoke.parser.parser import Parser
from invoke.util import helpline

from deploytool.command import listed, program, project
from deploytool.completion import Vocabulary, candidates, values_in, words_of
from deploytool.errors import UsageError
from deploytool.listing import listing
from deploytool.settings.files import environments, file_of, settings_directory


class CommandLine(Parser):
    """Invoke's parser, with one clear line and exit code 2 for what it does not know or what is not whole."""

    def __init__(self, *arguments: Any, commands: Sequence[str], **named: Any) -> None:
        super().__init__(*arguments, **named)
        #: our own, in the order of use
        self.commands = commands
        # Invoke writes every `_` as `-`; people type the name of the file.
        for name in environments(project()):
            if name not in self.contexts:
                self.contexts[name] = self.contexts[typed(name)]

    def parse_argv(self, argv: list[str]) -> Any:
        if program().args.complete.value:
            # A shell asks what may come next: what it has so far is not whole, and that is no mistake.
            for candidate in candidates(words_of(program().core.remainder), self._vocabulary()):
                print(candidate)
            raise Exit
        try:
            parsed = super().parse_argv(argv)
        except ParseError as error:
            refuse(self._mistake(error), argv)
        if mistake := self._incomplete(parsed):
            refuse(mistake, argv)
        return parsed

    def _vocabulary(self) -> Vocabulary:
        known = self._environments()
        return Vocabulary(
            core=program().initial_context,
            contexts=self.contexts,
            environments=known,
            commands=self.commands,
            values=values_in(project(), known, os.environ),
        )

    def _environments(self) -> tuple[str, ...]:
        return tuple(typed(name) for name in environments(project()))

    def _commands(self) -> list[str]:
        known = self._environments()
        return sorted(name for name in self.contexts if typed(name) not in known)

    def _mistake(self, error: ParseError) -> UsageError:
        task = error.context.name if error.context else None
        if needs := re.match(r"Flag <Argument: ([\w-]+).* needed value", str(error)):
            return UsageError(f"--{needs[1].replace('_', '-')} needs a value")
        if not (unknown := re.fullmatch(r"No idea what (.+) is!", str(error), re.DOTALL)):
            return UsageError(str(error))
        word = str(ast.literal_eval(unknown[1]))
        if not word.startswith("-"):
            return unknown_word(word, self._environments(), self._commands(), project())
        if task is None:
            return UsageError(f"fab knows no flag {word}; `fab --help` shows its own, `fab --help deploy` a command's")
        if task in self._environments():
            return UsageError(
                f"{word} stands after the environment {task}; flags belong to a command and stand after it, as in "
                f"`fab {task} deploy --json`"
            )
        return unknown_flag(word, task, _flags(error.context))

    def _incomplete(self, parsed: Any) -> UsageError | None:
        asked = (program().args, parsed[0].args)
        if any(arguments[name].value for arguments in asked for name in ("help", "list")):
            return None
        names = [each.name for each in parsed[1:]]
        chosen = list(dict.fromkeys(name for name in names if name in self._environments()))
        if len(chosen) > 1:
            return UsageError(f"several environments in one command: {', '.join(chosen)}; one at a time")
        if chosen and chosen == names:
            return UsageError(
                f"{chosen[0]} is an environment: what is to be done there? Commands: {', '.join(self._commands())}; "
                f"as in `fab {chosen[0]} deploy`"
            )
        return None


def typed(name: str) -> str:
    """An environment's name as invoke knows it."""
    return name.replace("_", "-")


def _flags(task: Any) -> list[str]:
    """The flags of a command, as they are typed: `--no-wait` where `--wait` is the default."""
    flags = (f"{'no-' if argument.default is True else ''}{name}" for name, argument in task.args.items())
    return sorted("--" + flag.replace("_", "-") for flag in flags)


def unknown_flag(flag: str, command: str, flags: Sequence[str]) -> UsageError:
    from deploytool.settings.model import did_you_mean

    return UsageError(f"`{command}` has no flag {flag}.{did_you_mean(flag, flags)} Its flags: {', '.join(flags)}")


def unknown_word(word: str, known: Sequence[str], commands: Sequence[str], project: Path) -> UsageError:
    """Why `word` is neither an environment nor a command, and what is."""
    from deploytool.settings import load_settings
    from deploytool.settings.model import did_you_mean

    # A file that looks like an environment's has its own sentence.
    place = project / settings_directory(project)
    if "/" not in word and any((place / f"{word}{suffix}").is_file() for suffix in (".yml", ".yaml")):
        try:
            load_settings(project, word, {})
        except UsageError as error:
            return UsageError(error.message, hint=error.hint)
    example = f"{known[0] if known else 'ENV'} deploy"
    return UsageError(
        f"there is no environment or command {word!r}.{did_you_mean(word, (*known, *commands))} "
        f"Environments: {listed(known)}. Commands: {', '.join(commands)}; as in `fab {example}`"
    )


def refuse(error: UsageError, argv: Sequence[str]) -> NoReturn:
    """End the command before it begins, with the JSON document if that was asked for."""
    from deploytool.ci import annotations, github_actions
    from deploytool.console import Console

    console = Console(as_json="--json" in argv, actions=github_actions(os.environ))
    if console.as_json:
        console.document({"exit_code": error.exit_code, "error": error.as_dict()})
    console.annotate(annotations(f"fab: exit code {error.exit_code}", str(error).split("\n"), ()))
    raise Exit(console.shown(str(error)), code=error.exit_code)


def speak_clearly(groups: Mapping[str, Sequence[str]]) -> None:
    """Let the running `fab` use our parser: its own ends with exit code 1 and does not say what exists.

    Also our list of tasks, with our commands in `groups`: its own is by the alphabet.
    """
    running = program()
    commands = [name for group in groups.values() for name in group]
    running._make_parser = lambda: CommandLine(
        initial=running.initial_context, contexts=running.collection.to_contexts(), commands=commands
    )
    running.list_flat = functools.partial(_list, groups, running.list_flat)


def _list(groups: Mapping[str, Sequence[str]], as_invoke_does: Callable[[], None]) -> None:
    from deploytool.console import tell

    running = program()
    if running.scoped_collection is not running.collection:
        # Of one of the user's own collections.
        as_invoke_does()
        return
    help_of = {name: helpline(running.collection[name]) or "" for name in running.collection.task_names}
    files = {typed(name): file_of(project(), name) for name in environments(project())}
    ours = {heading: {name: help_of[name] for name in group} for heading, group in groups.items()}
    shown = files.keys() | {name for group in groups.values() for name in group}
    others = {name: text for name, text in sorted(help_of.items()) if name not in shown}
    tell(sys.stdout, "\n".join(listing(files, ours, others)))
