"""The worker's own file with its modules compiled, kept beside it for the next start.

Python keeps compiled modules only for directories. Those of a zip file it would compile at each start, which takes as
long as all else that it does there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import marshal
import os
import sys
import zipfile

SUFFIX = ".pyz"

#: PEP 552: the modules are named by a hash of their source, which nobody checks; the boot script checks the whole file.
_UNCHECKED_HASH = (1).to_bytes(4, "little")


def keep_compiled(path: str) -> None:
    """Write what `path`, the worker's file as it was sent, holds, with its modules compiled by this very Python.

    The name holds the version of that Python. The first line is the SHA-256 of the rest, as 64 hexadecimal digits; a
    zip file may begin with anything. The sources stay in it, for tracebacks. Where it can't be written the next start
    takes longer, and nothing else is wrong.
    """
    tag = sys.implementation.cache_tag
    if tag is None or not path.endswith(SUFFIX) or path.endswith("." + tag + SUFFIX):
        return
    kept = "{}.{}{}".format(path[: -len(SUFFIX)], tag, SUFFIX)
    beside = "{}.{}".format(kept, os.getpid())
    try:
        content = _compile(path, kept)
        with open(beside, "wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        os.rename(beside, kept)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)


def _compile(path: str, kept: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as sent, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sent.namelist():
            source = sent.read(name)
            code = compile(source, os.path.join(kept, name), "exec", dont_inherit=True, optimize=0)
            header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
            archive.writestr(name, source)
            archive.writestr(name + "c", header + marshal.dumps(code))
    return buffer.getvalue()
