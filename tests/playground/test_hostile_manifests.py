"""Manifests that anybody may have written: whoever reads or renders one takes it, or says what is wrong with it."""

import base64
import contextlib
import json
import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deploytool.errors import SettingsError
from deploytool.hosts.manifest import render_manifest
from deploytool.hosts.manifest_check import check_manifest
from deploytool.hosts.scripts import shell_quote
from deploytool.hosts.yaml_text import yaml_scalar
from deploytool.playground.receiver import ReceiverError, event, go_template, manifest
from deploytool.playground.receiver.download import parse_url
from tests.support.hostile import NASTY
from tests.support.manifests import DEPLOYMENT, RELEASE, given_settings

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

FIELDS = (
    "src",
    "checksum",
    "dest",
    "dest_mode",
    "commands",
    "pre",
    "post",
    "excludes",
    "exclude_from",
    "sync_strategy",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.binary(max_size=5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)
YAML = (
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6).map(yaml.dump)
    | st.text(alphabet="ab:-[]{}&*!|>'\"%@`,? \n\t<#~.0\\xuU9fd\ud800\x00", max_size=40)
    | st.binary(max_size=40).map(lambda raw: raw.decode(errors="surrogateescape"))
)


@few
@given(YAML)
@example('src: "\\U99999999"')
@example('src: "\\ud800"')
@example("src: \udcff")
@example(f"dest_mode: {'9' * 5000}")
@example("dest_mode: ٧٥٥")
@example("commands: !!binary ____")
@example("<<: 7")
@example("[" * 5000)
@example("a: &a [*a]\n<<: *a")
def test_any_manifest_is_read_or_refused_with_a_sentence(text: str) -> None:
    try:
        read = manifest.parse(text)
    except ReceiverError as error:
        assert str(error).endswith(".")  # noqa: PT017
    else:
        assert all(isinstance(each, str) for each in (read.src, read.dest, *read.commands.pre, *read.excludes))


@few
@given(YAML)
def test_any_text_is_checked_as_a_manifest(text: str) -> None:
    try:
        check_manifest(text)
    except SettingsError as error:
        assert error.problems  # noqa: PT017


@few
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value, default=str).encode()), st.booleans())
@example(b"[" * 100_000, True)
@example(b'[{"Payload": "\xff"}]', True)
@example(json.dumps([{"Payload": base64.b64encode(b"\xff\x00").decode()}]).encode(), True)
def test_any_event_names_a_manifest_or_is_refused(said: bytes, is_watch: bool) -> None:
    pieces = [said[start : start + 9] for start in range(0, len(said), 9)] if len(said) < 1000 else [said]
    try:
        url = event.manifest_url(lambda _: pieces.pop(0) if pieces else b"", is_watch=is_watch)
        parse_url(url)
    except ReceiverError:
        pass


@few
@given(st.text(alphabet="{}`\"' env must_HOME\\u0\n|.-", max_size=30))
def test_any_go_template_is_expanded_or_refused(text: str) -> None:
    with contextlib.suppress(ReceiverError):
        go_template.expand("{{" + text)


@pytest.mark.parametrize(
    "template",
    [
        *(
            "{{ 1 / 0 }}",
            "{{ [][7] }}",
            "{{ '%d' % 'x' }}",
            "{{ 10 ** 10 ** 3 % 0 }}",
            "{{ dest.nothing }}",
            "{{ (1).x() }}",
        ),
        *(
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% include 'x' %}",
            "{{ host_script('no') }}",
            "{% if %}",
        ),
        *(
            "{{ '\\ud800' }}",
            "{{ 'a'.encode('ascii').x }}",
            "{{ src | yaml('x') }}",
            "{{ {}['x'] }}",
            "{% for a in 7 %}{% endfor %}",
        ),
        *("\x00", "- a", "{{ '{' * 2 }}", "src: [", "src: \x1b[2J", ""),
    ],
)
def test_any_template_of_the_users_own_is_rendered_or_refused(tmp_path: Path, template: str) -> None:
    (tmp_path / "manifest.yml.j2").write_text(template)
    with pytest.raises(SettingsError) as caught:
        render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, tmp_path)
    assert caught.value.problems


def test_template_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.yml.j2").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="utf-8"):
        render_manifest(given_settings(), "web", RELEASE, DEPLOYMENT, tmp_path)


@pytest.mark.parametrize("nasty", [each for each in NASTY if "\udcff" not in each and "\0" not in each])
def test_nasty_value_is_one_value_to_a_shell_and_to_yaml(nasty: str) -> None:
    assert shlex.split(shell_quote(nasty)) == [nasty]
    assert yaml.safe_load(f"key: {yaml_scalar(nasty, 2)}\nnext: 1\n") == {"key": nasty, "next": 1}
