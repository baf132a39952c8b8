"""One command's session with the build server: the settings, the worker, and where things lie there."""

import getpass
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from deploytool.connection.boot import start_worker
from deploytool.connection.build_server import BuildServer
from deploytool.connection.bus import BusClient
from deploytool.connection.client import Asked, Pending, Worker, WorkerClient
from deploytool.connection.paths import Place
from deploytool.connection.ssh import Connecting
from deploytool.connection.step import Step, explain
from deploytool.connection.store import StoreClient
from deploytool.errors import StepError, StoreError
from deploytool.hooks.local import Moment, run_hooks
from deploytool.model.operator import Operator
from deploytool.screen.console import Console
from deploytool.screen.summary import Outcome
from deploytool.text.untrusted import printable
from deploytool.trace import learn, log
from deploytool.worker import wire

if TYPE_CHECKING:
    from deploytool.hooks.notify import Notifications
    from deploytool.settings import Settings


#: A clock that is wrong by more is no clock: what it names would stay the newest for years, or never become it.
MOST_OFFSET_SECONDS = 366 * 86400.0

#: How the built-in receiver of pretend hosts is started: by this very Python, as only local build servers have them.
RECEIVER = (sys.executable, "-m", "deploytool.playground.receiver")


@dataclass(frozen=True, slots=True)
class Session:
    """A worker on the build server, for one command in one environment."""

    settings: "Settings"
    #: every environment's settings; manifests are rendered for all of them
    every: "Mapping[str, Settings]"
    worker: Worker
    console: Console
    place: Place
    operator: "Operator"
    #: the build server's clock less ours, in seconds
    clock_offset_seconds: float
    #: the Python that runs the worker: its version and its path
    python: str
    #: what would compress an archive there
    compressor: wire.Compressor
    #: what the build server calls itself
    host: str
    #: None if nobody is to be told
    notifications: "Notifications | None" = None

    @property
    def build_server(self) -> BuildServer:
        return BuildServer(self.worker)

    @property
    def store(self) -> StoreClient:
        return StoreClient(self.worker)

    @property
    def bus(self) -> BusClient:
        return BusClient(self.worker)

    def now(self) -> datetime:
        """The build server's time, in UTC: ids are made by one clock."""
        return datetime.now(UTC) + timedelta(seconds=self.clock_offset_seconds)

    def run(self, step: Step, *, after: Asked | None = None, quiet: bool = False) -> "Begun":
        """Have the step run on the build server, without waiting for it; see `Worker.start`."""
        asked = self.build_server.run(step.name, step.script, step.timeout_seconds, after=after)
        return Begun(self.console, step, asked, quiet)

    def hook(self, moment: Moment, outcome: Outcome) -> None:
        """Run the operator's own commands for this moment, if there are any. Raises HookError."""
        run_hooks(self.settings, self.console, self.operator, moment, outcome)

    def begins(self, what: str, outcome: Outcome) -> None:
        """Nothing is in the way of `what`, as in "deploy main": whoever is to be told of it hears that it begins."""
        if self.notifications is not None:
            self.notifications.begin(what, outcome)

    @contextmanager
    def lock(self, name: str, *, wait: bool) -> Iterator[Asked]:
        """Hold a lock of the build server. With `wait`, wait until it is free and show for whom; else LockedError."""
        with self.lock_ahead(name, wait=wait) as held:
            held.answer()
            yield held

    @contextmanager
    def lock_ahead(self, name: str, *, wait: bool) -> Iterator[Asked]:
        """The same without waiting for it: what needs the lock is asked `after` what this gives, or waits for it."""
        yield self.take(name, wait=wait)
        # Not in a `finally`: on a failure the worker ends with the session, and must end its steps before it lets go.
        self.let_go(name)

    def take(self, name: str, *, wait: bool, after: Asked | None = None) -> Asked:
        """Ask for a lock; see `lock_ahead`."""

        def told(event: wire.Waiting) -> None:
            self.console.note(f"waiting for the {name} lock, held by {event.waiting}")

        return self.build_server.lock(name, wait=wait, after=after, told=told)

    def let_go(self, name: str, *, after: Asked | None = None) -> Asked:
        """Have a lock freed, without waiting for that."""
        return self.build_server.release_lock(name, after=after)


@dataclass(frozen=True, slots=True)
class Begun:
    """A step under way on the build server, or in line there."""

    console: Console
    step: Step
    asked: Pending[wire.StepEnd]
    quiet: bool

    def results(self) -> tuple[str, ...]:
        """Wait for its end, and return its result lines. Raises StepError with the end of its output."""
        if self.asked.after is not None:
            # The time that it waited for its turn is not its own.
            self.asked.after.answer()
        with self.console.step(self.step.name, quiet=self.quiet) as progress:
            end = self.asked.answer(told=lambda event: progress(event.line))
            log.info("step %s ended with exit code %d; its log: %s", self.step.name, end.exit_code, end.log)
            if end.exit_code != 0:
                raise explain(self.step, end)
        return tuple(end.results)


#: Where the CI systems put the address of the job that runs: GitLab, Jenkins, Buildkite, CircleCI.
CI_JOB_VARIABLES = ("CI_JOB_URL", "BUILD_URL", "BUILDKITE_BUILD_URL", "CIRCLE_BUILD_URL")


def operator_of(environ: Mapping[str, str]) -> Operator:
    """Who runs this command, by the machine and the environment."""
    who = printable(f"{getpass.getuser()}@{socket.gethostname()}")
    if environ.get("GITHUB_RUN_ID"):
        job = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}".format_map(
            {"GITHUB_SERVER_URL": "", "GITHUB_REPOSITORY": "", **environ}
        )
        if environ.get("GITHUB_RUN_ATTEMPT"):
            # A run that is started again keeps its id.
            job += f"/attempts/{environ['GITHUB_RUN_ATTEMPT']}"
    else:
        job = next((environ[name] for name in CI_JOB_VARIABLES if environ.get(name)), "")
    return Operator(who, printable(job) or None)


def store_settings(settings: "Settings") -> wire.StoreSettings:
    """The store as the worker needs it, with the operator's credentials where the settings say so."""
    store, encryption = settings.store, settings.store.encryption
    own = store.credentials == "operator" and store.url.startswith("s3:")
    written_with = {
        "ACL": store.acl,
        "StorageClass": store.storage_class,
        "ServerSideEncryption": encryption and encryption.algorithm,
        "SSEKMSKeyId": encryption and encryption.kms_key,
        "BucketKeyEnabled": encryption and encryption.bucket_key,
    }
    return wire.StoreSettings(
        url=store.url,
        endpoint_url=store.endpoint_url,
        region=store.region,
        credentials=_operators_credentials(store.profile) if own else None,
        profile=None if own else store.profile,
        addressing=store.addressing,
        requester_pays=store.request_payer is not None,
        written_with={name: value for name, value in written_with.items() if value is not None},
    )


def _operators_credentials(profile: str | None) -> wire.Credentials:
    """This machine's, by whichever of AWS's ways: variables, a profile, SSO, a role that is assumed, a CI job's token.

    Raises StoreError if it has none, or can't get them.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    # `fab --debug` opens all logs, and botocore logs answers that hold keys.
    logging.getLogger("botocore").setLevel(logging.INFO)
    why, hint = "", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use `store.credentials: build_server`"
    try:
        if found := boto3.session.Session(profile_name=profile).get_credentials():
            frozen = found.get_frozen_credentials()
            return wire.Credentials(frozen.access_key, frozen.secret_key, frozen.token)
    except (BotoCoreError, ClientError) as error:
        why, hint = f": {error}", "log in again (`aws sso login`, say), or fix `store.profile` or ~/.aws/config"
    raise StoreError(f"store.credentials is `operator`, and this machine has no S3 credentials{why}", hint=hint)


@contextmanager
def open_session(
    settings: "Settings",
    every: "Mapping[str, Settings]",
    *,
    purpose: str,
    console: Console,
    connecting: Connecting | None = None,
    notifications: "Notifications | None" = None,
    read_only: bool = False,
) -> Iterator[Session]:
    """Connect and start the worker; whatever happens, its line is ended, and with it all that runs there.

    With `read_only` the worker writes nothing anywhere, and refuses whatever would.
    """
    store = store_settings(settings)
    secrets = list(settings.secrets)
    if store.credentials is not None:
        secrets += [store.credentials.secret_key, store.credentials.token or ""]
    learn(secrets)
    operator = operator_of(os.environ)
    with console.step("connect", quiet=True):
        channel, read = start_worker(settings.build, connecting, read_only=read_only)
        client = WorkerClient(channel, read, settings.build.server)
    try:
        greeting = wire.Greeting(
            root=settings.build.root,
            application=settings.application,
            environment=settings.environment,
            store=store,
            consul=wire.ConsulSettings(**dict(settings.consul), receiver=list(RECEIVER)),
            secrets=secrets,
            operator=str(operator),
            purpose=purpose,
            read_only=read_only,
            compression=settings.build.compression,
        )
        hello = BuildServer(client).greet(greeting).answer()
        offset_seconds = hello.time - time.time()
        log.info(
            "worker %d of %s@%s in %s: Python %s (%s), its clock %+.1f s from ours, compresses by %s",
            hello.pid,
            hello.user,
            hello.host,
            hello.root,
            hello.python,
            hello.executable,
            offset_seconds,
            hello.compressor.name,
        )
        if abs(offset_seconds) > MOST_OFFSET_SECONDS:
            raise StepError(
                f"the clock of the build server {settings.build.server} is wrong by more than a year",
                hint="set it: releases and deployments are named by it",
            )
        yield Session(
            settings=settings,
            every=every,
            worker=client,
            console=console,
            place=Place(hello.root, settings.application, settings.environment, settings.subdirectory),
            operator=operator,
            clock_offset_seconds=offset_seconds,
            python=f"{hello.python} ({hello.executable})",
            compressor=hello.compressor,
            host=hello.host,
            notifications=notifications,
        )
    finally:
        client.close()
