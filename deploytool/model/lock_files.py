"""What lock files name, as components: name, version, package URL, hashes. Pure: from texts, which anybody may have
written; what has no sense is a ValueError.
"""

import json
import re
from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

#: CycloneDX's names of the algorithms, by those that lock files use, with the bytes of a digest.
_ALGORITHMS: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "md5": ("MD5", 16),
        "sha1": ("SHA-1", 20),
        "sha256": ("SHA-256", 32),
        "sha384": ("SHA-384", 48),
        "sha512": ("SHA-512", 64),
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Component:
    """One package that a lock file names."""

    #: https://github.com/package-url/purl-spec; empty for what is in no registry
    purl: str
    name: str
    #: empty: the file does not say
    version: str = ""
    #: CycloneDX's name of an algorithm, and the digest in hexadecimal digits: of any of its files, if there are several
    hashes: tuple[tuple[str, str], ...] = ()
    #: whether it is for development alone, and not in a release
    development: bool = False


def _purl(kind: str, name: str, version: str, **qualifiers: str) -> str:
    """Each part percent-encoded, as the specification has it; a scope's slash stays."""
    place = "/".join(quote(part, safe="") for part in name.split("/"))
    given = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{place}" + (f"@{quote(version, safe='')}" if version else "") + (f"?{given}" if given else "")


def _hex(algorithm: str, digest: str) -> Iterator[tuple[str, str]]:
    """The digest, if it is one: a lock file with an odd one is no reason to have no list at all."""
    name, length = _ALGORITHMS.get(algorithm.lower(), ("", 0))
    if length and re.fullmatch(f"[0-9a-f]{{{2 * length}}}", digest.lower()):
        yield name, digest.lower()


def _integrity(text: object) -> tuple[tuple[str, str], ...]:
    """The hashes of `sha512-<base64> sha1-<base64>`, as npm writes them."""
    found: list[tuple[str, str]] = []
    for word in str(text or "").split():
        algorithm, _, digest = word.partition("-")
        try:
            found += _hex(algorithm, b64decode(digest.partition("?")[0], validate=True).hex())
        except (NoBase64, ValueError):
            continue
    return tuple(found)


def _without_secrets(url: str) -> str:
    """A URL without who may fetch it, and with what: tokens stand before the host, and in queries."""
    parts = urlsplit(url)
    if not parts.netloc:
        # user@host:path, or no URL at all
        return re.sub(r"^[^/@]*@", "", url.partition("?")[0])
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


# Ruby

_SPEC = re.compile(r" {4}(?P<name>\S+) \((?P<version>[^-)]+)(?:-(?P<platform>[^)]+))?\)")
_CHECKSUM = re.compile(r" {2}(?P<name>\S+) \((?P<version>[^)]+)\) (?P<algorithm>\w+)=(?P<digest>[0-9a-f]+)")


def gemfile_lock(text: str) -> Iterator[Component]:
    """Bundler's: gems of registries and of git; those of a path are the application's own."""
    hashes = {
        (found["name"], found["version"]): tuple(_hex(found["algorithm"], found["digest"]))
        for line in text.splitlines()
        if (found := _CHECKSUM.fullmatch(line))
    }
    section, origin = "", ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            section, origin = line, ""
        elif section == "GIT" and (found := re.fullmatch(r" {2}(?:remote|revision): (\S+)", line)):
            origin = f"git+{_without_secrets(found[1])}" if not origin else f"{origin}@{found[1]}"
        elif section in ("GEM", "GIT") and (spec := _SPEC.fullmatch(line)):
            name, version, platform = spec["name"], spec["version"], spec["platform"] or ""
            locked = f"{version}-{platform}" if platform else version
            yield Component(
                _purl("gem", name, version, platform=platform, vcs_url=origin),
                name,
                version,
                hashes.get((name, locked), ()),
            )


# Python

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*(?P<rest>.*)", re.ASCII)


def _pypi(name: str, version: str, hashes: Iterable[str] = ()) -> Component:
    """PyPI's names are one in any spelling."""
    known = tuple(sorted({found for text in hashes for found in _hex(*_halves(text))}))
    version = version if "/" not in version else ""
    return Component(_purl("pypi", re.sub(r"[-_.]+", "-", name).lower(), version), name, version, known)


def _halves(text: str) -> tuple[str, str]:
    algorithm, _, digest = text.partition(":")
    return algorithm, digest


def requirements_txt(text: str) -> Iterator[Component]:
    """pip's. What is not pinned by `==` has no version; what it takes from other files is not in it."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        plain = re.sub(r"(^|\s)#.*", "", line).strip()
        found = _REQUIREMENT.fullmatch(plain)
        if not plain or plain.startswith("-") or not found or "://" in plain.partition("@")[0]:
            continue
        pinned = re.match(r"===?\s*([^\s,;*]+)\s*(?:;|--|$)", found["rest"])
        yield _pypi(found["name"], pinned[1] if pinned else "", re.findall(r"--hash[= ](\S+)", plain))


def _toml_packages(text: str) -> Iterator[Component]:
    """uv's and Poetry's, which are alike; a package without a registry's files is of a path, or the application."""
    import tomllib

    packages = tomllib.loads(text).get("package", [])
    for each in map(_mapping, packages if isinstance(packages, list) else []):
        source = _mapping(each.get("source"))
        if {"editable", "virtual", "directory", "path"} & set(source) or source.get("type") in ("directory", "file"):
            continue
        files = [*(each.get("wheels") or each.get("files") or []), each.get("sdist")]
        hashes = [str(file["hash"]) for file in map(_mapping, files) if "hash" in file]
        yield _pypi(str(each["name"]), str(each.get("version", "")), hashes)


def pipfile_lock(text: str) -> Iterator[Component]:
    locked = _mapping(json.loads(text))
    for section in ("default", "develop"):
        for name, package in _mapping(locked.get(section)).items():
            entry = _mapping(package)
            hashes = [str(each) for each in entry.get("hashes") or []]
            found = _pypi(name, str(entry.get("version", "")).lstrip("="), hashes)
            yield Component(found.purl, found.name, found.version, found.hashes, section == "develop")


# Node

_NPM_NAME = re.compile(r"(?:@[^/@\s]+/)?[^/@\s]+")


def _npm(name: str, version: str, hashes: tuple[tuple[str, str], ...], *, development: bool = False) -> Component:
    """What has a URL in its version's place comes from there, and from no registry."""
    if re.fullmatch(r"[\w.+~-]*", version):
        return Component(_purl("npm", name, version), name, version, hashes, development)
    return Component(_purl("npm", name, "", vcs_url=_without_secrets(version)), name, "", hashes, development)


def package_lock(text: str) -> Iterator[Component]:
    """npm's, of either form."""
    locked = _mapping(json.loads(text))
    if "packages" in locked:
        for path, package in _mapping(locked["packages"]).items():
            entry = _mapping(package)
            name = str(entry.get("name") or path.rpartition("node_modules/")[2])
            # Without `node_modules/` it is the application itself or a workspace of its own.
            if "node_modules/" in path and not entry.get("link"):
                development = bool(entry.get("dev") or entry.get("devOptional"))
                version = str(entry.get("version", ""))
                yield _npm(name, version, _integrity(entry.get("integrity")), development=development)
        return
    left = list(_mapping(locked.get("dependencies")).items())
    while left:
        name, package = left.pop()
        entry = _mapping(package)
        yield _npm(
            name, str(entry.get("version", "")), _integrity(entry.get("integrity")), development=bool(entry.get("dev"))
        )
        left += _mapping(entry.get("dependencies")).items()


def yarn_lock(text: str) -> Iterator[Component]:
    """yarn's, of either form. The newer one has checksums of yarn's own archives, which nobody else could compare."""
    if "__metadata:" in text:
        for entry in map(_mapping, _yaml(text).values()):
            name, _, origin = str(entry.get("resolution", "")).rpartition("@")
            if name and origin.startswith("npm:"):
                yield _npm(name, str(entry.get("version", "")), ())
        return
    for block in re.split(r"\n(?=\S)", text):
        head = re.match(r'"?(' + _NPM_NAME.pattern + r")@(?:npm:(" + _NPM_NAME.pattern + r")@)?", block)
        version = re.search(r'^ {2}version "([^"]+)"', block, re.MULTILINE)
        if head and version:
            integrity = re.search(r"^ {2}integrity (.+)$", block, re.MULTILINE)
            yield _npm(head[2] or head[1], version[1], _integrity(integrity[1] if integrity else ""))


def pnpm_lock(text: str) -> Iterator[Component]:
    """pnpm's: a key is the package's name and version, before version 6 with a slash between."""
    for key, package in _mapping(_yaml(text).get("packages")).items():
        plain = str(key).lstrip("/").partition("(")[0]
        name, _, version = plain.rpartition("@") if plain.rfind("@") > 0 else plain.rpartition("/")
        entry = _mapping(package)
        if _NPM_NAME.fullmatch(name):
            integrity = _mapping(entry.get("resolution")).get("integrity")
            yield _npm(name, version, _integrity(integrity), development=bool(entry.get("dev")))


def _yaml(text: str) -> Mapping[str, Any]:
    import yaml

    try:
        return _mapping(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506
    except yaml.YAMLError as error:
        raise ValueError("it is not YAML") from error


#: name of a lock file, in the application's directory → what it names
LOCK_FILES: Mapping[str, Callable[[str], Iterator[Component]]] = MappingProxyType(
    {
        "Gemfile.lock": gemfile_lock,
        "requirements.txt": requirements_txt,
        "uv.lock": _toml_packages,
        "poetry.lock": _toml_packages,
        "Pipfile.lock": pipfile_lock,
        "package-lock.json": package_lock,
        "npm-shrinkwrap.json": package_lock,
        "yarn.lock": yarn_lock,
        "pnpm-lock.yaml": pnpm_lock,
    }
)


def components(name: str, text: str) -> tuple[Component, ...]:
    """What the lock file of that name holds, by package URL, each once. Raises ValueError if it can't be read."""
    try:
        found = list(LOCK_FILES[name](text))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it has not the form of a {name}") from error
    merged: dict[str, Component] = {}
    for each in sorted(found):
        known = merged.get(each.purl)
        # Of one that stands there twice: what is needed in production is.
        merged[each.purl] = (
            each
            if known is None
            else Component(
                each.purl,
                each.name,
                each.version,
                tuple(sorted({*each.hashes, *known.hashes})),
                each.development and known.development,
            )
        )
    return tuple(merged.values())
