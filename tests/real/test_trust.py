"""What a host runs was signed by somebody who may deploy there: attacks with a key each, on real parts.

Gossip is encrypted, ACLs are on and deny by default, and each end has the rights that `fab ENV app-server` prints. app1
and app2 ask for signatures. app3 is a host of before, whose watch hands every event to stretcher: what it does shows
that an attack would do something.
"""

import base64
import gzip
import hashlib
import json
import shlex
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from deploytool.model.release import DeploymentId, sha256
from deploytool.playground.host import receive_command
from deploytool.text import ids
from deploytool.trust.statement import statement
from tests.support import gossip
from tests.support.guarded import Guarded
from tests.support.project import TINY, Project
from tests.support.waiting import until
from tests.support.waves import AFFECTED

GOSSIP_KEY = base64.b64encode(bytes(range(32))).decode()
HOSTS = ("app1", "app2", "app3")
#: those that ask for signatures
ASKING = ("app1", "app2")


class Encrypted(Guarded):
    """And the gossip has a key."""

    def _consul_config(self, node: str, data_dir: Path) -> str:
        config = json.loads(super()._consul_config(node, data_dir))
        return json.dumps({**config, "encrypt": GOSSIP_KEY})


def new_key(path: Path, passphrase: str = "") -> str:
    """Make a key there; returns its public half, without a comment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    with Encrypted(tmp_path_factory.mktemp("trust") / "state", (TINY,)) as running:
        yield running


class Trusting(Project):
    """A project whose deployments alice signs; bob may deploy to staging alone."""

    playground: Encrypted
    #: what was wanted before an attack
    before = ""

    def __init__(self, guarded: Encrypted, directory: Path) -> None:
        super().__init__(guarded, directory)
        self.keys = {name: directory / "keys" / name for name in ("alice", "bob", "mallory")}
        self.publics = {name: new_key(path) for name, path in self.keys.items()}
        self.name_signers(
            f"alice@example.org {self.publics['alice']}", f"bob@example.org:staging {self.publics['bob']}"
        )
        (self.directory / "config/staging.yml").write_text("")
        (directory / "token").write_text(guarded.token("build_server") + "\n")
        self.settings["consul"]["token_file"] = str(directory / "token")
        self.settings["trust"] = {"signers": "config/signers", "key": str(self.keys["alice"])}
        # What is shown of web is shown of all roles.
        del self.settings["roles"]["batch"]
        self.write()
        self.write("staging")
        self.install()

    def name_signers(self, *lines: str) -> None:
        (self.directory / "config/signers").write_text("\n".join(["# who may deploy", *lines, ""]))

    def install(self) -> None:
        """What `app-server` prints, where it is installed; app3 stays as it was."""
        made = self.directory / "made"
        done = self.fab("playground", "app-server", "--role", "web", "--node", "app1", "--output", str(made))
        assert done.code == 0, done.err
        text = (made / "root/etc/deploytool/tiny/playground.signers").read_text()
        for host in HOSTS:
            place = self.playground.host_directory(host) / "signers"
            place.write_text(text)
            seen = str(self.playground.host_home / "signers") if host in ASKING else "-"
            self.playground.watch(host, "tiny", "web", "playground", seen)
        until(lambda: all(self.is_watched(host) for host in HOSTS), "the watches are as they are to be")

    def is_watched(self, host: str) -> bool:
        said = self.playground.watch_of(host)
        return ("receive.sh" in said) == (host in ASKING) and ("signers" in said) == (host in ASKING)

    def log_of(self, host: str) -> str:
        return (self.playground.host_directory(host) / "log/watch-tiny-web-playground.log").read_text()

    def replays(self, host: str) -> int:
        """How often it has heard the bell and found nothing new."""
        return self.log_of(host).count("replay: this host has already switched")

    def have_run(self) -> set[str]:
        """The hosts on which somebody else's manifest has run."""
        return {host for host in HOSTS if (self.playground.host_directory(host) / "owned").exists()}

    def evil(self) -> str:
        """A manifest that nobody has signed: it leaves a file on the host that runs it."""
        path = shlex.quote(str(self.playground.host_home / "owned"))
        return f"commands:\n  pre:\n    - {json.dumps(f'touch {path}')}\n"

    def key(self, name: str) -> str:
        return f"deploytool/tiny/playground/{name}"

    def read(self, name: str) -> str:
        return base64.b64decode(str(self.playground.consul_entries()[self.key(name)])).decode()

    def refusal(self, host: str, deployment: str) -> str:
        """What the host has reported of what it did not run."""
        name = f"reports/web/{host}/{deployment}/failed"
        until(lambda: self.key(name) in self.playground.consul_entries(), f"{host} has said why")
        return str(json.loads(self.read(name))["reason"])

    def put(self, name: str, text: str) -> None:
        self.as_build_server(f"/v1/kv/{self.key(name)}", text)

    def ring(self, payload: str) -> None:
        self.as_build_server("/v1/event/fire/deploy_tiny_web_playground", payload)

    def as_build_server(self, path: str, body: str) -> None:
        """A call with the build server's token, which may write keys and fire events."""
        headers = {"X-Consul-Token": self.playground.token("build_server")}
        address = self.playground.consul_address() + path
        request = urllib.request.Request(address, data=body.encode(), method="PUT", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def forget(self, host: str) -> None:
        """The host becomes one that has just joined."""
        place = self.playground.deploy_to_outside(host, "web", "tiny")
        for name in (".deploytool", "releases", "current"):
            subprocess.run(["rm", "-rf", "--", str(place / name)], check=True)

    def announce_evil(self, signer: str, *, environment: str = "playground", text: str = "") -> str:
        """Write all keys as a deployment does, with what nobody should run; returns the deployment."""
        before = self.read("wanted/web")
        moment = ids.moment_of(before) + timedelta(seconds=1)
        deployment = f"{ids.compact(moment)}evil"
        text = text or self.evil()
        said = statement("tiny", environment, DeploymentId(deployment), [("web", text)])
        place = f"deployments/{deployment}"
        self.put(f"{place}/.manifests/web", text[:-1])
        self.put(f"{place}/.manifests/statement", said[:-1])
        if signer != "nobody":
            sign = ["ssh-keygen", "-Y", "sign", "-f", str(self.keys[signer]), "-n", "deploytool"]
            signature = subprocess.run(sign, input=said, capture_output=True, text=True, check=True).stdout
            self.put(f"{place}/.manifests/signature", signature[:-1])
        self.put(f"{place}/web/go", "go all")
        self.put("wanted/web", f"{deployment} file:///nonexistent#sha256={sha256(said)}")
        self.before = before
        return deployment


@pytest.fixture
def trusting(guarded: Encrypted, tmp_path: Path) -> Iterator[Trusting]:
    guarded.allow_hosts()
    guarded.allow("build_server", guarded.build_server_rules)
    made = Trusting(guarded, tmp_path)
    yield made
    if made.before:
        # Hosts that ask for no signature would run it.
        made.put("wanted/web", made.before)
    for host in HOSTS:
        guarded.watch(host, "tiny", "web", "playground")
        for name in ("owned", "signers"):
            (guarded.host_directory(host) / name).unlink(missing_ok=True)


def nothing_was_run(trusting: Trusting) -> None:
    """On hosts that ask for signatures nobody else's manifest has run; a host of before runs what comes."""
    assert trusting.have_run() <= {"app3"}


def test_fleet_half_of_which_asks_for_signatures_deploys_and_says_which_half(trusting: Trusting) -> None:
    first = trusting.deploy()
    assert set(first.verdicts().values()) == {"verified"}
    trusting.repository.commit({"VERSION": "2"})
    result = trusting.deploy()
    assert set(result.verdicts().values()) == {"verified"}
    assert trusting.fab("playground", "rollback", "--json").code == 0
    status = trusting.fab("playground", "status")
    assert "app3 (web) run whatever an event names" in status.out
    checked = trusting.fab("playground", "check", "--json")
    assert checked.code == 0, checked.out
    lines = {each["name"]: each["text"] for each in checked.json["checks"]}
    assert "it runs whatever an event names" in lines["trust app3 (web)"]
    assert "trust app1 (web)" not in lines
    assert "who may deploy here: alice@example.org" in lines["trust"]
    record = trusting.fab("playground", "releases", "--json")
    assert record.code == 0


def test_event_of_somebody_with_a_seat_in_the_gossip_and_no_token_runs_nothing(trusting: Trusting) -> None:
    trusting.deploy()
    guarded = trusting.playground
    bucket = guarded.bucket
    guarded.s3_client(guarded.owner_keys).put_object(Bucket=bucket, Key="tiny/releases/evil.yml", Body=trusting.evil())
    time = max(event["LTime"] for event in guarded.seen("/v1/event/list")) + 1
    heard = {host: trusting.replays(host) for host in ASKING}
    ports = [guarded.ports[f"{host}-serf_lan"] for host in HOSTS]
    event, url = "deploy_tiny_web_playground", f"s3://{bucket}/tiny/releases/evil.yml"
    gossip.fire(ports, GOSSIP_KEY, event, url, time=time)
    until(lambda: "app3" in trusting.have_run(), "the attack has come to the host of before")
    until(lambda: all(trusting.replays(host) > heard[host] for host in ASKING), "the others have heard the bell")
    nothing_was_run(trusting)
    # A watch of before takes it from its list again and again.
    guarded.s3_client(guarded.owner_keys).delete_object(Bucket=bucket, Key="tiny/releases/evil.yml")
    assert trusting.fab("playground", "status").code == 0


def test_store_rewritten_at_rest_runs_nothing_on_a_host_that_joins_later(trusting: Trusting) -> None:
    trusting.deploy()
    guarded = trusting.playground
    url = trusting.read("wanted/web").split()[1].partition("#")[0]
    key = url.partition(f"{guarded.bucket}/")[2]
    guarded.s3_client(guarded.owner_keys).put_object(Bucket=guarded.bucket, Key=key, Body=trusting.evil())
    for host in HOSTS:
        trusting.forget(host)
        assert guarded.catch_up(host, "web", "tiny").returncode == 0
    nothing_was_run(trusting)
    assert {trusting.current(host) for host in ASKING} == {trusting.current("app1")} != {None}


def test_store_rewritten_between_upload_and_event_runs_nothing(trusting: Trusting) -> None:
    guarded = trusting.playground
    client, over = guarded.s3_client(guarded.owner_keys), threading.Event()
    replaced: list[str] = []

    def replace() -> None:
        while not over.is_set():
            below = "tiny/environments/playground/deployments/"
            found = client.list_objects_v2(Bucket=guarded.bucket, Prefix=below).get("Contents", [])
            for key in {each["Key"] for each in found if each["Key"].endswith(".yml")} - set(replaced):
                client.put_object(Bucket=guarded.bucket, Key=key, Body=trusting.evil())
                replaced.append(key)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        result = trusting.fab("playground", "deploy", "--nodes", ",".join(ASKING), "--json")
    finally:
        over.set()
        thread.join()
    assert result.code == 0, result.err
    assert any(result.json["deployment"] in key for key in replaced)
    nothing_was_run(trusting)


@pytest.mark.parametrize("signer", ["nobody", "mallory", "bob"])
def test_whoever_can_write_the_keys_but_may_not_sign_runs_nothing(trusting: Trusting, signer: str) -> None:
    trusting.deploy()
    before = {host: trusting.current(host) for host in HOSTS}
    deployment = trusting.announce_evil(signer)
    trusting.ring("file:///nonexistent")
    until(lambda: all(f"{deployment}: refused" in trusting.log_of(host) for host in ASKING), "they have refused it")
    nothing_was_run(trusting)
    assert {host: trusting.current(host) for host in HOSTS} == before
    reason = trusting.refusal("app1", deployment)
    assert ("signed by nobody who may deploy to playground" if signer != "nobody" else "signature") in reason


def test_what_alice_signed_for_staging_runs_nothing_in_production(trusting: Trusting) -> None:
    trusting.deploy()
    deployment = trusting.announce_evil("alice", environment="staging")
    trusting.ring("file:///nonexistent")
    until(lambda: f"{deployment}: refused" in trusting.log_of("app1"), "app1 has refused it")
    assert "of another deployment, environment or application" in trusting.log_of("app1")
    nothing_was_run(trusting)


def test_older_deployment_that_alice_signed_runs_nothing_again(trusting: Trusting) -> None:
    trusting.deploy()
    old = trusting.read("wanted/web")
    trusting.repository.commit({"VERSION": "2"})
    trusting.deploy()
    before = {host: trusting.current(host) for host in HOSTS}
    heard = trusting.replays("app1")
    trusting.put("wanted/web", old)
    trusting.ring(old.split()[1])
    until(lambda: trusting.replays("app1") > heard, "app1 has heard it")
    assert {host: trusting.current(host) for host in HOSTS} == before


def test_host_that_has_just_joined_runs_an_older_deployment_that_was_signed(trusting: Trusting) -> None:
    """What signatures do not protect from, as SECURITY.md has it."""
    first, old = trusting.deploy().json["release"], trusting.read("wanted/web")
    trusting.repository.commit({"VERSION": "2"})
    trusting.deploy()
    trusting.before = trusting.read("wanted/web")
    trusting.put("wanted/web", old)
    assert joins_anew(trusting) == first


def test_signed_deployment_that_failed_before_the_switch_goes_on_where_somebody_writes_the_keys(
    trusting: Trusting,
) -> None:
    """Nor from this: the word at the barrier is not signed."""
    trusting.deploy()
    trusting.settings["build"]["migrate"] = "false"
    trusting.write()
    trusting.repository.commit({"VERSION": "2"})
    failed = trusting.fab("playground", "deploy", "--json")
    assert failed.code == 4, failed.err
    deployment = failed.json["deployment"]
    # A host tries one deployment once when its bell rings.
    assert trusting.fab("playground", "deploy", "--json").code == 4
    place = trusting.read("wanted/web").split()[1].partition("#")[0]
    said = trusting.read(f"deployments/{deployment}/.manifests/statement") + "\n"
    trusting.put(f"deployments/{deployment}/web/go", "go all")
    trusting.before = trusting.read("wanted/web")
    trusting.put("wanted/web", f"{deployment} {place}#sha256={sha256(said)}")
    trusting.ring("file:///nonexistent")
    until(lambda: trusting.current("app1") == failed.json["release"], "app1 has gone on")


def test_manifest_in_consul_that_is_not_what_was_signed_is_refused_with_its_sentence(trusting: Trusting) -> None:
    trusting.deploy()
    deployment = trusting.read("wanted/web").split()[0]
    trusting.put(f"deployments/{deployment}/.manifests/web", trusting.evil())
    trusting.forget("app1")
    assert trusting.playground.catch_up("app1", "web", "tiny").returncode == 0
    nothing_was_run(trusting)
    reason = trusting.refusal("app1", deployment)
    assert "the manifest that Consul has for it is another one" in reason
    assert trusting.current("app1") is None


def test_deploy_without_a_key_that_may_sign_changes_nothing(trusting: Trusting) -> None:
    before = trusting.playground.keys_below("deploytool/")
    for name in ("bob", "mallory"):
        trusting.settings["trust"]["key"] = str(trusting.keys[name])
        trusting.write()
        result = trusting.fab("playground", "deploy", "--json")
        assert result.code == 2
        assert "may not deploy to playground" in result.err
    assert trusting.playground.keys_below("deploytool/") == before


def test_release_that_was_rewritten_in_the_store_is_not_signed_for(trusting: Trusting) -> None:
    """Whoever writes archive, record and provenance all alike lacks the key."""
    release = trusting.deploy().json["release"]
    verified = trusting.fab("playground", "releases", "--verify", "--release", release)
    assert (verified.code, "signed by alice@example.org" in verified.out) == (0, True)
    guarded = trusting.playground
    client, below = guarded.s3_client(guarded.owner_keys), f"tiny/releases/{release}/"

    def changed(name: str, change: Callable[[bytes], bytes]) -> bytes:
        found = client.get_object(Bucket=guarded.bucket, Key=below + name)["Body"].read()
        client.put_object(Bucket=guarded.bucket, Key=below + name, Body=(new := change(found)))
        return new

    archive = changed("tiny.tar.gz", lambda _: gzip.compress(b"\0" * 10240))
    digest = hashlib.sha256(archive).hexdigest().encode()
    old = json.loads(client.get_object(Bucket=guarded.bucket, Key=below + "release.json")["Body"].read())
    was = old["checksum"].encode()
    provenance = changed("provenance.json", lambda text: text.replace(was, digest))
    told, tells = old["provenance"].encode(), hashlib.sha256(provenance).hexdigest().encode()
    changed("release.json", lambda text: text.replace(was, digest).replace(told, tells))
    before = {host: trusting.current(host) for host in HOSTS}
    result = trusting.fab("playground", "deploy", "--json")
    assert result.code == 6, result.err
    assert f"the release {release} is not signed by anyone in config/signers, or was changed since" in result.err
    assert {host: trusting.current(host) for host in HOSTS} == before
    verified = trusting.fab("playground", "releases", "--verify", "--release", release)
    assert (verified.code, "not by anyone in config/signers" in verified.out) == (6, True)


def test_release_that_was_replaced_and_whose_signature_was_deleted_is_not_signed_for(trusting: Trusting) -> None:
    """The store's write key is enough for that, and for a record of a version that signed nothing."""
    release = trusting.deploy().json["release"]
    trusting.repository.commit({"VERSION": "2"})
    trusting.deploy()
    guarded = trusting.playground
    client, below = guarded.s3_client(guarded.owner_keys), f"tiny/releases/{release}/"

    def put(name: str, body: bytes) -> None:
        client.put_object(Bucket=guarded.bucket, Key=below + name, Body=body)

    def get(key: str) -> bytes:
        return bytes(client.get_object(Bucket=guarded.bucket, Key=key)["Body"].read())

    good, record = get(f"{below}tiny.tar.gz"), json.loads(get(f"{below}release.json"))
    del record["provenance"]
    evil = gzip.compress(b"\0" * 10240)
    put("tiny.tar.gz", evil)
    replaced = {**record, "checksum": hashlib.sha256(evil).hexdigest(), "size_bytes": len(evil)}
    put("release.json", json.dumps(replaced).encode())
    for name in ("provenance.json", "provenance.json.sig", "sbom.cdx.json"):
        client.delete_object(Bucket=guarded.bucket, Key=below + name)
    before = {host: trusting.current(host) for host in HOSTS}
    for command in (("deploy", "--release", release), ("rollback",)):
        refused = trusting.fab("playground", *command, "--json")
        assert refused.code == 6, refused.err
        assert f"the release {release} is not signed" in refused.err
    assert {host: trusting.current(host) for host in HOSTS} == before
    verified = trusting.fab("playground", "releases", "--verify", "--release", release)
    assert (verified.code, f"{release}: it is not signed by anyone who may deploy" in verified.out) == (6, True)
    # Somebody who knows that it is what was published can say so.
    put("tiny.tar.gz", good)
    put("release.json", json.dumps(record).encode())
    forced = trusting.fab("playground", "rollback", "--force", "compared with the backup", "--json")
    assert (forced.code, "forced: compared with the backup" in forced.err) == (0, True), forced.err
    told = json.loads(get(f"tiny/environments/playground/deployments/{forced.json['deployment']}.json"))
    assert told["forced"] == "compared with the backup"


def test_rollout_of_a_release_that_lost_its_signature_is_not_promoted_but_with_a_reason(trusting: Trusting) -> None:
    trusting.deploy()
    trusting.repository.commit({"VERSION": "2"})
    trusting.settings["rollout"] = {"waves": [1, "100%"], "pause_after": 1}
    trusting.write()
    release = trusting.deploy().json["release"]
    guarded = trusting.playground
    key = f"tiny/releases/{release}/provenance.json.sig"
    guarded.s3_client(guarded.owner_keys).delete_object(Bucket=guarded.bucket, Key=key)
    refused = trusting.fab("playground", "promote", "--json")
    assert (refused.code, f"the release {release} is not signed" in refused.err) == (6, True), refused.err
    assert len({trusting.current(host) for host in HOSTS}) == 2
    forced = trusting.fab("playground", "promote", "--force", "compared with the backup", "--json")
    assert forced.code == 0, forced.err
    assert {trusting.current(host) for host in HOSTS} == {release}


def test_halted_rollout_goes_back_by_a_signature_of_its_own_and_to_nothing_that_nobody_has_signed(
    trusting: Trusting,
) -> None:
    old = trusting.deploy().json["release"]
    trusting.settings["rollout"] = {"waves": [1, 2, "100%"], "on_failure": "rollback"}
    trusting.role("web")["hooks"] = {"post": [AFFECTED]}
    trusting.write()
    affected = trusting.file("app2", "shared/affected")
    affected.touch()
    try:
        trusting.repository.commit({"VERSION": "2"})
        halted = trusting.fab("playground", "deploy", "--json")
        assert halted.code == 8, halted.err
        [undone] = halted.json["rollbacks"]
        assert (undone["release"], undone["exit_code"]) == (old, 0)
        assert {trusting.current(host) for host in HOSTS} == {old}
        assert trusting.read("wanted/web/app1").startswith(undone["deployment"])
        # What the way back was signed for is there for everybody who looks later.
        assert joins_anew(trusting) == old
        guarded = trusting.playground
        key = f"tiny/releases/{old}/provenance.json.sig"
        guarded.s3_client(guarded.owner_keys).delete_object(Bucket=guarded.bucket, Key=key)
        halted = trusting.fab("playground", "deploy", "--json")
        assert (halted.code, halted.json["rollbacks"]) == (8, []), halted.err
        assert any(f"the release {old} is not signed" in why for why in halted.json["not_rolled_back"])
    finally:
        affected.unlink()
    forced = trusting.fab("playground", "rollback", "--force", "compared with the backup", "--json")
    assert (forced.code, {trusting.current(host) for host in HOSTS}) == (0, {old}), forced.err


def test_release_is_not_built_unsigned_because_a_key_has_not_signed(trusting: Trusting) -> None:
    """A key that is not touched, or whose passphrase nobody gives: the next deploy would refuse the release."""
    locked = trusting.keys["alice"].with_name("locked")
    public = new_key(locked, "a passphrase")
    trusting.name_signers(f"alice@example.org {public}", f"bob@example.org:staging {trusting.publics['bob']}")
    trusting.settings["trust"]["key"] = str(locked)
    trusting.write()
    revision = trusting.repository.commit({"VERSION": "by a locked key"})
    for command in ("deploy", "build"):
        failed = trusting.fab("playground", command, "--json")
        assert (failed.code, f"{locked} can't sign" in failed.err) == (2, True), failed.err
    listed = trusting.fab("playground", "releases", "--json").json["releases"]
    assert not [each for each in listed if each["revision"] == revision]
    # A key that may not sign here at all is somebody's who only builds.
    trusting.settings["trust"]["key"] = str(trusting.keys["mallory"])
    trusting.write()
    built = trusting.fab("playground", "build", "--json")
    assert (built.code, "the release is not signed, and a deploy refuses it" in built.err) == (0, True), built.err


def joins_anew(trusting: Trusting, host: str = "app1") -> str | None:
    """The release that a host runs which has just joined, by its timer."""
    trusting.forget(host)
    assert trusting.playground.catch_up(host, "web", "tiny").returncode == 0
    return trusting.current(host)


def test_new_key_of_a_signer_counts_beside_the_old_one_and_then_alone(trusting: Trusting) -> None:
    second = new_key(trusting.keys["alice"].with_name("second"))
    trusting.name_signers(f"alice@example.org {trusting.publics['alice']}", f"alice@example.org {second}")
    trusting.install()
    assert set(trusting.deploy().verdicts().values()) == {"verified"}
    trusting.settings["trust"]["key"] = str(trusting.keys["alice"].with_name("second"))
    trusting.write()
    trusting.repository.commit({"VERSION": "by the second key"})
    release = trusting.deploy().json["release"]
    trusting.name_signers(f"alice@example.org {second}")
    trusting.install()
    assert joins_anew(trusting) == release


def test_what_somebody_signed_who_has_left_is_refused_on_a_host_that_joins_later(trusting: Trusting) -> None:
    deployment = trusting.deploy().json["deployment"]
    trusting.name_signers(f"carol@example.org {trusting.publics['bob']}")
    trusting.install()
    assert joins_anew(trusting) is None
    assert "signed by nobody who may deploy to playground" in trusting.refusal("app1", deployment)
    refused = trusting.fab("playground", "deploy", "--json")
    assert (refused.code, "may not deploy to playground, or its time is over" in refused.err) == (2, True)
    # Whoever is left can't deploy it either, builds it again, and all is well.
    trusting.settings["trust"]["key"] = str(trusting.keys["bob"])
    trusting.write()
    refused = trusting.fab("playground", "deploy", "--json")
    assert (refused.code, "is not signed by anyone in config/signers" in refused.err) == (6, True)
    assert trusting.fab("playground", "deploy", "--rebuild", "--json").code == 0


def test_host_that_joins_after_a_keys_time_is_over_takes_what_was_signed_in_time(trusting: Trusting) -> None:
    over = ids.now() + timedelta(seconds=30)
    until_then = f'valid-before="{over:%Y%m%d%H%M%S}"'
    trusting.name_signers(f"alice@example.org {until_then} {trusting.publics['alice']}")
    trusting.install()
    release = trusting.deploy().json["release"]
    until(lambda: ids.now() > over, "the key's time is over")
    assert joins_anew(trusting) == release
    trusting.repository.commit({"VERSION": "2"})
    refused = trusting.fab("playground", "deploy", "--json")
    assert (refused.code, "may not deploy to playground, or its time is over" in refused.err) == (2, True)


def test_deployment_of_a_deploytool_of_before_comes_only_where_nobody_asks_for_a_signature(trusting: Trusting) -> None:
    document = trusting.deploy().json
    value, _, digest = trusting.read("wanted/web").partition("#sha256=")
    assert digest
    trusting.put("wanted/web", value)
    assert joins_anew(trusting) is None
    assert "does not sign" in trusting.refusal("app1", document["deployment"])
    assert joins_anew(trusting, "app3") == document["release"]


def test_host_without_ssh_keygen_runs_nothing_and_check_says_so(trusting: Trusting) -> None:
    trusting.deploy()
    guarded = trusting.playground
    programs = guarded.host_directory("app1") / "programs"
    programs.mkdir()
    for directory in ("/usr/bin", "/bin", str(guarded.directory / "bin")):
        for each in Path(directory).iterdir():
            if each.name != "ssh-keygen" and not (programs / each.name).is_symlink():
                (programs / each.name).symlink_to(each)
    try:
        with guarded.watching_with("app1", PATH=str(guarded.host_home / "programs")):
            checked = trusting.fab("playground", "check", "--json")
    finally:
        shutil.rmtree(programs)
    lines = {each["name"]: each["text"] for each in checked.json["checks"]}
    assert checked.code == 8
    assert "there is no ssh-keygen here, which checks signatures: install openssh-client" in lines["watch app1 (web)"]


def test_what_was_signed_for_one_host_runs_on_no_other(trusting: Trusting) -> None:
    trusting.deploy()
    before = trusting.current("app2")
    trusting.repository.commit({"VERSION": "for app1 alone"})
    result = trusting.fab("playground", "deploy", "--nodes", "app1", "--json")
    assert result.code == 0, result.err
    trusting.before = trusting.read("wanted/web")
    trusting.put("wanted/web", trusting.read("wanted/web/app1"))
    trusting.ring("file:///nonexistent")
    assert "it was signed for other hosts: app1" in trusting.refusal("app2", result.json["deployment"])
    assert trusting.current("app2") == before


def test_bell_that_is_rung_again_and_check_try_nothing_that_has_failed(trusting: Trusting) -> None:
    """Neither somebody with a seat in the gossip nor `check` begins a deployment."""
    first = trusting.deploy().json["release"]
    tries = trusting.playground.host_directory("app1") / "tries"
    trusting.role("web")["hooks"] = {
        "pre": f"echo >>{shlex.quote(str(trusting.playground.host_home / 'tries'))}; false"
    }
    trusting.write()
    trusting.repository.commit({"VERSION": "2"})
    failed = trusting.fab("playground", "deploy", "--nodes", "app1", "--json")
    assert failed.code == 8
    try:
        heard = trusting.log_of("app1").count("nothing new:")
        trusting.ring("file:///nonexistent")
        until(lambda: trusting.log_of("app1").count("nothing new:") > heard, "it has heard the bell")
        trusting.fab("playground", "check")
        assert tries.read_text() == "\n"
        assert trusting.current("app1") == first
    finally:
        tries.unlink()


def test_host_that_joins_after_a_rollback_downloads_what_the_others_had_kept(trusting: Trusting) -> None:
    first = trusting.deploy().json["release"]
    trusting.repository.commit({"VERSION": "2"})
    trusting.deploy()
    back = trusting.fab("playground", "rollback", "--json")
    assert (back.code, back.json["release"]) == (0, first), back.err
    trusting.forget("app1")
    trusting.playground.restart_watches("app1")
    until(lambda: trusting.current("app1") == first, "its watch has brought it there")
    assert (
        trusting.key(f"reports/web/app1/{back.json['deployment']}/failed") not in trusting.playground.consul_entries()
    )


def test_manifest_that_stretcher_can_not_read_is_no_silence(trusting: Trusting) -> None:
    trusting.deploy()
    deployment = trusting.announce_evil("alice", text="commands: [\n")
    trusting.ring("file:///nonexistent")
    assert "stretcher ended with status 1 before any script" in trusting.refusal("app1", deployment)


def test_old_ssh_keygen_is_said_to_be_old(trusting: Trusting) -> None:
    trusting.deploy()
    guarded = trusting.playground
    place = guarded.host_directory("app1") / "old"
    place.mkdir()
    (place / "ssh-keygen").write_text("#!/bin/sh\necho 'unknown option -- Y' >&2\nexit 1\n")
    (place / "ssh-keygen").chmod(0o755)
    try:
        trusting.forget("app1")
        line = (guarded.host_directory("app1") / "watches/tiny-web-playground").read_text()
        receive = receive_command(line, guarded.host_home, str(guarded.directory / "bin/receive.sh"), "catch-up")
        path = f'PATH="{guarded.host_home}/old:$PATH" exec "$@"'
        done = guarded.run_on_host("app1", ["sh", "-c", path, "old", *receive])
        assert "ssh-keygen is too old to check its signature" in done.stdout
    finally:
        shutil.rmtree(place)
    assert trusting.current("app1") is None


def test_host_that_asks_for_no_signature_runs_what_consul_names_and_nothing_else(trusting: Trusting) -> None:
    release = trusting.deploy().json["release"]
    guarded = trusting.playground
    guarded.watch("app2", "tiny", "web", "playground")
    until(lambda: "receive.sh" in (said := guarded.watch_of("app2")) and "signers" not in said, "app2 asks for none")
    key = trusting.read("wanted/web").split()[1].partition("#")[0].partition(f"{guarded.bucket}/")[2]
    guarded.s3_client(guarded.owner_keys).put_object(Bucket=guarded.bucket, Key=key, Body=trusting.evil())
    heard = trusting.replays("app2")
    trusting.ring(f"s3://{guarded.bucket}/{key}")
    until(lambda: trusting.replays("app2") > heard, "it has heard the bell")
    assert joins_anew(trusting, "app2") == release
    assert "app2" not in trusting.have_run()
    # As SECURITY.md has it: whoever can write the keys is whoever may deploy.
    trusting.announce_evil("nobody")
    trusting.ring("file:///nonexistent")
    until(lambda: "app2" in trusting.have_run(), "it runs what the keys name")
    assert "app1" not in trusting.have_run()
