"""Physical cores of a Windows machine, from GetLogicalProcessorInformationEx."""

from __future__ import annotations

import struct
import sys

_CORES = 0  # RelationProcessorCore
_HEAD = struct.Struct("<IIBB")  # relationship, size, flags, efficiency class


def parse(raw: bytes) -> tuple[int, int]:
    """Physical cores, and those of the highest efficiency class.

    Args:
        raw: SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX records, one after another.
    """
    classes: list[int] = []
    at = 0
    while at + _HEAD.size <= len(raw):
        relationship, size, _, efficiency = _HEAD.unpack_from(raw, at)
        if size < _HEAD.size:
            break
        if relationship == _CORES:
            classes.append(efficiency)
        at += size
    return len(classes), classes.count(max(classes)) if classes else 0


def count() -> tuple[int, int]:
    """`parse` of this machine; zeros where it is not Windows or does not say."""
    if sys.platform == "win32":
        import ctypes

        call = ctypes.WinDLL("kernel32").GetLogicalProcessorInformationEx
        size = ctypes.c_uint32(0)
        call(_CORES, None, ctypes.byref(size))
        room = ctypes.create_string_buffer(size.value)
        if call(_CORES, room, ctypes.byref(size)):
            return parse(room.raw[: size.value])
    return 0, 0
