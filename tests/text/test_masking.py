"""What counts as a secret, and in which spellings it is found."""

import base64
import html
import json
import re
import shlex
import subprocess
from urllib.parse import quote, quote_plus
from xml.sax import saxutils

import markupsafe
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deploytool.text.masking import MASK, Masking, secrets_in, secrets_in_urls
from deploytool.text.untrusted import one_line

SECRET = "cañary/\"5b\\1e $77+x='&y<5b>~'\tz"


def bash(script: str, locale: str = "C.UTF-8") -> str:
    """What bash prints, on either channel."""
    done = subprocess.run(
        ["bash", "-c", script],
        env={"TOKEN": SECRET, "LC_ALL": locale},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
    )
    (line,) = (line for line in done.stdout.decode("utf-8", "replace").splitlines() if "5b" in line and "(" not in line)
    return line


def in_json(*, as_numbers: str = "", digits: str = "04x", ascii_only: bool = False) -> str:
    """The secret as JSON, with these characters as numbers."""
    return "".join(
        f"\\u{ord(each):{digits}}"
        if each in as_numbers or (ascii_only and not each.isascii())
        else json.dumps(each, ensure_ascii=False)[1:-1]
        for each in SECRET
    )


def in_lower_case(encoded: str) -> str:
    return re.sub("%..", lambda found: found.group().lower(), encoded)


SPELLINGS = {
    "itself": SECRET,
    "JSON": json.dumps({"token": SECRET}),
    "JSON in Unicode": json.dumps({"token": SECRET}, ensure_ascii=False),
    "JSON of Go and Rails": in_json(as_numbers="<>&"),
    "JSON of Gson": in_json(as_numbers="<>&='"),
    "JSON of PHP": in_json(ascii_only=True).replace("/", "\\/"),
    "JSON of PHP, with all its flags": in_json(as_numbers="<>&'\"", ascii_only=True).replace("/", "\\/"),
    "JSON of .NET": in_json(as_numbers="<>&'\"+`", digits="04X", ascii_only=True),
    "JSON in upper case": in_json(digits="04X", ascii_only=True),
    "JSON within JSON": json.dumps({"body": json.dumps({"token": SECRET})}),
    "JSON within JSON in Unicode": json.dumps(json.dumps(SECRET, ensure_ascii=False), ensure_ascii=False),
    "Go's JSON within JSON": json.dumps(in_json(as_numbers="<>&"), ensure_ascii=False),
    "a URL": f"https://x/?token={quote(SECRET, safe='')}",
    "a URL in lower case": in_lower_case(quote(SECRET, safe="")),
    "a URL of JavaScript": quote(SECRET, safe="!'()*"),
    "a whole URL of JavaScript": quote(SECRET, safe="!'()*;,/?:@&=+$#"),
    "a path": f"https://x/{quote(SECRET)}",
    "a path of Go": quote(SECRET, safe="$&+=:@"),
    "a form": f"token={quote_plus(SECRET)}",
    "a form in lower case": in_lower_case(quote_plus(SECRET)),
    "a form of Java": quote_plus(SECRET, safe="*").replace("~", "%7E"),
    "a shell": f"export TOKEN={shlex.quote(SECRET)}",
    "bash's list of what is exported": bash("export -p"),
    "bash's list of variables": bash("set"),
    "bash's list of variables in ASCII": bash("set", "C"),
    "bash's trace": bash('set -x; : "$TOKEN"'),
    "bash's trace in ASCII": bash('set -x; : "$TOKEN"', "C"),
    "bash's %q": bash("printf '%q\\n' \"$TOKEN\""),
    "Python": repr({"token": SECRET}),
    "Python in ASCII": ascii({"token": SECRET}),
    "Python's bytes": repr(SECRET.encode()),
    "HTML": html.escape(SECRET),
    "HTML between tags": html.escape(SECRET, quote=False),
    "HTML of Go and Jinja": str(markupsafe.escape(SECRET)),
    "XML": saxutils.escape(SECRET, {'"': "&quot;", "'": "&apos;"}),
    "YAML in double quotes": yaml.safe_dump(SECRET, default_style='"', width=1000),
    "YAML in double quotes in Unicode": yaml.safe_dump(SECRET, default_style='"', width=1000, allow_unicode=True),
    "CSV": '"' + SECRET.replace('"', '""') + '"',
    "one line": f"fatal: {one_line(SECRET)}",
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "a password": base64.b64encode(f"me:{SECRET}".encode()).decode(),
    "a user's name": base64.b64encode(f"{SECRET}:".encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(f"?{SECRET}?".encode()).decode(),
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_secret_is_masked_in_every_spelling(text: str) -> None:
    masked = Masking([SECRET]).text(text)
    assert MASK in masked
    assert "5b" not in masked


def test_a_secret_with_a_quote_is_masked_in_the_trace_of_a_shell() -> None:
    secret = "it's a secret''s"
    env = {"TOKEN": secret}
    for shell in ("bash", "sh"):
        done = subprocess.run([shell, "-c", 'set -x; : "$TOKEN"; set'], env=env, capture_output=True, text=True)
        shown = [
            line for line in (done.stdout + done.stderr).splitlines() if "a secret" in line and "set -x" not in line
        ]
        assert len(shown) >= 2
        assert {line: Masking([secret]).text(line).count(MASK) for line in shown} == dict.fromkeys(shown, 1)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@given(secret=st.text("ab019'\"\\ $`!#~:=,;&|<>(){}[]^*?%@\té", min_size=6, max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_secret_is_masked_in_whatever_bash_makes_of_it(locale: str, secret: str) -> None:
    said = subprocess.run(
        ["bash", "-c", 'set +o posix; printf \'%q\\n\' "x=$TOKEN" "$TOKEN"; declare -p TOKEN; set -x; : "$TOKEN"'],
        env={"TOKEN": secret, "LC_ALL": locale},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
    )
    lines = said.stdout.decode("utf-8", "replace").splitlines()
    assert len(lines) == 4
    masking = Masking([secret])
    assert [line for line in lines if MASK not in masking.text(line)] == []


def test_yaml_in_single_quotes_is_masked() -> None:
    secret = "it's: a 'secret'"
    written = yaml.safe_dump(secret)
    assert "''" in written
    assert Masking([secret]).text(written) == "'***'\n"


def test_a_secret_that_is_shown_within_one_line_is_masked() -> None:
    secret = "tab\tsecret\x1b123"
    for before in ("", "a", "ab", "abc", "abcd: "):
        assert Masking([secret]).text(one_line(before + secret)) == before + MASK


def test_a_secret_that_is_no_text_is_masked() -> None:
    secret = b"caf\xe9-secret".decode("utf-8", "surrogateescape")
    masking = Masking([secret])
    assert masking.text(b"caf\xe9-secret".decode("utf-8", "replace")) == MASK
    assert masking.text("caf%E9-secret") == MASK
    assert Masking(["half \ud800 a pair"]).text(json.dumps("half \ud800 a pair")) == '"***"'


def test_names_in_json_are_masked_but_those_of_our_own_fields() -> None:
    masking = Masking(["Secret-1", "release"])
    assert masking.value({"Secret-1": ["x"], "release": "release"}) == {MASK: ["x"], "release": MASK}


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


def test_a_secret_that_contains_another_is_masked_whole() -> None:
    assert Masking(["abc-123", "x/abc-123-y"]).text("x/abc-123-y x%2Fabc-123-y abc-123") == "*** *** ***"


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
        "PGPASSWORD": "postgres-pw",
        "MYSQL_PWD": "mysql-pw",
        "DB_PASS": "database-pw",
        "SMTP_PASS": "mail-password",
        "REDISCLI_AUTH": "redis-pw",
        "GITHUB_PAT": "github_pat_1",
        "NPM_CONFIG__AUTH": "bWU6aHVudGVyMg==",
        "NPM_CONFIG__AUTHTOKEN": "npm_67890",
        "AZURE_STORAGE_KEY": "azure-key==",
        "API_TOKEN_PROD": "tok_12345",
        "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T00/B00/abc",
        "DISCORD_WEBHOOK": "https://discord.com/api/webhooks/1/abc",
        "WEBHOOK_URL_PROD": "https://example.com/hooks/abc",
        "CREDENTIALS": "me:hunter22",
        "AZURE_CREDS": "bWU6aHVudGVyMjI=",
        "CI_JOB_JWT_V2": "eyJhbGciOiJSUzI1NiJ9",
        "RELEASE_COOKIE": "c00kie-of-erlang",
        "NEW_RELIC_LICENSE_KEY": "license-1",
        "BUNDLE_GEMS__EXAMPLE__COM": "me:gems-pw",
    }
    open_to_all = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "CONSUL_HTTP_TOKEN_FILE": "/etc/consul.d/token",
        "SSH_AUTH_SOCK": "/tmp/agent.123",
        "API_TOKEN": "short",
        "HOME": "/home/deploy",
        "TOKENS_PER_MINUTE": "100000000",
        "PWD": "/home/deploy",
        "OLDPWD": "/home/deploy/shop",
        "INITIAL_PWD": "/home/deploy/app",
        "LB_BYPASS": "/healthz/1",
        "HTTPD_AUTH": "disabled",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/token1",
        "TOKEN_URL": "https://sso.example.com/v1/token",
        "TOKEN_ISSUER": "accounts.example.com",
        "TOKEN_TTL_SECONDS": "100000000",
        # Nobody knows which keys are secret.
        "STRIPE_KEY": "sk_live_1234",
        "CACHE_KEY": "v1-linux-gems",
        "COMPOSER_HOME": "https://packages.example.com/path@1",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/google/key1.json",
        "AWS_SHARED_CREDENTIALS": "~/.aws/credentials2",
        "WINDOWS_CREDENTIALS": "C:\\secrets\\key1",
        "GIT_CREDENTIALS": "osxkeychain",
        "CREDENTIALS_FILE": "key1.json",
        "KUBECONFIG": "/home/deploy/.kube/config1",
        "WEBHOOK_URL": "https://ci.example.com/",
        "WEBHOOK_PORT": "100000000",
        "WEBHOOK_ENABLED": "everywhere",
        "PDO_DSN": "mysql:host=localhost;dbname=shop",
        "SQLITE_DSN": "sqlite:///srv/shop/db.sqlite3",
        "SESSION_COOKIE": "session_id",
        "BUNDLE_BUILD__NOKOGIRI": "--use-system-libraries",
        "BUNDLE_LOCAL__RACK": "/srv/rack:1",
    }
    assert sorted(secrets_in({**secret, **open_to_all})) == sorted(secret.values())


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=shop;AccountKey=c2VjcmV0LWtleQ==", ["c2VjcmV0LWtleQ=="]),
        ("SqlConnectionString_CONNECTION_STRING", "Server=db;User Id=me;Password = hunter-22;", ["hunter-22"]),
        (
            "REDIS_CONNECTION_STRING",
            "cache:6380,password=correct-horse,ssl=True",
            ["correct-horse", "correct-horse,ssl=True"],
        ),
        ("MYSQL_DSN", "app:correct-horse@tcp(db:3306)/shop", ["correct-horse"]),
        ("DOCKER_AUTH_CONFIG", '{"auths": {"r.example.com": {"auth": "bWU6aHVudGVyMjI="}}}', ["bWU6aHVudGVyMjI="]),
        (
            "GOOGLE_CREDENTIALS",
            '{"type": "service_account",\n"private_key": "-----BEGIN\\nMIIE-abc\\n", "token_uri": "https://x.y/z"}',
            ["-----BEGIN\nMIIE-abc\n"],
        ),
        ("CREDENTIALS", "{not: json, 1}", []),
        ("DEEP_CREDENTIALS", "[" * 2000, []),
    ],
)
def test_a_document_that_is_secret_is_masked_and_so_is_each_secret_in_it(
    name: str, value: str, parts: list[str]
) -> None:
    assert sorted(secrets_in({name: value})) == sorted([value, *parts])


@given(st.dictionaries(st.sampled_from(["CREDENTIALS", "MY_DSN", "SLACK_WEBHOOK_URL", "X_AUTH", "A_PWD"]), st.text()))
def test_what_an_environment_holds_is_never_too_odd_for_a_guess(environ: dict[str, str]) -> None:
    for secret in secrets_in(environ):
        assert MASK in Masking([secret]).text(f"> {secret}")


@given(st.text("abc/+=~é: ", min_size=6, max_size=30))
def test_a_secret_in_a_url_is_masked_in_either_case(secret: str) -> None:
    for encoded in (quote(secret, safe=""), in_lower_case(quote(secret, safe=""))):
        assert "%" not in Masking([secret]).text(encoded)


def test_passwords_in_urls_are_secrets() -> None:
    assert secrets_in_urls("postgres://app:s3cret@db/shop and https://me@example.com/") == ["s3cret"]
    token = "ghp_0123456789abcdefghij"
    assert secrets_in_urls(f"https://{token}@github.com/acme/shop") == [token]
    assert secrets_in_urls(f"https://{token}:x-oauth-basic@github.com/") == ["x-oauth-basic", token]
    assert secrets_in_urls("git@git.example.com:acme/shop.git") == []
    assert secrets_in_urls("s3://bucket/a:b@c") == []
    key = "0123456789abcdef0123456789abcdef"
    dsn = f"https://{key}@o1.ingest.sentry.io/2"
    assert sorted(secrets_in({"SENTRY_DSN": dsn})) == sorted([dsn, key])
    assert secrets_in({"DATABASE_URL": "postgres://app:correct-horse@db/shop"}) == ["correct-horse"]
