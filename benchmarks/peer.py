"""capistrano-stretcher, deploying the same repository to the same parts: for comparison, where it is at hand.

CAPISTRANO_STRETCHER names a checkout of it. Its programs (ruby, cap, and on its build server aws, pv, gawk) are taken
from PATH, and rsync and consul are the playground's; all files it needs are written into a folder of the benchmark's.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.apps import PEER_HOOKS
from deploytool.playground.playground import Playground

CHECKOUT_VARIABLE = "CAPISTRANO_STRETCHER"
PROGRAMS = ("ruby", "cap", "aws", "pv", "gawk", "openssl")

_CAPFILE = """\
require "capistrano/setup"
require "capistrano/deploy"
require "capistrano/scm/git"
install_plugin Capistrano::SCM::Git
load File.join(ENV.fetch("CAPISTRANO_STRETCHER"), "lib/capistrano/stretcher.rb")
"""

_DEPLOY = Template("""\
set :application, "$name"
set :repo_url, "$repository"
set :branch, "main"
set :deploy_to, "/var/www/$name"
set :deploy_roles, "web"
set :stretcher_hooks, "$hooks"
set :stretcher_user, "$user"
set :local_working_path_base, "$work"
set :local_tarball_name, "$name.$suffix"
set :stretcher_src, "s3://$bucket/$name/$name-#{env.now}.$suffix"
set :manifest_path, "s3://$bucket/$name/manifests"
set :gzip_archiver, "$archiver"
set :gzip_archiver_option, "$option"
set :exclude_dirs, []
set :default_env, {
  "PATH" => "$path",
  "AWS_ENDPOINT_URL" => "$endpoint",
  "AWS_DEFAULT_REGION" => "$region",
  "AWS_REQUEST_CHECKSUM_CALCULATION" => "when_required",
}
set :ssh_options, {
  config: false,
  keys: ["$key"],
  keys_only: true,
  auth_methods: ["publickey"],
  user_known_hosts_file: "$known_hosts",
  verify_host_key: :always,
}
""")

_STAGE = Template('server "$server", roles: %w{build consul}, no_release: true\n')

#: It runs its uploads by `sudo -u USER`, also as that very user. Where there is no sudo, this costs less than one.
_SUDO = """\
#!/bin/sh
[ "$1" = -u ] && shift 2
while :; do
  case $1 in
    *=*) export "$1"; shift ;;
    --) shift; break ;;
    *) break ;;
  esac
done
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Archiver:
    """What it packs with."""

    program: str
    option: str
    suffix: str


PLAIN = Archiver("gzip", "", "tar.gz")
TUNED = Archiver("zstd", "-T0 -1", "tar.zst")


def version(archiver: Archiver) -> str:
    """What it packs with, as in "gzip 1.12"."""
    said = subprocess.run([archiver.program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return " ".join(filter(None, (archiver.program, found and found.group(), archiver.option)))


def why_not() -> str | None:
    """Why it can't be measured here; None if it can."""
    checkout = os.environ.get(CHECKOUT_VARIABLE)
    if not checkout:
        return f"{CHECKOUT_VARIABLE} is not set"
    if not (Path(checkout) / "lib/capistrano/stretcher.rb").is_file():
        return f"{checkout} holds no capistrano-stretcher"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"not in PATH: {', '.join(missing)}"
    # A version manager may leave the name of a program that is not there.
    tried = subprocess.run(["aws", "--version"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "the program aws does not run"


class Peer:
    """Its project in a folder of its own, for one repository and one way to pack."""

    def __init__(
        self, playground: Playground, directory: Path, name: str, repository: str, archiver: Archiver = PLAIN
    ) -> None:
        self.directory = directory
        self.name = name
        self._work = directory / "build-server"
        (directory / "config/deploy").mkdir(parents=True)
        if shutil.which("sudo") is None:
            # In the PATH of every SSH session there: it asks whether it may use sudo before it sets its own PATH.
            sudo = playground.directory / "bin/sudo"
            sudo.write_text(_SUDO)
            sudo.chmod(0o755)
        (directory / "Capfile").write_text(_CAPFILE)
        aws = Path(shutil.which("aws") or "").parent
        own_path = playground.build_server_environment()["PATH"]
        values = {
            "name": name,
            "repository": repository,
            "hooks": PEER_HOOKS,
            "user": playground.user,
            "work": self._work,
            "suffix": archiver.suffix,
            "archiver": archiver.program,
            "option": archiver.option,
            "bucket": playground.bucket,
            "path": f"{aws}:{own_path}",
            "endpoint": playground.endpoint_url,
            "region": playground.region,
            "key": playground.identity_file,
            "known_hosts": playground.known_hosts,
            "server": playground.build_server,
        }
        (directory / "config/deploy.rb").write_text(_DEPLOY.substitute(values))
        (directory / "config/deploy/production.rb").write_text(_STAGE.substitute(values))

    @property
    def event(self) -> str:
        return "deploy_web_production"

    def forget(self) -> None:
        """Nothing of it is left on the build server."""
        shutil.rmtree(self._work, ignore_errors=True)

    def start(self) -> "subprocess.Popen[str]":
        """`cap production stretcher:deploy`, running."""
        return subprocess.Popen(
            ["cap", "production", "stretcher:deploy"],
            cwd=self.directory,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def _environment() -> Mapping[str, str]:
    # The operator's machine has no S3 keys and no Consul, as in our own measurements.
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CONSUL_"))}
