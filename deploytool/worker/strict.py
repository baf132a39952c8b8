"""Strict modes, as sshd's: what we run or trust is ours or root's, and nobody else may write where it lies.

Imports nothing of ours: the boot script carries this very text, as it looks before it starts the worker.
"""

from __future__ import annotations

import functools
import os
import stat

#: As many as the kernel follows.
MOST_LINKS = 40
#: For a directory service to list its users. What it does not say by then is unknown, and unknown is not safe.
LIST_SECONDS = 10


class Unsafe(Exception):
    """Somebody else can change the path. Its arguments: a sentence, and what to do."""


def refuse_unsafe_way(path: str, *, shared: bool = False) -> None:
    """Raise Unsafe if anybody but us and root can change what lies at `path`, which is absolute, or on the way there.

    Links are followed, and what is not there yet is fine. Everybody may write into a sticky directory on the way, as
    nobody can move what is ours there; into the last one only if it is `shared`, as we make things in it.
    """
    at, links = "/", 0
    names = _names(path)
    _refuse_unsafe(at, sticky=True)
    while names:
        name = names.pop()
        at = os.path.dirname(at) if name == ".." else os.path.join(at, name)
        try:
            _refuse_unsafe(at, sticky=shared or bool(names))
        except FileNotFoundError:
            return
        if os.path.islink(at):
            links += 1
            if links > MOST_LINKS:
                raise Unsafe("{} leads through more than {} links".format(path, MOST_LINKS), "make it a directory")
            target = os.readlink(at)
            names += _names(target)
            at = "/" if target.startswith("/") else os.path.dirname(at)


def refuse_unsafe_area(area: str) -> None:
    """Raise Unsafe if anybody but us and root can change the directory, the way to it, what is in it, and in that.

    What builds leave in a work tree is their own affair: of `workspace` only git's directory is looked at.
    """
    refuse_unsafe_way(area)
    for path in _entries(area):
        inside = os.path.join(path, ".git") if os.path.basename(path) == "workspace" else path
        for each in (path, inside, *_entries(inside)):
            try:
                _refuse_unsafe(each, in_area=True)
            except FileNotFoundError:
                continue
            if os.path.islink(each):
                refuse_unsafe_way(each)


def _names(path: str) -> list[str]:
    """The path's names, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _entries(directory: str) -> list[str]:
    try:
        return [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _refuse_unsafe(path: str, *, sticky: bool = False, in_area: bool = False) -> None:
    """The same of this path alone, which may be a link. Raises FileNotFoundError.

    Of one `in_area` all that is in it is ours, too.
    """
    from shlex import quote

    found, us = os.lstat(path), os.geteuid()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (us, 0) and found.st_uid != _unmapped():
        raise Unsafe(
            "{} belongs to {}, not to {}: its owner can have commands run as {}".format(
                path, _user(found.st_uid), _user(us) if us == 0 else _user(us) + " or root", _user(us)
            ),
            "look at what is in it: if all of that is yours, type `chown {} {} {}` as root; else {}".format(
                "-hR" if in_area else "-h",
                quote(_user(us)),
                quote(path),
                "remove it" if in_area else "set `build.root` to another directory",
            ),
        )
    if stat.S_ISLNK(found.st_mode) or (sticky and mode & stat.S_ISVTX):
        return
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _is_private(found.st_gid)):
        raise Unsafe(
            "{} can be written by {} (mode {:04o}), who can have commands run as {}".format(
                path, "everybody" if mode & stat.S_IWOTH else "the group " + _group(found.st_gid), mode, _user(us)
            ),
            "type `chmod go-w {}`{}{}".format(
                quote(path),
                "" if found.st_uid == us else " as root",
                "" if in_area else ", or set `build.root` to another directory",
            ),
        )


def _unmapped() -> int:
    """Whose root's files seem to be in a user namespace that does not have root; -1 in any other.

    Nothing else can be told of them there.
    """
    try:
        with open("/proc/self/uid_map") as users, open("/proc/sys/kernel/overflowuid") as nobody:
            return -1 if users.read().split()[2:3] == ["4294967295"] else int(nobody.read())
    except OSError:
        return -1


def _is_private(gid: int) -> bool:
    """Whether it is the group of our name, or of root's, with nobody else in it: umask 002 goes with those.

    Nor may anybody else have it as the primary group, which is not among a group's members.
    """
    import grp
    import pwd

    for uid in (os.geteuid(), 0):
        try:
            user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
        except KeyError:
            continue
        if user.pw_gid == gid and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}:
            users = _users_of(gid)
            return users is not None and users <= {os.geteuid(), 0}
    return False


@functools.lru_cache(maxsize=None)
def _users_of(gid: int) -> frozenset[int] | None:
    """Who has it as the primary group, of those that the system lists; None if it does not in time.

    By a program, as nothing else ends a directory service that never stops.
    """
    import subprocess

    try:
        listed = subprocess.run(
            ["getent", "passwd"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=LIST_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    users = [line.split(b":") for line in listed.splitlines()]
    return frozenset(int(user[2]) for user in users if user[3:4] == [b"%d" % gid]) if users else None


def _user(uid: int) -> str:
    """As `chown` takes it."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
