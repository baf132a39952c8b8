"""What counts as a secret, and in which spellings it is found."""

import base64
import json
import shlex
import subprocess
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.worker.masking import MASK, Masking, secrets_in, secrets_in_urls

SECRET = "cañary/\"5b\\1e $77+x='&y"

SPELLINGS = {
    "itself": SECRET,
    "JSON": json.dumps({"token": SECRET}),
    "JSON in Unicode": json.dumps({"token": SECRET}, ensure_ascii=False),
    "a URL": f"https://x/?token={quote(SECRET, safe='')}",
    "a path": f"https://x/{quote(SECRET)}",
    "a form": f"token={quote_plus(SECRET)}",
    "a shell": f"export TOKEN={shlex.quote(SECRET)}",
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "a password": base64.b64encode(f"me:{SECRET}".encode()).decode(),
    "a user's name": base64.b64encode(f"{SECRET}:".encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(f"?{SECRET}?".encode()).decode(),
    "bash's listing": subprocess.run(
        ["bash", "-c", "export -p"], env={"TOKEN": SECRET, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True
    ).stdout.strip(),
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_secret_is_masked_in_every_spelling(text: str) -> None:
    masked = Masking([SECRET]).text(text)
    assert MASK in masked
    assert "5b" not in masked


@given(st.binary(max_size=9), st.text("abcXYZ019+/é\"' ", min_size=6, max_size=40), st.binary(max_size=9))
def test_a_secret_in_the_middle_of_base64_is_masked(before: bytes, secret: str, after: bytes) -> None:
    assert MASK in Masking([secret]).text(base64.b64encode(before + secret.encode() + after).decode())


@given(st.text("abc def\n=+/%", max_size=40))
def test_a_text_without_the_secret_is_left_alone(text: str) -> None:
    assert Masking(["top-secret"]).text(text) == text


def test_each_line_of_a_key_is_masked_and_all_of_it_in_json() -> None:
    key = "-----BEGIN KEY-----\nb3BlbnNzaC1rZXktdjE\nAAAAB3NzaC1yc2E=\n-----END KEY-----\n"
    masking = Masking([key])
    assert masking.text("> b3BlbnNzaC1rZXktdjE") == "> ***"
    assert masking.text(json.dumps(key)) == '"***"'


def test_what_is_learned_later_is_masked_by_whoever_masks_already() -> None:
    masking = Masking(["first-secret"])
    mask = masking.text
    masking.learn(["another-secret"])
    assert mask("first-secret another-secret") == "*** ***"
    assert masking.longest >= len("another-secret")


def test_secrets_of_an_environment_are_known_by_their_names() -> None:
    secret = {
        "AWS_SECRET_ACCESS_KEY": "aws/secret",
        "AWS_SESSION_TOKEN": "session-token",
        "CONSUL_HTTP_TOKEN": "consul-token",
        "CONSUL_HTTP_AUTH": "user:password",
        "GITHUB_TOKEN": "ghs_1234",
        "DATABASE_PASSWORD": "correct horse",
        "SECRET_KEY_BASE": "0123456789",
        "RAILS_MASTER_KEY": "abcdefgh",
        "DEPLOY_SSH_KEY": "-----BEGIN",
        "npm_config_token": "npm_12345",
    }
    open_to_all = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "CONSUL_HTTP_TOKEN_FILE": "/etc/consul.d/token",
        "SSH_AUTH_SOCK": "/tmp/agent.123",
        "API_TOKEN": "short",
        "HOME": "/home/deploy",
        "TOKENS_PER_MINUTE": "100000000",
        "COMPOSER_HOME": "https://packages.example.com/path@1",
    }
    assert sorted(secrets_in({**secret, **open_to_all})) == sorted(secret.values())


def test_passwords_in_urls_are_secrets() -> None:
    assert secrets_in_urls("postgres://app:s3cret@db/shop and https://me@example.com/") == ["s3cret"]
    token = "ghp_0123456789abcdefghij"
    assert secrets_in_urls(f"https://{token}@github.com/acme/shop") == [token]
    assert secrets_in_urls(f"https://{token}:x-oauth-basic@github.com/") == ["x-oauth-basic", token]
    assert secrets_in_urls("git@git.example.com:acme/shop.git") == []
    assert secrets_in_urls("s3://bucket/a:b@c") == []
    assert secrets_in({"DATABASE_URL": "postgres://app:correct-horse@db/shop"}) == ["correct-horse"]
