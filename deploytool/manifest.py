"""The manifest: what stretcher does on each host of one role in one deployment.

Settings and a release in, YAML out. Pure but for reading our own and the user's templates; it knows no clock, no store
and no host. What happens on a host is written in `templates/host/*.sh`; here it gets its values, quoted.

The text never holds two opening braces in a row: stretcher after 1.1.0 runs a Go template over the whole manifest and
1.1.0 does not, and one manifest has to do for both.
"""

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import quote

from deploytool.errors import SettingsError
from deploytool.model.release import DeploymentId, Release, ReleaseId, Revision, consul_prefix

if TYPE_CHECKING:
    import yaml

    from deploytool.settings import Settings

Phase = Literal["pre", "post", "success", "failure"]

TEMPLATE_NAME = "manifest.yml.j2"

#: Stands for the file of the bus in use: consul.sh, or directory.sh for pretend hosts.
BUS = "bus"
#: What each phase is made of, in the order in which it is read; each file needs those before it.
_ALWAYS = ("limits", "log", "process", "keys", BUS, "room", "report", "hooks")
_TREE = ("inside", "shared", "incoming", "virtualenv")
_PROOF = ("sockets", "verify")
_POST = ("post", "drain", "activate", "undrain", "settle")
_FAILURE = ("failure", "failure-undrain", "failure-tell")
PARTS: dict[Phase, tuple[str, ...]] = {
    "pre": (*_ALWAYS, "guard", "barrier", "switch", "inside", "shared", "incoming", "pre"),
    "post": (*_ALWAYS, "switch", *_TREE, *_PROOF, "retention", "draining", *_POST),
    "success": (*_ALWAYS, "retention", "success"),
    "failure": (*_ALWAYS, "guard", "switch", *_PROOF, "retention", "draining", *_FAILURE),
}
#: What a host keeps with a verified release, to see every minute whether it serves still.
LOOK_PARTS = (*_ALWAYS, "guard", "switch", *_PROOF, "look")
#: Only for roles with the hooks `drain` and `undrain`.
DRAINING = frozenset({"draining", "drain", "undrain", "failure-undrain"})

#: The same for a probe of `fab ENV check`.
PROBE_PARTS = ("limits", "log", "process", "keys", BUS, "room", "report", "inside", "shared", "sockets", "probe")
#: And for one of `fab ENV status --probe`.
PROVE_PARTS = (*_ALWAYS, "switch", *_PROOF, "prove")

#: Linux takes no single argument of this size or more (MAX_ARG_STRLEN), and a command is one argument of `sh -c`.
LONGEST_COMMAND_BYTES = 128 * 1024

OPENING_BRACES = "{" * 2


@dataclass(frozen=True, slots=True)
class HostCommand:
    """A shell command for a host, already rendered, and the setting that it came from, as in `roles.web.restart[0]`."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class RoleManifest:
    """Everything that one manifest says, with all templates of the settings rendered."""

    application: str
    environment: str
    role: str
    release: Release
    deployment: DeploymentId
    #: the archive's URL; empty if hosts use the release that they have kept
    src: str
    deploy_to: str
    keep_releases: int
    linked_dirs: tuple[str, ...]
    linked_files: tuple[str, ...]
    restart: tuple[HostCommand, ...]
    hooks: dict[Phase, tuple[HostCommand, ...]]
    #: pid_file, url, expect and command; empty if not asked for.
    verify_pid_file: str
    verify_url: str
    verify_expect: str
    verify_command: str
    hook_seconds: int
    stable_seconds: int
    #: the directory that takes Consul's place; empty if it is Consul
    bus_directory: str
    #: what `fab ENV rollback` goes to once this deployment is verified, and hosts therefore keep; None if not known
    rollback_release: ReleaseId | None = None
    #: take a host out of traffic for the switch, and bring it back
    drain: tuple[HostCommand, ...] = ()
    undrain: tuple[HostCommand, ...] = ()
    #: a TCP port of the release's own; None if not asked for
    verify_port: int | None = None
    #: whether it must listen where the release before did
    verify_as_before: bool = True
    #: where builds lie: what runs from there is no release; empty if only the build server knows
    build_root: str = ""

    @property
    def drains(self) -> bool:
        """Whether hosts are taken out of traffic for the switch."""
        return bool(self.drain or self.undrain)

    @property
    def kept(self) -> bool:
        """Whether hosts use the release that they have kept from before, and download nothing."""
        return not self.src

    @property
    def dest(self) -> str:
        """Where a template of the user's own may let stretcher sync to: never a directory that serves."""
        return f"{self.deploy_to}/incoming/{self.deployment}"

    @property
    def unpacked_prefix(self) -> str:
        """What all names begin with that this role's trees have in stretcher's temporary directory.

        With dots between, which are in no name of the settings: no other role's begin so.
        """
        return f".deploytool.{self.application}.{self.environment}.{self.role}."

    @property
    def unpacked_name(self) -> str:
        return f"{self.unpacked_prefix}{self.deployment}"

    @property
    def beside(self) -> str:
        """Where stretcher can always rename to: beside the directory that it unpacks in, from where it syncs."""
        return f"../{self.unpacked_name}"

    @property
    def names(self) -> dict[str, str]:
        return hook_names(self.application, self.environment, self.role, self.release, self.deployment, self.deploy_to)


def hook_names(
    application: str, environment: str, role: str, release: Release, deployment: DeploymentId, deploy_to: str
) -> dict[str, str]:
    """The names that hooks, `restart` and `verify` may use, with their values."""
    return {
        "application": application,
        "environment": environment,
        "role": role,
        "release": release.id,
        "revision": release.revision,
        "deployment": deployment,
        "deploy_to": deploy_to,
        "release_path": f"{deploy_to}/releases/{release.id}",
        "current_path": f"{deploy_to}/current",
        "shared_path": f"{deploy_to}/shared",
    }


def render_manifest(
    settings: "Settings",
    role: str,
    release: Release,
    deployment: DeploymentId,
    template_directory: Path | None,
    *,
    kept: bool = False,
    rollback_release: ReleaseId | None = None,
) -> str:
    """The checked manifest of `role`, by the template in `template_directory` if there is one, else by our own.

    With `kept` its hosts use the release that they have from before: no `src`, so nothing is downloaded; a host that
    has it no more reports `failed`, with `incomplete`, before it changes anything. For `rollback_release` see
    RoleManifest. Raises SettingsError for a hook or a template that can't be rendered, or whose manifest stretcher
    would not take.
    """
    manifest = role_manifest(settings, role, release, deployment, kept=kept, rollback_release=rollback_release)
    text = render(manifest, template_directory)
    check_manifest(text, kept=kept)
    return text


def manifest_url(store_url: str, key: str) -> str:
    """The URL of an object in the store, as stretcher reads URLs: what is special in them is percent-encoded."""
    scheme, _, place = store_url.partition("://")
    return f"{scheme}://{quote(place.rstrip('/') + '/' + key, safe='/')}"


def role_manifest(
    settings: "Settings",
    role: str,
    release: Release,
    deployment: DeploymentId,
    *,
    kept: bool = False,
    rollback_release: ReleaseId | None = None,
) -> RoleManifest:
    """The values of one manifest. Raises SettingsError with all templates that can't be rendered."""
    said = settings.roles[role]
    deploy_to = settings.deploy_to_of(role)
    names = hook_names(settings.application, settings.environment, role, release, deployment, deploy_to)
    problems: list[str] = []

    def rendered(label: str, template: str | None) -> str:
        return _render_setting(label, template or "", names, problems)

    def commands(label: str, templates: Sequence[str]) -> tuple[HostCommand, ...]:
        labels = [f"{label}[{number}]" for number in range(len(templates))]
        return tuple(HostCommand(at, rendered(at, text)) for at, text in zip(labels, templates, strict=True))

    at = f"roles.{role}"
    manifest = RoleManifest(
        application=settings.application,
        environment=settings.environment,
        role=role,
        release=release,
        deployment=deployment,
        src="" if kept else manifest_url(settings.store.url, release.archive_key),
        deploy_to=deploy_to,
        keep_releases=settings.keep_releases,
        linked_dirs=_inside_release("linked_dirs", settings.linked_dirs, problems),
        linked_files=_inside_release("linked_files", settings.linked_files, problems),
        restart=commands(f"{at}.restart", said.restart),
        hooks={phase: commands(f"{at}.hooks.{phase}", getattr(said.hooks, phase)) for phase in get_args(Phase)},
        verify_pid_file=said.verify.pid_file or "",
        verify_url=rendered(f"{at}.verify.url", said.verify.url),
        verify_expect=rendered(f"{at}.verify.expect", said.verify.expect),
        verify_command=rendered(f"{at}.verify.command", said.verify.command),
        verify_port=said.verify.port,
        verify_as_before=said.verify.as_before,
        build_root=_build_root(settings),
        hook_seconds=settings.wait.hook_seconds,
        stable_seconds=settings.proof_seconds,
        bus_directory=(settings.consul.address or "").partition("file://")[2],
        rollback_release=rollback_release,
        drain=commands(f"{at}.hooks.drain", said.hooks.drain),
        undrain=commands(f"{at}.hooks.undrain", said.hooks.undrain),
    )
    if problems:
        raise SettingsError(problems)
    return manifest


def _build_root(settings: "Settings") -> str:
    """The application's work area on the build server; empty below a home directory, which only that server knows."""
    root = settings.build.root
    return f"{root}/{settings.application}" if root.startswith("/") else ""


def _render_setting(label: str, template: str, names: dict[str, str], problems: list[str]) -> str:
    """`template` with `names`; empty, and one more problem each, if that can't be had."""
    import jinja2
    import jinja2.meta

    # Shell and YAML come out of it, and never HTML.
    jinja = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    try:
        unknown = jinja2.meta.find_undeclared_variables(jinja.parse(template)) - set(names) - set(jinja.globals)
        for name in sorted(unknown):
            close = difflib.get_close_matches(name, names, n=1)
            known = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(names)}."
            problems.append(f"{label}: no template knows the name `{name}`; {known}")
        if unknown:
            return ""
        text = jinja.from_string(template).render(names)
        text.encode()
    except Exception as error:  # a template may raise whatever Python can
        problems.append(
            f"{label}: can't be rendered: {error or type(error).__name__}. "
            f"A literal {OPENING_BRACES} is written {OPENING_BRACES} '{OPENING_BRACES}' }}}}."
        )
        return ""
    if "\0" in text:
        problems.append(f"{label}: has a NUL character, which no shell takes.")
        return ""
    return text


def _inside_release(label: str, paths: tuple[str, ...], problems: list[str]) -> tuple[str, ...]:
    """`paths`, which the host removes from the release before it links them: none may lead elsewhere."""
    for number, path in enumerate(paths):
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\0" in path:
            problems.append(f"{label}[{number}]: {path!r} must be a path below the release.")
    return paths


def render(manifest: RoleManifest, template_directory: Path | None) -> str:
    """The manifest's text, unchecked. Raises SettingsError if the template can't be rendered."""
    import jinja2

    own = template_directory / TEMPLATE_NAME if template_directory else None
    path = own if own and own.is_file() else own_templates() / TEMPLATE_NAME
    # Shell and YAML come out of it, and never HTML.
    jinja = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    jinja.filters["yaml"] = yaml_scalar

    def script(phase: str) -> str:
        if phase not in PARTS:
            raise jinja2.TemplateRuntimeError(f"host_script knows {', '.join(PARTS)}, not {phase}")
        return host_script(manifest, phase)

    names: dict[str, str | Callable[[str], str]] = {**manifest.names}
    names |= {"src": manifest.src, "checksum": manifest.release.checksum, "host_script": script}
    names |= {"beside": manifest.beside, "dest": manifest.dest}
    try:
        text = jinja.from_string(path.read_text(encoding="utf-8")).render(names)
        text.encode()
    except Exception as error:  # a template may raise whatever Python can
        line = f" line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise SettingsError([f"{path}{line}: can't be rendered: {error or type(error).__name__}."]) from error
    return text


def own_templates() -> Path:
    """Our own templates: beside the modules when installed, beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    return next(path for path in (here / "templates", here.parent / "templates") if (path / TEMPLATE_NAME).is_file())


# The shell


def shell_quote(text: str) -> str:
    """`text` as one word of sh, without two opening braces in a row: '{''{' is the same word to a shell."""
    quoted = "'" + text.replace("'", "'\\''") + "'"
    return re.sub(r"\{(?=\{)", "{''", quoted)


def host_script(manifest: RoleManifest, phase: Phase) -> str:
    """The one command of a phase: its values, what it is made of, and a line on either side.

    Those two lines let the failure script find the texts of commands in stretcher's log, which it leaves out.
    Comments stay behind: each command is logged twice by stretcher.
    """
    mark = f"# deploytool {manifest.deployment} {phase}"
    bus = "directory" if manifest.bus_directory else "consul"
    names = (part for part in PARTS[phase] if manifest.drains or part not in DRAINING)
    parts = (_host_part(bus if name == BUS else name) for name in names)
    look = [f"look_script={shell_quote(look_script(manifest))}"] if phase == "success" else []
    return "\n".join([f"{mark} begin", *_values(manifest), *_lists(manifest, phase), *look, *parts, f"{mark} end"])


def look_script(manifest: RoleManifest) -> str:
    """What the host runs every minute while it serves the release: see `look.sh`."""
    bus = "directory" if manifest.bus_directory else "consul"
    parts = (_host_part(bus if name == BUS else name) for name in LOOK_PARTS)
    return "\n".join([*_values(manifest), *_lists(manifest, "failure"), *parts])


def _values(manifest: RoleManifest) -> Iterator[str]:
    values = {
        **manifest.names,
        "consul_prefix": consul_prefix(manifest.application, manifest.environment),
        "bus_directory": manifest.bus_directory,
        "kept": "yes" if manifest.kept else "no",
        "unpacked_prefix": manifest.unpacked_prefix,
        "unpacked_name": manifest.unpacked_name,
        "rollback_release": manifest.rollback_release or "",
        "verify_pid_file": manifest.verify_pid_file,
        "verify_url": manifest.verify_url,
        "verify_expect": manifest.verify_expect,
        "verify_command": manifest.verify_command,
        "verify_port": str(manifest.verify_port or ""),
        "verify_as_before": "yes" if manifest.verify_as_before else "no",
        "build_root": manifest.build_root,
    }
    numbers = {
        "unpacked_bytes": manifest.release.unpacked_bytes,
        "keep_releases": manifest.keep_releases,
        "hook_seconds": manifest.hook_seconds,
        "stable_seconds": manifest.stable_seconds,
    }
    yield from (f"{name}={shell_quote(value)}" for name, value in values.items())
    # Not quoted, so `int` sees to it that nothing but a number gets into the shell.
    yield from (f"{name}={int(number)}" for name, number in numbers.items())


def _lists(manifest: RoleManifest, phase: Phase) -> Iterator[str]:
    """sh has no lists: each is a function that calls what it is given with each item, and stops at a failure."""
    yield _each("linked_dirs", ((path,) for path in manifest.linked_dirs))
    yield _each("linked_files", ((path,) for path in manifest.linked_files))
    if phase in ("post", "failure"):
        yield _each("restart_commands", ((command.label, command.text) for command in manifest.restart))
    if phase == "post" and manifest.drains:
        yield _each("drain_commands", ((command.label, command.text) for command in manifest.drain))
        yield _each("undrain_commands", ((command.label, command.text) for command in manifest.undrain))
    yield _each(f"{phase}_hooks", ((command.label, command.text) for command in manifest.hooks[phase]))


def _each(name: str, items: Iterator[tuple[str, ...]]) -> str:
    calls = [f'  "$1" {" ".join(map(shell_quote, item))} || return' for item in items]
    return "\n".join([f"{name}() {{", *calls, "  return 0", "}"])


@functools.cache
def _host_part(name: str) -> str:
    return _without_comments((own_templates() / "host" / f"{name}.sh").read_text("utf-8"))


def _without_comments(script: str) -> str:
    return "\n".join(line for line in script.splitlines() if line.strip() and not line.lstrip().startswith("#"))


# The probe


#: What a host needs to unpack an archive, by `build.compression`.
UNPACKING: Mapping[str, tuple[str, ...]] = {"gzip": ("tar", "gzip"), "zstd": ("tar", "zstd"), "none": ("tar",)}

_NEWER = "newer-than-1.1.0-is-known-by-its-templates"


def render_probe(settings: "Settings", role: str, probe: DeploymentId) -> str:
    """A manifest for `fab ENV check`: the host says what it is and what it lacks, and nothing is changed.

    This one does hold braces: a stretcher that takes them for a template is newer than 1.1.0, which is all that one
    tells of itself that was built without its own Makefile. The user's template has no part in it.
    """
    deploy_to = settings.deploy_to_of(role)
    bus_directory = (settings.consul.address or "").partition("file://")[2]
    values = {
        "application": settings.application,
        "environment": settings.environment,
        "role": role,
        "deployment": probe,
        "deploy_to": deploy_to,
        "shared_path": f"{deploy_to}/shared",
        "consul_prefix": consul_prefix(settings.application, settings.environment),
        "bus_directory": bus_directory,
        "newer": _NEWER,
    }
    bus = "directory" if bus_directory else "consul"
    lines = [
        *(f"{name}={shell_quote(value)}" for name, value in values.items()),
        _each("linked_files", ((path,) for path in settings.linked_files)),
        _each("unpacking_programs", ((name,) for name in UNPACKING[settings.build.compression])),
        *(_host_part(bus if part == BUS else part) for part in PROBE_PARTS),
    ]
    return _PROBE.format(yaml_scalar("\n".join(lines), 6).replace(_NEWER, "{{`yes`}}"))


def render_proof(settings: "Settings", role: str, probe: DeploymentId) -> str:
    """A manifest for `fab ENV status --probe`: the host proves anew what it serves, and nothing else changes.

    It does so by what the deployment said that brought it; by these settings only where that has left nothing behind.
    """
    manifest = role_manifest(settings, role, made_up_release(settings), probe)
    bus = "directory" if manifest.bus_directory else "consul"
    parts = (_host_part(bus if part == BUS else part) for part in PROVE_PARTS)
    script = "\n".join([*_values(manifest), *_lists(manifest, "failure"), *parts])
    return _PROBE.format(yaml_scalar(script, 6))


_PROBE = "# A probe by deploytool: it changes nothing.\ncommands:\n  pre:\n    - {}\n"


def made_up_release(settings: "Settings") -> Release:
    """No release that there is: for a manifest that is rendered only to be looked at, or for what else it says."""
    return Release(
        id=ReleaseId("20000101T000000Z-0000000"),
        application=settings.application,
        revision=Revision("0" * 40),
        branch=settings.branch,
        built_at="2000-01-01T00:00:00Z",
        built_by="nobody",
        build_key="0" * 64,
        compression=settings.build.compression,
        checksum="0" * 64,
        size_bytes=1,
        unpacked_bytes=1,
    )


# YAML


#: What YAML takes as it is, both 1.1 and 1.2: no line separators but \n, no byte order mark, no control characters.
_PLAIN = re.compile(r"[\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*")


def yaml_scalar(text: str, indent: int = 2) -> str:
    """One YAML value that reads as exactly `text`, without two opening braces in a row.

    Several lines make a literal block, `indent` spaces deep; everything else is double-quoted, and so is a text that
    needs escapes.
    """
    lines = text.split("\n")
    is_literal = (
        len(lines) > 1
        and OPENING_BRACES not in text
        and _PLAIN.fullmatch(text) is not None
        and not text.endswith("\n")
        and all(line == "" or line.strip(" \t") for line in lines)
        and lines[0][:1] not in ("", " ", "\t")
    )
    if is_literal:
        return "\n".join(["|-", *(" " * indent + line if line else "" for line in lines)])
    quoted = json.dumps(text, ensure_ascii=True)
    # JSON writes what is beyond 16 bits as two halves, which YAML does not join.
    quoted = re.sub(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", _joined, quoted)
    return re.sub(r"\{(?=\{)", r"\\x7b", quoted.replace("\x7f", r"\x7f"))


def _joined(halves: re.Match[str]) -> str:
    return f"\\U{0x10000 + ((int(halves[1], 16) - 0xD800) << 10) + int(halves[2], 16) - 0xDC00:08x}"


_FIELDS = ("src", "checksum", "dest", "dest_mode", "commands", "excludes", "exclude_from", "sync_strategy")
_CHECKSUM_DIGITS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


def check_manifest(text: str, *, kept: bool = False) -> None:
    """Raises SettingsError with all that stretcher would stumble over, or, worse, pass over in silence.

    With `kept` it must have no `src`, or an empty one, which is the same to stretcher. With a manifest that stretcher
    can't read no hook runs, so no host would ever report.
    """
    problems = list(_manifest_problems(text, kept=kept))
    if problems:
        raise SettingsError(
            [f"manifest: {problem}" for problem in problems], hint=f"look at templates/{TEMPLATE_NAME} and at the hooks"
        )


def _manifest_problems(text: str, *, kept: bool) -> Iterator[str]:
    import yaml

    if OPENING_BRACES in text:
        line = text[: text.index(OPENING_BRACES)].count("\n") + 1
        yield f"line {line} has {OPENING_BRACES}, a template to newer stretchers; put it through the yaml filter"
    try:
        # In C it takes a tenth of the time, and every command checks every manifest.
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        yield f"is not YAML: {' '.join(str(error).split())}"
        return
    if not isinstance(root, yaml.MappingNode):
        yield "is not a map; stretcher would do nothing and call it a success"
        return
    problems: list[str] = []
    fields = dict(_map_items(root, "", _FIELDS, problems))
    yield from problems
    for name in ("src", "checksum", "dest", "exclude_from", "sync_strategy"):
        if name in fields and not _is_text(fields[name]):
            yield f"{name} is not a text; put it in quotes"
    words = {name: node.value for name, node in fields.items() if _is_text(node)}
    if kept:
        if "src" in fields and words.get("src") != "":
            yield "src names an archive, though hosts are to use the release that they have; write src | yaml(2) there"
    else:
        yield from _archive_problems(fields, words)
    if words.get("sync_strategy", "rsync") not in ("rsync", "mv"):
        yield "sync_strategy is neither rsync nor mv"
    if "dest_mode" in fields and not (
        isinstance(mode := fields["dest_mode"], yaml.ScalarNode)
        and not mode.style
        and re.fullmatch(r"0[0-7]{3,4}", mode.value)
    ):
        yield "dest_mode is no octal number such as 0755, without quotes"
    if "excludes" in fields:
        yield from _text_list_problems("excludes", fields["excludes"])
    if "commands" in fields:
        yield from _command_problems(fields["commands"])


def _archive_problems(fields: Mapping[str, "yaml.Node"], words: Mapping[str, str]) -> Iterator[str]:
    if "src" not in fields or words.get("src") == "":
        yield "src is missing"
    dest = words.get("dest", "")
    # rsync would sync into a directory that others may have made.
    if not dest.startswith("/") and not (dest.startswith("../") and words.get("sync_strategy") == "mv"):
        yield "dest is missing or no absolute path; with sync_strategy: mv it may be what templates know as beside"
    checksum = words.get("checksum", "")
    if len(checksum) not in _CHECKSUM_DIGITS or not re.fullmatch(r"[0-9a-fA-F]*", checksum):
        yield f"checksum is missing or no {', '.join(_CHECKSUM_DIGITS.values())} in hexadecimal digits"


def _command_problems(commands: "yaml.Node") -> Iterator[str]:
    import yaml

    if not isinstance(commands, yaml.MappingNode):
        yield "commands is not a map"
        return
    problems: list[str] = []
    phases = dict(_map_items(commands, "commands.", get_args(Phase), problems))
    yield from problems
    for phase, node in phases.items():
        yield from _text_list_problems(f"commands.{phase}", node)


def _text_list_problems(name: str, node: "yaml.Node") -> Iterator[str]:
    import yaml

    if not isinstance(node, yaml.SequenceNode):
        yield f"{name} is not a list"
        return
    for number, item in enumerate(node.value):
        if not _is_text(item):
            yield f"{name}[{number}] is not a text; put it in quotes"
        elif "\0" in item.value:
            yield f"{name}[{number}] has a NUL character, which no shell takes"
        elif (size_bytes := len(item.value.encode())) >= LONGEST_COMMAND_BYTES:
            yield f"{name}[{number}] has {size_bytes} bytes; Linux takes less than {LONGEST_COMMAND_BYTES}"


def _map_items(
    node: "yaml.MappingNode", prefix: str, known: Sequence[str], problems: list[str]
) -> Iterator[tuple[str, "yaml.Node"]]:
    """The known fields of a map. stretcher passes over unknown ones, and may fail on a second of the same name."""
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            problems.append(f"{prefix}{name} is unknown to stretcher{f'; did you mean {close[0]}?' if close else ''}")
        elif name in seen:
            problems.append(f"{prefix}{name} stands there twice")
        else:
            seen.add(name)
            yield name, value


def _is_text(node: "yaml.Node") -> bool:
    import yaml

    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"
