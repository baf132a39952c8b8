"""Who may deploy, as a file says it."""

import pytest

from deploytool.errors import SettingsError
from deploytool.trust.signers import allowed_signers, read_signers

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
OTHER = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIA=="
ENVIRONMENTS = frozenset({"production", "staging"})


def production(text: str) -> str:
    return allowed_signers(read_signers(text, "production", ENVIRONMENTS, "signers"))


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        production(text)
    return caught.value.problems


def test_host_gets_those_who_may_deploy_to_its_environment() -> None:
    text = f"""
# the team
alice@example.org {KEY} alice's laptop
bob@example.org:staging,carol@example.org:production valid-before="20270101" {OTHER}
dave@example.org:staging {KEY}
"""
    assert production(text).splitlines() == [
        f'alice@example.org namespaces="deploytool" {KEY}',
        f'carol@example.org namespaces="deploytool",valid-before="20270101" {OTHER}',
    ]


def test_key_that_is_for_git_alone_signs_no_deployment() -> None:
    text = f'alice@x.org namespaces="git" {KEY}\nbob@x.org namespaces="git,deploytool",valid-after="20260101" {OTHER}\n'
    assert production(text) == f'bob@x.org namespaces="deploytool",valid-after="20260101" {OTHER}\n'


def test_lines_that_say_nothing_are_all_told() -> None:
    found = problems(f"alice\n* {KEY}\n!bob@x.org {KEY}\ncarol@x.org:producton {KEY}\nca cert-authority {KEY}\n")
    assert [problem.partition(": ")[0] for problem in found] == [f"signers, line {number}" for number in range(1, 6)]
    assert "no environment `producton`" in found[3]


@pytest.mark.parametrize("text", ["", "# nobody\n", f"bob@x.org:staging {KEY}\n", f'a@x.org namespaces="git" {KEY}\n'])
def test_file_that_names_nobody_is_no_way_to_switch_signatures_off(text: str) -> None:
    assert problems(text) == ("signers: names nobody who may deploy to production",)
