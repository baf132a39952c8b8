"""What a setting is: its name, type, default and meaning, and the rules that one value alone must keep.

Pure and frozen. Rules between settings are in `checks`; the sentences for wrong types are in `load`. Descriptions are
what `docs/settings.md` and "is missing" problems say.
"""

import difflib
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
)

from deploytool.settings.files import FILL_IN, NAME, NAME_RULE
from deploytool.settings.recipes import RECIPES
from deploytool.text.untrusted import CONTROL

#: Validation context for environments that are only rendered for checking: a value that still holds `${NAME}` or
#: `FILL_IN` keeps it and is not held to its form.
CHECKING_ONLY = "checking_only"

#: A week; larger numbers are slips of the hand, and shells stop counting somewhere.
_LONGEST_SECONDS = 7 * 24 * 3600
_MOST_RELEASES = 10_000

K = TypeVar("K")
V = TypeVar("V")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean x?` for the known word that is closest to `word`; nothing if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def _unresolved(value: object, info: ValidationInfo) -> bool:
    context: object = info.context
    checking_only = isinstance(context, dict) and context.get(CHECKING_ONLY) is True
    if not checking_only or not isinstance(value, str) or _has_control(value):
        # A control character stays there, whatever comes in place of the rest.
        return False
    return "${" in value or FILL_IN in value


def _form(check: Callable[[str], str]) -> AfterValidator:
    """`check` returns the value in its normal form, or raises ValueError with a sentence."""

    def validate(value: str, info: ValidationInfo) -> str:
        return value if _unresolved(value, info) else check(value)

    return AfterValidator(validate)


@dataclass(frozen=True, slots=True)
class Choice(BeforeValidator):
    """One of `words`; the first stands in for what is not known while only checking."""

    words: tuple[str, ...] = ()


def _choice(*words: str) -> Choice:
    def validate(value: object, info: ValidationInfo) -> object:
        if _unresolved(value, info):
            return words[0]
        if isinstance(value, str) and value not in words:
            raise ValueError(f"must be one of {', '.join(words)}.{did_you_mean(value, words)}")
        return value

    return Choice(validate, words=words)


def _tuple_from_list(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _tuple_from_one_or_list(value: object) -> object:
    return (value,) if isinstance(value, str) else _tuple_from_list(value)


def takes_one_or_list(metadata: Iterable[object]) -> bool:
    """Whether a setting with this metadata may be a single text instead of a list."""
    return any(isinstance(each, BeforeValidator) and each.func is _tuple_from_one_or_list for each in metadata)


def _frozen(value: Mapping[K, V]) -> Mapping[K, V]:
    return MappingProxyType(dict(value))


def _as_dict(value: Mapping[K, V]) -> dict[K, V]:
    return dict(value)


def _has_control(value: str) -> bool:
    return CONTROL.search(value) is not None


def _line(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty.")
    if _has_control(value):
        raise ValueError("must not contain line breaks or other control characters.")
    return value


def _command(value: str) -> str:
    if not value.strip():
        raise ValueError("is an empty command. Remove it, or write [] for none.")
    return value


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"is not a valid name: a name {NAME_RULE}.")
    return value


def _git_name(value: str) -> str:
    _line(value)
    if value.startswith("-"):
        raise ValueError("must not start with `-`: git would read it as an option.")
    return value


def _absolute(value: str) -> str:
    _line(value)
    if not value.startswith("/"):
        raise ValueError("must be an absolute path, starting with `/`.")
    if ".." in value.split("/"):
        raise ValueError("must not contain `..`.")
    normal = "/" + posixpath.normpath(value).lstrip("/")
    if normal == "/":
        raise ValueError("must not be the root directory.")
    return normal


def _server_path(value: str) -> str:
    _line(value)
    if value == "~" or value.startswith("~/"):
        if ".." in value.split("/"):
            raise ValueError("must not contain `..`.")
        return posixpath.normpath(value)
    if not value.startswith("/"):
        raise ValueError("must start with `/`, or with `~/` for the home directory on the build server.")
    return _absolute(value)


def _path_entry(value: str) -> str:
    _server_path(value)
    if ":" in value:
        raise ValueError("must not contain `:`, which separates the entries of PATH: write two entries.")
    return value


def _relative(value: str) -> str:
    """A path below a directory: never the directory itself, never outside of it."""
    _line(value)
    if value.startswith("/"):
        raise ValueError("must be a relative path, below the release: remove the leading `/`.")
    if ".." in value.split("/"):
        raise ValueError("must not contain `..`: it must stay inside the release.")
    normal = posixpath.normpath(value)
    if normal == ".":
        raise ValueError("must be a path inside the release, not the release itself.")
    return normal


def _share(value: object) -> object:
    """A number of hosts, or a percentage of them, as text."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not re.fullmatch(r"[1-9][0-9]{0,4}|[1-9][0-9]?%|100%", text):
        raise ValueError("must be a number of hosts, such as 1, or a share of them, such as 25%.")
    return text


def _failures(value: object) -> object:
    """The same, and none."""
    return str(value) if value in (0, "0", "0%") and not isinstance(value, bool) else _share(value)


def _pathspec(value: str) -> str:
    _line(value)
    if value.startswith("/") or ".." in value.split("/"):
        raise ValueError("must be a git pathspec relative to the application's directory, and stay inside it.")
    return value


def _subdirectory(value: str) -> str:
    _line(value)
    if value.startswith("/") or ".." in value.split("/"):
        raise ValueError("must be a relative path inside the repository, without a leading `/` or `..`.")
    return posixpath.normpath(value)


def _pid_file(value: str) -> str:
    return _absolute(value) if value.startswith("/") else _relative(value)


_SERVER = re.compile(
    r"(?:(?P<user>[^\s:/-][^\s:/]*)@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?"
)


def _ssh_server(value: str) -> str:
    found = _SERVER.fullmatch(value)
    if not found or _has_control(value):
        raise ValueError("must look like user@host or user@host:port.")
    if found["port"] is not None and not 1 <= int(found["port"]) <= 65535:
        raise ValueError("has a port that is not between 1 and 65535.")
    return value


def _server(value: str) -> str:
    if value == "local":
        return value
    try:
        return _ssh_server(value)
    except ValueError as error:
        raise ValueError(f"{error} Write local for this machine.") from None


def _gateway(value: str) -> str:
    if value == "local":
        raise ValueError("must look like user@host or user@host:port; remove it if there is no gateway.")
    return _ssh_server(value)


_S3 = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(?P<prefix>/.*)?")


def _store_url(value: str) -> str:
    _line(value)
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in ("s3", "file"):
        raise ValueError("must start with s3:// or file:///, as in s3://bucket/prefix or file:///srv/store.")
    if any(character in rest for character in "?#%"):
        raise ValueError("must not contain `?`, `#` or `%`, which have a meaning in URLs.")
    if ".." in rest.split("/"):
        raise ValueError("must not contain `..`.")
    if scheme == "file":
        if not rest.startswith("/"):
            raise ValueError("must name an absolute directory, with three slashes: file:///srv/store.")
        return f"file://{_absolute(rest)}"
    if not _S3.fullmatch(value):
        raise ValueError(
            "must look like s3://bucket/prefix; the bucket's name has 2 to 63 letters, digits, `.` or `-`."
        )
    return value.rstrip("/")


def _http_url(value: str) -> str:
    _line(value)
    if not re.fullmatch(r"https?://[^\s/?#][^\s?#]*", value):
        raise ValueError("must look like http://host:port or https://host.")
    _check_authority(value)
    return value.rstrip("/")


def _hosts_url(value: str) -> str:
    if "?" in value or "#" in value:
        raise ValueError("must not contain `?` or `#`: hosts append the names of objects.")
    url = _http_url(value)
    if "@" in urlsplit(url).netloc:
        raise ValueError(
            "must not contain a user: every manifest contains this URL. Let the gateway recognise hosts another way."
        )
    return url


def _check_authority(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        # urllib's own words are about the port, or about the brackets of an IPv6 address.
        what = "port that is not between 1 and 65535" if "Port" in str(error) else "host that is not valid"
        raise ValueError(f"has a {what}.") from None
    if port == 0:
        raise ValueError("has a port that is not between 1 and 65535.")
    if not parts.hostname:
        raise ValueError("has no host: it must look like http://host:port or https://host.")


def _webhook(value: str) -> str:
    _line(value)
    if not re.fullmatch(r"https?://[^\s/?#]+(?:[/?]\S*)?", value):
        raise ValueError("must look like https://host/path.")
    _check_authority(value)
    return value


def _consul_address(value: str) -> str:
    if value.startswith("file:///"):
        return f"file://{_absolute(value.removeprefix('file://'))}"
    if not value.startswith(("http://", "https://")):
        raise ValueError("must look like http://host:port, or file:///directory for pretend hosts on one machine.")
    return _http_url(value)


def _verify_url(value: str) -> str:
    _line(value)
    if not value.startswith(("http://", "https://", "{")):
        raise ValueError("must start with http:// or https://.")
    if "{" not in value:
        _check_authority(value)
    return value


def _port(value: object, info: ValidationInfo) -> object:
    if _unresolved(value, info):
        # Any does while only checking.
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError("must be a port: a number between 1 and 65535.")
    return value


def _word(value: str) -> str:
    """A name of Consul's or AWS's: goes into queries and keys."""
    _line(value)
    if re.search(r"[\s/]", value):
        raise ValueError("must not contain spaces or `/`.")
    return value


def _algorithm_alone(value: object) -> object:
    return {"algorithm": value} if isinstance(value, str) else value


def _storage_class(value: str) -> str:
    if value.upper() in ("GLACIER", "DEEP_ARCHIVE"):
        raise ValueError("can't be an archive class: hosts read a release at once. GLACIER_IR allows that.")
    return _word(value)


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("is not a variable's name: use letters, digits and `_`, and no digit at the start.")
    return value


def _between(least: int, most: int) -> AfterValidator:
    def validate(value: int) -> int:
        if not least <= value <= most:
            raise ValueError(f"must be between {least} and {most}.")
        return value

    return AfterValidator(validate)


Line = Annotated[str, _form(_line)]
Word = Annotated[str, _form(_word)]
Absolute = Annotated[str, _form(_absolute)]
ServerPath = Annotated[str, _form(_server_path)]
Relative = Annotated[str, _form(_relative)]
HttpUrl = Annotated[str, _form(_http_url)]
Seconds = Annotated[int, _between(1, _LONGEST_SECONDS)]
KeepReleases = Annotated[int, _between(1, _MOST_RELEASES)]
Commands = Annotated[tuple[Annotated[str, _form(_command)], ...], BeforeValidator(_tuple_from_one_or_list)]
RelativePaths = Annotated[tuple[Relative, ...], BeforeValidator(_tuple_from_list)]
Shares = Annotated[tuple[Annotated[str, BeforeValidator(_share)], ...], BeforeValidator(_tuple_from_list)]
Pathspecs = Annotated[tuple[Annotated[str, _form(_pathspec)], ...], BeforeValidator(_tuple_from_list)]
PathEntries = Annotated[tuple[Annotated[str, _form(_path_entry)], ...], BeforeValidator(_tuple_from_list)]
Frozen = (AfterValidator(_frozen), PlainSerializer(_as_dict))


def _empty() -> Mapping[str, str]:
    return MappingProxyType({})


class Model(BaseModel):
    """Frozen and strict: what YAML read as a number never becomes a text, nor the other way round."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    def __repr__(self) -> str:
        # Values may be secrets, and a repr ends up in tracebacks.
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class Build(Model):
    """How a release is built, on which server."""

    server: Annotated[str, _form(_server)] = Field(description="the build server, user@host:port, or local")
    gateway: Annotated[str, _form(_gateway)] | None = Field(default=None, description="an SSH server to jump over")
    forward_agent: bool = Field(default=False, description="whether the build server may use the operator's SSH agent")
    ssh_config: Line | None = Field(
        default=None, description="a file on the operator's machine to use instead of ~/.ssh/config"
    )
    transport: Annotated[Literal["auto", "fabric", "openssh"], _choice("auto", "fabric", "openssh")] = Field(
        default="auto",
        description="what connects to the build server: fabric, openssh (`ssh`), or auto: Fabric where it supports "
        "what ssh_config asks for, see ssh.md",
    )
    # The worker makes it for its user alone, and refuses one that others can change (`worker/strict.py`).
    root: ServerPath = Field(default="/var/tmp/deploytool", description="the work area on the build server")  # noqa: S108
    recipe: Annotated[str, _choice(*RECIPES)] = Field(
        default="none",
        description="the kind of application, which sets defaults for the commands below; see recipes.md",
    )
    env: Annotated[Mapping[Annotated[str, AfterValidator(_variable)], str], *Frozen] = Field(
        default_factory=_empty, description="environment variables of the build and of migrations"
    )
    path: PathEntries = Field(default=(), description="directories put before PATH")
    dependencies: Commands = Field(default=(), description="commands that install dependencies, run in the work tree")
    assets: Commands = Field(default=(), description="commands that build assets")
    dependencies_inputs: Pathspecs = Field(
        default=(),
        description="git pathspecs of all files that `dependencies` depends on; its result is cached while they are "
        "unchanged",
    )
    assets_inputs: Pathspecs = Field(
        default=(),
        description="git pathspecs of all files that `assets` depends on; its result is cached while they are "
        "unchanged",
    )
    migrate: Commands = Field(
        default=(),
        description="commands that migrate the database, before any host switches",
    )
    migrate_pending: Commands = Field(
        default=(),
        description="commands that print pending migrations and exit 0, or exit 1 if there are none; then `migrate` "
        "does not run",
    )
    migrate_after: Commands = Field(
        default=(), description="commands that drop and rename, run after every expected host is verified"
    )
    linked_files: RelativePaths = Field(
        default=(), description="files on the build server that are linked for the build and never packed"
    )
    exclude: RelativePaths = Field(default=(), description="paths that are not packed, relative to the release")
    allow_paths: RelativePaths = Field(
        default=(),
        description="files of the release that may contain the path where it was built; patterns as in `exclude`",
    )
    export_attributes: bool = Field(
        default=True,
        description="whether to apply `export-ignore` and `export-subst` of .gitattributes, as `git archive` does",
    )
    compression: Annotated[Literal["gzip", "zstd", "none"], _choice("gzip", "zstd", "none")] = Field(
        default="gzip", description="gzip, zstd or none"
    )
    timeout_seconds: Seconds = Field(default=1800, description="how long one step may take")

    @property
    def is_local(self) -> bool:
        """Whether this machine's own shell is the build server."""
        return self.server == "local"


class Encryption(Model):
    """How the store encrypts objects; without it, the bucket's own setting applies."""

    algorithm: Annotated[Literal["AES256", "aws:kms", "aws:kms:dsse"], _choice("AES256", "aws:kms", "aws:kms:dsse")] = (
        Field(description="AES256 (SSE-S3), aws:kms or aws:kms:dsse")
    )
    kms_key: Line | None = Field(
        default=None, description="id, ARN or alias of the KMS key; default: the account's own"
    )
    bucket_key: bool | None = Field(
        default=None, description="whether to use a bucket key; default: the bucket's own setting"
    )


class Store(Model):
    """Where archives, manifests and records are."""

    url: Annotated[str, _form(_store_url)] = Field(description="s3://bucket/prefix or file:///directory")
    endpoint_url: HttpUrl | None = Field(default=None, description="the address of an S3-compatible server")
    region: Word | None = Field(default=None, description="the bucket's region")
    credentials: Annotated[Literal["build_server", "operator"], _choice("build_server", "operator")] = Field(
        default="build_server", description="whose credentials are used: build_server or operator"
    )
    profile: Line | None = Field(
        default=None, description="the profile in the AWS configuration on the side that `credentials` names"
    )
    addressing: Annotated[Literal["path", "virtual"], _choice("path", "virtual")] | None = Field(
        default=None,
        description="whether the bucket is in the path or the host name (virtual); default: path with an endpoint_url",
    )
    hosts_url: Annotated[str, _form(_hosts_url)] | None = Field(
        default=None,
        description="an http(s) address that serves the objects of `url`; hosts fetch from there instead of S3",
    )
    encryption: Annotated[Encryption, BeforeValidator(_algorithm_alone)] | None = Field(
        default=None, description="how the store encrypts: AES256, aws:kms, or {algorithm, kms_key, bucket_key}"
    )
    acl: Word | None = Field(
        default=None, description="the canned ACL of new objects, such as bucket-owner-full-control"
    )
    storage_class: Annotated[str, _form(_storage_class)] | None = Field(
        default=None, description="the storage class of new objects, such as STANDARD_IA"
    )
    request_payer: Annotated[Literal["requester"], _choice("requester")] | None = Field(
        default=None, description="requester, for buckets where the requester pays"
    )
    keep_releases: KeepReleases = Field(default=20, description="how many releases the store keeps")


class Consul(Model):
    """Consul, as the build server sees it. Its CONSUL_* environment variables are the defaults."""

    address: Annotated[str, _form(_consul_address)] | None = Field(
        default=None,
        description="the address of Consul's HTTP API (default port 8500, or 8501 for https), or file:///directory for "
        "pretend hosts",
    )
    token_file: ServerPath | None = Field(default=None, description="a file on the build server with the token")
    ca_file: ServerPath | None = Field(
        default=None, description="a file there with the CA certificate that Consul's certificate is checked against"
    )
    ca_path: ServerPath | None = Field(default=None, description="a directory there with such files")
    client_cert: ServerPath | None = Field(default=None, description="a file there with the client certificate")
    client_key: ServerPath | None = Field(default=None, description="a file there with its key")
    tls_server_name: Word | None = Field(
        default=None,
        description="the name in Consul's certificate, such as server.dc1.consul; default: the host in `address`",
    )
    datacenter: Word | None = Field(default=None, description="the hosts' datacenter; default: the agent's")
    namespace: Word | None = Field(default=None, description="the namespace of keys and services (Consul Enterprise)")


class Trust(Model):
    """Who may deploy. Without it, hosts run what Consul's keys name, whoever wrote them."""

    signers: Relative | None = Field(
        default=None,
        description="a file with the keys whose signatures hosts accept, in the format of ssh-keygen's allowed_signers",
    )
    key: Line | None = Field(
        default=None, description="the key file to sign with; default: the first allowed key in your agent or ~/.ssh"
    )


class Hosts(Model):
    """Which nodes in Consul's catalog are the role's hosts. Set exactly one of the three."""

    node_meta: Annotated[Mapping[str, str], *Frozen] | None = Field(
        default=None, description="nodes with all this metadata"
    )
    service: Word | None = Field(default=None, description="nodes on which this service is registered")
    nodes: Annotated[tuple[Word, ...], BeforeValidator(_tuple_from_list)] | None = Field(
        default=None, description="nodes with these names"
    )


#: of a setting that is rendered for each role's manifest
TEMPLATE: dict[str, Any] = {"template": True}


class Verify(Model):
    """How a host proves that it runs the new release. Without it, little is proven: see proof.md."""

    # Each reaches the host as `verify_<name>`: templates/host/verify.sh reads it, and the kit keeps it for an undo.
    pid_file: Annotated[str, _form(_pid_file)] | None = Field(
        default=None, description="the master process's pid file, absolute or below the release"
    )
    url: Annotated[str, _form(_verify_url)] | None = Field(
        default=None, description="a URL that must answer 2xx; a template", json_schema_extra=TEMPLATE
    )
    expect: str | None = Field(
        default=None, description="text that the response of `url` must contain; a template", json_schema_extra=TEMPLATE
    )
    command: Annotated[str, _form(_command)] | None = Field(
        default=None, description="a command that must exit 0; a template", json_schema_extra=TEMPLATE
    )
    port: Annotated[int, BeforeValidator(_port)] | None = Field(
        default=None, description="a TCP port on which the release's own processes listen and take connections"
    )
    as_before: bool = Field(
        default=True,
        description="without port and url: whether a release must listen where the one before it did",
    )

    @classmethod
    def templates(cls) -> tuple[str, ...]:
        """The settings that are templates."""
        return tuple(name for name, field in cls.model_fields.items() if field.json_schema_extra == TEMPLATE)


class Hooks(Model):
    """Your own commands, run on each host; templates."""

    pre: Commands = Field(default=(), description="before the archive is unpacked")
    post: Commands = Field(default=(), description="after the switch, before the restart")
    success: Commands = Field(default=(), description="after the host is verified")
    failure: Commands = Field(default=(), description="after the deployment failed on the host and the host went back")
    drain: Commands = Field(default=(), description="right before the switch, to take the host out of traffic")
    undrain: Commands = Field(
        default=(), description="after the proof, or after the host went back, to bring it into traffic again"
    )


class OperatorHooks(Model):
    """Your own commands, run on the operator's machine."""

    before_build: Commands = Field(default=(), description="before a release is built")
    after_publish: Commands = Field(default=(), description="after a new release is in the store")
    before_announce: Commands = Field(default=(), description="before the deployment is announced to hosts")
    after_fetch: Commands = Field(default=(), description="after all hosts have the archive, before migrations")
    before_go: Commands = Field(default=(), description="after migrations, before any host switches")
    after_wave: Commands = Field(default=(), description="after the hosts of a wave are verified")
    after_deploy: Commands = Field(default=(), description="after a successful deploy or promote")
    after_rollback: Commands = Field(default=(), description="after a successful rollback")
    on_failure: Commands = Field(default=(), description="after a failed deploy, promote or rollback")


class Notify(Model):
    """Notifications about the start and the end of a deploy, promote or rollback, from the operator's machine."""

    webhook: Annotated[str, _form(_webhook)] | None = Field(
        default=None, description="a Slack-compatible incoming webhook; it is a secret, so write ${NAME}"
    )
    command: Commands = Field(default=(), description="commands that get the deployment's record as JSON on stdin")
    when: Annotated[
        tuple[Annotated[Literal["start", "success", "failure"], _choice("start", "success", "failure")], ...],
        BeforeValidator(_tuple_from_list),
    ] = Field(
        default=("start", "success", "failure"), description="when to notify: a list of start, success and failure"
    )
    timeout_seconds: Seconds = Field(default=30, description="how long one of the commands may take")


class Canary(Model):
    """The hosts that get a release first."""

    nodes: Annotated[tuple[Word, ...], BeforeValidator(_tuple_from_list)] = Field(description="their Consul node names")


class RoleRollout(Model):
    """The role's own `rollout` settings; the rest comes from the environment's."""

    waves: Shares | None = Field(
        default=None, description="numbers of hosts or shares of them, cumulative, ending with 100%"
    )
    canary: Canary | None = Field(default=None, description="hosts that go first, as {nodes: [app1]}")


class Rollout(Model):
    """In which waves hosts switch, and what happens after a failure."""

    waves: Shares = Field(
        default=("100%",), description="numbers of hosts or shares of them, cumulative, ending with 100%"
    )
    canary: Canary | None = Field(default=None, description="hosts that go first, as {nodes: [app1]}")
    min_healthy_seconds: Annotated[int, _between(0, _LONGEST_SECONDS)] = Field(
        default=0, description="how long a wave's proofs must hold before the next wave"
    )
    pause_after: Annotated[int, _between(1, 100)] | None = Field(
        default=None, description="pause the deployment after this wave; `fab ENV promote` continues it"
    )
    max_failures: Annotated[str, BeforeValidator(_failures)] = Field(
        default="0", description="how many hosts, or what share of them, may fail"
    )
    on_failure: Annotated[Literal["halt", "rollback"], _choice("halt", "rollback")] = Field(
        default="halt", description="what to do when more fail: halt, or rollback of the hosts that have switched"
    )


class Role(Model):
    """A kind of app server."""

    deploy_to: Absolute | None = Field(default=None, description="the role's own deploy_to")
    hosts: Hosts = Field(description="{node_meta: {role: web}}, {service: web} or {nodes: [app1, app2]}")
    restart: Commands = Field(default=(), description="commands run after the switch; templates")
    verify: Verify = Field(default_factory=Verify, description="how hosts prove the new release")
    hooks: Hooks = Field(default_factory=Hooks, description="pre, post, success, failure, drain, undrain")
    rollout: RoleRollout = Field(default_factory=RoleRollout, description="the role's own waves and canary")


class Wait(Model):
    """How long hosts may take."""

    fetch_seconds: Seconds = Field(default=600, description="for downloading and verifying the archive")
    activate_seconds: Seconds = Field(default=300, description="from the start of the switch to the final report")
    hook_seconds: Seconds = Field(default=120, description="for one hook")
    stable_seconds: Annotated[int, _between(0, _LONGEST_SECONDS)] = Field(
        default=5, description="how long a proof must hold"
    )


class Settings(Model):
    """All settings of one environment. Build with `load_settings`, which also keeps the rules between settings."""

    environment: str
    #: The project: what holds `config/`.
    directory: Path
    #: Every non-empty value that came from a `${NAME}`, passwords in URLs and the webhook's URL, for masking.
    secrets: tuple[str, ...] = ()

    application: Annotated[str, _form(_name)] = Field(description="the application's name")
    repository: Annotated[str, _form(_git_name)] = Field(description="the git repository, as the build server sees it")
    branch: Annotated[str, _form(_git_name)] = Field(default="main", description="branch, tag or revision to deploy")
    subdirectory: Annotated[str, _form(_subdirectory)] = Field(
        default=".", description="the application's directory in the repository"
    )
    deploy_to: Absolute = Field(description="the directory on app servers for releases/, shared/ and current")
    keep_releases: KeepReleases = Field(default=5, description="how many releases an app server keeps")
    linked_dirs: RelativePaths = Field(default=(), description="directories that are linked from shared/")
    linked_files: RelativePaths = Field(default=(), description="files that are linked from shared/")
    build: Build = Field(description="how and where releases are built")
    store: Store = Field(description="where releases are kept")
    consul: Consul = Field(default_factory=Consul, description="how the build server reaches Consul")
    trust: Trust = Field(default_factory=Trust, description="whose signatures hosts accept")
    roles: Annotated[Mapping[str, Role], *Frozen] = Field(description="the kinds of app servers")
    wait: Wait = Field(default_factory=Wait, description="how long hosts may take")
    rollout: Rollout = Field(
        default_factory=Rollout, description="in which waves hosts switch, and what happens after a failure"
    )
    hooks: OperatorHooks = Field(default_factory=OperatorHooks, description="commands run on the operator's machine")
    notify: Notify = Field(default_factory=Notify, description="notifications about deployments")

    def rollout_of(self, role: str) -> Rollout:
        """The rollout of a role, with what it has for itself. Raises KeyError if there is no such role."""
        own = self.roles[role].rollout
        given = {name: value for name in ("waves", "canary") if (value := getattr(own, name)) is not None}
        return self.rollout.model_copy(update=given)

    @property
    def has_pretend_hosts(self) -> bool:
        """Whether its hosts are directories on the build server, and a directory takes Consul's place."""
        return (self.consul.address or "").startswith("file:")

    @property
    def in_waves(self) -> bool:
        """Whether hosts go in more than one step."""
        return any(len(self.rollout_of(role).waves) > 1 or self.rollout_of(role).canary for role in self.roles)

    @property
    def proof_seconds(self) -> int:
        """How long a host's proof must hold: in waves, the next one waits for it."""
        healthy = self.rollout.min_healthy_seconds if self.in_waves else 0
        return max(self.wait.stable_seconds, healthy)

    def deploy_to_of(self, role: str) -> str:
        """The directory that a role's hosts deploy to. Raises KeyError if there is no such role."""
        return self.roles[role].deploy_to or self.deploy_to


#: Fields of `Settings` that no file may set.
NOT_IN_FILES = frozenset({"environment", "directory", "secrets"})
