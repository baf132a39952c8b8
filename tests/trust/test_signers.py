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
    assert problems(text) == ("signers: does not name anyone who may deploy to production",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"bob: {KEY}", "`bob:` names no environment"),
        (f"bob: production {KEY}", "`bob:` names no environment"),
        (f":production {KEY}", "`:production` must begin with a name"),
        (f"alice,,bob {KEY}", "must begin with a name"),
        (f"-alice {KEY}", "`-alice` must begin with a name"),
        (f'"alice" {KEY}', "must begin with a name"),
        (f"alice;bob {KEY}", "must begin with a name"),
        (f"zoë {KEY}", "must begin with a name"),
    ],
)
def test_name_with_a_typo_may_not_deploy_everywhere(line: str, words: str) -> None:
    (problem,) = [each for each in problems(f"# the team\n{line}\n") if words in each]
    assert problem.startswith("signers, line 2: ")


@pytest.mark.parametrize(
    "options",
    [
        "foo",
        "restrict",
        "ssh-ed25519",
        "valid-before=20300101",
        'valid-before="2030"',
        'valid-before="20301301"',
        'valid-before="19700101"',
        'valid-before="2030-01-01"',
        'valid-before="203001012460"',
        'valid-before="٢٠٣٠٠١٠١"',
        'valid-after="20300101",valid-after="20300102"',
        'valid-after="20300101",valid-before="20290101"',
        'valid-after="20300101",',
        'namespaces=""',
        'namespaces="deploy*"',
        'namespaces="deploytool',
        "namespaces=deploytool",
        'no-touch-required,namespaces="deploytool"',
    ],
)
def test_options_that_hosts_would_not_take_are_refused_here(options: str) -> None:
    found = problems(f"alice {options} {KEY}\n")
    assert found
    assert all(each.startswith("signers, line 1: ") for each in found)


@pytest.mark.parametrize(
    ("options", "for_hosts"),
    [
        ('VALID-Before="20300101"', 'valid-before="20300101"'),
        ('Namespaces="git,deploytool",valid-after="202601010130Z"', 'valid-after="202601010130"'),
        (
            'valid-before="20300101235959z",valid-after="20260101"',
            'valid-before="20300101235959",valid-after="20260101"',
        ),
    ],
)
def test_options_are_written_for_hosts_as_every_ssh_keygen_takes_them(options: str, for_hosts: str) -> None:
    """In lower case, as receive.sh looks for them; without the Z that older ones don't know: hosts are in UTC then."""
    assert production(f"alice {options} {KEY}\n") == f'alice namespaces="deploytool",{for_hosts} {KEY}\n'


def test_certificate_is_no_key_of_a_signer() -> None:
    assert "not a key" in problems("alice ssh-ed25519-cert-v01@openssh.com AAAA\n")[0]


def test_key_that_was_cut_or_is_of_another_kind_is_named() -> None:
    for key in (KEY.replace("AAAAC3", "AAAC3"), KEY.replace("ssh-ed25519", "ssh-rsa")):
        assert problems(f"alice {key}\n")[0].startswith("signers, line 1: ")
