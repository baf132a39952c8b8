"""What may be typed: Invoke's parser, with one clear line and exit code 2 for what is unknown or not whole."""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from invoke.exceptions import Exit, ParseError
from invoke.parser.parser import Parser

from deploytool.command import listed, program, project
from deploytool.errors import UsageError
from deploytool.settings import environments


class CommandLine(Parser):
    """Invoke's parser, with one clear line and exit code 2 for what it does not know or what is not whole."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Invoke writes every `_` as `-`; people type the name of the file.
        for name in environments(project()):
            if name not in self.contexts:
                self.contexts[name] = self.contexts[typed(name)]

    def parse_argv(self, argv: list[str]) -> Any:
        if program().args.complete.value:
            # A shell asks for completions: what it has so far is not whole, and that is no mistake.
            return super().parse_argv(argv)
        try:
            parsed = super().parse_argv(argv)
        except ParseError as error:
            refuse(self._mistake(error), argv)
        if mistake := self._incomplete(parsed):
            refuse(mistake, argv)
        return parsed

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
    if "/" not in word and any((project / "config" / f"{word}{suffix}").is_file() for suffix in (".yml", ".yaml")):
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
    if "--json" in argv:
        print(json.dumps({"exit_code": error.exit_code, "error": error.as_dict()}, indent=2), flush=True)
    raise Exit(str(error), code=error.exit_code)


def speak_clearly() -> None:
    """Let the running `fab` use our parser: its own ends with exit code 1 and does not say what exists."""
    running = program()
    running._make_parser = lambda: CommandLine(
        initial=running.initial_context, contexts=running.collection.to_contexts()
    )
