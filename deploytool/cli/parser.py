"""What may be typed: Invoke's parser, with one clear line and exit code 2 for what is unknown or not whole."""

import ast
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from invoke.exceptions import Exit, ParseError
from invoke.parser.parser import Parser
from invoke.tasks import Call, Task
from invoke.util import helpline

from deploytool.cli import fab_flags
from deploytool.cli.completion import Vocabulary, candidates, values_in, words_of
from deploytool.cli.listing import listing
from deploytool.cli.runner import listed, program, project
from deploytool.errors import UsageError, refusal
from deploytool.settings.files import environments, file_of, settings_directory
from deploytool.streams import outlast_readers


class CommandLine(Parser):
    """Invoke's parser, with one clear line and exit code 2 for what it does not know or what is not whole."""

    def __init__(self, *arguments: Any, commands: Sequence["Task[Any]"], **named: Any) -> None:
        super().__init__(*arguments, **named)
        #: our own, in the order of use
        self.tasks = commands
        self.commands = [each.name for each in commands]
        #: the other tasks of the line
        self.own: list[str] = []
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
        except ValueError as error:
            # Of a flag that takes a number.
            refuse(UsageError(f"a flag has an invalid value: {error}"), argv)
        if mistake := self._incomplete(parsed) or self._unsuited(parsed):
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
            return UsageError(
                f"fab has no flag {word}; `fab --help` lists its flags, `fab --help deploy` those of a command"
            )
        if task in self._environments():
            return UsageError(
                f"{word} follows the environment {task}, but flags follow a command, as in `fab {task} deploy --json`"
            )
        return unknown_flag(word, task, _flags(error.context))

    def _unsuited(self, parsed: Any) -> UsageError | None:
        """What is wrong with the flags of `fab` itself, for the tasks of this line."""
        given = given_flags(parsed[0].args)
        if (form := given.get("list-format")) not in (None, "flat", "nested", "json"):
            return UsageError(f"-F/--list-format: {form!r} is not one of flat, nested, json")
        if "list" in given or "help" in given:
            return None
        if os.environ.get("INVOKE_DEBUG"):
            given["debug"] = True
        names = [each.name for each in parsed[1:]]
        known = self._environments()
        tasks = [each for name in names for each in in_order(program().collection[name])]
        ours = [each.name for each in tasks if any(each.body is mine.body for mine in self.tasks)]
        own = self.own = [each.name for each in tasks if typed(each.name) not in (*ours, *known)]
        if ours and program().core.remainder:
            return UsageError(
                f"`-- COMMAND` runs on the hosts of -H and can't be combined with `{ours[0]}`: leave one of them out"
            )
        environment = next((name for name in names if name in known), "ENV")
        if mistake := fab_flags.refusal(given, ours, own, environment):
            return mistake
        from deploytool.screen.console import tell

        if ours and (said := fab_flags.for_others(given, own)):
            tell(sys.stderr, said)
        return None

    def _incomplete(self, parsed: Any) -> UsageError | None:
        asked = (program().args, parsed[0].args)
        if any(arguments[name].value for arguments in asked for name in ("help", "list")):
            return None
        names = [each.name for each in parsed[1:]]
        chosen = list(dict.fromkeys(name for name in names if name in self._environments()))
        if len(chosen) > 1:
            return UsageError(f"several environments in one command: {', '.join(chosen)}; name only one")
        if chosen and chosen == names:
            return UsageError(
                f"{chosen[0]} is an environment, and a command is missing. Commands: {', '.join(self._commands())}; "
                f"for instance `fab {chosen[0]} deploy`"
            )
        return None


def given_flags(after_tasks: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of `fab` itself that were typed, before or after the tasks, with their values."""
    return {
        max(argument.names, key=len): argument.value
        for arguments in (program().args, after_tasks)
        for argument in arguments.values()
        if argument.got_value
    }


def in_order(each: Any) -> "Iterator[Task[Any]]":
    """A task with what runs before and after it."""
    task = each.task if isinstance(each, Call) else each
    for before in each.pre:
        yield from in_order(before)
    yield task
    for after in each.post:
        yield from in_order(after)


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
        f"Environments: {listed(known)}. Commands: {', '.join(commands)}; for instance `fab {example}`"
    )


def refuse(error: UsageError, argv: Sequence[str]) -> NoReturn:
    """End the command before it begins, with the JSON document if that was asked for."""
    from deploytool.screen.console import Console
    from deploytool.screen.github_actions import annotations, github_actions

    console = Console(as_json="--json" in argv, actions=github_actions(os.environ))
    if console.as_json:
        console.document(refusal(error))
    console.annotate(annotations(f"fab: exit code {error.exit_code}", str(error).split("\n"), ()))
    raise Exit(console.shown(str(error)), code=error.exit_code)


def speak_clearly(groups: Mapping[str, Sequence["Task[Any]"]]) -> None:
    """Let the running `fab` use our parser: its own ends with exit code 1 and does not say what exists.

    Also our list of tasks, with our commands in `groups`: its own is by the alphabet; and our words on its flags. `fab`
    alone shows that list, where Fabric shows its flags.
    """
    # Fabric's own script may run us.
    outlast_readers()
    running = program()
    commands = [each for group in groups.values() for each in group]
    running._make_parser = lambda: CommandLine(
        initial=running.initial_context, contexts=running.collection.to_contexts(), commands=commands
    )
    names = {heading: [each.name for each in group] for heading, group in groups.items()}
    running.list_flat = functools.partial(_list, names, running.list_flat)
    running.print_help = functools.partial(_help, running.print_help)
    running.no_tasks_given = functools.partial(_list_if_bare, running.no_tasks_given)
    running.update_config = functools.partial(_configure, running.update_config)


def _help(as_invoke_does: Callable[[], None]) -> None:
    from deploytool.screen.console import tell

    as_invoke_does()
    tell(sys.stdout, "\n".join(fab_flags.help_lines()))


def _list_if_bare(as_fabric_does: Callable[[], None]) -> None:
    running = program()
    # Of `fab -H HOST -- COMMAND`, which has no task either.
    if running.core.remainder:
        as_fabric_does()
        return
    running.list_tasks()
    raise Exit


def _configure(as_fabric_does: Callable[[], None]) -> None:
    """Read the configuration that the flags name, and ask for passwords. What can't be had is one sentence."""
    from invoke.exceptions import AmbiguousEnvVar, UncastableEnvVar, UnknownFileType
    from invoke.vendor.yaml import YAMLError
    from paramiko import SSHConfig, SSHException

    running = program()
    argv = running.argv[1:]
    as_its_config_does = running.config.load_ssh_config

    def load_ssh_config() -> None:
        try:
            as_its_config_does()
        except (SSHException, ValueError, OSError):
            # Our own commands ask OpenSSH's client, which knows more of such files, and do so once they connect.
            if running.parser.own:
                raise
            running.config._set(base_ssh_config=SSHConfig(), _given_explicit_object=True)

    running.config._set(load_ssh_config=load_ssh_config)
    for name in ("config", "ssh-config"):
        path = running.args[name].value
        # Invoke leaves out a file that is not there, without a word.
        if path is not None and not os.path.isfile(path):
            refuse(UsageError(f"{fab_flags.BY_NAME[name].typed}: there is no file {path}"), argv)
    try:
        as_fabric_does()
        # Fabric's executor reads them again, and dies of what it can't read.
        running.config.load_shell_env()
    except EOFError:
        refuse(UsageError("can't ask for a password: stdin is closed, and there is no terminal"), argv)
    except (AmbiguousEnvVar, UncastableEnvVar, UnknownFileType, YAMLError, SSHException, OSError, ValueError) as error:
        refuse(UsageError(f"Fabric can't read its configuration: {' '.join(str(error).split())}"), argv)


def _list(groups: Mapping[str, Sequence[str]], as_invoke_does: Callable[[], None]) -> None:
    from deploytool.screen.console import tell

    running = program()
    if running.scoped_collection is not running.collection or running.list_depth:
        # Of one of the user's own collections, or so many levels of them.
        as_invoke_does()
        return
    help_of = {name: helpline(running.collection[name]) or "" for name in running.collection.task_names}
    files = {typed(name): file_of(project(), name) for name in environments(project())}
    ours = {heading: {name: help_of[name] for name in group} for heading, group in groups.items()}
    shown = files.keys() | {name for group in groups.values() for name in group}
    others = {name: text for name, text in sorted(help_of.items()) if name not in shown}
    tell(sys.stdout, "\n".join(listing(files, ours, others)))
