"""The pure parts of the built-in receiver. The conformance tests compare what it does to a disk with stretcher."""

import base64
import json
import time
from collections.abc import Callable

import pytest

from deploytool.hosts.scripts import shell_quote
from deploytool.hosts.yaml_text import yaml_scalar
from deploytool.playground.receiver import ReceiverError, go_template, placeholders
from deploytool.playground.receiver.download import parse_url
from deploytool.playground.receiver.event import manifest_url
from deploytool.playground.receiver.journal import Journal
from deploytool.playground.receiver.manifest import Commands, Manifest, parse
from deploytool.playground.receiver.placeholders import Placeholder, put_in_place

ENVIRONMENT = {"A": "a", "EMPTY": ""}


# go_template


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain {text} }}", "plain {text} }}"),
        ("{{`{{`}}", "{{"),
        ("newer='{{`yes`}}' {{``}}", "newer='yes' "),
        ("{ {{`a\nb`}} }", "{ a\nb }"),
    ],
)
def test_literals_of_templates_are_put_in_place(text: str, expanded: str) -> None:
    assert go_template.expand(text) == expanded


@pytest.mark.parametrize(
    "text", ["{{ .Names }}", "{{", "{{}", "{{ }}", "{{ env `A` }}", "{{`a` `b`}}", "{{`a`", "{{`{{`}}{{.N}}"]
)
def test_what_only_stretcher_knows_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ReceiverError, match=r"Line 2 of the manifest .* runs no templates"):
        go_template.expand(f"first: line\n{text}")


# placeholders


def test_placeholders_take_their_places_once_and_whole() -> None:
    known = (Placeholder("/pretend/app1", "/var/a b/pretend/app"), Placeholder("/pretend/app", "/x"))
    text = "cd '/pretend/app1/www' /pretend/app10 /pretend/app1.bak /pretend/app file:///pretend/app1."
    assert put_in_place(text, known) == (
        "cd '/var/a b/pretend/app/www' /pretend/app10 /pretend/app1.bak /x file:///var/a b/pretend/app."
    )


def test_a_map_is_parsed_with_spaces_and_equals_signs() -> None:
    assert placeholders.parse("/pretend/host=/tmp/a b=c/") == Placeholder("/pretend/host", "/tmp/a b=c")


@pytest.mark.parametrize("place", ["/a'b", '/a"b', "/a\\b", "/a\nb", "/a{b", "/a}b", "/a$b", "/a`b", "/a: b", "/a #b"])
def test_places_that_break_quoting_are_refused(place: str) -> None:
    with pytest.raises(ReceiverError, match="would break the quoting"):
        placeholders.parse(f"/pretend/host={place}")


@pytest.mark.parametrize("said", ["", "/a", "a=/b", "/a=b", "/=/b", "/a b=/c", "/a/=/b", "=/b", "/a="])
def test_a_map_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(ReceiverError, match="--map"):
        placeholders.parse(said)


def test_a_mapped_path_with_a_space_is_one_word_to_the_shell_of_our_manifests() -> None:
    text = f"commands: {{pre: [{yaml_scalar('cd ' + shell_quote('/pretend/host/www'))}]}}"
    mapped = put_in_place(text, [placeholders.parse("/pretend/host=/tmp/a b")])
    assert parse(mapped).commands.pre == ("cd '/tmp/a b/www'",)


# manifest


def test_a_whole_manifest_is_read() -> None:
    text = """
src: file:///a
checksum: 00000000
dest: /www
dest_mode: 0750
excludes: [a, 1]
exclude_from: list
sync_strategy: mv
unknown: {a: b}
commands: {pre: [a], post: [b, ~], success: ["c"], failure: [yes], before: x}
"""
    assert parse(text) == Manifest(
        src="file:///a",
        checksum="00000000",
        dest="/www",
        dest_mode=0o750,
        commands=Commands(pre=("a",), post=("b", ""), success=("c",), failure=("yes",)),
        excludes=("a", "1"),
        exclude_from="list",
        sync_strategy="mv",
    )


@pytest.mark.parametrize("text", ["", "# nothing", "~", "commands:", "src:\nexcludes: null"])
def test_a_manifest_that_says_nothing_is_one(text: str) -> None:
    assert parse(text) == Manifest()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("src: file:///a", "src but no dest"),
        ("a: [", "is not YAML"),
        ("- a", "the manifest is not a map"),
        ("dest_mode: '0755'", "Line 1 .* dest_mode is not a number"),
        ("a: b\ncommands: [a]", "Line 2 .* commands is not a map"),
        ("commands: {pre: a}", "commands.pre is not a list"),
        ("commands: {pre: [[a]]}", r"commands.pre\[0\] is not a text"),
        ("excludes: {}", "excludes is not a list"),
        ("src: [a]", "src is not a text"),
        ("src: !!binary '%'", "src is not base64"),
        ("a: &a [*a]\n" + "b: " + "[" * 3000, "is not YAML"),
    ],
)
def test_an_unreadable_manifest_says_why(text: str, sentence: str) -> None:
    with pytest.raises(ReceiverError, match=sentence):
        parse(text)


# event


def reader(*chunks: bytes) -> Callable[[int], bytes]:
    left = iter(chunks)
    return lambda _size: next(left, b"")


def event(url: str) -> dict[str, str]:
    return {"ID": "1", "Payload": base64.b64encode(url.encode()).decode()}


def test_a_line_is_read_no_further_than_its_end() -> None:
    def never(_size: int) -> bytes:
        pytest.fail("it reads on, although the other end may stay open")

    chunks = iter([lambda _size: b"file:", lambda _size: b"///a\n", never])
    assert manifest_url(lambda size: next(chunks)(size), is_watch=False) == "file:///a"


def test_a_list_of_events_may_come_in_parts() -> None:
    text = json.dumps([event("file:///old"), event("file:///ü")]).encode()
    assert manifest_url(reader(*(text[i : i + 1] for i in range(len(text)))), is_watch=False) == "file:///ü"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{}", b"[1]", b'[{"Payload": 1}]', b'[{"Payload": "a"}]', b"[", b"file:///a\n"]
)
def test_what_is_no_event_is_refused_under_consul_watch(text: bytes) -> None:
    with pytest.raises(ReceiverError):
        manifest_url(reader(text), is_watch=True)


# download


def test_urls_keep_their_spaces_and_lose_their_percent_signs() -> None:
    url = parse_url("S3://bucket/a%20b/ c?d=%20#e")
    assert (url.scheme, url.host, url.path, url.query) == ("s3", "bucket", "/a b/ c", "d=%20")


@pytest.mark.parametrize("text", ["", "/a/b", " file:///a", "file:///a\r", "file:///a%2", "http://a b/c", ":a"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ReceiverError, match="is not a URL"):
        parse_url(text)


# journal


def test_entries_have_the_form_that_host_scripts_look_for() -> None:
    written: list[bytes] = []
    journal = Journal(written.append, lambda: time.gmtime(0))
    journal.say("invoking command: a\nb")
    journal.say(b"\xff said\n")
    assert journal.text() == (b"1970/01/01 00:00:00 invoking command: a\nb\n1970/01/01 00:00:00 \xff said\n\n")
    assert b"".join(written) == journal.text()
