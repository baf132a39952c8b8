"""What a worker and its operator say to each other, as both ends know it: a class for each thing with fields of its
own, which are those of the JSON. See `shapes`, which holds both ends to it.
"""

from __future__ import annotations

from typing import Any, Dict, List, Literal, Mapping, NamedTuple, Optional


class Done(NamedTuple):
    """Nothing else is to be said."""


#: those of deploytool.errors
Kind = Literal["bug", "usage", "locked", "step", "connection", "store", "consul", "interrupted"]


class Trouble(NamedTuple):
    """A failure."""

    kind: Kind
    message: str
    tail: List[str]
    hint: Optional[str]


# --- how the line begins


class Credentials(NamedTuple):
    access_key: str
    secret_key: str
    token: Optional[str]


class StoreSettings(NamedTuple):
    url: str
    endpoint_url: Optional[str]
    region: Optional[str]
    #: None: the build server's own
    credentials: Optional[Credentials]
    #: of the build server's AWS configuration
    profile: Optional[str] = None
    #: path or virtual; None: path with an endpoint_url
    addressing: Optional[str] = None
    #: whether whoever asks pays
    requester_pays: bool = False
    #: what each object is written with, by boto3's names
    written_with: Optional[Dict[str, Any]] = None


class ConsulSettings(NamedTuple):
    """As `settings.consul`; paths are of the build server."""

    address: Optional[str]
    token_file: Optional[str] = None
    ca_file: Optional[str] = None
    ca_path: Optional[str] = None
    client_cert: Optional[str] = None
    client_key: Optional[str] = None
    tls_server_name: Optional[str] = None
    datacenter: Optional[str] = None
    namespace: Optional[str] = None
    #: what starts the built-in receiver of pretend hosts
    receiver: Optional[List[str]] = None


class Greeting(NamedTuple):
    """The settings of a run."""

    root: str
    application: str
    environment: str
    store: StoreSettings
    consul: ConsulSettings
    secrets: List[str]
    operator: str
    purpose: str
    read_only: bool
    #: as `build.compression`
    compression: str


class Compressor(NamedTuple):
    """What compresses archives on the build server. Its name decides their bytes, and is an input of every build."""

    #: with its version, as in "python-isal 1.7.2"
    name: str
    #: False: the worker installs it before the first build
    ready: bool
    #: if it stands in for the worker's own: why, what follows from that, and what to do
    warning: Optional[str]


class Hello(NamedTuple):
    """Who answers, and where. `compressor` is the one that a build would use."""

    root: str
    python: str
    executable: str
    host: str
    user: str
    pid: int
    #: by the build server's clock, in seconds since 1970
    time: float
    compressor: Compressor


# --- the build server


class Holder(NamedTuple):
    """What a lock's file says of who holds it, and the same in words; None if it is free."""

    holder: Optional[Dict[str, Any]]
    sentence: Optional[str]


class Waiting(NamedTuple):
    """Who holds the lock that is waited for, in words."""

    waiting: str


class Broken(NamedTuple):
    """Who held the lock, in words."""

    ended: Optional[str]


class LogFile(NamedTuple):
    log: str


class Line(NamedTuple):
    """The last line of a step's output so far."""

    line: str


class StepEnd(NamedTuple):
    #: 128 + the signal's number for one that was killed
    exit_code: int
    #: what the script wrote to file descriptor 3, in lines
    results: List[str]
    #: the last lines of output, long ones cut
    tail: List[str]
    timed_out: bool
    #: the log's path; None without a log
    log: Optional[str]


class Demand(NamedTuple):
    """A directory that an archive needs where one of the lock files is, unless one of the other files is there."""

    directory: str
    locks: List[str]
    unless: List[str]


class Hidden(NamedTuple):
    """What lies where hosts put a link: how many files the build made there, how many are the revision's, a few
    names."""

    made: int
    made_names: List[str]
    ours: int
    ours_names: List[str]


class LockFile(NamedTuple):
    """A lock file in the application's directory."""

    path: str
    sha256: str
    #: None: it is too large, or not UTF-8
    text: Optional[str]


class Packed(NamedTuple):
    checksum: str
    size_bytes: int
    unpacked_bytes: int
    #: linked path → what it would hide
    links: Dict[str, Hidden]
    #: those that were asked for and are there
    lock_files: List[LockFile]


class Unpacked(NamedTuple):
    directory: str


class Freed(NamedTuple):
    removed: List[str]
    freed_bytes: int


# --- what `check` finds


class Finding(NamedTuple):
    """What was tried, and either what was found, in words, or the failure."""

    name: str
    found: Optional[str]
    failure: Optional[Trouble]


class Findings(NamedTuple):
    findings: List[Finding]


# --- the store


class Content(NamedTuple):
    """The text of a key; None if there is none."""

    content: Optional[str]


class Contents(NamedTuple):
    contents: Dict[str, Optional[str]]


class Exists(NamedTuple):
    exists: bool


class Digest(NamedTuple):
    """What stands at a key; None if nothing does."""

    sha256: Optional[str]
    size_bytes: int


class Existed(NamedTuple):
    """Those keys of what was to be written that were there already, and stay as they are."""

    existed: List[str]


class Keys(NamedTuple):
    keys: List[str]


class Names(NamedTuple):
    names: List[str]


class Newest(NamedTuple):
    """Keys, whether these are all that there are, and the texts of the newest of them."""

    keys: List[str]
    whole: bool
    contents: Dict[str, Optional[str]]


class BuiltRecord(NamedTuple):
    """The release that a record for reuse names, the text of that one's own record, and its keys."""

    release: Optional[str]
    record: Optional[str]
    keys: List[str]


class Deleted(NamedTuple):
    deleted: int


class RemovedUploads(NamedTuple):
    removed: List[str]
    #: a right that is missing for it
    trouble: Optional[str]


# --- the bus


class Selector(NamedTuple):
    """What chooses a role's hosts, as in `roles.….hosts`: the first that is there."""

    nodes: Optional[List[str]] = None
    service: Optional[str] = None
    node_meta: Optional[Dict[str, str]] = None


class Target(NamedTuple):
    """A role of a deployment, and the hosts that are to hear of it."""

    role: str
    #: the event's name
    event: str
    #: of the manifest that is wanted of the role
    url: str
    #: of the manifest that the event carries
    payload: str
    #: none: no event is fired
    hosts: List[str]
    #: hosts that run the release by a deployment of their own, which stays wanted of them
    spared: List[str]


class Signed(NamedTuple):
    """What names the manifests that hosts may run, each text with its line's end; see `trust/statement.py`."""

    statement: str
    #: None: the settings name no signers
    signature: Optional[str]


class Question(NamedTuple):
    """A probe of a role's hosts: a manifest that changes nothing and only answers."""

    role: str
    event: str
    key: str
    manifest: str
    url: str
    hosts: List[str]
    #: what the manifest has hosts fetch, and its key; empty: nothing
    archive: str
    archive_key: str


class Answers(NamedTuple):
    """role → host → what it says; and role → why its event could not be fired"""

    answers: Dict[str, Dict[str, str]]
    failures: Dict[str, Trouble]


#: what hosts report of themselves; see `deploytool.model.fleet.State`
STATES = ("fetched", "activated", "verified", "failed", "aborted", "superseded")


class Report(NamedTuple):
    role: str
    host: str
    state: str
    value: str
    #: greater for what was written later, by whichever host
    written: int


class Word(NamedTuple):
    """A host's last word on what it serves; whether it serves the release by this deployment, verified."""

    role: str
    host: str
    value: str
    agrees: bool


class Words(NamedTuple):
    words: List[Word]


class Reports(NamedTuple):
    """New or changed reports of hosts, and the last words of those that reported verified; or why none can be had for
    the moment."""

    reports: List[Report]
    words: List[Word]
    trouble: Optional[str]


class Role(NamedTuple):
    """The hosts of a role, by name, and what Consul has of them: values as they stand there."""

    up: List[str]
    down: List[str]
    #: of the role as a whole: `<deployment> <manifest URL>`
    wanted: Optional[str]
    #: the same of single hosts
    exceptions: Dict[str, str]
    #: each host's last word
    serving: Dict[str, str]
    #: deployment → the word at its barrier
    go: Dict[str, str]


class Roles(NamedTuple):
    roles: Dict[str, Role]


class Freeze(NamedTuple):
    why: str
    operator: str
    at: str

    @property
    def words(self) -> str:
        """Who froze it, since when and why, as the rest of a sentence."""
        return "frozen by {} since {}: {}".format(self.operator, self.at, self.why)


class Frozen(NamedTuple):
    """None if the environment is not frozen."""

    frozen: Optional[Freeze]


class Thawed(NamedTuple):
    """What it was; None if it was not frozen."""

    was: Optional[Freeze]


class Announced(NamedTuple):
    """The freeze that it passed, if any, and what is to be noted of hosts' reports."""

    frozen: Optional[Freeze]
    note: Optional[str]


class Removed(NamedTuple):
    """The deployments whose keys are gone, and what is to be noted of hosts' reports."""

    removed: List[str]
    note: Optional[str]


class LetGo(NamedTuple):
    """Whether hosts had been let go before; None if that is unknown."""

    let_go: Optional[bool]


#: request → the class of its answer
ANSWERS: Mapping[str, Any] = {
    "hello": Hello,
    "lock": Done,
    "release_lock": Done,
    "lock_holder": Holder,
    "break_lock": Broken,
    "name_log": LogFile,
    "run": StepEnd,
    "cancel": Done,
    "install_compressor": Compressor,
    "publish_archive": Packed,
    "unpack_release": Unpacked,
    "remove_unpacked": Done,
    "prune_build_server": Freed,
    "check_store": Findings,
    "check_consul": Findings,
    "store_get": Content,
    "store_read": Contents,
    "store_exists": Exists,
    "store_digest": Digest,
    "store_put": Existed,
    "store_list": Keys,
    "store_directories": Names,
    "store_newest": Newest,
    "store_built": BuiltRecord,
    "store_delete": Deleted,
    "prune_uploads": RemovedUploads,
    "status": Roles,
    "frozen": Frozen,
    "freeze": Frozen,
    "thaw": Thawed,
    "prune_keys": Removed,
    "probe_hosts": Answers,
    "publish": Done,
    "announce": Announced,
    "watch": Done,
    "end_watch": Done,
    "last_words": Words,
    "go": Done,
    "halt": Done,
    "settle": Done,
    "abort": LetGo,
}

#: request → the class of what is told meanwhile
EVENTS: Mapping[str, Any] = {"lock": Waiting, "run": Line, "watch": Reports}
