"""From a branch, tag or SHA to a release in the store: lock → revision → reuse or (checkout → … → pack and publish).

Each stage takes what the one before made. Nothing here migrates or announces anything, and nothing appears in the store
before what it points to.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import deploytool
from deploytool.build import stages
from deploytool.build.demands import demands
from deploytool.build.linked_paths import links_of, links_recorded, notes, refuse_covered, unchecked
from deploytool.build.stages import Fetched, git
from deploytool.connection.client import Asked, Later, Pending
from deploytool.errors import StepError, StoreError, UsageError
from deploytool.hosts.rehearsal import render_all
from deploytool.model.lock_files import LOCK_FILES
from deploytool.model.provenance import Run, statement
from deploytool.model.release import (
    Release,
    ReleaseId,
    Revision,
    archive_key,
    build_key,
    build_record_key,
    is_release_id,
    provenance_key,
    record_key,
    release_record,
    sbom_key,
    sha256,
    signature_key,
)
from deploytool.model.sbom import sbom
from deploytool.screen.summary import Outcome
from deploytool.session import Begun, Session
from deploytool.state.releases import checked_release
from deploytool.text import ids
from deploytool.text.masking import Masking
from deploytool.text.untrusted import printable
from deploytool.trace import log
from deploytool.trust.signers import RELEASE_NAMESPACE
from deploytool.trust.signing import SigningFailed, sign
from deploytool.worker.wire import Existed, Exists

if TYPE_CHECKING:
    from deploytool.settings import Settings


WORKSPACE_LOCK = "workspace"


@dataclass(frozen=True, slots=True)
class Built:
    """A release in the store, and whether it was there already."""

    release: Release
    reused: bool


def build_inputs(settings: "Settings", fetched: Fetched, compressor: str) -> Mapping[str, object]:
    """What decides the bytes of a release. Commands that migrate, and where and how fast it is built, do not.

    Nor do `build.allow_paths`, `linked_dirs` and `linked_files`: they decide whether it is published, not what it is.
    `compressor` is the build server's, with its version.
    """
    build = settings.build
    return {
        "deploytool": deploytool.__version__,
        "application": settings.application,
        "revision": fetched.revision,
        "subdirectory": settings.subdirectory,
        "recipe": build.recipe,
        "env": dict(build.env),
        "path": list(build.path),
        "dependencies": list(build.dependencies),
        "assets": list(build.assets),
        "dependencies_inputs": list(build.dependencies_inputs),
        "assets_inputs": list(build.assets_inputs),
        "exclude": list(build.exclude),
        "compression": build.compression,
        "compressor": compressor,
        "linked_files": {item.name: item.sha256 for item in fetched.linked_files},
        "tools": dict(fetched.tools),
        # Most have nothing set up that changes a file; their releases of before stay what they are.
        **({"conversion": fetched.conversion} if fetched.conversion else {}),
        **fetched.exports,
    }


@dataclass(frozen=True, slots=True)
class Fetching:
    """A branch, tag or SHA that the build server is finding out about."""

    reference: str
    step: Begun


def fetch(session: Session, reference: str, *, after: Asked | None = None) -> Fetching:
    """Take the workspace's lock and fetch, without waiting for either."""
    held = session.take(WORKSPACE_LOCK, wait=True, after=after)
    return Fetching(reference, session.run(stages.fetch(session.settings, session.place, reference), after=held))


def obtain_release(session: Session, fetching: Fetching, *, rebuild: bool = False) -> Built:
    """The release of what is fetched: from the store if equal inputs were built already, else a new one.

    With `rebuild` it is built whatever the store has, and later deployments of equal inputs get the new one. Raises
    HookError if the operator's side objects.
    """
    fetched = stages.fetched(fetching.step.results())
    started_at = ids.recorded(session.now())
    where = f"{session.settings.application} → {session.settings.environment}"
    session.console.note(f"{where}: {fetching.reference} is {fetched.revision[:10]} {fetched.subject}")
    for sentence in stages.remarks(fetching.reference, fetched):
        session.console.note(sentence)
    inputs = build_inputs(session.settings, fetched, compressor_of(session))
    key = build_key(inputs)
    new_id = new_release_id(session, fetched.revision)
    found = find_built(session, key)
    unknown = unchecked(session.settings, found) if found is not None else ()
    if found is not None and unknown and not rebuild:
        # A build looks at them; from equal inputs it makes the same.
        session.console.note(
            f"building again: {', '.join(unknown)} is linked now, and was not when {found.id} was built"
        )
    elif found is not None and not rebuild:
        refuse_covered(session, found)
        session.console.note(f"reusing release {found.id}: same inputs, built at {found.built_at}")
        session.let_go(WORKSPACE_LOCK)
        return Built(found, reused=True)
    session.hook("before_build", Outcome(revision=fetched.revision, branch=fetching.reference))
    release = build_release(
        session, new_id.answer(), fetching.reference, fetched, inputs, started_at, replace=rebuild or bool(unknown)
    )
    session.let_go(WORKSPACE_LOCK)
    session.hook(
        "after_publish", Outcome(release.id, fetched.revision, branch=fetching.reference, reused=False, began="build")
    )
    if found is not None:
        same = "the very bytes" if found.checksum == release.checksum else "other bytes than those"
        session.console.note(f"{release.id} has {same} of {found.id}, which was built from the same inputs")
    return Built(release, reused=False)


def compressor_of(session: Session) -> str:
    """The name of what compresses on the build server. The worker installs its own first if it has none yet."""
    found = session.compressor
    if not found.ready:
        with session.console.step(f"install {found.name}"):
            found = session.build_server.install_compressor(again=False).answer()
    if found.warning:
        session.console.note(found.warning)
    return found.name


def find_built(session: Session, key: str) -> Release | None:
    """The release that was built from these inputs; None if there is none, or its records can't be trusted."""
    found = session.store.built(build_record_key(key)).answer()
    if found.release is None or not is_release_id(found.release):
        log.info("no release in the store matches these inputs: build key %s", key)
        return None
    try:
        release = checked_release(session, found.release, found.record)
    except UsageError as error:
        log.info("%s is not reused: %s", found.release, error.message)
        return None
    if release.build_key != key or release.archive_key not in found.keys:
        log.info("%s is not reused: its record has build key %s, its keys are %s", release.id, key, found.keys)
        return None
    log.info("%s matches these inputs: build key %s", release.id, key)
    return release


def build_release(
    session: Session,
    release_id: ReleaseId,
    reference: str,
    fetched: Fetched,
    inputs: Mapping[str, object],
    started_at: str,
    *,
    replace: bool = False,
) -> Release:
    """Check out, install, build, pack and publish. The workspace's lock is held; `inputs` are of `build_inputs`.

    With `replace`, whatever equal inputs gave before, from now on they give this one.
    """
    settings, place = session.settings, session.place
    named = session.build_server.name_log(release_id)
    checkout = session.run(stages.checkout(settings, place, fetched, reuse=not replace), after=named)
    found = stages.checked_out(checkout.results())
    # The rest is in line at once, each behind the one before.
    last, begun = checkout.asked, []
    for name, stage in (("dependencies", stages.dependencies), ("assets", stages.assets)):
        step = stage(settings, place, found.keys.get(name), fetched.revision)
        if step is None:
            continue
        if name in found.kept:
            session.console.note(f"{name}: cached, inputs unchanged")
            continue
        begun.append(session.run(step, after=last))
        last = begun[-1].asked
    publishing = session.build_server.publish_archive(
        place.work_tree,
        archive_key(release_id, settings.application, settings.build.compression),
        after=last,
        exclude=[*settings.build.exclude, *(literal_pattern(path) for path in settings.build.linked_files)],
        epoch=fetched.committed_at,
        workspace=place.workspace,
        allow=settings.build.allow_paths,
        links=links_of(session.every),
        demands=demands(settings.build),
        lock_files=list(LOCK_FILES),
    )
    try:
        for each in begun:
            each.results()
    except StepError as error:
        if found.kept:
            kept = (
                f"{' and '.join(sorted(found.kept))} did not run, their inputs are unchanged: --rebuild runs everything"
            )
            error.hint = "; ".join(filter(None, (error.hint, kept)))
        raise
    with session.console.step("publish"):
        packed = publishing.answer()
        links = links_recorded(session.every, packed.links)
        release = Release(
            id=release_id,
            application=settings.application,
            revision=fetched.revision,
            branch=reference,
            built_at=ids.recorded(session.now()),
            built_by=str(session.operator),
            build_key=build_key(inputs),
            compression=settings.build.compression,
            checksum=packed.checksum,
            size_bytes=packed.size_bytes,
            unpacked_bytes=packed.unpacked_bytes,
            subject=printable(fetched.subject),
            links_checked=links["links_checked"],
            links_covering=links["links_covering"],
        )
        repository = git.remote(settings.repository).url
        run = Run(session.host, repository, inputs, packed.lock_files, started_at)
        release, documents, unread = documents_of(session, release, run)
        put_new_records(session, release, documents, replace=replace)
    for sentence in (*unread, *notes(session.every, settings.environment, packed.links)):
        session.console.note(sentence)
    session.console.note(
        f"built release {release.id}: {release.size_bytes / 1e6:.1f} MB, sha256 {release.checksum[:12]}…"
    )
    return release


def documents_of(
    session: Session, release: Release, run: Run
) -> tuple[Release, Sequence[tuple[str, str]], Sequence[str]]:
    """The release that knows its provenance; key and text of each document beside it; what the operator should know.

    The signature is of the provenance, which holds the SBOM's digest, too. Nobody needs a key to build: who has none
    that may deploy here makes releases that nobody has signed.
    """
    bill, unread = sbom(release, run.lock_files)
    told = statement(release, run, bill, Masking(session.settings.secrets))
    documents = [(sbom_key(release.id), bill), (provenance_key(release.id), told)]
    notes = [*unread]
    try:
        moment = ids.read(release.built_at)
        signature = sign(session.settings, told, moment, RELEASE_NAMESPACE, tell=session.console.note)
    except SigningFailed:
        # Once more is better than a release that the deployment itself refuses.
        raise
    except UsageError as error:
        signature = None
        why = error.tail[0] if error.tail else error.message
        notes.append(f"the release is not signed, and a deploy refuses it without --force: {why}")
    if signature is not None:
        documents.append((signature_key(provenance_key(release.id)), signature.text))
    return dataclasses.replace(release, provenance=sha256(told)), documents, notes


def put_new_records(
    session: Session, release: Release, documents: Sequence[tuple[str, str]] = (), *, replace: bool = False
) -> None:
    """Write what tells of a release whose archive is in the store. Raises StoreError if its id is taken."""
    for_reuse = build_record_key(release.build_key)
    # The record comes last: what it names is there.
    entries = {**dict(documents), record_key(release.id): release_record(release)}
    first = session.store.put_new(list(entries.items()))

    def put_others(after: Asked | None) -> Pending[Existed]:
        if replace:
            # Whoever is killed in between leaves no record for reuse, and the next build makes one.
            after = session.store.delete([for_reuse], after=after)
        entries = [*render_all(session.every, release), (for_reuse, json.dumps({"release": release.id}) + "\n")]
        return session.store.put(entries, after=after)

    others = put_others(first)
    if existed := first.answer().existed:
        # A write that was repeated because its answer got lost finds what it wrote itself: that is no clash.
        there = session.store.read(existed).answer().contents
        if taken := next((key for key in existed if there[key] != entries[key]), None):
            raise StoreError(
                f"{session.settings.store.url}/{taken} is there already, and nothing in the store is ever overwritten",
                hint="another build got the same id at the same time; run the same command again",
            )
        others = put_others(None)
    if for_reuse in others.answer().existed and find_built(session, release.build_key) is None:
        session.console.note(
            f"{session.settings.store.url}/{for_reuse} is damaged, or names a release that is damaged or gone, and "
            "nothing in the store is ever overwritten: delete it, or the same inputs are built again each time"
        )


def new_release_id(session: Session, revision: Revision) -> Later[ReleaseId]:
    """An id that the store does not have yet.

    It is the time by the build server's clock, and the short revision.
    """
    moment = session.now()

    def ask(later_seconds: int) -> tuple[ReleaseId, Pending[Exists]]:
        candidate = release_id_at(moment + timedelta(seconds=later_seconds), revision)
        key = archive_key(candidate, session.settings.application, session.settings.build.compression)
        return candidate, session.store.exists(key)

    first = ask(0)

    def found() -> ReleaseId:
        for later_seconds in range(10):
            candidate, asked = first if later_seconds == 0 else ask(later_seconds)
            if not asked.answer().exists:
                return candidate
        raise StepError(
            f"the store has releases of {revision[:7]} for every one of the next seconds",
            hint="is the build server's clock right?",
        )

    return Later(found)


def release_id_at(moment: datetime, revision: Revision) -> ReleaseId:
    return ReleaseId(f"{ids.compact(moment)}-{revision[:7]}")


def literal_pattern(path: str) -> str:
    """A shell pattern that matches this path and nothing else."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", path)
