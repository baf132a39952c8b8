"""What lock files name, in each form that their tools write."""

import contextlib
import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.model.lock_files import LOCK_FILES, components

SHA256, SHA512 = "ab" * 32, "cd" * 64
INTEGRITY = "sha512-" + b64encode(bytes.fromhex(SHA512)).decode()

GEMFILE_LOCK = f"""\
GIT
  remote: https://jo:secret@git.example.com/acme/tools.git
  revision: {"1f" * 20}
  branch: main
  specs:
    tools (0.3.0)
      rake

PATH
  remote: engines/blog
  specs:
    blog (1.0)

GEM
  remote: https://rubygems.org/
  specs:
    nokogiri (1.16.0)
    nokogiri (1.16.0-x86_64-linux)
      racc (~> 1.4)
    racc (1.7.3)

PLATFORMS
  ruby
  x86_64-linux

DEPENDENCIES
  nokogiri
  tools!

CHECKSUMS
  nokogiri (1.16.0-x86_64-linux) sha256={SHA256}
  racc (1.7.3)

BUNDLED WITH
   2.5.3
"""
REQUIREMENTS = f"""\
# made by hand
--index-url https://jo:secret@pypi.example.com/simple
-r other.txt
-e .
Django[argon2] == 5.2.19 ; python_version >= "3.10"  # the framework
zope.interface==7.0 \\
    --hash=sha256:{SHA256} \\
    --hash=md5:nothing
gunicorn>=20
two==1.*,<2
https://jo:secret@example.com/app.whl
tool @ git+https://jo:secret@example.com/tool.git
"""
UV = f"""\
[[package]]
name = "shop"
source = {{ virtual = "." }}
[[package]]
name = "Django"
version = "5.2"
source = {{ registry = "https://pypi.org/simple" }}
sdist = {{ url = "x", hash = "sha256:{SHA256}", size = 1 }}
wheels = [{{ url = "y", hash = "sha256:{"ef" * 32}", size = 1 }}]
"""
POETRY = f"""\
[[package]]
name = "django"
version = "5.2"
files = [{{file = "Django.whl", hash = "sha256:{SHA256}"}}]
"""
PIPFILE = {"default": {"django": {"version": "==5.2", "hashes": [f"sha256:{SHA256}"]}}, "develop": {"black": {}}}
NPM = {
    "lockfileVersion": 3,
    "packages": {
        "": {"name": "shop"},
        "packages/own": {"version": "1.0.0"},
        "node_modules/own": {"link": True, "resolved": "packages/own"},
        "node_modules/left-pad": {"version": "1.3.0", "integrity": INTEGRITY},
        "node_modules/a/node_modules/@scope/b": {"version": "2.0.0", "dev": True},
        "node_modules/alias": {"name": "real", "version": "4.0.0"},
    },
}
NPM_OLD = {"dependencies": {"left-pad": {"version": "1.3.0", "dependencies": {"@scope/b": {"version": "2.0.0"}}}}}
YARN = f"""\
# yarn lockfile v1


"@scope/b@^2.0.0", "@scope/b@^2.1":
  version "2.1.0"
  resolved "https://registry.yarnpkg.com/@scope/b/-/b-2.1.0.tgz#x"
  integrity {INTEGRITY}

alias@npm:real@^4:
  version "4.0.0"
"""
BERRY = """\
__metadata:
  version: 8

"left-pad@npm:^1.0.0":
  version: 1.3.0
  resolution: "left-pad@npm:1.3.0"
  checksum: 10c0/ab

"shop@workspace:.":
  version: 0.0.0-use.local
  resolution: "shop@workspace:."
"""
PNPM = f"""\
lockfileVersion: '9.0'
packages:
  '@scope/b@2.0.0':
    resolution: {{integrity: {INTEGRITY}}}
  left-pad@1.3.0(react@18.0.0):
    resolution: {{integrity: broken}}
"""
PNPM_OLD = "packages:\n  /@scope/b/2.0.0:\n    dev: true\n  /left-pad@1.3.0:\n    dev: false\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "Gemfile.lock",
            GEMFILE_LOCK,
            [
                "pkg:gem/nokogiri@1.16.0",
                f"pkg:gem/nokogiri@1.16.0?platform=x86_64-linux SHA-256:{SHA256}",
                "pkg:gem/racc@1.7.3",
                "pkg:gem/tools@0.3.0?vcs_url=git%2Bhttps%3A%2F%2Fgit.example.com%2Facme%2Ftools.git%40" + "1f" * 20,
            ],
        ),
        (
            "requirements.txt",
            REQUIREMENTS,
            [
                "pkg:pypi/django@5.2.19",
                "pkg:pypi/gunicorn",
                "pkg:pypi/tool",
                "pkg:pypi/two",
                f"pkg:pypi/zope-interface@7.0 SHA-256:{SHA256}",
            ],
        ),
        ("uv.lock", UV, [f"pkg:pypi/django@5.2 SHA-256:{SHA256} SHA-256:{'ef' * 32}"]),
        ("poetry.lock", POETRY, [f"pkg:pypi/django@5.2 SHA-256:{SHA256}"]),
        ("Pipfile.lock", json.dumps(PIPFILE), ["pkg:pypi/black dev", f"pkg:pypi/django@5.2 SHA-256:{SHA256}"]),
        (
            "package-lock.json",
            json.dumps(NPM),
            [
                "pkg:npm/%40scope/b@2.0.0 dev",
                f"pkg:npm/left-pad@1.3.0 SHA-512:{SHA512}",
                "pkg:npm/real@4.0.0",
            ],
        ),
        ("npm-shrinkwrap.json", json.dumps(NPM_OLD), ["pkg:npm/%40scope/b@2.0.0", "pkg:npm/left-pad@1.3.0"]),
        ("yarn.lock", YARN, [f"pkg:npm/%40scope/b@2.1.0 SHA-512:{SHA512}", "pkg:npm/real@4.0.0"]),
        ("yarn.lock", BERRY, ["pkg:npm/left-pad@1.3.0"]),
        ("pnpm-lock.yaml", PNPM, [f"pkg:npm/%40scope/b@2.0.0 SHA-512:{SHA512}", "pkg:npm/left-pad@1.3.0"]),
        ("pnpm-lock.yaml", PNPM_OLD, ["pkg:npm/%40scope/b@2.0.0 dev", "pkg:npm/left-pad@1.3.0"]),
    ],
)
def test_each_package_of_a_lock_file_is_named_with_its_version_and_hashes(
    name: str, text: str, expected: list[str]
) -> None:
    found = [
        " ".join([each.purl, *(":".join(known) for known in each.hashes), *(["dev"] if each.development else [])])
        for each in components(name, text)
    ]
    assert found == expected
    assert "secret" not in repr(components(name, text))


@pytest.mark.parametrize("name", LOCK_FILES)
@given(
    text=st.one_of(
        st.text(),
        st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)).map(
            lambda value: json.dumps({"packages": value, "default": value, "dependencies": value})
        ),
        st.sampled_from(["[[package]]\nx=1", "package=1", "[[package]]\nname=1\nversion=[1]", "a: &a [*a]"]),
    )
)
def test_a_lock_file_that_makes_no_sense_is_no_crash(name: str, text: str) -> None:
    with contextlib.suppress(ValueError):
        components(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "package-lock.json",
            json.dumps({"dependencies": {"a": {"version": "git+https://SECRET@github.com/x/a.git#12"}}}),
        ),
        (
            "package-lock.json",
            json.dumps({"packages": {"node_modules/a": {"version": "https://u:SECRET@x.org/a.tgz"}}}),
        ),
        ("package-lock.json", json.dumps({"dependencies": {"a": {"version": "SECRET@git.example.org:x/a.git"}}})),
        (
            "Gemfile.lock",
            "GIT\n  remote: https://git.org/a.git?private_token=SECRET\n  revision: 12\n  specs:\n    a (1.0)\n",
        ),
        ("Gemfile.lock", "GIT\n  remote: https://SECRET@git.org/a.git\n  revision: 12\n  specs:\n    a (1.0)\n"),
        ("yarn.lock", 'a@^1:\n  version "https://x.org/a.tgz?token=SECRET"\n'),
        ("poetry.lock", '[[package]]\nname = "a"\nversion = "git+https://SECRET@x.org/a"\n'),
    ],
)
def test_token_in_a_lock_file_is_not_published(name: str, text: str) -> None:
    found = components(name, text)
    assert [each.name for each in found] == ["a"]
    assert "SECRET" not in str(found)
