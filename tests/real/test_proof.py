"""What a host takes for a proof, on applications that listen: with the real stretcher, and the kernel's own /proc."""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.hosts.scripts import look_script
from deploytool.playground.parts import Parts, find_or_install
from tests.support.host import FIRST, NEW, OLD, SECOND, THIRD, Host, Run, command, end_app, make_host
from tests.support.waiting import until

#: Not what PATH has, which may be a script that takes a while to find the real one.
PYTHON = shlex.quote(sys.executable)
THIRD_RELEASE = "20261123T080000Z-ccccccc"
#: From `port` to another one, which no test that runs beside this one has for its `port`.
OTHER = 2_500

#: A server of a few lines: listens on its port after so many seconds, and dies after as many more.
SERVER = """
import os, socket, sys, threading, time
port, boots, dies = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
time.sleep(boots)
server = socket.create_server((sys.argv[4] if len(sys.argv) > 4 else "0.0.0.0", port))
threading.Timer(dies, os._exit, (1,)).start()
while True:
    connection, _ = server.accept()
    connection.close()
"""

#: It listens at once, and its worker, which takes connections, is up later, or dies again and again.
MASTER = """
import os, socket, sys, time
port, boots, lives = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
server = socket.create_server(("0.0.0.0", port))
while True:
    worker = os.fork()
    if worker == 0:
        began = time.monotonic()
        time.sleep(boots)
        server.settimeout(0.1)
        while time.monotonic() - began < lives:
            try:
                server.accept()[0].close()
            except TimeoutError:
                pass
        os._exit(1)
    os.waitpid(worker, 0)
"""


@pytest.fixture(scope="session")
def parts() -> Parts:
    return find_or_install(print)


@pytest.fixture
def host(parts: Parts) -> Iterator[Host]:
    # The path of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="proof") as home:
        made = make_host(Path(home), parts, "www")
        made.tree |= {"server.py": SERVER, "master.py": MASTER}
        made.changes = {"verify_pid_file": "../../shared/app.pid", "stable_seconds": 0, "hook_seconds": 4}
        yield made
        end_app(made)


@pytest.fixture
def port() -> int:
    """One that the kernel gives away to nobody who does not ask for it: chosen by somebody, like a real service's."""
    # Each process of pytest-xdist has its own.
    begin = 20_000 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for candidate in range(begin, 30_000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", candidate))
            return candidate
    raise AssertionError("no port is free")


STOP = 'if pid=$(cat ../../shared/app.pid 2>/dev/null); then kill -KILL "$pid" 2>/dev/null; sleep 0.1; fi\n'


def restart(what: str, *, stop: str = STOP) -> dict[str, object]:
    start = f"{what} >>../../shared/app.log 2>&1 &\necho $! >../../shared/app.pid"
    return {"restart": command(stop + start)}


def serve(port: int, boots: float = 0, dies: float = 600, address: str = "") -> dict[str, object]:
    return restart(f"exec {PYTHON} server.py {port} {boots} {dies} {address}")


def reason(run: Run) -> str:
    assert "failed" in run.reports, run.log
    return str(run.reports["failed"]["reason"])


def word(host: Host) -> dict[str, object]:
    said = json.loads(host.key("serving/web/app1").read_text())
    assert isinstance(said, dict)
    return said


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def first(host: Host, port: int, boots: float = 0) -> None:
    """It serves OLD, which listens."""
    host.changes |= serve(port, boots)
    run = host.deploy(FIRST, OLD)
    assert "verified" in run.reports, run.log
    # A first release is proven by its processes; that it listens may be seen only a moment later.
    until(lambda: listens(port), seconds=20)


# what a release must do that the one before did


def test_application_that_boots_for_a_while_is_verified_only_when_it_listens(host: Host, port: int) -> None:
    first(host, port)
    host.changes |= {**serve(port, boots=2), "hook_seconds": 30}
    run = host.deploy(SECOND, NEW)
    assert "verified" in run.reports, run.log
    assert run.reports["verified"]["proof"] == "listening"
    assert listens(port)


def test_application_that_listens_no_more_is_not_verified_and_the_old_one_is_back(host: Host, port: int) -> None:
    first(host, port)
    host.changes |= restart("exec sleep 600")
    assert f"the release before listened on port {port}" in reason(host.deploy(SECOND, NEW))
    assert "proven to serve again" in reason(host.finish(host.started[-1], SECOND))
    assert host.current == f"releases/{OLD}"
    assert listens(port)


@pytest.mark.parametrize("dies", [0.3, 1, 3])
def test_application_that_dies_after_it_has_listened_is_not_verified(host: Host, port: int, dies: float) -> None:
    first(host, port)
    host.changes |= {**serve(port, dies=dies), "stable_seconds": 5, "hook_seconds": 3}
    assert "verified" not in host.deploy(SECOND, NEW).reports
    assert host.current == f"releases/{OLD}"


def test_port_that_the_old_process_keeps_is_told_with_its_pid(host: Host, port: int) -> None:
    """The pid file was overwritten, and nobody ended the process that it named before."""
    first(host, port)
    old = host.app
    try:
        host.changes |= restart("exec sleep 600", stop="")
        assert f"process {old} of {host.deploy_to}/releases/{OLD} has it" in reason(host.deploy(SECOND, NEW))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(old, signal.SIGKILL)


def test_another_address_than_before_is_told(host: Host, port: int) -> None:
    first(host, port)
    host.changes |= serve(port, address="127.0.0.1")
    assert "if that is meant" in reason(host.deploy(SECOND, NEW))


def test_release_that_is_meant_to_listen_no_more_is_verified_where_the_settings_say_so(host: Host, port: int) -> None:
    first(host, port)
    host.changes |= {**restart("exec sleep 600"), "verify_as_before": "no"}
    run = host.deploy(SECOND, NEW)
    assert run.reports["verified"]["proof"] == "process", run.log


def test_master_that_listens_while_its_workers_boot_is_verified_when_they_take_connections(
    host: Host, port: int
) -> None:
    first(host, port)
    host.changes |= {**restart(f"exec {PYTHON} master.py {port} 2 600"), "hook_seconds": 30}
    began = time.monotonic()
    run = host.deploy(SECOND, NEW)
    assert run.reports["verified"]["proof"] == "listening", run.log
    assert time.monotonic() - began > 2


def test_master_whose_workers_never_come_up_is_not_verified(host: Host, port: int) -> None:
    first(host, port)
    host.changes |= restart(f"exec {PYTHON} master.py {port} 600 600")
    assert "takes no connection there" in reason(host.deploy(SECOND, NEW))


def test_master_that_stays_while_its_workers_crash_in_a_loop_is_not_verified(host: Host, port: int) -> None:
    first(host, port)
    host.changes |= {**restart(f"exec {PYTHON} master.py {port} 0 1.5"), "stable_seconds": 4, "hook_seconds": 6}
    assert "verified" not in host.deploy(SECOND, NEW).reports
    assert host.current == f"releases/{OLD}"


def test_role_without_any_verify_must_listen_as_before(host: Host, port: int) -> None:
    host.changes["verify_pid_file"] = ""
    first(host, port)
    host.changes |= {**restart("true"), "verify_pid_file": ""}
    assert f"the release before listened on port {port}" in reason(host.deploy(SECOND, NEW))


@pytest.mark.parametrize("where", ["release", "build"])
def test_worker_that_runs_a_program_of_another_release_or_of_the_build_does_not_count(
    host: Host, where: str, tmp_path: Path
) -> None:
    """As with a virtual environment whose scripts name the place that they were made in."""
    build = tmp_path / "build/shop"
    program = (host.deploy_to / "releases" / OLD if where == "release" else build) / "program.py"
    host.tree["program.py"] = "import time; time.sleep(600)"
    host.changes |= {**restart(f"exec {PYTHON} program.py"), "build_root": str(build)}
    assert "verified" in host.deploy(FIRST, OLD).reports
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("import time; time.sleep(600)")
    host.changes |= {**restart(f"exec {PYTHON} -u '{program}'"), "stable_seconds": 1}
    assert f"runs {program}, which is not of this release" in reason(host.deploy(SECOND, NEW))


def test_old_processes_that_live_on_are_named_in_the_report(host: Host, port: int) -> None:
    first(host, port)
    old = subprocess.Popen(["sleep", "600"], cwd=host.deploy_to / "releases" / OLD)
    try:
        host.changes |= serve(port)
        run = host.deploy(SECOND, NEW)
        assert f"{old.pid} of {OLD}" in str(run.reports["verified"]["notes"]), run.log
    finally:
        old.kill()
        old.wait()


def test_old_process_that_has_left_its_directory_is_named_by_its_program(host: Host, port: int) -> None:
    """A daemon changes to /; and the directory of another user's process can't be read, what it runs can."""
    host.tree["daemon.py"] = "import time\ntime.sleep(600)\n"
    first(host, port)
    program = host.deploy_to / "releases" / OLD / "daemon.py"
    old = subprocess.Popen([sys.executable, "-u", program, "--mode=x"], cwd="/")
    # Whose argument lies there is none of it.
    reader = subprocess.Popen(["sh", "-c", "sleep 600; : $1", "sh", program], cwd="/")
    try:
        host.changes |= serve(port)
        run = host.deploy(SECOND, NEW)
        assert run.reports["verified"]["notes"] == f"processes of other releases still run: {old.pid} of {OLD}", run.log
    finally:
        for process in (old, reader):
            process.kill()
            process.wait()


@pytest.mark.parametrize("boots", [0, 1])
def test_release_that_comes_back_must_listen_where_it_did_itself(host: Host, port: int, boots: float) -> None:
    """A rollback over a change of the port that was meant, by settings that say nothing of ports.

    Its own port may be known only from the time after its proof.
    """
    first(host, port, boots)
    host.changes |= {**serve(port + 4_000), "verify_as_before": "no", "hook_seconds": 20}
    assert "verified" in host.deploy(SECOND, NEW).reports
    until(lambda: listens(port + 4_000), seconds=20)
    host.changes |= {**serve(port), "verify_as_before": "yes", "hook_seconds": 20}
    run = host.deploy(THIRD, OLD)
    assert run.reports["verified"]["proof"] == "listening", run.log
    assert listens(port)


# a port of the settings


def test_port_of_the_settings_is_waited_for_in_a_first_deployment(host: Host, port: int) -> None:
    host.changes |= {**serve(port, boots=2), "verify_port": port, "hook_seconds": 30, "verify_pid_file": ""}
    run = host.deploy(FIRST, OLD)
    assert run.reports["verified"]["proof"] == "listening", run.log
    assert listens(port)


def test_port_on_which_nobody_listens_is_no_proof(host: Host, port: int) -> None:
    host.changes |= {**restart("exec sleep 600"), "verify_port": port}
    assert f"nothing of the release listens on port {port}, and nobody listens there now" in reason(
        host.deploy(FIRST, OLD)
    )


def test_port_that_a_program_outside_of_all_releases_serves_is_a_proof(host: Host, port: int) -> None:
    """As systemd does for a socket unit, or a proxy in front of a container."""
    outside = subprocess.Popen([sys.executable, "-c", SERVER, str(port), "0", "600"], cwd="/")
    try:
        host.changes |= {**restart("exec sleep 600"), "verify_port": port, "hook_seconds": 20}
        run = host.deploy(FIRST, OLD)
        assert run.reports["verified"]["proof"] == "listening", run.log
    finally:
        outside.kill()
        outside.wait()


def test_kept_proof_of_the_old_release_has_its_own_port(host: Host, port: int) -> None:
    host.changes |= {**serve(port), "verify_port": port, "hook_seconds": 20}
    assert "verified" in host.deploy(FIRST, OLD).reports
    host.changes |= {**restart("exec sleep 600"), "verify_port": port + OTHER, "hook_seconds": 2}
    assert "proven to serve again" in reason(host.deploy(SECOND, NEW))


# other kinds of sockets


UNIX = """
import os, socket, sys, time
path = sys.argv[1]
if os.path.lexists(path): os.unlink(path)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(5)
time.sleep(float(sys.argv[2]))
while True: server.accept()[0].close()
"""
INHERITED = """
import os, socket, subprocess, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.set_inheritable(server.fileno(), True)
code = "import socket,sys; s=socket.socket(fileno=int(sys.argv[1]))\\nwhile True: s.accept()[0].close()"
while True:
    with open(sys.argv[3]) as place:
        directory = place.read().strip()
    child = subprocess.Popen([sys.executable, "-c", code, str(server.fileno())], cwd=directory, close_fds=False)
    with open(sys.argv[2] + ".new", "w") as file: file.write(str(child.pid))
    os.rename(sys.argv[2] + ".new", sys.argv[2])
    child.wait()
"""


@pytest.mark.parametrize("place", ["app.sock", "{shared}/app.sock"], ids=["in the release", "in shared/"])
def test_unix_socket_is_a_door_as_well(host: Host, place: str) -> None:
    path = place.format(shared=host.deploy_to / "shared")
    host.tree["unix.py"] = UNIX
    host.changes |= {**restart(f'exec {PYTHON} unix.py "$PWD/{path}" 0'.replace("$PWD//", "/")), "hook_seconds": 20}
    assert "verified" in host.deploy(FIRST, OLD).reports
    until((host.deploy_to / "current" / path).exists, seconds=20)
    run = host.deploy(SECOND, NEW)
    assert run.reports["verified"]["proof"] == "listening", run.log
    host.changes |= {**restart("exec sleep 600"), "hook_seconds": 2}
    assert "app.sock" in reason(host.deploy(THIRD, THIRD_RELEASE))


def test_unix_socket_that_nobody_takes_connections_from_is_told(host: Host) -> None:
    host.tree["unix.py"] = UNIX
    host.changes |= {**restart(f'exec {PYTHON} unix.py "$PWD/app.sock" 0'), "hook_seconds": 20}
    assert "verified" in host.deploy(FIRST, OLD).reports
    until((host.deploy_to / "current/app.sock").exists, seconds=20)
    host.changes |= {**restart(f'exec {PYTHON} unix.py "$PWD/app.sock" 600'), "hook_seconds": 2}
    assert "takes no connection there" in reason(host.deploy(SECOND, NEW))


def test_socket_that_a_supervisor_holds_and_the_worker_inherits_is_the_workers(host: Host, port: int) -> None:
    """Socket activation, and every master that stays over a reload."""
    supervisor_of = host.home / "supervisor.py"
    supervisor_of.write_text(INHERITED)
    shared = host.deploy_to / "shared"
    shared.mkdir(parents=True)
    (shared / "place").write_text("/")
    supervisor = subprocess.Popen(
        [sys.executable, supervisor_of, str(port), shared / "app.pid", shared / "place"], cwd="/"
    )
    try:
        text = 'pwd >../../shared/place; sleep 0.2; kill "$(cat ../../shared/app.pid)"; sleep 0.2'
        host.changes |= {"restart": command(text), "hook_seconds": 20}
        for deployment, release in ((FIRST, OLD), (SECOND, NEW)):
            run = host.deploy(deployment, release)
            assert run.reports["verified"]["proof"] == "listening", run.log
    finally:
        supervisor.kill()
        supervisor.wait()


def test_several_ports_and_ipv6_must_all_be_there(host: Host, port: int) -> None:
    host.tree["many.py"] = (
        "import socket, sys, threading, time\n"
        "def serve(s):\n    while True: s.accept()[0].close()\n"
        "for a in sys.argv[1:]:\n"
        "    host, _, port = a.rpartition(':')\n"
        "    s = socket.create_server((host, int(port)), family=socket.AF_INET6 if ':' in host else socket.AF_INET)\n"
        "    threading.Thread(target=serve, args=(s,), daemon=True).start()\n"
        "time.sleep(600)\n"
    )
    both = f"exec {PYTHON} many.py 127.0.0.1:{port} ::1:{port + OTHER}"
    host.changes |= {**restart(both), "hook_seconds": 20}
    for deployment, release in ((FIRST, OLD), (SECOND, NEW)):
        run = host.deploy(deployment, release)
        assert "verified" in run.reports, run.log
        until(lambda: listens(port), seconds=20)
    assert run.reports["verified"]["proof"] == "listening"
    host.changes |= {**restart(f"exec {PYTHON} many.py 127.0.0.1:{port}"), "hook_seconds": 2}
    assert f"[0000:0000:0000:0000:0000:0000:0000:0001]:{port + OTHER}" in reason(host.deploy(THIRD, THIRD_RELEASE)) or (
        f"[::1]:{port + OTHER}" in reason(host.finish(host.started[-1], THIRD))
    )


def test_port_that_the_kernel_chooses_each_time_need_not_be_the_same(host: Host) -> None:
    for deployment, release in ((FIRST, OLD), (SECOND, NEW), (THIRD, THIRD_RELEASE)):
        host.changes |= {**serve(0), "hook_seconds": 20}
        run = host.deploy(deployment, release)
        assert "verified" in run.reports, run.log


def test_two_releases_on_one_port_by_reuseport_are_proven_by_the_new_one(host: Host, port: int) -> None:
    text = (
        "import socket, sys\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        f"s.bind(('0.0.0.0', {port}))\ns.listen(5)\nwhile True: s.accept()[0].close()\n"
    )
    host.tree["reuse.py"] = text
    start = f"exec {PYTHON} reuse.py"
    host.changes |= {**restart(start), "hook_seconds": 20}
    assert "verified" in host.deploy(FIRST, OLD).reports
    old = host.app
    try:
        # The new one is up before the old one ends.
        both = f"{start} & new=$!; sleep 0.5; kill {old}; echo $new >../../shared/app.pid"
        host.changes |= {"restart": command(both)}
        run = host.deploy(SECOND, NEW)
        assert run.reports["verified"]["proof"] == "listening", run.log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(old, signal.SIGKILL)


def test_batch_that_never_listens_is_proven_by_its_process(host: Host) -> None:
    for deployment, release in ((FIRST, OLD), (SECOND, NEW)):
        host.changes |= restart("exec sleep 600")
        run = host.deploy(deployment, release)
        assert run.reports["verified"]["proof"] == "process", run.log


def test_batch_master_with_a_child_for_each_job_is_proven_by_itself(host: Host) -> None:
    """As resque's: each child ends after its job, and another one begins."""
    host.tree["jobs.py"] = (
        "import os, time\n"
        "while True:\n"
        "    if os.fork() == 0:\n        time.sleep(0.3)\n        os._exit(0)\n"
        "    os.wait()\n"
    )
    host.changes |= {**restart(f"exec {PYTHON} jobs.py"), "stable_seconds": 2, "hook_seconds": 15}
    for deployment, release in ((FIRST, OLD), (SECOND, NEW)):
        run = host.deploy(deployment, release)
        assert run.reports["verified"]["proof"] == "process", run.log


def test_process_in_a_network_namespace_of_its_own_is_proven_by_what_it_holds(host: Host, port: int) -> None:
    # An ordinary user may have one only in a user namespace of their own.
    unshare = "unshare --net" if os.geteuid() == 0 else "unshare --user --map-root-user --net"
    inside = f"exec {unshare} sh -c 'ip link set lo up 2>/dev/null; exec {PYTHON} server.py {port} 0 600'"
    host.changes |= {**restart(inside), "hook_seconds": 20}
    for deployment, release in ((FIRST, OLD), (SECOND, NEW)):
        run = host.deploy(deployment, release)
        assert "verified" in run.reports, run.log
    host.changes |= {**restart("exec sleep 600"), "hook_seconds": 2}
    assert str(port) in reason(host.deploy(THIRD, THIRD_RELEASE))


# what has died since


def look(host: Host, deployment: str, release: str, seconds: int = 3) -> str:
    """What receive.sh runs every minute."""
    assert (host.deploy_to / ".deploytool/kit/look").is_file()
    done = subprocess.run(
        ["sh", "-c", 'sh "$0" "$1"', host.deploy_to / ".deploytool/kit/look", host.key("serving/web/app1").read_text()],
        env={**host.environment, "DEPLOYTOOL_LOOK_SECONDS": str(seconds)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout


def test_release_that_died_after_its_proof_is_told_and_told_again_when_it_is_back(host: Host, port: int) -> None:
    first(host, port)
    assert look(host, FIRST, OLD) == ""
    assert word(host)["verified"] is True
    os.kill(host.app, signal.SIGKILL)
    look(host, FIRST, OLD)
    assert word(host)["verified"] is False
    assert "does not run" in str(word(host)["reason"])
    assert "not undone" in host.reports(FIRST)["failed"]["reason"]
    said = host.key("serving/web/app1").read_text()
    look(host, FIRST, OLD)
    assert host.key("serving/web/app1").read_text() == said
    subprocess.run(
        ["sh", "-c", f"{PYTHON} server.py {port} 0 600 >/dev/null 2>&1 & echo $! >../../shared/app.pid"],
        cwd=host.deploy_to / "current",
        check=True,
    )
    until(lambda: listens(port), seconds=20)
    look(host, FIRST, OLD)
    assert word(host)["verified"] is True
    assert "reason" not in word(host)


def test_process_that_listens_no_more_is_told(host: Host, port: int) -> None:
    first(host, port)
    look(host, FIRST, OLD)
    os.kill(host.app, signal.SIGKILL)
    sleeping = subprocess.Popen(["sleep", "600"], cwd=host.deploy_to / "releases" / OLD)
    try:
        (host.deploy_to / "shared/app.pid").write_text(f"{sleeping.pid}\n")
        look(host, FIRST, OLD)
        assert str(port) in str(word(host)["reason"])
    finally:
        sleeping.kill()
        sleeping.wait()


def test_release_that_dies_while_its_rollout_is_open_goes_back(host: Host, port: int) -> None:
    first(host, port)
    host.changes |= serve(port)
    host.put("wanted/web", f"{FIRST} file:///somewhere")
    host.put("wanted/web/app1", f"{SECOND} file:///somewhere")
    host.go(SECOND, "only app1")
    assert "verified" in host.run(SECOND, NEW).reports
    os.kill(host.app, signal.SIGKILL)
    look(host, SECOND, NEW)
    assert host.current == f"releases/{OLD}"
    assert (word(host)["release"], word(host)["verified"]) == (OLD, True)
    assert f"put back to {OLD}, which is proven to serve again" in host.reports(SECOND)["failed"]["reason"]
    assert listens(port)
    # And it is looked after as before.
    os.kill(host.app, signal.SIGKILL)
    look(host, FIRST, OLD)
    assert word(host)["verified"] is False


def test_look_says_nothing_of_a_release_that_never_was_verified(host: Host, port: int) -> None:
    first(host, port)
    said = word(host) | {"verified": False}
    host.put("serving/web/app1", json.dumps(said))
    look(host, FIRST, OLD)
    assert word(host)["verified"] is False


def test_look_leaves_a_host_alone_at_which_a_deployment_is_at_work(host: Host, port: int) -> None:
    first(host, port)
    os.kill(host.app, signal.SIGKILL)
    lock = host.deploy_to / ".deploytool/lock"
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    lock.symlink_to(f"{os.getpid()}:{stat[19]}:{boot}:{SECOND}")
    look(host, FIRST, OLD)
    assert word(host)["verified"] is True


def test_look_script_is_that_of_the_manifest(host: Host, port: int) -> None:
    first(host, port)
    kept = (host.deploy_to / ".deploytool/kit/look").read_text()
    assert kept == look_script(host.manifest(FIRST, OLD)) + "\n"


# neither busy nor in the middle of something is a death

#: Serves one request at a time, which takes a while.
ONE_AT_A_TIME = """
import socket, sys, time
place = sys.argv[1]
if place.isdigit():
    server = socket.create_server(("0.0.0.0", int(place)), backlog=128)
else:
    server = socket.socket(socket.AF_UNIX)
    import os
    if os.path.lexists(place): os.unlink(place)
    server.bind(place)
    server.listen(128)
while True:
    connection = server.accept()[0]
    time.sleep(1)
    connection.close()
"""

#: Opens a port on USR1, as a debugger does or a browser for a job, and closes it on USR2.
JOB = """
import signal, socket, sys, time
held = []
signal.signal(signal.SIGUSR1, lambda *_: held.append(socket.create_server(("127.0.0.1", int(sys.argv[1])))))
signal.signal(signal.SIGUSR2, lambda *_: held.pop().close())
while True: time.sleep(1)
"""

#: Its workers take connections and end after a while, one after the other, and others take their place.
RECYCLES = """
import os, socket, sys, time
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
def work(lives):
    pid = os.fork()
    if pid: return pid
    began = time.monotonic()
    server.settimeout(0.1)
    while time.monotonic() - began < lives:
        try: server.accept()[0].close()
        except TimeoutError: pass
    os._exit(0)
for lives in (3, 4.5, 6): work(lives)
while True:
    os.wait()
    work(6)
"""

#: Runs another program again and again, as for pictures.
HELPERS = """
import socket, subprocess, sys, threading, time
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
def convert():
    while True: subprocess.run(["sleep", "0.3"], cwd="/")
threading.Thread(target=convert, daemon=True).start()
while True: server.accept()[0].close()
"""


@contextlib.contextmanager
def clients(place: int | str) -> Iterator[None]:
    """Eight who wait for an answer, always."""
    text = (
        "import socket, sys, threading, time\nplace = sys.argv[1]\ndef ask():\n    while True:\n        try:\n"
        "            family = socket.AF_INET if place.isdigit() else socket.AF_UNIX\n"
        "            with socket.socket(family) as asks:\n"
        "                asks.connect(('127.0.0.1', int(place)) if place.isdigit() else place)\n"
        "                asks.recv(1)\n"
        "        except OSError: time.sleep(0.05)\n"
        "for _ in range(8): threading.Thread(target=ask, daemon=True).start()\ntime.sleep(600)\n"
    )
    asking = subprocess.Popen([sys.executable, "-c", text, str(place)])
    try:
        yield
    finally:
        asking.kill()
        asking.wait()


@pytest.mark.parametrize("kind", ["port", "unix socket"])
def test_busy_server_whose_queue_is_never_empty_is_verified_and_not_called_dead(
    host: Host, port: int, kind: str
) -> None:
    host.tree["busy.py"] = ONE_AT_A_TIME
    place: int | str = port if kind == "port" else f"{host.deploy_to}/shared/busy.sock"
    host.changes |= {**restart(f"exec {PYTHON} busy.py {place}"), "stable_seconds": 2, "hook_seconds": 60}
    assert "verified" in host.deploy(FIRST, OLD).reports
    with clients(place):
        run = host.deploy(SECOND, NEW)
        assert "verified" in run.reports, run.log
        assert run.reports["verified"]["proof"] == "listening"
        look(host, SECOND, NEW, seconds=20)
        assert word(host)["verified"] is True


def test_thousands_of_closed_connections_on_its_port_do_not_hide_a_server(host: Host, port: int) -> None:
    first(host, port)
    for _ in range(4000):
        # The server closes first: its port keeps these for a minute.
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.recv(1)
    run = host.deploy(SECOND, NEW)
    assert "verified" in run.reports, run.log
    look(host, SECOND, NEW)
    assert word(host)["verified"] is True


@pytest.mark.parametrize("kind", ["the kernel's", "its own"])
def test_port_that_a_worker_has_for_a_job_is_not_asked_for_when_the_job_is_over(
    host: Host, port: int, kind: str
) -> None:
    host.tree["job.py"] = JOB
    if kind == "its own":
        # It is known for another port.
        host.tree["job.py"] = (
            f"import socket\nserver = socket.create_server(('127.0.0.1', {port + OTHER}))\n"
            + JOB.replace("while True: time.sleep(1)", "while True:\n    server.accept()[0].close()")
        )
    start = restart(f"exec {PYTHON} job.py {0 if kind != 'its own' else port}")
    host.changes |= {**start, "stable_seconds": 2, "hook_seconds": 10}
    assert "verified" in host.deploy(FIRST, OLD).reports
    os.kill(host.app, signal.SIGUSR1)
    time.sleep(0.5)
    look(host, FIRST, OLD)
    os.kill(host.app, signal.SIGUSR2)
    time.sleep(0.5)
    look(host, FIRST, OLD)
    assert word(host)["verified"] is True
    os.kill(host.app, signal.SIGUSR1)
    time.sleep(0.5)
    run = host.deploy(SECOND, NEW)
    assert "verified" in run.reports, run.log


def test_workers_that_end_after_so_many_requests_are_no_crash(host: Host, port: int) -> None:
    host.tree["recycles.py"] = RECYCLES
    host.changes |= {**restart(f"exec {PYTHON} recycles.py {port}"), "stable_seconds": 4, "hook_seconds": 30}
    run = host.deploy(FIRST, OLD)
    assert run.reports["verified"]["proof"] == "listening", run.log


def test_programs_that_a_server_runs_for_its_requests_are_no_workers(host: Host, port: int) -> None:
    host.tree["helpers.py"] = HELPERS
    host.changes |= {**restart(f"exec {PYTHON} helpers.py {port}"), "stable_seconds": 3, "hook_seconds": 20}
    run = host.deploy(FIRST, OLD)
    assert run.reports["verified"]["proof"] == "listening", run.log


def start_look(host: Host, seconds: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            "sh",
            "-c",
            'sh "$0" "$1"; exit 0',
            host.deploy_to / ".deploytool/kit/look",
            host.key("serving/web/app1").read_text(),
        ],
        env={**host.environment, "DEPLOYTOOL_LOOK_SECONDS": str(seconds)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_deployment_during_a_look_has_the_last_word(host: Host, port: int) -> None:
    """The look has seen the release die that this deployment replaces."""
    first(host, port)
    os.kill(host.app, signal.SIGKILL)
    looks = start_look(host, 40)
    time.sleep(1)
    assert "verified" in host.deploy(SECOND, NEW).reports
    said = word(host)
    assert looks.poll() is None
    looks.wait(120)
    assert word(host) == said


def test_two_looks_at_once_go_back_once(host: Host, port: int) -> None:
    first(host, port)
    host.put("wanted/web", f"{FIRST} file:///somewhere")
    host.put("wanted/web/app1", f"{SECOND} file:///somewhere")
    host.go(SECOND, "only app1")
    assert "verified" in host.run(SECOND, NEW).reports
    os.kill(host.app, signal.SIGKILL)
    for looks in [start_look(host, seconds) for seconds in (2, 10)]:
        looks.wait(60)
    assert host.current == f"releases/{OLD}"
    assert (word(host)["release"], word(host)["verified"]) == (OLD, True)
    assert (host.deploy_to / ".deploytool/kit/target").read_text() == f"releases/{OLD}"


@pytest.mark.parametrize("when", ["switch", "current"])
def test_way_back_that_is_killed_in_the_middle_is_gone_to_its_end_and_told(host: Host, port: int, when: str) -> None:
    first(host, port)
    host.put("wanted/web", f"{FIRST} file:///somewhere")
    host.put("wanted/web/app1", f"{SECOND} file:///somewhere")
    host.go(SECOND, "only app1")
    assert "verified" in host.run(SECOND, NEW).reports
    os.kill(host.app, signal.SIGKILL)
    looks = start_look(host, 1)
    until(host.has_switch_record if when == "switch" else lambda: host.current == f"releases/{OLD}", seconds=30)
    os.killpg(looks.pid, signal.SIGKILL)
    looks.wait()
    # What receive.sh starts, as there is a record of a switch.
    assert host.has_switch_record()
    host.run(SECOND, NEW)
    assert host.current == f"releases/{OLD}"
    assert (word(host)["release"], word(host)["verified"]) == (OLD, True)
    assert "is proven to serve again" in host.reports(SECOND)["failed"]["reason"]
    assert (host.deploy_to / ".deploytool/kit/target").read_text() == f"releases/{OLD}"
    assert not host.has_switch_record()


def test_canary_that_boots_for_a_while_after_a_restart_by_hand_does_not_go_back(host: Host, port: int) -> None:
    first(host, port)
    host.changes |= {**serve(port, boots=8), "hook_seconds": 60}
    host.put("wanted/web", f"{FIRST} file:///somewhere")
    host.put("wanted/web/app1", f"{SECOND} file:///somewhere")
    host.go(SECOND, "only app1")
    assert "verified" in host.run(SECOND, NEW).reports
    os.kill(host.app, signal.SIGKILL)
    subprocess.run(
        ["sh", "-c", f"{PYTHON} server.py {port} 8 600 >/dev/null 2>&1 & echo $! >../../shared/app.pid"],
        cwd=host.deploy_to / "current",
        check=True,
    )
    look(host, SECOND, NEW)
    assert host.current == f"releases/{NEW}"
    assert word(host)["verified"] is True
    assert listens(port)
