"""What sudo must allow on a host, as it is read from the commands of a role."""

import pytest

from deploytool.hosts.role_manifest import HostCommand
from deploytool.hosts.sudo_rules import rules_of, sudo_rules
from tests.support.manifests import given_settings

RESTART = ("root", "systemctl", "restart app")
BY_HAND = ("root", "", "")


@pytest.mark.parametrize(
    ("command", "rules"),
    [
        ("sudo systemctl restart app", [RESTART]),
        ("/usr/bin/sudo -n -- systemctl restart app >/dev/null 2>&1 || exit 1", [RESTART]),
        ("if true; then sudo systemctl restart app; fi", [RESTART]),
        ("true && (sudo systemctl restart app)", [RESTART]),
        ("true\nsudo systemctl \\\n restart app", [RESTART]),
        (
            "sudo /bin/systemctl restart 'app@1.service' && sudo -u www bin/warm",
            [("root", "/bin/systemctl", "restart app@1.service"), ("www", "bin/warm", '""')],
        ),
        ("sudo --user=www -g www bin/warm now", [("www", "bin/warm", "now")]),
        ("sudo reboot", [("root", "reboot", '""')]),
        ("sudo supervisorctl restart app:web", [("root", "supervisorctl", "restart app\\:web")]),
        # No line that is true for one command alone.
        ("sudo systemctl restart $UNIT", [BY_HAND]),
        ("sudo supervisorctl restart 'app:*'", [BY_HAND]),
        ("sudo sh -c 'a; b'", [BY_HAND]),
        ("sudo -i systemctl restart app", [BY_HAND]),
        ("sudo -E bin/x", [BY_HAND]),
        ("sudo RAILS_ENV=production bin/x", [BY_HAND]),
        ("sudo sh -c 'a\nb'", [BY_HAND]),
        ("sudo bin/tell 20261123", [BY_HAND]),
        ("echo pseudo; ./sudoku; # nothing", []),
        ("systemctl --user restart app", []),
    ],
)
def test_sudo_rule_is_read_from_a_command(command: str, rules: list[tuple[str, str, str]]) -> None:
    found = rules_of(HostCommand("restart[0]", command), ("20261123",))
    assert [(rule.runas, rule.program, rule.arguments) for rule in found] == rules


def test_rules_are_those_of_all_commands_of_the_role_each_once() -> None:
    command = "sudo systemctl restart app"
    settings = given_settings(
        restart=[command], hooks={"drain": ["sudo ip-out"], "success": [command, "sudo tell {{ release }}"]}
    )
    found = {rule.label: rule.program for rule in sudo_rules(settings, "web")}
    assert found == {
        "roles.web.restart[0]": "systemctl",
        "roles.web.hooks.drain[0]": "ip-out",
        "roles.web.hooks.success[1]": "",
    }
