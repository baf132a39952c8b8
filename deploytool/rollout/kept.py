"""A release that hosts have kept: which roles need no download, and what happens if one has not kept it after all."""

from dataclasses import replace

from deploytool.errors import SettingsError
from deploytool.hosts.manifest import render_manifest
from deploytool.hosts.rehearsal import TEMPLATES
from deploytool.hosts.role_manifest import TEMPLATE_NAME
from deploytool.model.fleet import LastWord
from deploytool.model.lifecycle import Status
from deploytool.model.release import NO_DEPLOYMENT, DeploymentId, Release
from deploytool.rollout.attempt import Attempt
from deploytool.rollout.listening import ReleaseNotKept
from deploytool.rollout.rollout import bring
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.targets import Expected, expected_hosts


def bring_back(session: Session, attempt: Attempt, outcome: Outcome) -> None:
    """Bring a release that hosts have kept; where one has not, they download it. To no other hosts than before."""
    try:
        bring(session, attempt, outcome)
    except ReleaseNotKept as error:
        session.console.note(f"{error.message}; all hosts of {', '.join(sorted(error.roles))} download it now")
        first = DeploymentId(outcome.deployment or "")
        outcome.status, outcome.exit_code, outcome.hosts, outcome.unexpected = Status.BUILDING, 0, (), ()
        now, before = expected_hosts(session, ()), attempt.expected
        up = {role: tuple(host for host in hosts if host in now.up.get(role, ())) for role, hosts in before.up.items()}
        expected = replace(now, up=up, down=() if attempt.nodes else now.down)
        bring(session, replace(attempt, expected=expected, kept=attempt.kept - error.roles, after=(first,)), outcome)


def kept_roles(release: Release, expected: Expected) -> frozenset[str]:
    """The roles whose hosts all say that they have the release still."""
    return frozenset(
        role
        for role, hosts in expected.up.items()
        if all(release.id in expected.words.get((role, host), LastWord()).kept for host in hosts)
    )


def bound_to_an_archive(session: Session, release: Release, roles: frozenset[str]) -> frozenset[str]:
    """The roles whose manifests can't be had without an archive: the user's own template insists on one."""
    settings, bound = session.settings, set()
    if not (settings.directory / TEMPLATES / TEMPLATE_NAME).is_file():
        return frozenset()
    for role in roles:
        try:
            render_manifest(settings, role, release, NO_DEPLOYMENT, settings.directory / TEMPLATES, kept=True)
        except SettingsError as error:
            bound.add(role)
            session.console.note(f"{role} downloads the release: {'; '.join(error.problems)}")
    return frozenset(bound)
