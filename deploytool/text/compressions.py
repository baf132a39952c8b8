"""How archives may be compressed, for both ends."""

from __future__ import annotations

from typing import Mapping, NamedTuple, Tuple


class Compression(NamedTuple):
    #: of the archive's name
    suffix: str
    #: for tar, to unpack
    tar_options: Tuple[str, ...]
    #: what tar runs to unpack, and what a build server may have to pack
    programs: Tuple[str, ...]


#: by the name in `build.compression`
COMPRESSIONS: Mapping[str, Compression] = {
    "gzip": Compression(".tar.gz", ("--gzip",), ("gzip",)),
    "zstd": Compression(".tar.zst", ("--zstd",), ("zstd",)),
    "none": Compression(".tar", (), ()),
}
