"""What `fab ENV app-server` prints, tried: by systemd, by shellcheck, by cloud-init's schema, in a root of its own, and
on the playground's hosts."""

import functools
import gzip
import hashlib
import http.server
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from deploytool.hosts.app_server import RECEIVE
from deploytool.playground.host import receive_command, watch_command
from deploytool.playground.parts import CLOUD_SCHEMA, TOOLS, find_or_install_checker
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.certificates import own_certificate
from tests.support.fab import Result
from tests.support.project import FABFILE, Project, as_root, part

SETTINGS = """\
application: shop
repository: git@git.example.com:acme/shop.git
deploy_to: /var/www/shop
linked_files: [config/database.yml]
build: {server: deploy@build.example.com}
store: {url: "s3://acme-deploys/shop", region: ap-northeast-1}
roles:
  web: {hosts: {service: unicorn}}
  batch: {hosts: {nodes: [batch1]}, deploy_to: "/srv/it's $HOME 100%"}
"""


class Printer:
    """A project whose build server nobody can reach."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "config").mkdir(parents=True)
        (directory / "fabfile.py").write_text(FABFILE)
        (directory / "config/deploy.yml").write_text(SETTINGS)
        (directory / "config/production.yml").touch()

    def run(self, *arguments: str, environment: str = "production") -> Result:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "fab"), environment, "app-server", *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def printed(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.code == 0, result.err
        return result.out


@pytest.fixture
def printer(tmp_path: Path) -> Printer:
    return Printer(tmp_path / "project")


def checker(name: str) -> Path:
    return part(lambda: find_or_install_checker(name, print))


# What is printed


def test_a_secret_is_refused_where_app_servers_would_get_it(printer: Printer, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "https://me:let-me-in@s3.example.com"
    monkeypatch.setenv("ENDPOINT", secret)
    for value in ("${ENDPOINT}", secret):
        config = SETTINGS.replace("region: ap-northeast-1", f'endpoint_url: "{value}"')
        (printer.directory / "config/deploy.yml").write_text(config)
        result = printer.run("--role", "web", "--node", "web1", "--json")
        assert result.code == 2
        assert "store.endpoint_url holds a secret" in result.err
        assert "let-me-in" not in result.out + result.err


def test_mistakes_are_told_with_what_exists(printer: Printer) -> None:
    for arguments, words in (
        ((), "--role is missing; roles of production: web, batch"),
        (("--role", "wbe"), "there is no role 'wbe'; roles of production: web, batch"),
        (("--role", "web", "--format", "yaml"), "neither script nor cloud-init"),
        (("--role", "web", "--user", "a b"), "can't be the name of a user"),
        (("--role", "web", "--node", 'a" { policy'), "can't be the name of a Consul node"),
        (("--role", "web", "--stretcher", "ftp://x"), "is not an https URL"),
        (("--role", "web", "--stretcher-sha256", "12"), "64 hexadecimal digits"),
        (("--role", "web", "--node", "web1", "--output", "/proc/nothing"), "can't be written"),
        (("--role", "web", "--node", "web1", "--shared-token"), "--shared-token means all of them"),
        (("--role", "web", "--output", "made"), "--node is missing: the policy for Consul is one host's"),
    ):
        result = printer.run(*arguments)
        assert (result.code, result.out) == (2, "")
        assert words in result.err


def test_stretcher_is_never_installed_over_http_or_without_its_checksum(printer: Printer) -> None:
    checksum = ("--stretcher-sha256", "0" * 64)
    for arguments, words in (
        (("--stretcher", "http://example.com/stretcher", *checksum), "is not an https URL"),
        (("--stretcher", "https://example.com/stretcher"), "--stretcher needs --stretcher-sha256"),
    ):
        result = printer.run("--role", "web", *arguments)
        assert (result.code, result.out) == (2, "")
        assert words in result.err
    # Of what is downloaded; receive.sh, which asks Consul's agent, comes after.
    script = printer.printed("--role", "web").partition("write_files()")[0]
    assert "http:" not in re.sub("#.*", "", script)


def test_policies_hold_the_kms_key_and_acl_of_the_settings_and_nothing_of_s3_for_hosts_behind_a_gateway(
    printer: Printer,
) -> None:
    arn = "arn:aws:kms:ap-northeast-1:123456789012:key/1234"
    said = f"region: ap-northeast-1, acl: private, encryption: {{algorithm: 'aws:kms', kms_key: '{arn}'}}"
    for key, named in ((arn, arn), ("alias/deploys", "arn:aws:kms:ap-northeast-1:*:key/*"), ("1234", "*:key/1234")):
        config = SETTINGS.replace("region: ap-northeast-1", said.replace(arn, key))
        (printer.directory / "config/deploy.yml").write_text(config)
        files = json.loads(printer.printed("--role", "web", "--node", "web1", "--json"))["files"]
        for name, action in (("s3-build-server.json", "kms:GenerateDataKey"), ("s3-app-server.json", "kms:Decrypt")):
            last = json.loads(files[f"policies/{name}"])["Statement"][-1]
            assert action in last["Action"]
            assert last["Resource"][0].endswith(named)
        assert "s3:PutObjectAcl" in files["policies/s3-build-server.json"]
    config = SETTINGS.replace("region: ap-northeast-1", "hosts_url: https://cache.example.com/shop")
    (printer.directory / "config/deploy.yml").write_text(config)
    files = json.loads(printer.printed("--role", "web", "--node", "web1", "--json"))["files"]
    assert "policies/s3-app-server.json" not in files
    assert "AWS_REGION" not in files["root/etc/deploytool/shop-production.env"]


def test_pretend_hosts_need_nothing(printer: Printer) -> None:
    (printer.directory / "config/local.yml").write_text("consul: {address: file:///var/bus}\n")
    result = printer.run("--role", "web", environment="local")
    assert result.code == 2
    assert "need no set-up" in result.err


def test_output_holds_every_file_and_stdout_the_very_script(printer: Printer) -> None:
    listed = printer.printed("--role", "web", "--node", "web1", "--output", "made").splitlines()
    made = printer.directory / "made"
    assert sorted(listed) == sorted(f"made/{path.relative_to(made)}" for path in made.rglob("*") if path.is_file())
    assert (made / "setup.sh").read_text() == printer.printed("--role", "web")
    assert (made / "cloud-init.yml").read_text() == printer.printed("--role", "web", "--format", "cloud-init")
    document = json.loads(printer.printed("--role", "web", "--node", "web1", "--json"))
    assert {f"made/{name}" for name in document["files"]} == set(listed)
    assert {path.name for path in (made / "policies").iterdir()} == {
        *("consul-app-server.hcl", "consul-build-server.hcl", "s3-app-server.json", "s3-build-server.json")
    }
    # Again, with other settings: what is there is replaced.
    printer.printed("--role", "web", "--node", "web1", "--user", "www", "--output", "made")
    assert "\nuser=www\n" in (made / "setup.sh").read_text()


def test_policy_is_one_hosts_or_says_that_it_is_everybodys(printer: Printer) -> None:
    printer.printed("--role", "web", "--node", "web1", "--output", "one")
    printer.printed("--role", "web", "--shared-token", "--output", "all")
    own, shared = ((printer.directory / name / "policies/consul-app-server.hcl").read_text() for name in ("one", "all"))
    assert '/reports/web/web1/" { policy = "write" }' in own
    assert '/reports/web/" { policy = "write" }' in shared
    assert ("--shared-token" in own, "--shared-token" in shared) == (False, True)
    assert printer.run("--role", "web", "--json").json["exit_code"] == 2
    # The script is for any of them, as cloud-init's machines have no name yet.
    assert (printer.directory / "one/setup.sh").read_text() == printer.printed("--role", "web")


@pytest.mark.parametrize("role", ["web", "batch"])
def test_script_is_good_shell(printer: Printer, role: str) -> None:
    script = printer.printed("--role", role)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    # A path with a `$` in it stands in quotes on purpose.
    options = ["--shell=sh", *(["--exclude=SC2016"] if role == "batch" else [])]
    done = subprocess.run([shellcheck, *options, "-"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for shell in ("sh", "dash", "bash"):
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("role", ["web", "batch"])
def test_cloud_init_takes_the_user_data_which_is_the_script(printer: Printer, role: str) -> None:
    text = printer.printed("--role", role, "--format", "cloud-init")
    assert text.startswith("#cloud-config\n")
    assert len(text.encode()) <= 16384, "EC2 takes no more"
    data = yaml.safe_load(text)
    schema = json.loads(checker(CLOUD_SCHEMA).read_text())
    assert [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(data)] == []
    (file,) = data["write_files"]
    assert gzip.decompress(b64decode(file["content"])).decode() == printer.printed("--role", role)
    assert data["runcmd"] == [[file["path"]]]


def test_user_data_that_is_too_large_for_a_cloud_with_many_signers_says_so(printer: Printer) -> None:
    kind = b"ssh-ed25519"
    keys = [b64encode(len(kind).to_bytes(4, "big") + kind + bytes([0, 0, 0, 32]) + os.urandom(32)) for _ in range(60)]
    lines = [f"person{number}@example.org ssh-ed25519 {key.decode()}\n" for number, key in enumerate(keys)]
    (printer.directory / "config/signers").write_text("".join(lines))
    (printer.directory / "config/deploy.yml").write_text(f"{SETTINGS}\ntrust: {{signers: config/signers}}\n")
    words = "EC2 takes no more than 16384 bytes of user data"
    result = printer.run("--role", "web", "--format", "cloud-init")
    # Other clouds take more: it is printed all the same.
    assert (result.code, f"has {len(result.out.encode())} bytes, and {words}" in result.err) == (0, True), result.err
    assert "put what `--format script` prints into the machine's image" in result.err
    assert words in printer.run("--role", "web", "--node", "web1", "--output", "made").err
    script = printer.run("--role", "web")
    assert (script.code, script.err) == (0, "")
    (printer.directory / "config/signers").write_text(lines[0])
    assert printer.run("--role", "web", "--format", "cloud-init").err == ""


@pytest.mark.parametrize(("role", "flags"), [("web", ()), ("batch", ()), ("batch", ("--sandbox",))])
def test_systemd_takes_the_units(
    printer: Printer, tmp_path: Path, playground: Playground, role: str, flags: tuple[str, ...]
) -> None:
    printer.printed("--role", role, "--node", "web1", "--output", "made", "--user", "root", *flags)
    root = printer.directory / "made/root"
    units = sorted((root / "etc/systemd/system").iterdir())
    assert len(units) == 3
    # Programs that this machine may not have where an app server has them.
    for unit in units:
        text = unit.read_text().replace("ExecStart=consul ", f"ExecStart={playground.consul} ")
        text = text.replace("/usr/local/lib/", f"{root}/usr/local/lib/")
        unit.write_text(text)
    # It makes /run/systemd, which nobody but root may, and which a machine without systemd lacks.
    run_of_its_own = ["unshare", *as_root(), "--mount", "sh", "-c", 'mount -t tmpfs run /run && exec "$@"', "sh"]
    verify = [*run_of_its_own, str(checker("systemd-analyze")), "verify", "--man=no", *map(str, units)]
    unpacked = TOOLS / "debian/systemd-analyze/root/lib/systemd/system"
    paths = f"{units[0].parent}:/lib/systemd/system:{unpacked}"
    done = subprocess.run(verify, capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": paths})
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "shop" in line]
    assert (done.returncode, ours) == (0, []), done.stdout + done.stderr


def test_hooks_may_use_sudo_unless_a_sandbox_is_asked_for(printer: Printer) -> None:
    for flags, expected in (((), False), (("--sandbox",), True)):
        printer.printed("--role", "web", "--node", "web1", "--output", "made", *flags)
        for unit in (printer.directory / "made/root/etc/systemd/system").glob("*.service"):
            lines = unit.read_text().splitlines()
            assert "UMask=0022" in lines
            assert ("NoNewPrivileges=yes" in lines) == expected
            # Most of these imply it for a user who is not root.
            implying = ("Private", "Protect", "RestrictA", "RestrictR", "RestrictS", "Lock", "SystemCall")
            assert any(line.startswith(implying) for line in lines) == expected


def exec_start(unit: Path) -> list[str]:
    (line,) = re.findall("(?m)^ExecStart=(.*)$", unit.read_text())
    return shlex.split(line)


def test_playground_runs_the_very_watch_that_is_printed(printer: Printer) -> None:
    printer.printed("--role", "web", "--node", "web1", "--output", "made")
    unit = printer.directory / "made/root/etc/systemd/system/deploy-shop-web-production.service"
    line = "shop web production www/shop"
    handler = receive_command(line, Path("/var"), RECEIVE, "event")
    assert exec_start(unit) == watch_command(line, "consul", handler)


def test_policy_allows_what_the_worker_calls_and_nothing_else(printer: Printer) -> None:
    """S3's action for each call of boto3's client in the worker."""
    actions = {
        "get_object": "s3:GetObject",
        "head_object": "s3:GetObject",
        "put_object": "s3:PutObject",
        "create_multipart_upload": "s3:PutObject",
        "upload_part": "s3:PutObject",
        "complete_multipart_upload": "s3:PutObject",
        "abort_multipart_upload": "s3:AbortMultipartUpload",
        "delete_object": "s3:DeleteObject",
        "list_objects_v2": "s3:ListBucket",
        "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    }
    source = "".join(path.read_text() for path in Path("deploytool/worker").glob("*.py"))
    called = set(re.findall(r"client\.([a-z_0-9]+)\(", source)) - {"get_paginator"}
    called |= set(re.findall(r'get_paginator\("(\w+)"\)', source))
    printer.printed("--role", "web", "--node", "web1", "--output", "made")
    policy = json.loads((printer.directory / "made/policies/s3-build-server.json").read_text())
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert {actions[name] for name in called} == allowed


# What is run


ROOT_OF_ITS_OWN = r"""
set -eu
root=$1
mount -t tmpfs tmpfs "$root"
cd "$root"
mkdir dev etc home proc root run tmp usr var
for directory in bin sbin lib lib32 lib64; do
  if [ -L "/$directory" ]; then
    cp -P "/$directory" .
  elif [ -d "/$directory" ]; then
    mkdir "$directory"
    mount --bind "/$directory" "$directory"
  fi
done
mount --bind /usr usr
mount -o remount,bind,ro usr
mount -t tmpfs tmpfs usr/local
mount --rbind /dev dev
mount --rbind /proc proc
for file in passwd group shadow gshadow login.defs nsswitch.conf ld.so.cache ld.so.conf ld.so.conf.d pam.d default \
  skel alternatives ssl/certs; do
  mkdir -p "etc/$(dirname "$file")"
  [ ! -r "/etc/$file" ] || cp -RL "/etc/$file" "etc/$file"
done
cp "$2" root/setup.sh
# What a small Debian lacks, as a package manager would have brought it.
mkdir -p ".$3"
mount --bind "$3" ".$3"
programs=$3/programs
shift 3
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$programs exec chroot "$root" /bin/sh -c "$@"
"""


TWICE = r"""
set -eu
sh /root/setup.sh
echo ======
echo AWS_ACCESS_KEY_ID=mine >>/etc/deploytool/shop-production.env
sh /root/setup.sh
echo ======
cat /etc/deploytool/shop-production.env
stretcher -version | sed -n 1p
for place in /etc/deploytool /etc/systemd/system /etc/tmpfiles.d /usr/local /var/www /srv; do
  [ ! -d "$place" ] || find "$place" -exec stat -c '%A %U %n' '{}' ';'
done
"""


@pytest.fixture
def download(playground: Playground, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URL of stretcher on a server of its own, and its sha256."""
    place = tmp_path / "download"
    place.mkdir()
    shutil.copy(playground.stretcher, place / "stretcher")

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(place)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own_certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield (
            f"https://127.0.0.1:{server.server_port}/stretcher",
            hashlib.sha256((place / "stretcher").read_bytes()).hexdigest(),
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_in_a_root_of_its_own(script: str, command: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """The command run as root, with the script as /root/setup.sh; downloads trust `own_certificate` and no other."""
    (tmp_path / "setup.sh").write_text(script)
    (tmp_path / "root").mkdir(exist_ok=True)
    trusted = shlex.quote((tmp_path / "authority.pem").read_text())
    command = f"printf %s {trusted} >/root/ca.pem; export CURL_CA_BUNDLE=/root/ca.pem\n{command}"
    arguments = [str(tmp_path / "root"), str(tmp_path / "setup.sh"), str(TOOLS), command]
    return subprocess.run(
        ["unshare", *as_root(), "--mount", "sh", "-c", ROOT_OF_ITS_OWN, "sh", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("role", ["web", "batch"])
def test_script_makes_an_app_server_and_changes_nothing_the_second_time(
    printer: Printer, tmp_path: Path, download: tuple[str, str], role: str
) -> None:
    # Without root there is only one user in the namespace.
    user = "deploy" if os.geteuid() == 0 else "root"
    url, checksum = download
    script = printer.printed("--role", role, "--user", user, "--stretcher", url, "--stretcher-sha256", checksum)
    done = run_in_a_root_of_its_own(script, TWICE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, found = done.stdout.split("======\n")
    assert f"Written: deploy-shop-{role}-production.service" in first
    assert "Consul is not here" in first
    assert "S3 credentials" in first
    assert "shared/config/database.yml there" in first
    assert "Written" not in second
    assert "S3 credentials" not in second
    assert "AWS_ACCESS_KEY_ID=mine" in found
    assert "version:" in found
    deploy_to = "/var/www/shop" if role == "web" else "/srv/it's $HOME 100%"
    for line in (
        f"-rw-r--r-- root /etc/systemd/system/deploy-shop-{role}-production.service",
        f"-rw-r--r-- root /etc/systemd/system/catch-up-shop-{role}-production.service",
        f"-rw-r--r-- root /etc/systemd/system/catch-up-shop-{role}-production.timer",
        "-rwxr-xr-x root /usr/local/lib/deploytool/receive.sh",
        "-rwxr-xr-x root /usr/local/bin/stretcher",
        "-rw------- root /etc/deploytool/shop-production.env",
        f"drwxr-xr-x {user} {deploy_to}/shared",
        f"drwxr-xr-x {user} {deploy_to}/.tmp",
    ):
        assert line in found.splitlines(), found
    if shutil.which("systemctl"):
        assert f"/etc/systemd/system/multi-user.target.wants/deploy-shop-{role}-production.service" in found
        assert f"/etc/systemd/system/timers.target.wants/catch-up-shop-{role}-production.timer" in found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("user", ["deploy", "root"])
def test_script_says_that_others_could_change_what_is_run(
    printer: Printer, tmp_path: Path, download: tuple[str, str], user: str
) -> None:
    url, checksum = download
    script = printer.printed("--role", "web", "--user", user, "--stretcher", url, "--stretcher-sha256", checksum)
    command = "mkdir -p /var/www; chown 42424 /var/www; sh /root/setup.sh"
    done = run_in_a_root_of_its_own(script, command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "  - a deployment will refuse to change this host: /var/www belongs to UNKNOWN (42424), who could have "
        f"commands run as {user}: type 'chown -h {user} /var/www' if you trust all in it"
    ) in done.stdout


def test_script_refuses_a_stretcher_with_another_checksum_and_leaves_no_directory_behind(
    printer: Printer, tmp_path: Path, download: tuple[str, str]
) -> None:
    script = printer.printed("--role", "web", "--stretcher", download[0], "--stretcher-sha256", "0" * 64)
    command = "sh /root/setup.sh; echo $?; ls /usr/local /etc/deploytool; ls -d /tmp/tmp.*"
    done = run_in_a_root_of_its_own(script, command, tmp_path)
    assert "has not the sha256" in done.stderr
    assert done.stdout.splitlines() == ["1", "/usr/local:"]


#: In place of sudo, which a small root has not: as it lists what a user may run.
SUDO = r"""
mkdir -p /usr/local/bin
printf '#!/bin/sh\ncat /root/allowed 2>/dev/null' >/usr/local/bin/sudo
printf '#!/bin/sh\n' >/usr/local/bin/systemctl
chmod 755 /usr/local/bin/sudo /usr/local/bin/systemctl
sh /root/setup.sh
for allowed in '(root) NOPASSWD: /usr/local/bin/systemctl restart app, /bin/true' '(ALL : ALL) NOPASSWD: ALL' \
  '(root) NOPASSWD: /usr/local/bin/systemctl restart apps' '(root) /usr/local/bin/systemctl restart app'; do
  echo ======
  printf 'User deploy may run the following commands on app1:\n    %s\n' "$allowed" >/root/allowed
  sh /root/setup.sh
done
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have another user there")
def test_script_prints_the_line_that_sudo_needs_for_restart_unless_it_is_there(
    printer: Printer, tmp_path: Path, download: tuple[str, str]
) -> None:
    """The documented example failed with "sudo: a password is required", and nothing had said that before."""
    config = SETTINGS.replace(
        "service: unicorn}", 'service: unicorn}, restart: ["sudo systemctl restart app", "sudo -i x"]'
    )
    (printer.directory / "config/deploy.yml").write_text(config)
    words = ("--role", "web", "--stretcher", download[0], "--stretcher-sha256", download[1])
    done = run_in_a_root_of_its_own(printer.printed(*words), SUDO, tmp_path)
    assert done.returncode == 0, done.stderr
    first, listed, everything, another, asking = done.stdout.split("======\n")
    line = "deploy ALL=(root) NOPASSWD: /usr/local/bin/systemctl restart app\n"
    for said, expected in ((first, True), (listed, False), (everything, False), (another, True), (asking, True)):
        assert (f"      {line}" in said) is expected, said
        assert "roles.web.restart[1] uses sudo in a way that only you can write the line" in said
    assert "write this into /etc/sudoers.d/deploy-shop-web-production" in first
    if visudo := shutil.which("visudo"):
        subprocess.run([visudo, "-cf", "-"], input=line, text=True, check=True, capture_output=True)
    # Root needs none, and in a sandbox none helps.
    assert "NOPASSWD" not in printer.printed(*words, "--user", "root")
    assert "restart[0] uses sudo, which does not work in a sandbox" in printer.printed(*words, "--sandbox")


def test_printed_watch_and_catch_up_bring_releases_to_a_host(playground: Playground, tmp_path: Path) -> None:
    application = Application("printed", (PlaygroundRole("web", ("app1", "app2", "app3")),))
    playground.add_application(application)
    project = Project(playground, tmp_path, application)
    project.settings["wait"] |= {"fetch_seconds": 5}
    project.write()
    # From here on app2 has no watch of the playground's making.
    (playground.host_directory("app2") / "watches/printed-web-playground").unlink()
    assert project.fab("playground", "app-server", "--node", "app2", "--output", str(tmp_path / "made")).code == 0
    units = tmp_path / "made/root/etc/systemd/system"
    result = project.fab("playground", "deploy", "--json")
    assert result.code == 8
    assert result.verdicts()["app2/web"] in ("silent", "aborted")

    result = project.fab("playground", "deploy", "--nodes", "app1,app3", "--json")
    assert result.code == 0, result.err
    project.fab("playground", "deploy", "--no-wait")
    catch_up = exec_start(units / "catch-up-printed-web-playground.service")
    script = str(tmp_path / f"made/root{RECEIVE}")
    assert catch_up[0] == RECEIVE
    done = playground.run_on_host("app2", [script, *catch_up[1:]])
    assert done.returncode == 0, done.stderr
    assert project.current("app2") is not None

    watch = [word.replace(RECEIVE, script) for word in exec_start(units / "deploy-printed-web-playground.service")]
    running = threading.Thread(target=playground.run_on_host, args=("app2", ["timeout", "60", *watch]))
    running.start()
    try:
        project.repository.commit({"VERSION": "by the printed watch"})
        result = project.deploy()
        assert result.verdicts()["app2/web"] == "verified"
    finally:
        playground.run_on_host("app2", ["sh", "-c", "kill $(pgrep -x timeout)"])
        running.join()
