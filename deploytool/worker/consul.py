"""Consul over HTTP: the catalog, the key-value store and the event.

Four calls; an empty answer where one is needed is an error.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple, TypeVar
from urllib.parse import quote, urlencode

from deploytool.text import ids
from deploytool.text.untrusted import read_json

from .bus import KEYS_BYTES, Entry, Value, is_below_something
from .consul_way import ConsulWay
from .failure import Failure
from .findings import Findings
from .wire import ConsulSettings, Selector

CALL_SECONDS = 10.0
#: How often a call that is harmless to repeat is tried while Consul elects a leader or restarts.
PATIENCE_SECONDS = 10.0


#: of one transaction
MOST_OPERATIONS = 64
#: of what a transaction reads: values of the usual size have a tenth of it
ANSWER_BYTES = 4 << 20

T = TypeVar("T")


class TooLong(Exception):
    """An answer has more bytes than were to be read. `index` is a blocking query's, which is a single key's own."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index


class Unreachable(Exception):
    """No agent, or no leader: trying again may help."""


class Consul:
    """One Consul agent as the build server sees it."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._way = ConsulWay(settings)
        self._datacenter = settings.datacenter
        self.address = self._way.address
        #: what must not be shown
        self.secrets = self._way.secrets

    def _call(
        self,
        method: str,
        path: str,
        query: Dict[str, str],
        body: Optional[bytes],
        timeout: float,
        most_bytes: Optional[int] = None,
    ) -> Tuple[int, bytes, Dict[str, str]]:
        if self._datacenter:
            query = {**query, "dc": self._datacenter}
        target = quote(self._way.prefix + path) + ("?" + urlencode(query) if query else "")
        connection = self._way.connection(timeout)
        try:
            connection.request(method, target, body=body, headers=self._way.headers)
            response = connection.getresponse()
            # One more shows that there is more.
            content = response.read(most_bytes and most_bytes + 1)
            refusal = self._way.refusal_of(response.status, content)
            if refusal is not None:
                raise refusal
            return response.status, content, {key.lower(): value for key, value in response.getheaders()}
        except (OSError, http.client.HTTPException) as error:
            failure = self._way.failure_of(error)
            if failure is not None:
                raise failure from error
            raise Unreachable("Consul at {} does not answer: {}".format(self.address, error)) from error
        finally:
            connection.close()

    def call(
        self,
        method: str,
        path: str,
        query: Optional[Dict[str, str]] = None,
        body: Optional[bytes] = None,
        *,
        right: str,
        read: Callable[[Any], T],
        timeout: float = CALL_SECONDS,
        patience: float = PATIENCE_SECONDS,
        conflict: bool = False,
        most_bytes: Optional[int] = None,
    ) -> Tuple[T, int]:
        """What `read` makes of the answer's JSON (None for 404), and the index of a blocking query.

        Whatever `read` raises of it says that this was no answer of Consul's. A 409 is an answer if `conflict`.
        Raises TooLong for an answer of more than `most_bytes`.

        Unreachable agents and missing leaders are retried for `patience` seconds: an agent that is not there at all is
        refused at once. `right` names what the token needs, for the sentence of a refusal.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                status, content, headers = self._call(method, path, query or {}, body, timeout, most_bytes)
                if status < 500:
                    break
                trouble = "Consul at {} answered {}: {}".format(
                    self.address, status, content.decode("utf-8", "replace").strip()
                )
            except Unreachable as error:
                trouble = str(error)
            if time.monotonic() >= deadline:
                raise Failure(
                    "consul",
                    trouble,
                    hint="is the Consul agent of the build server running, and has the cluster a leader? see "
                    "consul.address, and `consul members` there",
                )
            time.sleep(0.3)
        if status == 403:
            raise Failure(
                "consul",
                "Consul refused {} {}: the token lacks a right".format(method, path),
                hint="it needs {}".format(right),
            )
        if status >= 400 and status != 404 and not (conflict and status == 409):
            raise Failure(
                "consul",
                "Consul answered {} to {} {}: {}".format(status, method, path, content.decode("utf-8", "replace")),
            )
        if most_bytes is not None and len(content) > most_bytes:
            raise TooLong(_index(headers))
        try:
            return read(None if status == 404 else read_json(content)), _index(headers)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Failure(
                "consul",
                "what answers at {} is no Consul agent: its answer to {} makes no sense".format(self.address, path),
                hint="mend consul.address",
            ) from error

    def get(self, key: str) -> Optional[Entry]:
        right = 'key_prefix "deploytool/" read'
        entries, _ = self.call("GET", "/v1/kv/" + key, {"consistent": ""}, right=right, read=_entries)
        return next((entry for entry in entries if entry.key == key), None)

    def list(self, prefix: str) -> List[Entry]:
        """All entries below `prefix`."""
        right = 'key_prefix "deploytool/" read'
        entries, _ = self.call("GET", "/v1/kv/" + prefix, {"recurse": ""}, right=right, read=_entries)
        return [entry for entry in entries if entry.key.startswith(prefix)]

    def wait(self, prefix: str, *, index: int, wait_seconds: float) -> int:
        # What lies further below is not named, and counts for the index all the same.
        query = {"keys": "", "separator": "/"}
        if index:
            query.update(index=str(index), wait="{}ms".format(int(wait_seconds * 1000)))
        right = 'key_prefix "deploytool/" read'
        seconds = CALL_SECONDS + wait_seconds * 1.1
        return self.call("GET", "/v1/kv/" + prefix, query, right=right, read=_texts, timeout=seconds)[1]

    def keys(self, prefix: str) -> Optional[Tuple[List[str], int]]:
        right = 'key_prefix "deploytool/" read'
        try:
            names, index = self.call(
                "GET", "/v1/kv/" + prefix, {"keys": ""}, right=right, read=_texts, most_bytes=KEYS_BYTES
            )
        except TooLong:
            return None
        return [name for name in names if name.startswith(prefix)], index

    def read(self, keys: Sequence[str], *, most_bytes: int) -> List[Value]:
        found: List[Value] = []
        for start in range(0, len(keys), MOST_OPERATIONS):
            some = keys[start : start + MOST_OPERATIONS]
            at_once = self._read_at_once(some)
            entries = at_once if at_once is not None else [self._read_one(key, most_bytes) for key in some]
            found += [
                Value(each.key, each.value if len(each.value.encode()) <= most_bytes else None, each.written)
                if each.value is not None
                else each
                for each in entries
                if each is not None and each.key in some
            ]
        return found

    def _read_at_once(self, keys: Sequence[str]) -> Optional[List[Value]]:
        """In one call; None where a key is missing, or all of them together are long."""
        body = json.dumps([{"KV": {"Verb": "get", "Key": key}} for key in keys]).encode()
        right = 'key_prefix "deploytool/" read'
        with contextlib.suppress(TooLong):
            found, _ = self.call(
                "PUT", "/v1/txn", body=body, right=right, read=_values, conflict=True, most_bytes=ANSWER_BYTES
            )
            return found
        return None

    def _read_one(self, key: str, most_bytes: int) -> Optional[Value]:
        right = 'key_prefix "deploytool/" read'
        # In base64, with its key and numbers around it.
        room = most_bytes * 4 // 3 + len(json.dumps(key)) + 500
        try:
            entries, _ = self.call("GET", "/v1/kv/" + key, right=right, read=_entries, most_bytes=room)
        except TooLong as found:
            return Value(key, None, found.index)
        return next((Value(each.key, each.value, each.modified) for each in entries if each.key == key), None)

    def put(self, key: str, value: str, *, expected_index: Optional[int] = None) -> bool:
        """Write; with `expected_index` only if the key has not changed since (0: only if it does not exist)."""
        query = {} if expected_index is None else {"cas": str(expected_index)}
        right = 'key_prefix "deploytool/" write'
        done, _ = self.call("PUT", "/v1/kv/" + key, query, value.encode(), right=right, read=_truth)
        return done

    def put_all(self, writes: List[Tuple[str, str, int]]) -> bool:
        """Write each (key, value, expected_index), all or none; False if one has changed since."""
        operations = [
            {
                "KV": {
                    "Verb": "cas",
                    "Key": key,
                    "Value": base64.b64encode(value.encode()).decode(),
                    "Index": expected_index,
                }
            }
            for key, value, expected_index in writes
        ]
        body = json.dumps(operations).encode()
        right = 'key_prefix "deploytool/" write'
        # 409 is the answer to a transaction that was rolled back.
        errors, _ = self.call("PUT", "/v1/txn", body=body, right=right, read=_errors, patience=0, conflict=True)
        if any("Permission denied" in error for error in errors):
            raise Failure("consul", "Consul refused to let the hosts go", hint="the token needs {}".format(right))
        return not errors

    def delete(self, key: str, *, expected_index: Optional[int] = None) -> bool:
        query = {} if expected_index is None else {"cas": str(expected_index)}
        right = 'key_prefix "deploytool/" write'
        done, _ = self.call("DELETE", "/v1/kv/" + key, query, right=right, read=_truth)
        return done

    def names(self, prefix: str) -> List[str]:
        """The names directly below `prefix`, each once, in order: of keys, and of places that hold keys."""
        query = {"keys": "", "separator": "/"}
        keys, _ = self.call("GET", "/v1/kv/" + prefix, query, right='key_prefix "deploytool/" read', read=_texts)
        return sorted({key[len(prefix) :].rstrip("/") for key in keys if key.startswith(prefix)} - {""})

    def delete_all(self, prefix: str) -> None:
        """Delete every key below `prefix`, at once. Raises ValueError for a prefix that is no place of its own."""
        if not is_below_something(prefix):
            raise ValueError("{!r} is no place below which all may be deleted".format(prefix))
        right = 'key_prefix "deploytool/" write'
        self.call("DELETE", "/v1/kv/" + prefix, {"recurse": ""}, right=right, read=_truth)

    def delete_places(self, prefixes: List[str]) -> None:
        """The same for each of these, as many at once as Consul takes."""
        for prefix in prefixes:
            if not is_below_something(prefix):
                raise ValueError("{!r} is no place below which all may be deleted".format(prefix))
        self._delete([{"Verb": "delete-tree", "Key": prefix} for prefix in prefixes])

    def _delete(self, operations: List[Dict[str, str]]) -> None:
        right = 'key_prefix "deploytool/" write'
        for start in range(0, len(operations), MOST_OPERATIONS):
            body = json.dumps([{"KV": each} for each in operations[start : start + MOST_OPERATIONS]]).encode()
            errors, _ = self.call("PUT", "/v1/txn", body=body, right=right, read=_errors, conflict=True)
            if errors:
                raise Failure("consul", "Consul could not delete keys: {}".format(errors[0]))

    def delete_keys(self, keys: Sequence[str]) -> None:
        # In a transaction names stand in the body: in an address, `//` and `..` would be another key's.
        self._delete([{"Verb": "delete", "Key": key} for key in keys])

    def fire(self, name: str, payload: str, hosts: List[str]) -> str:
        """Fire the event; returns its id. Never repeated by itself: the reports say who heard.

        `hosts` are those that are meant; Consul tells every host, and what isn't meant keeps quiet by itself.
        """
        event, _ = self.call(
            "PUT",
            "/v1/event/fire/" + name,
            body=payload.encode(),
            right='event "deploy_" write',
            read=_event_id,
            patience=0,
        )
        return event

    def hosts(self, selector: Selector) -> Tuple[List[str], List[str]]:
        """The hosts that match a role's `hosts`: those whose serfHealth passes, and those that are down. In order."""
        chosen = self._matching(selector)
        odd = next((name for name in chosen if not ids.NODE.fullmatch(name)), None)
        if odd is not None:
            raise Failure(
                "consul",
                "Consul has a node that is called {}: that can't be the name of a host".format(ascii(odd)),
                hint="take it out of the catalog, and look who can write there (node write)",
            )
        query = {"filter": 'CheckID == "serfHealth"'}
        health, _ = self.call("GET", "/v1/health/state/any", query, right="node read", read=_health)
        if not health:
            raise Failure(
                "consul",
                "Consul knows no host at all, or the token may not see any: the health of all nodes came back empty",
                hint='the token needs node_prefix "" read and service_prefix "" read',
            )
        passing = {node for node, status in health if status == "passing"}
        return sorted(host for host in chosen if host in passing), sorted(
            host for host in chosen if host not in passing
        )

    def _matching(self, selector: Selector) -> List[str]:
        if selector.nodes:
            wanted = list(selector.nodes)
            names = set(self._nodes())
            unknown = [name for name in wanted if name not in names]
            if unknown:
                raise Failure(
                    "consul",
                    "Consul does not know the host{} {}".format("s" if len(unknown) > 1 else "", ", ".join(unknown)),
                    hint="it knows {}".format(", ".join(sorted(names)) or "none (or the token lacks node read)"),
                )
            return wanted
        if selector.service:
            return sorted(self._serving(selector.service, right="service read, node read"))
        meta = (selector.node_meta or {}).items()
        return sorted(
            name for name, known in self._nodes().items() if all(known.get(key) == value for key, value in meta)
        )

    def _nodes(self, right: str = "node read") -> Dict[str, Dict[str, Any]]:
        """node → its metadata"""
        found, _ = self.call("GET", "/v1/catalog/nodes", right=right, read=_metadata)
        return found

    def _serving(self, service: str, *, right: str) -> Set[str]:
        """The nodes that have the service."""
        found, _ = self.call("GET", "/v1/catalog/service/" + service, right=right, read=_node_names)
        return found

    def check(self, findings: Findings, prefix: str, probe: str, events: List[str], services: List[str]) -> None:
        def cluster() -> str:
            leader, _ = self.call("GET", "/v1/status/leader", right="nothing", read=_text, patience=0)
            if not leader:
                raise Failure("consul", "the Consul cluster of {} has no leader".format(self.address))
            return "agent at {}, leader {}".format(self.address, leader)

        if findings.attempt("Consul", cluster) is not None:
            return
        if findings.attempt("Consul: write keys", lambda: self._check_writing(prefix, probe)) is None:
            findings.attempt("Consul: read keys", lambda: self._check_reading(prefix, probe))
            findings.attempt("Consul: delete keys", lambda: self._check_deleting(prefix, probe))
        findings.attempt("Consul: read nodes", self._check_nodes)
        for service in services:
            findings.attempt("Consul: read service {}".format(service), functools.partial(self._check_service, service))
        for event in events:
            findings.attempt("Consul: fire {}".format(event), functools.partial(self._check_event, event))

    def _check_writing(self, prefix: str, probe: str) -> str:
        key = _probe_key(prefix, probe)
        written = self.put(key, "check", expected_index=0)
        entry = self.get(key) if written else None
        if entry is None or not self.put_all([(key, "checked", entry.modified)]):
            raise Failure("consul", "{} can't be written with compare-and-set".format(key))
        return "below {}/, one by one and in a transaction".format(prefix)

    def _check_reading(self, prefix: str, probe: str) -> str:
        key = _probe_key(prefix, probe)
        # A list leaves out what the token may not read, without a word.
        if [entry.value for entry in self.list(key)] != ["checked"]:
            raise Failure(
                "consul",
                "a key that was written to {} does not come back in a list".format(key),
                hint='the token needs key_prefix "{}/" read'.format(prefix),
            )
        return "below {}/".format(prefix)

    def _check_deleting(self, prefix: str, probe: str) -> str:
        self.delete_all("{}/deployments/{}/".format(prefix, probe))
        return "below {}/".format(prefix)

    def _check_nodes(self) -> str:
        nodes = self._nodes('node_prefix "" read')
        if not nodes:
            raise Failure(
                "consul",
                "Consul shows no node at all: the token may not see any",
                hint='the token needs node_prefix "" read',
            )
        return "{} nodes".format(len(nodes))

    def _check_service(self, service: str) -> str:
        nodes = self._serving(service, right='service "{}" read'.format(service))
        if not nodes:
            raise Failure(
                "consul",
                "Consul shows no node with the service {}".format(service),
                hint='is it registered on its hosts? and the token needs service "{}" read'.format(service),
            )
        return "{} nodes have it".format(len(nodes))

    def _check_event(self, event: str) -> str:
        # No node has an empty name, so no agent takes it.
        self.call(
            "PUT",
            "/v1/event/fire/" + event,
            {"node": "^$"},
            body=b"",
            right='event "{}" write'.format(event),
            read=_event_id,
            patience=0,
        )
        return "may be fired"


def _probe_key(prefix: str, probe: str) -> str:
    return "{}/deployments/{}/check".format(prefix, probe)


# --- what answers say: each raises one of a few errors for what Consul does not say


def _entries(answer: Any) -> List[Entry]:
    return [
        Entry(
            _text(item["Key"]),
            base64.b64decode(_text(item["Value"] or ""), validate=True).decode("utf-8", "replace"),
            int(item["ModifyIndex"]),
        )
        for item in _list(answer)
    ]


def _list(answer: Any) -> List[Any]:
    if not isinstance(answer, (list, type(None))):
        raise TypeError("no list")
    return answer or []


def _text(answer: Any) -> str:
    if not isinstance(answer, str):
        raise TypeError("no text")
    return answer


def _texts(answer: Any) -> List[str]:
    return [_text(each) for each in _list(answer)]


def _truth(answer: Any) -> bool:
    if not isinstance(answer, (bool, type(None))):
        raise TypeError("no truth value")
    return bool(answer)


def _errors(answer: Any) -> List[str]:
    """Of a transaction."""
    found = [json.dumps(each) for each in _list(answer["Errors"])]
    if not found:
        # Results without errors are the proof that it was done.
        _list(answer["Results"])
    return found


def _values(answer: Any) -> Optional[List[Value]]:
    """Of a transaction that reads; None if it failed."""
    if answer.get("Errors"):
        return None
    entries = _entries([each["KV"] for each in _list(answer["Results"])])
    return [Value(each.key, each.value, each.modified) for each in entries]


def _event_id(answer: Any) -> str:
    return _text(answer["ID"])


def _node_names(answer: Any) -> Set[str]:
    return {_text(each["Node"]) for each in _list(answer)}


def _health(answer: Any) -> List[Tuple[str, str]]:
    return [(_text(check["Node"]), _text(check["Status"])) for check in _list(answer)]


def _metadata(answer: Any) -> Dict[str, Dict[str, Any]]:
    return {_text(node["Node"]): dict(node.get("Meta") or {}) for node in _list(answer)}


def _index(headers: Dict[str, str]) -> int:
    try:
        return max(int(headers.get("x-consul-index", "0")), 0)
    except ValueError:
        return 0
