"""One playground: starts its parts, knows where each is, stops them. Deploys nothing."""

import contextlib
import getpass
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from deploytool.errors import DeployError
from deploytool.hosts.scripts import receive_script
from deploytool.playground import configs, processes
from deploytool.playground.commands import duration, quoted, run_to_end
from deploytool.playground.configs import Keys
from deploytool.playground.host import receive_command
from deploytool.playground.parts import (
    CHECKOUT,
    Parts,
    find_or_install,
    find_or_install_program,
    opens_grpc_tls,
    programs_directory,
)

HOSTS = ("app1", "app2", "app3")
SERVER_NODE = "consul-server"
BUCKET = "deploys"
REGION = "us-east-1"
ENVIRONMENT = "playground"
START_SECONDS = 60
#: For one of git's, ssh-keygen's and such, which take a moment.
COMMAND_SECONDS = 120.0
MARK = "playground.json"
#: Goes up when a running playground's hosts no longer understand what `add_application` writes for them.
LAYOUT = 3


class PlaygroundError(DeployError):
    """The playground can't be started, found or stopped."""

    kind = "playground"


@dataclass(frozen=True, slots=True)
class PlaygroundRole:
    """A role and the hosts that have it."""

    name: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Application:
    """An application in one environment, whose events the hosts watch. The same name may come in several."""

    name: str
    roles: tuple[PlaygroundRole, ...]
    environment: str = ENVIRONMENT

    @property
    def directory(self) -> str:
        """The directory of this application and environment on each host, relative to the host's own."""
        return directory_of(self.name, self.environment)


def directory_of(application: str, environment: str) -> str:
    # A dot is in no name, so that no other application's directory can be meant.
    return application if environment == ENVIRONMENT else f"{application}.{environment}"


#: app3 has two roles on purpose, each with a `deploy_to` of its own.
DEFAULT_ROLES = (PlaygroundRole("web", HOSTS), PlaygroundRole("batch", ("app3",)))
SHOP = Application("shop", DEFAULT_ROLES)


def _silent(_line: str) -> None:
    pass


class Playground:
    """A playground in `directory`. Either the one who starts it, or attached to one that runs already.

    As a context manager it is tied to this process: when this process ends, however it ends, so does the playground.
    """

    #: with each of its own questions to Consul
    _consul_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        directory: Path,
        applications: Sequence[Application] = (SHOP,),
        *,
        source: Path = CHECKOUT / "examples" / "shop",
        catch_up_seconds: float | None = None,
        say: Callable[[str], None] = _silent,
    ) -> None:
        #: Resolved, since it becomes `deploy_to` on hosts and mount points in them.
        self.directory = directory.resolve()
        self.applications = tuple(applications)
        self.source = source
        #: how often each host catches up; None: only at its start
        self.catch_up_seconds = catch_up_seconds
        self.say = say
        self.user = getpass.getuser()
        self.parts: Parts | None = None
        self._layout = LAYOUT
        self._ports: dict[str, int] = {}
        self._keys: dict[str, Keys] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        self._watchdog: subprocess.Popen[bytes] | None = None

    # Where things are

    @property
    def records(self) -> Path:
        return self.directory / "processes"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts' names: the node names of their Consul agents."""
        return HOSTS

    @property
    def host_home(self) -> Path:
        """A host's own directory, as seen on the host; the same path on each."""
        return self.directory / "host"

    def host_directory(self, host: str) -> Path:
        """A host's own directory, as seen from outside."""
        return self.directory / "hosts" / host

    def deploy_to(self, role: str, application: str = SHOP.name, environment: str = ENVIRONMENT) -> Path:
        """`deploy_to` of a role as seen on its hosts; the same path on each."""
        return self.host_home / directory_of(application, environment) / role

    def deploy_to_outside(
        self, host: str, role: str, application: str = SHOP.name, environment: str = ENVIRONMENT
    ) -> Path:
        """`deploy_to` of a role on one host as seen from outside. Absolute symlinks in it lead elsewhere here."""
        return self.host_directory(host) / directory_of(application, environment) / role

    def app_port(self, host: str, role: str, application: str = SHOP.name, environment: str = ENVIRONMENT) -> int:
        """The port that the `.env` of this role on this host tells the app to serve."""
        return self._ports[f"{directory_of(application, environment)}-{role}-{host}"]

    def hosts_of(self, role: str, application: str = SHOP.name, environment: str = ENVIRONMENT) -> tuple[str, ...]:
        found = [
            each
            for app in self.applications
            if (app.name, app.environment) == (application, environment)
            for each in app.roles
        ]
        return next(each.hosts for each in found if each.name == role)

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def build_root(self) -> Path:
        return self.directory / "build"

    @property
    def ssh_host(self) -> str:
        return "127.0.0.1"

    @property
    def ssh_port(self) -> int:
        return self._ports["sshd"]

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def identity_file(self) -> Path:
        return self.directory / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "ssh" / "known_hosts"

    @property
    def build_server(self) -> str:
        """The value of `build.server`."""
        return f"{self.user}@{self.ssh_host}:{self.ssh_port}"

    @property
    def endpoint_url(self) -> str:
        # An address and no name: stretcher uses path style for addresses only.
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def bucket(self) -> str:
        return BUCKET

    @property
    def region(self) -> str:
        return REGION

    @property
    def deploy_keys(self) -> Keys:
        """May read and write in every bucket; what the build server and the hosts have."""
        return self._keys["deploy"]

    @property
    def reader_keys(self) -> Keys:
        """May read only."""
        return self._keys["reader"]

    @property
    def owner_keys(self) -> Keys:
        """May also make and remove buckets."""
        return self._keys["owner"]

    def consul_address(self, node: str = SERVER_NODE) -> str:
        """The HTTP address of the Consul server, or of a host's agent."""
        return f"http://127.0.0.1:{self._ports[f'{node}-http']}"

    @property
    def consul(self) -> Path:
        """The `consul` program."""
        return self._bin / "consul"

    @property
    def stretcher(self) -> Path:
        return self._bin / "stretcher"

    @property
    def ports(self) -> Mapping[str, int]:
        """Every port that something of the playground listens on, or that an app may; by name."""
        return dict(self._ports)

    @property
    def _bin(self) -> Path:
        return self.directory / "bin"

    @property
    def _path(self) -> str:
        # The interpreter itself and no virtual environment's: what is built with it must work without one.
        python = Path(sys.base_prefix) / "bin"
        system = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
        return f"{self._bin}:{python}:{system}:{programs_directory()}"

    def host_environment(self, host: str) -> dict[str, str]:
        """The environment of all that runs on a host."""
        home = self.host_home
        return {
            "PATH": self._path,
            "HOME": str(home / "home"),
            "TMPDIR": str(home / "tmp"),
            "LANG": "C.UTF-8",
            "CONSUL_HTTP_ADDR": self.consul_address(host),
            "AWS_ACCESS_KEY_ID": self.deploy_keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.deploy_keys.secret_key,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def build_server_environment(self) -> dict[str, str]:
        """The environment of an SSH session. HOME is our own, so that nobody's `.bashrc` has a say."""
        return {
            "PATH": self._path,
            "HOME": str(self.directory / "build-server-home"),
            "LANG": "C.UTF-8",
            "CONSUL_HTTP_ADDR": self.consul_address(),
            # Keys only: where the store is, the settings must say.
            "AWS_ACCESS_KEY_ID": self.deploy_keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.deploy_keys.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def s3_client(self, keys: Keys | None = None) -> Any:
        """A boto3 client; by default with the keys that the build server has."""
        import boto3
        from botocore.config import Config

        keys = keys or self.deploy_keys
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            region_name=REGION,
            config=Config(
                connect_timeout=2, read_timeout=30, retries={"max_attempts": 1}, s3={"addressing_style": "path"}
            ),
        )

    # Up

    def __enter__(self) -> Self:
        self.start(tied=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, tied: bool) -> None:
        """Start everything and return when it is ready. `tied`: it ends with this process, even after `kill -9`.

        Raise PlaygroundError if one runs in this directory already, or if a part does not come up; then nothing is
        left running.
        """
        if any(processes.is_running(process) for process in processes.recorded(self.records)):
            raise PlaygroundError(
                f"A playground is already running in {self.directory}.", hint="stop it: make playground-down"
            )
        self._check_directory()
        check_namespaces()
        self.parts = find_or_install(self.say)
        try:
            self._prepare()
            if tied:
                self._start_watchdog()
            self._start_parts()
        except BaseException as error:
            tails = self._log_tails()
            self.stop()
            if isinstance(error, PlaygroundError):
                raise PlaygroundError(error.message, tail=error.tail or tails, hint=error.hint) from error
            raise

    def _check_directory(self) -> None:
        """Make the directory empty, if what it holds is an old playground; else refuse."""
        with contextlib.suppress(FileNotFoundError):
            if not (self.directory / MARK).exists() and any(self.directory.iterdir()):
                raise PlaygroundError(
                    f"{self.directory} is not empty and is not a playground.", hint="choose an empty or a new directory"
                )
            shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True)

    def _prepare(self) -> None:
        """Write all files; start nothing."""
        assert self.parts is not None
        for name in ("owner", "deploy", "reader"):
            self._keys[name] = Keys(f"{name.upper()}{secrets.token_hex(6).upper()}", secrets.token_hex(20))
        names = ["sshd", "s3", *(f"weed-{part}" for part in WEED_PORTS)]
        names += [f"{node}-{kind}" for node in (SERVER_NODE, *HOSTS) for kind in ("http", "serf_lan")]
        names += [f"{SERVER_NODE}-server"]
        names += [name for application in self.applications for name in _app_ports(application)]
        self._ports = processes.free_ports(names)
        self._save()
        for directory in ("bin", "log", "host", "build", "build-server-home", "ssh", "s3", "consul"):
            (self.directory / directory).mkdir()
        for name in ("consul", "stretcher", "rsync"):
            (self._bin / name).symlink_to(getattr(self.parts, name))
        receive = self._bin / "receive.sh"
        receive.write_text(receive_script(), encoding="utf-8")
        receive.chmod(0o755)
        self._prepare_ssh()
        _write_private(
            self.directory / "s3.json",
            configs.s3_identities(self.owner_keys, self.deploy_keys, self.reader_keys),
        )
        (self.directory / "consul.json").write_text(
            self._consul_config(SERVER_NODE, self.directory / "consul"), encoding="utf-8"
        )
        for host in HOSTS:
            self._prepare_host(host)
        for application in self.applications:
            self._seed(application)
        self._prepare_repository()

    def _save(self) -> None:
        state = {
            "layout": self._layout,
            "user": self.user,
            "ports": self._ports,
            "keys": {name: [keys.access_key, keys.secret_key] for name, keys in self._keys.items()},
            "applications": [
                {
                    "name": application.name,
                    "environment": application.environment,
                    "roles": {role.name: list(role.hosts) for role in application.roles},
                }
                for application in self.applications
            ],
        }
        _write_private(self.directory / MARK, json.dumps(state, indent=2))

    @classmethod
    def attach(cls, directory: Path) -> Self:
        """The playground that was started in this directory, whether or not it still runs.

        Raise PlaygroundError if there never was one.
        """
        try:
            state = json.loads((directory / MARK).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlaygroundError(
                f"There is no playground in {directory}.",
                hint="start one with `make playground` in a checkout of deploytool, or say where it is: --state DIR or "
                "DEPLOYTOOL_PLAYGROUND",
            ) from error
        applications = [
            Application(
                each["name"],
                tuple(PlaygroundRole(role, tuple(hosts)) for role, hosts in each["roles"].items()),
                each["environment"],
            )
            for each in state["applications"]
        ]
        playground = cls(directory, applications)
        # What was written before this number came about has none.
        playground._layout = state.get("layout", 1)
        playground.user = state["user"]
        playground._ports = state["ports"]
        playground._keys = {name: Keys(*pair) for name, pair in state["keys"].items()}
        return playground

    def _consul_config(self, node: str, data_dir: Path) -> str:
        is_server = node == SERVER_NODE
        kinds = ("http", "serf_lan", "server") if is_server else ("http", "serf_lan")
        ports = {kind: self._ports[f"{node}-{kind}"] for kind in kinds}
        # A client does not listen on this one, but wants to know it.
        ports.setdefault("server", self._ports[f"{SERVER_NODE}-server"])
        if opens_grpc_tls(self.consul):
            # A second playground on the machine would find its port taken.
            ports["grpc_tls"] = -1
        return configs.consul_agent(
            node_name=node,
            data_dir=data_dir,
            ports=ports,
            server_serf_port=self._ports[f"{SERVER_NODE}-serf_lan"],
            is_server=is_server,
            node_meta=None if is_server else _node_meta(node),
        )

    def _prepare_ssh(self) -> None:
        home = self.directory / "ssh"
        host_key = home / "host_key"
        keygen = find_or_install_program("ssh-keygen", self.say)
        for key in (host_key, self.identity_file):
            _run([str(keygen), "-q", "-t", "ed25519", "-N", "", "-C", "playground", "-f", str(key)])
        (home / "authorized_keys").write_text(_public(self.identity_file), encoding="utf-8")
        self.known_hosts.write_text(f"[{self.ssh_host}]:{self.ssh_port} {_public(host_key)}", encoding="utf-8")
        _write_private(
            home / "sshd_config",
            configs.sshd(
                port=self.ssh_port,
                host_key=host_key,
                authorized_keys=home / "authorized_keys",
                pid_file=home / "sshd.pid",
                user=self.user,
                environment=self.build_server_environment(),
            ),
        )
        text = configs.ssh_config(
            port=self.ssh_port, user=self.user, identity_file=self.identity_file, known_hosts=self.known_hosts
        )
        self.ssh_config.write_text(text, encoding="utf-8")
        if os.geteuid() == 0:
            # As root sshd wants a user of its own, and an account that is not locked; the system's files stay as they
            # are, sshd alone sees these instead.
            passwd = Path("/etc/passwd").read_text(encoding="utf-8")
            if not any(line.startswith("sshd:") for line in passwd.splitlines()):
                passwd = passwd.rstrip("\n") + "\nsshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
            (home / "passwd").write_text(passwd, encoding="utf-8")
            _write_private(home / "shadow", f"{self.user}:*:::::::\nsshd:*:::::::\n")

    def _prepare_host(self, host: str) -> None:
        home = self.host_directory(host)
        for directory in ("log", "tmp", "home", "consul", "watches", "control"):
            (home / directory).mkdir(parents=True)
        seen = self.host_home
        (home / "consul.json").write_text(self._consul_config(host, seen / "consul"), encoding="utf-8")
        description = {
            "home": str(seen),
            "directory": str(home),
            # Not the node's name: a host's name is what Consul calls it, and nothing may lean on `hostname`.
            "hostname": f"machine-{HOSTS.index(host) + 1}",
            "consul": str(self.consul),
            "stretcher": str(self.stretcher),
            "receive": str(self._bin / "receive.sh"),
            "catch_up_seconds": self.catch_up_seconds,
        }
        (home / "host.json").write_text(json.dumps(description, indent=2), encoding="utf-8")

    def _seed(self, application: Application) -> None:
        """What an administrator prepares: linked files on hosts and on the build server, and the watches."""
        name, environment = application.name, application.environment
        database = self.directory / f"{application.directory}.sqlite3"
        for role in application.roles:
            for host in role.hosts:
                port = self.app_port(host, role.name, name, environment)
                shared = self.deploy_to_outside(host, role.name, name, environment) / "shared"
                shared.mkdir(parents=True, exist_ok=True)
                complete_dotenv(shared / ".env", {"PORT": port, "BIND": f"127.0.0.1:{port}", "DATABASE": database})
                self.watch(host, name, role.name, environment)
        shared = self.build_root / name / "shared" / environment
        shared.mkdir(parents=True, exist_ok=True)
        complete_dotenv(shared / ".env", {"PORT": 8000, "BIND": "127.0.0.1:8000", "DATABASE": database})

    def other_ports(self, application: Application) -> list[str]:
        """A sentence for each `.env` on a host in which a user has set another port than the playground's."""
        found = []
        for role in application.roles:
            for host in role.hosts:
                port = self.app_port(host, role.name, application.name, application.environment)
                place = self.deploy_to_outside(host, role.name, application.name, application.environment)
                file = place / "shared/.env"
                said = configs.values_of(file.read_text(encoding="utf-8", errors="replace"))
                ours = {"PORT": str(port), "BIND": f"127.0.0.1:{port}"}
                if own := [f"{name}={said.get(name)}" for name, value in ours.items() if said.get(name) != value]:
                    kept = f"{host} ({role.name}): kept {', '.join(own)} in {file}"
                    found.append(f"{kept}; the playground gave it port {port}")
        return found

    def watch(self, host: str, application: str, role: str, environment: str, signers: str = "") -> None:
        """Let the host keep a watch for the events of this application, role and environment.

        `signers` is a file on the host with those who may deploy; or `-`: events go to stretcher itself, as before.
        """
        place = self._watch_file(host, application, role, environment)
        beside = place.with_name(f".{place.name}")
        beside.write_text(
            f"{self._watch_line(application, role, environment)} {signers}".strip() + "\n", encoding="utf-8"
        )
        beside.replace(place)

    def _watch_line(self, application: str, role: str, environment: str) -> str:
        return f"{application} {role} {environment} {directory_of(application, environment)}/{role}"

    def _watch_file(self, host: str, application: str, role: str, environment: str) -> Path:
        return self.host_directory(host) / "watches" / f"{application}-{role}-{environment}"

    def add_application(self, application: Application) -> None:
        """Prepare the running playground for one more application, or for one more environment of one.

        Again for the same one changes nothing; with other roles or hosts, those that it no longer has stop watching.
        Raise PlaygroundError if an older deploytool started the playground, whose hosts would not understand this one.
        """
        if self._layout != LAYOUT:
            raise PlaygroundError(
                f"The playground in {self.directory} was started by another version of deploytool.",
                hint="restart it: make playground-down, then make playground",
            )
        others = []
        for each in self.applications:
            if (each.name, each.environment) != (application.name, application.environment):
                others.append(each)
                continue
            for role, host in _pairs(each) - _pairs(application):
                self._watch_file(host, each.name, role, each.environment).unlink(missing_ok=True)
        missing = [name for name in _app_ports(application) if name not in self._ports]
        self._ports |= processes.free_ports(missing)
        self.applications = (*others, application)
        self._save()
        self._seed(application)

    def _prepare_repository(self) -> None:
        """A git repository with one commit: the sample app."""
        if self.source.is_dir():
            unwanted = shutil.ignore_patterns(
                "__pycache__", "*.pyc", ".git", "*.sqlite3", "venv", ".venv", "staticfiles"
            )
            shutil.copytree(self.source, self.repository, symlinks=True, ignore=unwanted)
        else:
            self.repository.mkdir()
            (self.repository / "README").write_text("An app without code.\n", encoding="utf-8")
        git = ["git", "-C", str(self.repository), "-c", "user.name=playground", "-c", "user.email=playground@localhost"]
        _run([*git, "-c", "init.defaultBranch=main", "init", "--quiet"])
        _run([*git, "config", "user.name", "playground"])
        _run([*git, "config", "user.email", "playground@localhost"])
        _run([*git, "add", "--all"])
        _run([*git, "-c", "commit.gpgsign=false", "commit", "--quiet", "--message", "The sample app"])

    def _start_watchdog(self) -> None:
        """A process that stops the playground when this one is gone: its stdin is a pipe that only we hold open."""
        command = [sys.executable, "-m", "deploytool.playground", "outlive", "--state", str(self.directory)]
        with (self.directory / "log" / "watchdog.log").open("ab") as log:
            self._watchdog = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=CHECKOUT, start_new_session=True
            )

    def _start_parts(self) -> None:
        assert self.parts is not None
        self._launch("weed", self._weed_command(), self._server_environment)
        self._launch_consul()
        self._start_sshd(self._server_environment)
        for host in HOSTS:
            self._launch_host(host)
        deadline = time.monotonic() + START_SECONDS
        self._wait_for("sshd", self._answers_ssh, deadline)
        for host in HOSTS:
            self._wait_for(host, (self.host_directory(host) / "ready").exists, deadline)
        for node in (SERVER_NODE, *HOSTS):
            self._wait_for("consul", partial(self.sees_all_nodes, node), deadline, part=f"Consul on {node}")
        self._wait_for("weed", self._has_bucket, deadline, part="the S3 server")

    @property
    def _server_environment(self) -> dict[str, str]:
        return {"PATH": self._path, "HOME": str(self.directory), "LANG": "C.UTF-8"}

    def _launch_consul(self) -> None:
        command = [str(self.consul), "agent", f"-config-file={self.directory / 'consul.json'}"]
        self._launch("consul", command, self._server_environment)

    def _launch(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
    ) -> None:
        self._started.append(
            processes.launch(
                command,
                name=name,
                records=self.records,
                log=log or self.directory / "log" / f"{name}.log",
                env=environment,
                directory=self.directory,
            )
        )

    def _weed_command(self) -> list[str]:
        assert self.parts is not None
        port = {part: self._ports[f"weed-{part}"] for part in WEED_PORTS}
        return [
            str(self.parts.weed),
            "-logtostderr=true",
            "server",
            f"-dir={self.directory / 's3'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={port['master']}",
            f"-master.port.grpc={port['master-grpc']}",
            f"-volume.port={port['volume']}",
            f"-volume.port.grpc={port['volume-grpc']}",
            "-filer",
            f"-filer.port={port['filer']}",
            f"-filer.port.grpc={port['filer-grpc']}",
            f"-filer.localSocket={self.directory / 'filer.sock'}",
            "-s3",
            f"-s3.port={self._ports['s3']}",
            f"-s3.port.grpc={port['s3-grpc']}",
            f"-s3.localSocket={self.directory / 's3.sock'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={self.directory / 's3.json'}",
            "-iam=false",
            "-master.volumeSizeLimitMB=64",
            "-master.electionTimeout=1s",
            "-master.heartbeatInterval=200ms",
            "-volume.max=100",
            "-volume.minFreeSpacePercent=0",
        ]

    def _start_sshd(self, environment: Mapping[str, str]) -> None:
        """sshd in a pid namespace of its own: when it ends, so does all that was started through it."""
        assert self.parts is not None
        home = self.directory / "ssh"
        # sshd calls itself again by its absolute path.
        run_sshd = 'exec "$1" -D -e -f "$2"'
        if os.geteuid() == 0:
            run_sshd = (
                'mount --bind "$3/passwd" /etc/passwd && mount --bind "$3/shadow" /etc/shadow && '
                f"mkdir -p -m 755 /run/sshd && {run_sshd}"
            )
            user_namespace: list[str] = []
        else:
            user_namespace = ["--user", "--map-current-user"]
        command = ["unshare", *user_namespace, *_NAMESPACES, "--", "sh", "-c", run_sshd, "sshd"]
        self._launch("sshd", [*command, str(self.parts.sshd), str(home / "sshd_config"), str(home)], environment)
        self._record_first_process("sshd")

    def _launch_host(self, host: str) -> None:
        home = self.host_directory(host)
        (home / "ready").unlink(missing_ok=True)
        init = Path(__file__).with_name("host.py")
        python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
        command = ["unshare", *_as_root(), "--uts", *_NAMESPACES, "--", python, "-I", "-S", str(init)]
        self._launch(host, [*command, str(home / "host.json")], self.host_environment(host), home / "log" / "host.log")
        self._record_first_process(host)

    def _record_first_process(self, name: str) -> None:
        """Record the namespaces' first process: `unshare` itself ignores SIGTERM and is only its parent."""
        deadline = time.monotonic() + 10
        while (outer := processes.find(self.records, name)) is not None and time.monotonic() < deadline:
            if inner := processes.children(outer.pid):
                processes.record(self.records, f"{name}.init", inner[0])
                return
            time.sleep(0.01)
        raise PlaygroundError(f"{name} did not start.", tail=self._log_tail(name))

    def _wait_for(
        self, process: str, is_ready: Callable[[], bool], deadline: float, *, part: str | None = None
    ) -> None:
        while not is_ready():
            if processes.find(self.records, process) is None:
                raise PlaygroundError(f"{part or process} ended during its start.", tail=self._log_tail(process))
            if time.monotonic() > deadline:
                raise PlaygroundError(
                    f"{part or process} was not ready after {START_SECONDS} seconds.", tail=self._log_tail(process)
                )
            time.sleep(0.1)

    def _answers_ssh(self) -> bool:
        command = [
            str(find_or_install_program("ssh", self.say)),
            "-F",
            str(self.ssh_config),
            "-o",
            "BatchMode=yes",
            "playground",
            "true",
        ]
        return run_to_end(command, seconds=30).exit_code == 0

    def sees_all_nodes(self, node: str = SERVER_NODE) -> bool:
        """Whether this node's agent answers, and the catalog holds all hosts, each with a passing serfHealth."""
        checks = self._consul_get(node, "/v1/health/state/passing") or []
        healthy = {check["Node"] for check in checks if check["CheckID"] == "serfHealth"}
        return {SERVER_NODE, *HOSTS} <= healthy

    def _consul_get(self, node: str, path: str) -> Any:
        """What the node's agent says; None while it says nothing, or ends in the middle of it."""
        try:
            # Our own agent: http.
            request = urllib.request.Request(self.consul_address(node) + path, headers=self._consul_headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                return json.load(answer)
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def _has_bucket(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        owner = self.s3_client(self.owner_keys)
        try:
            if BUCKET not in [bucket["Name"] for bucket in owner.list_buckets()["Buckets"]]:
                owner.create_bucket(Bucket=BUCKET)
            # The server answers before its volumes can be written to.
            self.s3_client().put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")
            self.s3_client().delete_object(Bucket=BUCKET, Key=".ready")
        except (BotoCoreError, ClientError):
            return False
        return True

    def _log_tail(self, process: str) -> tuple[str, ...]:
        place = self.host_directory(process) / "log" / "host.log"
        if process not in HOSTS:
            place = self.directory / "log" / f"{process}.log"
        with contextlib.suppress(OSError):
            return tuple(place.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        return ()

    def _log_tails(self) -> tuple[str, ...]:
        return tuple(line for process in _part_names() for line in self._log_tail(process)[-2:])

    # Down

    def stop(self) -> tuple[str, ...]:
        """Stop everything that was started here, by recorded pid. What is left even so, one sentence each."""
        # At once and without ceremony: nothing here outlives its state directory. Hosts before the cluster.
        running = [process for process in processes.recorded(self.records) if processes.is_running(process)]
        for process in running:
            processes.send(process, signal.SIGKILL)
        left = processes.wait_until_gone(running, 10)
        for started in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(timeout=10)
        self._started.clear()
        if self._watchdog is not None:
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()
            self._watchdog.wait(timeout=30)
            self._watchdog = None
        for process in processes.recorded(self.records):
            if process not in left:
                processes.forget(self.records, process.name)
        # SeaweedFS leaves sockets in a place of its own choice, named after its ports.
        for port in self._ports.values():
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
                socket.unlink(missing_ok=True)
        sentences = [f"{process.name} (pid {process.pid}) is still running." for process in left]
        deadline = time.monotonic() + 5
        busy = dict(self._ports)
        while busy and time.monotonic() < deadline:
            busy = {name: port for name, port in busy.items() if not processes.is_free(port)}
            if busy:
                time.sleep(0.1)
        return (*sentences, *(f"Port {port} ({name}) is still in use." for name, port in busy.items()))

    def is_running(self) -> bool:
        """Whether all parts run: the servers and every host that has not been stopped on purpose."""
        return all(processes.find(self.records, name) is not None for name in ("weed", "consul", "sshd"))

    # Faults

    def kill_host(self, host: str) -> None:
        """A power cut: everything on the host is gone at once, its files stay."""
        self._end_host(host, signal.SIGKILL)

    def stop_host(self, host: str) -> None:
        """A shutdown in good order: the agent leaves the cluster, then everything on the host ends."""
        self._end_host(host, signal.SIGTERM)

    def start_host(self, host: str) -> None:
        """Boot the host again, on the files that it has. Its apps do not start by themselves."""
        if self.host_is_running(host):
            raise PlaygroundError(f"{host} is already running.")
        self._launch_host(host)
        ready = self.host_directory(host) / "ready"
        self._wait_for(host, ready.exists, time.monotonic() + START_SECONDS)

    def host_is_running(self, host: str) -> bool:
        return processes.find(self.records, host) is not None

    def _end_host(self, host: str, number: signal.Signals) -> None:
        pair = [found for name in (f"{host}.init", host) if (found := processes.find(self.records, name))]
        if not pair:
            raise PlaygroundError(f"{host} is not running.")
        processes.send(pair[0], number)
        left = processes.wait_until_gone(pair, 15)
        for started in self._started:
            started.poll()
        if left:
            raise PlaygroundError(f"{host} did not stop: pid {left[0].pid} is still running.")
        for process in pair:
            processes.forget(self.records, process.name)

    def stop_agent(self, host: str, *, leave: bool = False) -> None:
        """End the host's Consul agent and keep it down: killed, or after leaving the cluster. Apps go on."""
        flag = self.host_directory(host) / "control" / "no-agent"
        beside = flag.with_name(".no-agent")
        beside.write_text("leave" if leave else "kill", encoding="utf-8")
        beside.replace(flag)
        self._until(f"{host}'s agent is still up", lambda: self._consul_get(host, "/v1/agent/self") is None)

    def start_agent(self, host: str) -> None:
        """Let the host's Consul agent run again, and wait until the cluster has all its hosts again."""
        (self.host_directory(host) / "control" / "no-agent").unlink(missing_ok=True)
        self._until(f"{host} is not back in the cluster", lambda: bool(self._consul_get(host, "/v1/agent/self")))

    def kill_consul_server(self) -> None:
        """End the cluster's only server at once; what it has written stays."""
        found = processes.find(self.records, "consul")
        if found is None:
            raise PlaygroundError("The Consul server is not running.")
        processes.send(found, signal.SIGKILL)
        processes.wait_until_gone([found], 15)
        for started in self._started:
            started.poll()
        processes.forget(self.records, "consul")

    def start_consul_server(self) -> None:
        """Start the Consul server again, on what it had written, and wait until every node has the cluster again."""
        self._launch_consul()
        deadline = time.monotonic() + START_SECONDS
        self._wait_for("consul", self.sees_all_nodes, deadline, part="Consul")

    def catch_up(
        self, host: str, role: str, application: str = SHOP.name, environment: str = ENVIRONMENT
    ) -> subprocess.CompletedProcess[str]:
        """Run on the host what its timer would run for one role: `receive.sh`."""
        line = self._watch_line(application, role, environment)
        with contextlib.suppress(FileNotFoundError):
            line = self._watch_file(host, application, role, environment).read_text(encoding="utf-8").strip()
        command = receive_command(line.removesuffix(" -"), self.host_home, str(self._bin / "receive.sh"), "catch-up")
        return self.run_on_host(host, command)

    def restart_watches(self, host: str) -> None:
        """End the host's watches; they start again, and Consul hands them all its old events."""
        flag = self.host_directory(host) / "control" / "restart-watches"
        flag.touch()
        self._until(f"{host}'s watches do not restart", lambda: not flag.exists())

    def _until(self, otherwise: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise PlaygroundError(f"After {START_SECONDS} seconds {otherwise}.")
            time.sleep(0.05)

    def run_on_host(
        self, host: str, command: Sequence[str], *, timeout_seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, as its root, in its directory. Whatever its exit code, the result is returned."""
        first = processes.find(self.records, f"{host}.init")
        if first is None:
            raise PlaygroundError(f"{host} is not running.")
        user_namespace = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", "--target", str(first.pid), *user_namespace, "--mount", "--pid", "--uts", "--"]
        in_home = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(self.host_home)]
        return subprocess.run(
            [*enter, *in_home, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=self.host_environment(host),
            timeout=timeout_seconds,
        )

    def fire(self, application: str, role: str, payload: str, environment: str = ENVIRONMENT) -> None:
        """Fire a deploy event from the Consul server, as the build server does."""
        url = f"{self.consul_address()}/v1/event/fire/deploy_{application}_{role}_{environment}"
        request = urllib.request.Request(url, data=payload.encode(), method="PUT")  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            answer.read()

    # Settings

    def settings_for(self, application: Application, repository: Path) -> dict[str, object]:
        """What `config/<environment>.yml` says: where everything is. Hooks, restart and verify are the application's
        own affair; only those of the sample app are known here."""
        roles: dict[str, object] = {}
        for role in application.roles:
            by_metadata = application == SHOP and role.name == "web"
            roles[role.name] = {
                "deploy_to": str(self.deploy_to(role.name, application.name, application.environment)),
                # The other kinds are set to null, whichever of them the shared settings may have chosen.
                "hosts": {
                    "node_meta": {"role": "web"} if by_metadata else None,
                    "service": None,
                    "nodes": None if by_metadata else list(role.hosts),
                },
                # Hosts share one network here, so that each has a port of its own, in its `.env`.
                **(SHOP_ROLES.get(role.name, {}) if application.name == SHOP.name else {"verify": {"port": None}}),
            }
        return {
            "application": application.name,
            "repository": str(repository),
            "branch": "main",
            "deploy_to": str(self.host_home / application.directory),
            "build": {
                "server": self.build_server,
                "gateway": None,
                "ssh_config": str(self.ssh_config),
                "root": str(self.build_root),
            },
            "store": {
                "url": f"s3://{BUCKET}/{application.name}",
                "endpoint_url": self.endpoint_url,
                "region": REGION,
                "credentials": "build_server",
            },
            "consul": {"address": self.consul_address(), "token_file": None},
            "roles": roles,
        }

    def settings_text(self, application: Application = SHOP, repository: Path | None = None) -> str:
        head = (
            "Written by the playground, for the playground. Its ports change with every start: `make playground`\n"
            "writes this file again, and `python -m deploytool.playground config` that of your own application."
        )
        return configs.settings(self.settings_for(application, repository or self.repository), head=head)


WEED_PORTS = ("master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc", "s3-grpc")

_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

#: What the sample app needs on a host without systemd, laid over `config/deploy.yml`.
SHOP_ROLES: Mapping[str, Mapping[str, object]] = {
    "web": {
        "restart": ['"{{ current_path }}/bin/web" reload'],
        "verify": {
            "pid_file": "tmp/pids/web.pid",
            "url": None,
            "expect": None,
            # The port differs from host to host; the app's own check finds it in the host's `.env`.
            "command": '"{{ current_path }}/bin/web" check {{ revision }}',
        },
        "hooks": {
            "pre": [],
            "post": [],
            "success": ['echo "{{ deployment }} {{ release }} serves" >>"{{ shared_path }}/log/deployments.log"'],
            # A first deployment that fails has nothing to go back to: nothing may be left running.
            "failure": ['[ -e "{{ current_path }}" ] || "{{ release_path }}/bin/web" stop'],
        },
    },
    "batch": {
        "restart": ['"{{ current_path }}/bin/worker" reload'],
        "verify": {"pid_file": "tmp/pids/worker.pid", "url": None, "expect": None, "command": None},
        "hooks": {
            "pre": [],
            # The settings must load before the old worker is stopped.
            "post": ['cd "{{ current_path }}" && venv/bin/python -B manage.py check'],
            "success": [],
            "failure": ['[ -e "{{ current_path }}" ] || "{{ release_path }}/bin/worker" stop'],
        },
    },
}


def _pairs(application: Application) -> set[tuple[str, str]]:
    """Its roles' names, each with each of its hosts."""
    return {(role.name, host) for role in application.roles for host in role.hosts}


def _app_ports(application: Application) -> list[str]:
    """The names of the ports that the application may listen on."""
    return [f"{application.directory}-{role.name}-{host}" for role in application.roles for host in role.hosts]


def _part_names() -> Iterator[str]:
    yield from ("weed", "consul", "sshd", *HOSTS)


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


def check_namespaces() -> None:
    """Raise PlaygroundError if this user can't make the namespaces that pretend hosts are made of."""
    try:
        _run(["unshare", *_as_root(), "--uts", *_NAMESPACES, "--", "true"])
    except PlaygroundError as error:
        raise PlaygroundError(
            "This machine does not allow pretend hosts: it refuses mount, pid and uts namespaces.",
            tail=error.tail,
            hint="run the same command as root, or allow user namespaces (sysctl user.max_user_namespaces)",
        ) from error


def _node_meta(host: str) -> dict[str, str]:
    return {"role": "web", **{f"role_{role.name}": "yes" for role in DEFAULT_ROLES if host in role.hosts}}


def _public(key: Path) -> str:
    return key.with_name(f"{key.name}.pub").read_text(encoding="utf-8")


def complete_dotenv(path: Path, defaults: Mapping[str, object]) -> None:
    """Add to a `.env` what it lacks; all that is there stays. See `configs.dotenv`."""
    before = path.read_bytes().decode(errors="surrogateescape") if path.exists() else ""
    after = configs.dotenv(before, {}, defaults)
    if after != before:
        path.write_bytes(after.encode(errors="surrogateescape"))


def write_settings(path: Path, text: str) -> Path | None:
    """Write a settings file. What somebody has written there is kept beside it; returns where, None if nothing was."""
    kept = None
    if path.exists():
        before = path.read_bytes()
        if before != text.encode() and not configs.is_unedited(before.decode(errors="replace")):
            names = (path.with_name(f"{path.name}.before{number}") for number in ("", *range(2, 1000)))
            kept = next(name for name in names if not name.exists())
            kept.write_bytes(before)
    path.write_text(text, encoding="utf-8")
    return kept


def _write_private(path: Path, text: str) -> None:
    """Write a file that holds secrets: nobody else may read it, not even for a moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _run(command: Sequence[str]) -> None:
    try:
        ended = run_to_end(command, seconds=COMMAND_SECONDS)
    except OSError as error:
        raise PlaygroundError(
            f"The playground needs the program `{command[0]}`: {error.strerror}.", hint=f"install `{command[0]}`"
        ) from error
    if ended.exit_code is None:
        raise PlaygroundError(
            f"`{quoted(command)}` took longer than {duration(COMMAND_SECONDS)} and was stopped.",
            tail=ended.tail,
            hint="run the same command again; the machine may have been busy",
        )
    if ended.exit_code != 0:
        raise PlaygroundError(f"`{quoted(command)}` failed with exit code {ended.exit_code}.", tail=ended.tail)
