"""The rules between settings. Pure.

They look at plain data that may be wrong in any other way, so that these mistakes are shown in the same run as all
others; a value of the wrong type is none of their business.
"""

import posixpath
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from deploytool.settings.files import NAME, NAME_RULE

Path = tuple[str | int, ...]
#: Where, and a sentence.
Finding = tuple[Path, str]

_SELECTORS = ("node_meta", "service", "nodes")

#: settings of `store` that a directory has no use for
_OF_S3 = ("profile", "addressing", "hosts_url", "encryption", "acl", "storage_class", "request_payer")

#: defaults, as this runs before they are put in
_WAIT = (("hook", 120), ("stable", 5), ("activate", 300))


def check(settings: Mapping[str, object], shown: Callable[[str], str]) -> Iterator[Finding]:
    """All breaches of rules between settings. `shown` returns a value as a sentence may quote it: secrets masked."""
    roles = as_map(settings.get("roles"))
    if settings.get("roles") == {}:
        yield ("roles",), "is empty. Add at least one role."
    for name, role in roles.items():
        yield from _check_role(name, as_map(role), shown)
    yield from _check_pretend_hosts(settings)
    yield from _check_roles_apart(settings, shown)
    yield from _check_linked(settings, shown)
    wait = as_map(settings.get("wait"))
    hook, stable, activate = (wait.get(f"{name}_seconds", usual) for name, usual in _WAIT)
    if isinstance(hook, int) and isinstance(stable, int) and isinstance(activate, int):
        healthy = as_map(settings.get("rollout")).get("min_healthy_seconds", 0)
        held = max(stable, healthy) if isinstance(healthy, int) else stable
        longest = 2 * (hook + held)
        if activate <= longest:
            name = "stable_seconds" if held == stable else "rollout.min_healthy_seconds"
            yield (
                ("wait", "activate_seconds"),
                f"must be more than {longest}, twice hook_seconds + {name}: a host may need that long to find "
                "that it can't prove the new release, and to prove the old one again.",
            )
    yield from _check_rollout(settings)
    yield from _check_store(settings)


def _check_store(settings: Mapping[str, object]) -> Iterator[Finding]:
    store = as_map(settings.get("store"))
    if isinstance(url := store.get("url"), str) and url.startswith("file:"):
        for name in _OF_S3:
            if store.get(name) is not None:
                yield ("store", name), "is for S3, but `store.url` is a directory. Remove it."
    encryption = as_map(store.get("encryption"))
    if encryption.get("algorithm") == "AES256":
        for name in ("kms_key", "bucket_key"):
            if encryption.get(name) is not None:
                yield ("store", "encryption", name), "needs the algorithm aws:kms: AES256 does not use a KMS key."


def _check_rollout(settings: Mapping[str, object]) -> Iterator[Finding]:
    """Waves that end before all hosts have gone would leave the rest for ever."""
    places: list[tuple[Path, Mapping[str, object]]] = [(("rollout",), as_map(settings.get("rollout")))]
    for name, role in as_map(settings.get("roles")).items():
        places.append((("roles", name, "rollout"), as_map(as_map(role).get("rollout"))))
    for at, rollout in places:
        waves = rollout.get("waves")
        if isinstance(waves, list) and (not waves or waves[-1] != "100%"):
            yield (*at, "waves"), "must end with 100%, or the remaining hosts would never switch."
        nodes = as_map(rollout.get("canary")).get("nodes")
        if nodes == []:
            yield (*at, "canary", "nodes"), "is empty. Remove `canary` if no host goes first."
    common = {"waves": ["100%"], **places[0][1]}
    # A canary before all others is a wave, too; see waves.py.
    longest = max(
        (
            len(waves) + (len(waves) == 1 and bool(rollout.get("canary")))
            for rollout in ({**common, **own} for _, own in places)
            if isinstance(waves := rollout["waves"], list)
        ),
        default=0,
    )
    pause = common.get("pause_after")
    if isinstance(pause, int) and pause >= longest > 0:
        yield (
            ("rollout", "pause_after"),
            f"must be less than {longest}, the number of waves: after the last one there is nothing to wait for.",
        )


def as_map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def texts(value: object) -> list[tuple[int, str]]:
    """Texts of a list, or of one text, each with its number."""
    values = value if isinstance(value, list | tuple) else [value]
    return [(number, text) for number, text in enumerate(values) if isinstance(text, str)]


def _check_role(name: str, role: Mapping[str, object], shown: Callable[[str], str]) -> Iterator[Finding]:
    if not NAME.fullmatch(name):
        yield ("roles", name), f"can't be a role's name, which {NAME_RULE}."
    hosts = role.get("hosts")
    if isinstance(hosts, dict):
        given = [selector for selector in _SELECTORS if hosts.get(selector) is not None]
        at = ("roles", name, "hosts")
        if len(given) > 1:
            yield (
                at,
                f"must have exactly one of node_meta, service and nodes, but has {' and '.join(given)}. Maps of both "
                f"files are merged: write `{given[0]}: null` to use the other one.",
            )
        elif not given:
            yield at, "must have exactly one of node_meta, service and nodes, but has none."
        elif hosts[given[0]] in ({}, []):
            yield (*at, given[0]), "is empty: it would match no host, or all of them."
        seen: set[str] = set()
        for number, node in texts(hosts.get("nodes")):
            if node in seen:
                yield (*at, "nodes", number), f"lists {shown(node)} twice."
            seen.add(node)
    hooks = as_map(role.get("hooks"))
    if hooks.get("drain") and not hooks.get("undrain"):
        yield (
            ("roles", name, "hooks", "drain"),
            "needs `undrain` as well, or the host would get no more traffic.",
        )
    verify = as_map(role.get("verify"))
    if verify.get("expect") is not None and verify.get("url") is None:
        yield ("roles", name, "verify", "expect"), "needs `verify.url`: it is searched for in the response of that URL."


def _check_pretend_hosts(settings: Mapping[str, object]) -> Iterator[Finding]:
    """Several pretend hosts have one file system: in a directory that is really there each waits for the other."""
    from deploytool.worker.directory_bus import PRETEND_HOST

    address = as_map(settings.get("consul")).get("address")
    if not isinstance(address, str) or not address.startswith("file://"):
        return
    for name, role in as_map(settings.get("roles")).items():
        own = as_map(role).get("deploy_to")
        deploy_to = own or settings.get("deploy_to")
        nodes = list(texts(as_map(as_map(role).get("hosts")).get("nodes")))
        if isinstance(deploy_to, str) and len(nodes) > 1 and not f"{deploy_to}/".startswith(f"{PRETEND_HOST}/"):
            yield (
                ("roles", name, "deploy_to") if own else ("deploy_to",),
                f"must start with {PRETEND_HOST}/ here, which is each pretend host's own directory: "
                f"{len(nodes)} hosts can't share one.",
            )


def _check_roles_apart(settings: Mapping[str, object], shown: Callable[[str], str]) -> Iterator[Finding]:
    """Two roles on one host must not share a directory: each would switch the other's `current`."""
    places: list[tuple[str, str, Mapping[str, object]]] = []
    for name, role in as_map(settings.get("roles")).items():
        deploy_to = as_map(role).get("deploy_to") or settings.get("deploy_to")
        if isinstance(deploy_to, str) and deploy_to:
            places.append((name, posixpath.normpath(deploy_to), as_map(as_map(role).get("hosts"))))
    for (first, first_to, first_hosts), (second, second_to, second_hosts) in combinations(places, 2):
        if first_to != second_to:
            continue
        shared = {node for _, node in texts(first_hosts.get("nodes"))} & {
            node for _, node in texts(second_hosts.get("nodes"))
        }
        same = any(
            first_hosts.get(selector) is not None and first_hosts.get(selector) == second_hosts.get(selector)
            for selector in _SELECTORS
        )
        if same or shared:
            yield (
                ("roles", second),
                f"has the same hosts and the same deploy_to ({shown(second_to)}) as the role {first}. Set another "
                "`deploy_to` for one of them.",
            )


def _check_linked(settings: Mapping[str, object], shown: Callable[[str], str]) -> Iterator[Finding]:
    listed: list[tuple[Path, str, str]] = [
        ((key, number), f"{key} ({shown(text)})", posixpath.normpath(text))
        for key in ("linked_dirs", "linked_files")
        if isinstance(settings.get(key), list | tuple)
        for number, text in texts(settings.get(key))
    ]
    yield from _check_apart(listed)
    build = as_map(settings.get("build"))
    if isinstance(build.get("linked_files"), list):
        yield from _check_apart(
            [
                (("build", "linked_files", number), f"build.linked_files ({shown(text)})", posixpath.normpath(text))
                for number, text in texts(build.get("linked_files"))
            ]
        )


def _check_apart(listed: list[tuple[Path, str, str]]) -> Iterator[Finding]:
    # A pair is reported where its second path stands; a path is reported once.
    reported: set[Path] = set()
    for (_, first, first_path), (at, _, path) in combinations(listed, 2):
        if at in reported or not path.strip() or not first_path.strip():
            continue
        if path == first_path:
            reported.add(at)
            yield at, f"is listed twice: it is already in {first}."
        elif f"{path}/".startswith(f"{first_path}/") or f"{first_path}/".startswith(f"{path}/"):
            reported.add(at)
            yield at, f"and {first} are inside each other. Link only the outer one, or only the inner ones."
