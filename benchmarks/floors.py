"""Floors: what disk, CPU and wire allow, with nothing around it. Each function gives the seconds of one try."""

import http.client
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploytool.playground.playground import Playground

#: name → the compressor after `tar`, in the order in which they are shown
PIPES: Mapping[str, Sequence[str]] = {
    "tar": ("cat",),
    "tar | gzip -6": ("gzip", "-n", "-6"),
    "tar | pigz -1": ("pigz", "-n", "-1"),
    "tar | igzip": ("igzip", "-n", "-c"),
    "tar | zstd -T0 -3": ("zstd", "-q", "-T0", "-3", "-c"),
    "tar | zstd -T0 -1": ("zstd", "-q", "-T0", "-1", "-c"),
}
#: those that give what every gzip can unpack, and the one that gives zstd as we do
COMPARABLE: Mapping[str, Sequence[str]] = {
    "gzip": ("tar | gzip -6", "tar | pigz -1", "tar | igzip"),
    "zstd": ("tar | zstd -T0 -3",),
}
PART_BYTES = 16 << 20
THREADS = 4
COMMANDS_ON_A_CONNECTION = 10
_PIPE = 'directory=$1; shift; tar --create --file=- --directory="$directory" --exclude=.git . | "$@" >"$0"'


Act = Callable[[], object]


def timed(act: Act) -> float:
    """How long it takes, in seconds."""
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def command(argv: Sequence[str], **options: Any) -> float:
    """How long a command takes that must go well, unless `check=False` is given."""
    options = {"check": True, "stdin": subprocess.DEVNULL, "capture_output": True, **options}
    return timed(lambda: subprocess.run(argv, **options))


# Packing


def pipes() -> list[str]:
    """The names of those whose compressor is here."""
    return [name for name, argv in PIPES.items() if shutil.which(argv[0])]


def pipe(name: str, tree: Path, archive: Path = Path("/dev/null")) -> float:
    """`tar | compressor` of a tree, read once and written nowhere, or into an archive."""
    return command(["bash", "-o", "pipefail", "-c", _PIPE, str(archive), str(tree), *PIPES[name]])


# Uploading


def upload_by_boto3(playground: Playground, archive: Path) -> float:
    """boto3's own `upload_file`, in parts of 16 MB, 4 at a time."""
    from boto3.s3.transfer import TransferConfig

    client = playground.s3_client()
    config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=THREADS)
    try:
        return timed(lambda: client.upload_file(str(archive), playground.bucket, "floor/boto3", Config=config))
    finally:
        client.close()


def upload_by_put(playground: Playground, archive: Path) -> float:
    """One PUT to an address that was signed before."""
    client = playground.s3_client()
    url = urlsplit(client.generate_presigned_url("put_object", {"Bucket": playground.bucket, "Key": "floor/put"}))
    client.close()

    def put() -> None:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=120, blocksize=1 << 20)
        with archive.open("rb") as file:
            connection.request("PUT", f"{url.path}?{url.query}", body=file)
            answer = connection.getresponse()
            answer.read()
        connection.close()
        if answer.status != 200:
            raise OSError(f"PUT: {answer.status} {answer.reason}")

    return timed(put)


# git


def git_fresh(repository: str, tree: Path) -> float:
    """Fetch all, check out all."""
    shutil.rmtree(tree, ignore_errors=True)
    return command(["git", "clone", "--quiet", repository, str(tree)])


def git_again(tree: Path) -> float:
    """Fetch and check out what is new, where `git_fresh` has been."""
    begin = time.monotonic()
    command(["git", "-C", str(tree), "fetch", "--quiet"])
    command(["git", "-C", str(tree), "checkout", "--quiet", "--force", "--detach", "origin/main"])
    return time.monotonic() - begin


# SSH


def ssh_true(playground: Playground) -> float:
    """OpenSSH: connect, run `true`, leave."""
    return command(["ssh", "-F", str(playground.ssh_config), "playground", "true"])


def paramiko_true(playground: Playground, *, no_delay: bool) -> tuple[float, float]:
    """paramiko: seconds to connect, and for one `true` of several on that connection."""
    import paramiko

    client = paramiko.SSHClient()
    client.load_host_keys(str(playground.known_hosts))

    def connect() -> None:
        client.connect(
            playground.ssh_host,
            playground.ssh_port,
            playground.user,
            key_filename=str(playground.identity_file),
            look_for_keys=False,
            allow_agent=False,
        )

    def run() -> int:
        _, out, _ = client.exec_command("true")
        return out.channel.recv_exit_status()

    try:
        connecting = timed(connect)
        line: Any = client.get_transport().sock  # type: ignore[union-attr]
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(no_delay))
        run()
        return connecting, timed(lambda: [run() for _ in range(COMMANDS_ON_A_CONNECTION)]) / COMMANDS_ON_A_CONNECTION
    finally:
        client.close()


# Start-up


def python_pass() -> float:
    return command([sys.executable, "-c", "pass"])


def fab_list(directory: Path) -> float:
    """`fab --list` in a directory with a fabfile. An empty one has no tasks, which `fab` does not like."""
    return command([str(Path(sys.executable).parent / "fab"), "--list"], cwd=directory, check=False)
