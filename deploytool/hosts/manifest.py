"""The manifest: what stretcher does on each host of one role in one deployment.

Settings and a release in, YAML out. Pure but for reading our own and the user's templates; it knows no clock, no store
and no host. What happens on a host is written in `templates/host/*.sh`; here it gets its values, quoted.

The text never holds two opening braces in a row: stretcher after 1.1.0 runs a Go template over the whole manifest and
1.1.0 does not, and one manifest has to do for both.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, get_args
from urllib.parse import quote

from deploytool.errors import SettingsError
from deploytool.hosts.manifest_check import check_manifest
from deploytool.hosts.role_manifest import TEMPLATE_NAME, HostCommand, Phase, RoleManifest, hook_names
from deploytool.hosts.scripts import (
    PARTS,
    host_script,
    own_templates,
)
from deploytool.hosts.yaml_text import OPENING_BRACES, yaml_scalar
from deploytool.model.release import DeploymentId, Release, ReleaseId, Revision

if TYPE_CHECKING:
    from deploytool.settings import Settings
    from deploytool.settings.model import Verify


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


def hosts_url(settings: "Settings", key: str) -> str:
    """Where hosts get an object of the store: there, or at `store.hosts_url`, which is a URL already."""
    if settings.store.hosts_url is None:
        return manifest_url(settings.store.url, key)
    return f"{settings.store.hosts_url}/{quote(key, safe='/')}"


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
        src="" if kept else hosts_url(settings, release.archive_key),
        deploy_to=deploy_to,
        keep_releases=settings.keep_releases,
        linked_dirs=_inside_release("linked_dirs", settings.linked_dirs, problems),
        linked_files=_inside_release("linked_files", settings.linked_files, problems),
        restart=commands(f"{at}.restart", said.restart),
        hooks={phase: commands(f"{at}.hooks.{phase}", getattr(said.hooks, phase)) for phase in get_args(Phase)},
        verify=_verify(said.verify, lambda name, text: rendered(f"{at}.verify.{name}", text)),
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


def _verify(verify: "Verify", rendered: Callable[[str, str], str]) -> Mapping[str, str]:
    """The settings of `verify` as the host's scripts read them."""
    templates = type(verify).templates()

    def text(name: str, value: object) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return "" if value is None else rendered(name, str(value)) if name in templates else str(value)

    return {name: text(name, getattr(verify, name)) for name in type(verify).model_fields}


def _build_root(settings: "Settings") -> str:
    """The application's work area on the build server; empty below a home directory, which only that server knows."""
    root = settings.build.root
    return f"{root}/{settings.application}" if root.startswith("/") else ""


def _render_setting(label: str, template: str, names: dict[str, str], problems: list[str]) -> str:
    """`template` with `names`; empty, and one more problem each, if that can't be had."""
    import jinja2.meta

    from deploytool.settings.templates import jinja_environment

    jinja = jinja_environment()
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

    from deploytool.settings.templates import jinja_environment

    own = template_directory / TEMPLATE_NAME if template_directory else None
    path = own if own and own.is_file() else own_templates() / TEMPLATE_NAME
    jinja = jinja_environment()
    jinja.filters["yaml"] = yaml_scalar

    def script(phase: str) -> str:
        if phase not in PARTS:
            raise jinja2.TemplateRuntimeError(f"host_script knows {', '.join(PARTS)}, not {phase}")
        return host_script(manifest, phase)

    names: dict[str, str | Callable[[str], str]] = {**manifest.names}
    names |= {"src": manifest.src, "checksum": manifest.release.checksum, "host_script": script}
    names |= {"beside": manifest.beside, "dest": manifest.dest}
    try:
        # `consul kv get` ends the line of what it prints; so the end is the same wherever the text is read.
        text = jinja.from_string(path.read_text(encoding="utf-8")).render(names).rstrip("\n") + "\n"
        text.encode()
    except Exception as error:  # a template may raise whatever Python can
        line = f" line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise SettingsError([f"{path}{line}: can't be rendered: {error or type(error).__name__}."]) from error
    return text


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
