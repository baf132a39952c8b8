"""What is true of every receiver: one sentence a case."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.receiver_world import (
    LONG_AGO,
    ORDINARY,
    UNSET,
    Case,
    directory,
    fifo,
    file,
    hard_link,
    pack,
    symlink,
)

SAYS = "echo {0} >>@WORLD@/disk/trace"
HOOKS: Mapping[str, Sequence[str]] = {
    name: [SAYS.format(f"{name} 1"), SAYS.format(f"{name} 2")] for name in ("pre", "post", "success", "failure")
}
GOOD = "pre 1\npre 2\npost 1\npost 2\nsuccess 1\nsuccess 2\n"
#: A hook's text that writes down what kind of directory it runs in.
WHERE = (
    'case $(readlink "/proc/$$/cwd") in *"(deleted)") echo deleted ;; @WORLD@/disk) echo ours ;; '
    "*) echo elsewhere ;; esac >@WORLD@/disk/where"
)
FACTS = "sh @WORLD@/facts.sh @WORLD@/disk/"
#: `begun` before `done` would mean that the signal came to nothing.
SLEEPS = "echo begun >@WORLD@/disk/begun; exec sleep 20"


def hooks(**changed: Any) -> dict[str, Any]:
    """All hooks that trace their order, with some of them changed."""
    return {"commands": {**HOOKS, **changed}}


def commands(**given: Any) -> dict[str, Any]:
    return {"commands": given}


def no_src(**given: Any) -> dict[str, Any]:
    return {"src": None, "checksum": None, "dest": None, "commands": given}


TREE = (
    directory("."),
    file("a.txt", "a"),
    file("b.sh", "#!/bin/sh\n", 0o750),
    file("secret", "s", 0o600),
    directory("sub", 0o700),
    file("sub/c.txt", "c", mtime=LONG_AGO + 7),
    directory("sub/empty", 0o711),
    symlink("good", "a.txt"),
    symlink("dangling", "nowhere"),
    symlink("absolute", "/etc/hosts"),
    symlink("to directory", "sub"),
)

CASES = (
    # the tree
    Case(
        "files, modes, times, links and empty directories arrive as packed",
        TREE,
        leaves={"www/a.txt": "a", "www/sub/c.txt": "c"},
    ),
    Case("an archive without compression is unpacked", pack(ORDINARY, ""), leaves={"www/app.py": "print('hello')\n"}),
    Case("an archive packed with xz is unpacked", pack(ORDINARY, "xz"), leaves={"www/app.py": "print('hello')\n"}),
    Case("hard links in the archive become files of their own", (file("a", "x"), hard_link("b", "a"))),
    Case("setuid, setgid and sticky bits stay", (file("u", "", 0o4755), file("g", "", 0o2755), directory("t", 0o1777))),
    # An ordinary user's stretcher would leave its temporary copy behind.
    Case(
        "a read-only directory with files arrives",
        (directory("r", 0o555), file("r/x", "x", 0o444)),
        manifest=commands(post=["chmod -R u+w @WORLD@/tmp"]),
    ),
    Case("a FIFO arrives as one", (fifo("queue"), file("a", "a"))),
    Case("owners other than ours arrive", (file("a", "a", owner=4321), directory("d", owner=4321))),
    Case("names with spaces, quotes, newlines and other letters", (file("a b'\"$(id)\n`é*?[x]", "x"), file("-n", "y"))),
    Case(
        "what is not in the archive is deleted",
        disk=(file("www/old.py", "x"), file("www/old/deep/er", "x"), symlink("www/link", "/etc"), fifo("www/pipe")),
        leaves={"www/old.py": None, "www/old/deep/er": None},
    ),
    Case("what is beside dest is left alone", disk=(file("www2/old.py", "x"),), leaves={"www2/old.py": "x"}),
    Case(
        "dest may be a symlink to a directory",
        disk=(file("real/old", "x"), symlink("www", "real")),
        leaves={"real/app.py": "print('hello')\n", "real/old": None},
    ),
    Case(
        "dest may end with a slash", manifest={"dest": "@WORLD@/disk/www/"}, leaves={"www/app.py": "print('hello')\n"}
    ),
    Case("dest is made, its parents are not", manifest={"dest": "@WORLD@/disk/no/www"}, exit_status=1),
    Case("dest that is a file is an error", disk=(file("www", "x"),), exit_status=1, leaves={"www": "x"}),
    Case("an empty archive empties dest", (), disk=(file("www/old", "x"),), leaves={"www/old": None}),
    Case("dest_mode is dest's mode", manifest={"dest_mode": 0o700}),
    Case(
        "dest_mode wins over the archive's own", (directory(".", 0o711), file("a", "a")), manifest={"dest_mode": 0o750}
    ),
    Case("dest's mode is 755 without dest_mode", (directory(".", 0o711), file("a", "a"))),
    Case("of dest_mode only the permissions count", manifest={"dest_mode": 0o2770}),
    Case(
        "dest_mode is octal with a leading zero",
        text="src: file://@WORLD@/archive.tar.gz\nchecksum: @MD5@\ndest: @WORLD@/disk/www\ndest_mode: 0750\n",
    ),
    Case(
        "dest_mode may be written 0o750",
        text="src: file://@WORLD@/archive.tar.gz\nchecksum: @MD5@\ndest: @WORLD@/disk/www\ndest_mode: 0o750\n",
    ),
    Case(
        "dest_mode in quotes is unreadable",
        text='src: file://@WORLD@/archive.tar.gz\nchecksum: @MD5@\ndest: @WORLD@/disk/www\ndest_mode: "0750"\n',
        exit_status=1,
        leaves={"www/app.py": None},
    ),
    # excludes
    Case(
        "excluded things are neither copied nor deleted",
        (file("log/new", "x"), file("a", "a")),
        disk=(file("www/log/old", "x"), file("www/b", "b")),
        manifest={"excludes": ["log"]},
        leaves={"www/log/old": "x", "www/log/new": None, "www/b": None},
    ),
    Case(
        "exclude_from is a file in the archive",
        (
            file("conf/leave-out", "# comment\n; comment\n\n*.log\r\n/tmp/\nlast"),
            file("a.log"),
            file("tmp/x"),
            file("last"),
        ),
        disk=(file("www/b.log", "b"), file("www/sub/tmp/x", "x")),
        manifest={"exclude_from": "conf/leave-out"},
        leaves={"www/a.log": None, "www/b.log": "b", "www/tmp/x": None, "www/sub/tmp/x": None, "www/last": None},
    ),
    Case(
        "exclude_from that is not there is an error",
        disk=(file("www/b", "b"),),
        manifest={"exclude_from": "list"},
        exit_status=1,
        leaves={"www/b": "b"},
    ),
    # strategies
    Case("the strategy mv renames", manifest={"sync_strategy": "mv"}, leaves={"www/app.py": "print('hello')\n"}),
    Case(
        "mv takes no excludes",
        manifest={"sync_strategy": "mv", "excludes": ["*"]},
        leaves={"www/bin/start": "#!/bin/sh\n"},
    ),
    Case(
        "mv onto a directory fails",
        disk=(file("www/old", "x"),),
        manifest={"sync_strategy": "mv", **hooks()},
        exit_status=1,
        leaves={"www/old": "x", "trace": "pre 1\npre 2\nfailure 1\nfailure 2\n"},
    ),
    Case("mv onto an empty directory fails", disk=(directory("www"),), manifest={"sync_strategy": "mv"}, exit_status=1),
    Case("mv onto a file fails", disk=(file("www", "x"),), manifest={"sync_strategy": "mv"}, exit_status=1),
    Case(
        "mv onto a symlink to a directory fails",
        disk=(directory("real"), symlink("www", "real")),
        manifest={"sync_strategy": "mv"},
        exit_status=1,
    ),
    Case(
        "mv across file systems fails",
        manifest={"sync_strategy": "mv"},
        environment={"TMPDIR": "@SHM@"},
        needs_shm=True,
        exit_status=1,
        leaves={"www": None},
    ),
    Case(
        "a relative dest lies beside the directory that is unpacked in, and mv gets there on any file system",
        manifest={
            "dest": "../beside",
            "sync_strategy": "mv",
            **commands(post=['test -x "$TMPDIR/beside/bin/start" && mv "$TMPDIR/beside" @WORLD@/disk/www']),
        },
        environment={"TMPDIR": "@SHM@"},
        needs_shm=True,
        leaves={"www/app.py": "print('hello')\n"},
    ),
    Case(
        "so it does to rsync",
        manifest={"dest": "../beside", **commands(post=['mv "$TMPDIR/beside" @WORLD@/disk/www'])},
        leaves={"www/app.py": "print('hello')\n"},
    ),
    Case(
        "mv into the directory that is unpacked in fails",
        manifest={"dest": "in", "sync_strategy": "mv"},
        exit_status=1,
    ),
    Case(
        "rsync works across file systems",
        environment={"TMPDIR": "@SHM@"},
        needs_shm=True,
        leaves={"www/app.py": "print('hello')\n"},
    ),
    Case(
        "rsync may be named as the strategy",
        manifest={"sync_strategy": "rsync"},
        leaves={"www/bin/start": "#!/bin/sh\n"},
    ),
    Case(
        "an unknown strategy fails before anything is done, and failure hooks run",
        manifest={"sync_strategy": "scp", **hooks()},
        exit_status=1,
        leaves={"trace": "failure 1\nfailure 2\n", "www/app.py": None},
    ),
    # hooks
    Case("hooks run in their order", manifest=hooks(), leaves={"trace": GOOD}),
    Case(
        "pre runs before dest is touched, post after",
        disk=(file("www/old", "x"),),
        manifest=commands(
            pre=["test -e @WORLD@/disk/www/old", "test ! -e @WORLD@/disk/www/app.py"],
            post=["test -e @WORLD@/disk/www/app.py", "test ! -e @WORLD@/disk/www/old"],
        ),
    ),
    Case(
        "with no src only the commands run",
        manifest=no_src(**HOOKS),
        leaves={"trace": GOOD},
    ),
    Case(
        "an empty src is no src, whatever else is there",
        text="src: ''\nchecksum: @MD5@\ndest: @WORLD@/disk/www\nsync_strategy: rsync\nexcludes: []\n"
        "commands: {pre: ['echo pre >>@WORLD@/disk/trace'], success: ['echo success >>@WORLD@/disk/trace']}\n",
        disk=(file("www/old", "x"),),
        leaves={"trace": "pre\nsuccess\n", "www/old": "x", "www/app.py": None},
    ),
    Case(
        "with no src dest does not count",
        manifest={"src": None, **hooks()},
        disk=(file("www/old", "x"),),
        leaves={"trace": GOOD, "www/old": "x"},
    ),
    Case(
        "pre and post have no stdin", manifest=commands(pre=["cat >@WORLD@/disk/pre"], post=["cat >@WORLD@/disk/post"])
    ),
    Case("pre's stdin is /dev/null", manifest=commands(pre=["readlink /proc/self/fd/0 >@WORLD@/disk/pre"])),
    Case("success has the log on stdin", manifest=commands(pre=["echo said by pre"], success=[FACTS + "facts"])),
    Case(
        "the second success hook has the longer log on stdin",
        manifest=commands(success=[FACTS + "1", FACTS + "2"]),
        leaves={
            "1": "executing: 1\ncommands: 0\nfailed: 0\nsucceeded: 1\nsaid by hooks:\n",
            "2": "executing: 1\ncommands: 1\nfailed: 0\nsucceeded: 1\nsaid by hooks:\n",
        },
    ),
    Case(
        "failure has the log on stdin",
        manifest=commands(
            pre=["echo said by pre; echo said by pre, too >&2"], post=["false"], failure=[FACTS + "facts"]
        ),
        exit_status=1,
        leaves={
            "facts": "executing: 1\ncommands: 2\nfailed: 1\nsucceeded: 0\nsaid by hooks:\n"
            "said by pre\nsaid by pre, too\n"
        },
    ),
    Case(
        "what success hooks say is not in the next one's log",
        manifest=commands(success=["echo said by success", FACTS + "facts"]),
        leaves={"facts": "executing: 1\ncommands: 1\nfailed: 0\nsucceeded: 1\nsaid by hooks:\n"},
    ),
    Case(
        "a success hook need not read its stdin",
        manifest=commands(
            pre=["head -c 300000 /dev/zero | tr '\\0' x"], success=["true", "exec <&-", *HOOKS["success"]]
        ),
        leaves={"trace": "success 1\nsuccess 2\n"},
    ),
    Case("a hook that says nothing is logged no further", manifest=commands(pre=["true"], success=[FACTS + "facts"])),
    Case("post runs where the receiver was started", manifest=commands(post=[WHERE]), leaves={"where": "ours\n"}),
    Case("success runs where the receiver was started", manifest=commands(success=[WHERE]), leaves={"where": "ours\n"}),
    Case(
        "failure after a failed pre runs where the receiver was started",
        manifest=commands(pre=["false"], failure=[WHERE]),
        exit_status=1,
        leaves={"where": "ours\n"},
    ),
    Case(
        "failure after a failed unpacking runs in a deleted directory",
        b"no archive",
        manifest=commands(failure=[WHERE]),
        exit_status=1,
        leaves={"where": "deleted\n"},
    ),
    Case(
        "failure after a failed sync runs in a deleted directory",
        manifest={"dest": "@WORLD@/disk/no/www", **commands(failure=[WHERE])},
        exit_status=1,
        leaves={"where": "deleted\n"},
    ),
    Case(
        "failure after a failed post runs where the receiver was started",
        manifest=commands(post=["false"], failure=[WHERE]),
        exit_status=1,
        leaves={"where": "ours\n"},
    ),
    # 1.1.0 sets AWS_SDK_LOAD_CONFIG for itself, and with it for its hooks.
    Case(
        "hooks have the receiver's environment and nothing more",
        manifest=commands(pre=["env >@WORLD@/disk/env"]),
        holds_for=("newest",),
    ),
    Case(
        "hooks have the receiver's locale",
        manifest=commands(pre=["env >@WORLD@/disk/env"]),
        environment={"LC_CTYPE": "C.UTF-8", "A": "b c\nd", "AWS_SDK_LOAD_CONFIG": "true"},
    ),
    Case(
        "each hook is a shell of its own",
        manifest=commands(pre=["A=1; cd /", 'echo "${A-unset}" $PWD >@WORLD@/disk/a']),
    ),
    Case(
        "a hook's text arrives unchanged",
        manifest=commands(
            pre=[
                "if true\nthen\n\tprintf '%s|' 'a  b' \"it's\" \\$ ü # not this\nfi >@WORLD@/disk/a",
                'echo "status: ok"',
            ]
        ),
        leaves={"a": "a  b|it's|$|ü|"},
    ),
    Case("an empty hook succeeds", manifest=hooks(pre=[""]), leaves={"trace": GOOD.removeprefix("pre 1\npre 2\n")}),
    Case(
        "pre hooks run although a list of them is null elsewhere",
        manifest=commands(pre=HOOKS["pre"], post=None),
        leaves={"trace": "pre 1\npre 2\n"},
    ),
    Case(
        "a hook that leaves a background process with its own output behind does not block",
        manifest=hooks(post=["sleep 5 >/dev/null 2>&1 &"]),
        leaves={"trace": GOOD.replace("post 1\npost 2\n", "")},
    ),
    # hooks that fail
    Case(
        "a failing pre ends the run, and failure hooks run",
        disk=(file("www/old", "x"),),
        manifest=hooks(pre=["echo pre 1 >>@WORLD@/disk/trace", "exit 3", "echo never >>@WORLD@/disk/trace"]),
        exit_status=1,
        leaves={"trace": "pre 1\nfailure 1\nfailure 2\n", "www/old": "x"},
    ),
    Case(
        "a failing post ends the run, and dest stays switched",
        manifest=hooks(post=["exit 3", "echo never >>@WORLD@/disk/trace"]),
        exit_status=1,
        leaves={"trace": "pre 1\npre 2\nfailure 1\nfailure 2\n", "www/app.py": "print('hello')\n"},
    ),
    Case(
        "a failing success is only logged",
        manifest=hooks(success=["echo success 1 >>@WORLD@/disk/trace; exit 3", "echo never >>@WORLD@/disk/trace"]),
        leaves={"trace": "pre 1\npre 2\npost 1\npost 2\nsuccess 1\n"},
    ),
    Case(
        "a failing failure ends the failure hooks",
        manifest=hooks(pre=["false"], failure=["echo failure 1 >>@WORLD@/disk/trace; exit 3", "echo never"]),
        exit_status=1,
        leaves={"trace": "failure 1\n"},
    ),
    Case("a hook that a signal ends has failed", manifest=hooks(pre=["kill -9 $$"]), exit_status=1),
    Case("a hook with a command that is not there has failed", manifest=hooks(pre=["no-such-command"]), exit_status=1),
    Case("a hook with broken shell has failed", manifest=hooks(pre=["if true"]), exit_status=1),
    Case("a hook too long for Linux has failed", manifest=hooks(pre=[": " + "x" * 140_000]), exit_status=1),
    Case(
        "with no src a failing post runs failure hooks", manifest=no_src(**{**HOOKS, "post": ["false"]}), exit_status=1
    ),
    # signals
    Case(
        "SIGTERM ends a pre hook, and no failure hook runs",
        manifest=hooks(pre=[SLEEPS]),
        sigterm_when="begun",
        exit_status=1,
        leaves={"trace": None, "www/app.py": None},
    ),
    Case(
        "SIGTERM ends a post hook, and no failure hook runs",
        manifest=hooks(post=[SLEEPS]),
        sigterm_when="begun",
        exit_status=1,
        leaves={"trace": "pre 1\npre 2\n", "www/bin/start": "#!/bin/sh\n"},
    ),
    Case(
        "SIGTERM ends a success hook, and that is a success",
        manifest=hooks(success=[SLEEPS, *HOOKS["success"]]),
        sigterm_when="begun",
        leaves={"trace": "pre 1\npre 2\npost 1\npost 2\n"},
    ),
    Case(
        "SIGTERM under consul watch is exit status 0, too",
        manifest=hooks(pre=[SLEEPS]),
        stdin="[@EVENT@]",
        environment={"CONSUL_INDEX": "7"},
        sigterm_when="begun",
    ),
    # the archive
    *(
        Case(
            f"{name} is known by its length",
            manifest={"checksum": None},
            text=f"src: file://@WORLD@/archive.tar.gz\nchecksum: '@{name.upper()}@'\ndest: @WORLD@/disk/www\n",
            leaves={"www/app.py": "print('hello')\n"},
        )
        for name in ("md5", "sha1", "sha256", "sha512")
    ),
    Case(
        "a checksum in capitals is as good",
        text="src: file://@WORLD@/archive.tar.gz\nchecksum: '@UPPER@'\ndest: @WORLD@/disk/www\n",
        leaves={"www/app.py": "print('hello')\n"},
    ),
    Case(
        "a wrong checksum fails before pre",
        manifest={"checksum": "0" * 64, **hooks()},
        exit_status=1,
        leaves={"trace": "failure 1\nfailure 2\n", "www/app.py": None},
    ),
    Case(
        "a checksum of no known length fails before pre",
        manifest={"checksum": "0" * 63, **hooks()},
        exit_status=1,
        leaves={"trace": "failure 1\nfailure 2\n"},
    ),
    Case(
        "a missing checksum fails before pre",
        manifest={"checksum": None, **hooks()},
        exit_status=1,
        leaves={"trace": "failure 1\nfailure 2\n"},
    ),
    Case(
        "a truncated archive fails after pre, and dest is untouched",
        pack((file("a", "x" * 100_000),))[:-20],
        disk=(file("www/old", "x"),),
        manifest=hooks(),
        exit_status=1,
        leaves={"trace": "pre 1\npre 2\nfailure 1\nfailure 2\n", "www/old": "x"},
    ),
    Case("an empty file is no archive", b"", manifest=hooks(), exit_status=1),
    Case(
        "an archive that is not there fails before pre",
        manifest={"src": "file://@WORLD@/nothing.tar.gz", **hooks()},
        exit_status=1,
        leaves={"trace": "failure 1\nfailure 2\n"},
    ),
    Case("a directory as src fails before pre", manifest={"src": "file://@WORLD@", **hooks()}, exit_status=1),
    Case("an unknown scheme of src fails before pre", manifest={"src": "ftp://a/b", **hooks()}, exit_status=1),
    Case(
        "a src that is a plain path fails before pre",
        manifest={"src": "@WORLD@/archive.tar.gz", **hooks()},
        exit_status=1,
    ),
    Case("a broken URL as src fails before pre", manifest={"src": "file:///a%zz", **hooks()}, exit_status=1),
    Case("percent signs in a file URL are decoded", manifest={"src": "file://@WORLD@/%61rchive.tar.gz"}),
    Case("a scheme in capitals is as good", manifest={"src": "FILE://@WORLD@/archive.tar.gz"}),
    Case("a file URL's host does not count", manifest={"src": "file://elsewhere@WORLD@/archive.tar.gz"}),
    Case("src over HTTP", manifest={"src": "@HTTP@/archive.tar.gz"}, leaves={"www/app.py": "print('hello')\n"}),
    Case("src over HTTP with a query", manifest={"src": "@HTTP@/archive.tar.gz?a=b%20c&d#e"}),
    Case("src over HTTP after a redirection", manifest={"src": "@HTTP@/redirect/archive.tar.gz"}),
    Case("the status of an HTTP answer does not count", manifest={"src": "@HTTP@/missing/archive.tar.gz"}),
    Case(
        "a page that says 404 is an archive with a wrong checksum",
        manifest={"src": "@HTTP@/nothing.tar.gz", **hooks()},
        exit_status=1,
        leaves={"trace": "failure 1\nfailure 2\n"},
    ),
    Case(
        "a server that is not there fails before pre",
        manifest={"src": "http://127.0.0.1:1/archive.tar.gz", **hooks()},
        exit_status=1,
        leaves={"trace": "failure 1\nfailure 2\n"},
    ),
    # the event
    Case("a line without its end", stdin="file://@WORLD@/manifest.yml", leaves={"www/bin/start": "#!/bin/sh\n"}),
    Case("of several lines the first counts", stdin="file://@WORLD@/manifest.yml\nfile:///nothing\n"),
    Case("an empty first line is no URL", stdin="\nfile://@WORLD@/manifest.yml\n", manifest=hooks(), exit_status=1),
    Case("a space before the URL is an error", stdin=" file://@WORLD@/manifest.yml\n", manifest=hooks(), exit_status=1),
    Case("a carriage return after the URL is an error", stdin="file://@WORLD@/manifest.yml\r\n", exit_status=1),
    Case("an empty stdin is an error", stdin="", manifest=hooks(), exit_status=1, leaves={"trace": None}),
    Case("the manifest over HTTP", stdin="@HTTP@/manifest.yml\n", leaves={"www/app.py": "print('hello')\n"}),
    Case(
        "the manifest over HTTP, whatever its status",
        stdin="@HTTP@/missing/manifest.yml\n",
        leaves={"www/app.py": "print('hello')\n"},
    ),
    Case("a manifest that is not there: no hook runs", stdin="file://@WORLD@/nothing.yml\n", exit_status=1),
    Case("a page that says 404 is no manifest", stdin="@HTTP@/nothing.yml\n", manifest=hooks(), exit_status=1),
    Case("an unknown scheme of the manifest", stdin="ftp://127.0.0.1/manifest.yml\n", exit_status=1),
    Case("a Consul event", stdin="[@EVENT@]", leaves={"www/app.py": "print('hello')\n"}),
    Case(
        "of several Consul events the last in the list counts, not the latest",
        stdin="[@NOTHING@,@NOTHING@,@EVENT@]",
        environment={"CONSUL_INDEX": "7"},
        leaves={"www/app.py": "print('hello')\n"},
    ),
    Case(
        "a Consul event that is not the last does not count",
        stdin="[@EVENT@,@NOTHING@]",
        exit_status=1,
        leaves={"www/app.py": None},
    ),
    Case("what follows the list of events does not count", stdin="[@EVENT@] and more"),
    Case("no Consul event in the list", stdin="[]", manifest=hooks(), exit_status=1, leaves={"trace": None}),
    Case("no Consul event under consul watch is exit status 0", stdin="[]", environment={"CONSUL_INDEX": "7"}),
    Case("null under consul watch is exit status 0", stdin="null", environment={"CONSUL_INDEX": "7"}),
    Case("an empty stdin under consul watch is exit status 0", stdin="", environment={"CONSUL_INDEX": "7"}),
    Case("a plain URL under consul watch is none", environment={"CONSUL_INDEX": "7"}, leaves={"www/app.py": None}),
    Case("white space before the list under consul watch", stdin="\n [@EVENT@]", environment={"CONSUL_INDEX": "7"}),
    Case("a list that breaks off", stdin="[@EVENT@", exit_status=1, leaves={"www/app.py": None}),
    Case("a payload that is not base64", stdin='[{"ID": "1", "Payload": "%%%"}]', exit_status=1),
    Case("a payload that is null", stdin='[{"ID": "1", "Payload": null}]', exit_status=1),
    Case(
        "a failure under consul watch is exit status 0",
        manifest=hooks(pre=["false"]),
        stdin="[@EVENT@]",
        environment={"CONSUL_INDEX": "7"},
        leaves={"trace": "failure 1\nfailure 2\n"},
    ),
    # the manifest
    Case("an empty manifest succeeds", text="", disk=(file("www/b", "b"),), leaves={"www/b": "b"}),
    Case("a manifest of comments succeeds", text="# nothing\n---\n"),
    Case("a manifest that is null succeeds", text="~\n"),
    Case("a manifest that is a text is unreadable", text="hello\n", exit_status=1),
    Case("a manifest that is a list is unreadable", text="- src\n", exit_status=1),
    Case(
        "broken YAML: no hook runs", text="commands: {pre: ['touch @WORLD@/disk/a'\n", exit_status=1, leaves={"a": None}
    ),
    Case("a tab as indentation: no hook runs", text="commands:\n\tpre: []\n", exit_status=1),
    Case("text that is not UTF-8 in YAML: no hook runs", text="src: \x07\n", exit_status=1),
    Case("unknown keys are passed over", manifest={"owner": "me", **hooks(before=["false"])}, leaves={"trace": GOOD}),
    Case("keys in capitals are unknown", manifest={"SRC": "x", "Dest_Mode": 0, **hooks()}, leaves={"trace": GOOD}),
    Case("src without dest: no hook runs", manifest={"dest": None, **hooks()}, exit_status=1, leaves={"trace": None}),
    Case("hooks that are no list: no hook runs", manifest=hooks(post="true"), exit_status=1, leaves={"trace": None}),
    Case("commands that are no map: no hook runs", manifest={"commands": ["true"]}, exit_status=1),
    Case(
        "a hook that is a map: no hook runs", manifest=hooks(post=[{"a": "b"}]), exit_status=1, leaves={"trace": None}
    ),
    Case("a hook that is a list: no hook runs", manifest=hooks(post=[["a"]]), exit_status=1, leaves={"trace": None}),
    Case("excludes that are a text: no hook runs", manifest={"excludes": "a", **hooks()}, exit_status=1),
    Case("dest_mode that is a text: no hook runs", manifest={"dest_mode": "rwx", **hooks()}, exit_status=1),
    Case("dest_mode that is negative: no hook runs", manifest={"dest_mode": -1, **hooks()}, exit_status=1),
    Case(
        "numbers and such as hooks are their text",
        text="commands:\n  pre: [yes, 1.50, 0x10, 2026-11-23]\n",
        environment={"PATH": "@WORLD@/disk/commands:/usr/bin:/bin"},
        disk=tuple(
            file(f"commands/{name}", f"#!/bin/sh\necho {name} >>../trace\necho {name} >>trace\n", 0o755)
            for name in ("yes", "1.50", "0x10", "2026-11-23")
        ),
        leaves={"trace": "yes\n1.50\n0x10\n2026-11-23\n"},
    ),
    Case(
        "a hook that is null is an empty one",
        text="commands:\n  pre:\n  -\n  - touch @WORLD@/disk/a\n",
        leaves={"a": ""},
    ),
    Case(
        "of two equal keys the last counts",
        text="commands: {pre: [touch a]}\ncommands: {pre: [touch b]}\n",
        leaves={"b": ""},
    ),
    Case(
        "equal maps are joined",
        text="commands: {pre: [touch a]}\ncommands: {post: [touch b]}\n",
        leaves={"a": "", "b": ""},
    ),
    Case(
        "anchors and merges",
        text="x: &x {pre: [touch a]}\ncommands:\n  <<: *x\n  post: &y [touch b]\n  success: *y\n",
        leaves={"a": "", "b": ""},
    ),
    Case(
        "of several documents the first counts",
        text="commands: {pre: [touch a]}\n---\ncommands: {pre: [touch b]}\n",
        leaves={"a": "", "b": None},
    ),
    Case(
        "folded and literal blocks",
        text="commands:\n  pre:\n    - >-\n      touch\n      a\n    - |\n      touch b\n      touch c\n",
        leaves={"a": "", "b": "", "c": ""},
    ),
    Case("base64 in YAML", text="commands:\n  pre: [!!binary dG91Y2ggYQ==]\n", leaves={"a": ""}),
    # the template
    Case(
        "a quoted pair of braces yields braces",
        text="commands: {pre: [\"echo '{{`{{`}}.Names}}' >out; echo '{{\"{{\"}}' >>out\"]}\n".replace('"{{"', "`{{`"),
        holds_for=("newest",),
        leaves={"out": "{{.Names}}\n{{\n"},
    ),
    Case(
        "a name that no template knows: no hook runs",
        text="commands: {pre: ['touch a {{ whatever }}']}\n",
        holds_for=("newest",),
        exit_status=1,
        leaves={"a": None},
    ),
    Case(
        "braces that close nothing are text",
        text="commands: {pre: ['echo \"}} {a}\" >out']}\n",
        leaves={"out": "}} {a}\n"},
    ),
    Case(
        "without a template pass braces are text, as in 1.1.0",
        text='commands: {pre: [\'echo "{{ env `A` }}" >out; echo "{{.Names}}" >>out\']}\n'.replace("`A`", "A"),
        options=("--no-template",),
        holds_for=("1.1.0",),
        leaves={"out": "{{ env A }}\n{{.Names}}\n"},
    ),
    # temporary files
    Case(
        "the archive lies in TMPDIR while pre runs, and nothing is left of it",
        manifest=commands(pre=["ls @WORLD@/tmp | wc -l >@WORLD@/disk/count"]),
        leaves={"count": "2\n"},
    ),
    Case(
        "a TMPDIR that is not there fails before pre",
        manifest=hooks(),
        environment={"TMPDIR": "/nowhere"},
        exit_status=1,
    ),
    Case("without HOME", manifest=hooks(), environment={"HOME": UNSET}, leaves={"trace": GOOD}),
)
