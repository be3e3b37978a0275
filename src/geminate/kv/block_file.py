"""A block of keys and values in a file, with checksums; what is damaged or somebody else's is never used.

Layout: magic, index of the block, number of sections (one per KV slot), the block's name (20 bytes), CRC-32 of every
section's bytes, CRC-32 of all this; then the sections, as `KVStore.export` gives them. A reader may leave out sections
that it does not need: their bytes are neither read nor checked.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from geminate.kv.store import BlockData
from geminate.system import files

MAGIC = b"GMNKV1\n\0"
NAME_BYTES = 20
_FIXED = struct.Struct(f"<8sII{NAME_BYTES}s")
_OPEN = os.O_RDONLY | files.OPEN | files.NOFOLLOW


class DamagedBlockError(Exception):
    """A file that does not hold the block that it should."""


def header(name: bytes, index: int, sizes: Sequence[int], data: BlockData) -> bytes:
    """What stands before the ``data`` of a block.

    Args:
        sizes: bytes of the sections, together ``len(data)``.
    """
    view, at, sums = memoryview(data), 0, []
    for size in sizes:
        sums.append(zlib.crc32(view[at : at + size]))
        at += size
    fixed = _FIXED.pack(MAGIC, index, len(sizes), name) + struct.pack(f"<{len(sums)}I", *sums)
    return fixed + struct.pack("<I", zlib.crc32(fixed))


def header_bytes(sections: int) -> int:
    """Bytes of a header."""
    return _FIXED.size + 4 * sections + 4


def read_block(path: str, name: bytes, index: int, sizes: Sequence[int], wanted: Sequence[bool]) -> memoryview:
    """A block; of sections that are not ``wanted`` the bytes are undefined.

    Raises:
        FileNotFoundError: it is not there (any more).
        DamagedBlockError: other bytes than were written, another block's file, or one that others could have written.
        OSError: it cannot be read.
    """
    file = os.open(path, _OPEN)
    try:
        first = header_bytes(len(sizes))
        _check(os.fstat(file), first + sum(sizes))
        head = files.read_at(file, first, 0)
        if len(head) != first or struct.unpack("<I", head[-4:])[0] != zlib.crc32(head[:-4]):
            raise DamagedBlockError("its header is damaged")
        if _FIXED.unpack_from(head) != (MAGIC, index, len(sizes), name):
            raise DamagedBlockError("it holds another block")
        sums = struct.unpack_from(f"<{len(sizes)}I", head, _FIXED.size)
        block: memoryview = np.empty(sum(sizes), dtype=np.uint8).data
        at = 0
        for size, expected, needed in zip(sizes, sums, wanted, strict=True):
            part = block[at : at + size]
            if needed and (files.read_into(file, part, first + at) != size or zlib.crc32(part) != expected):
                raise DamagedBlockError("its data are damaged")
            at += size
        return block
    finally:
        os.close(file)


def _check(found: os.stat_result, size: int) -> None:
    """Whoever can write a block decides what the model has read: only this user may."""
    if not stat.S_ISREG(found.st_mode):
        raise DamagedBlockError("it is no regular file")
    if not files.same_user(found) or files.others_write(found):
        raise DamagedBlockError("other users can write it")
    if found.st_size != size:
        raise DamagedBlockError("it has another size")
