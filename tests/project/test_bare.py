"""What `make bare` takes along of this machine. The rest is tried by running it."""

import subprocess

import pytest

from deploytool.playground import parts
from tools.bare import ENTER, INSTALLED, VERSIONS, registry_variables


def test_what_says_where_registries_are_is_taken_along_and_nothing_else() -> None:
    about = {
        "PIP_INDEX_URL": "https://index.test/simple",
        "NPM_CONFIG_REGISTRY": "https://npm.test",
        "GOPROXY": "https://go.test",
        "https_proxy": "http://proxy.test",
        "SSL_CERT_FILE": "/etc/ssl/own.pem",
    }
    others = {
        "PATH": "/opt/bin",
        "LANG": "C.UTF-8",
        "PIP_FIND_LINKS": "/opt/wheels",
        "GOPATH": "/opt/go",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PYTHONPATH": "/opt/python",
    }
    assert registry_variables({**about, **others}) == about


def test_scripts_of_the_bare_machine_are_good_shell() -> None:
    for script in (ENTER, VERSIONS, INSTALLED):
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_mirror_of_the_machine_is_read_from_either_kind_of_source(monkeypatch: pytest.MonkeyPatch) -> None:
    one = "deb [signed-by=/keys.gpg] http://mirror.test/debian bookworm main\n"
    paragraph = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm\nComponents: main\n"
    for text, keys in ((one, "/keys.gpg"), (paragraph + "Signed-By: /keys.gpg\n", "/keys.gpg"), (paragraph, None)):
        monkeypatch.setattr(parts, "_own_sources", lambda text=text: text)
        assert parts.debian_mirror() == ("http://mirror.test/debian", keys)
