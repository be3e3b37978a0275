"""A line of an audit log: canonical JSON with a number, the hash of the line before, and a hash of its own.

The line is the record as JSON with sorted keys, no white space and ASCII alone, and behind its last field
``"hash":"..."``: the SHA-256 of that JSON without this field. ``prev`` is the hash of the line before, ``seq`` counts
from 0. So every byte of a line is covered by its hash, and every line by the hash of each later one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = {"audit_log": 1}
"""In every record that begins a file: the version of the format, by its name the first field."""
HEAD = b'{"audit_log":'
ORIGIN = "0" * 64
"""``prev`` of the first line."""
TYPES = ("start", "request", "gap", "stop")
_KEY = b',"hash":"'
_TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\Z')
_HASH = re.compile(r"[0-9a-f]{64}")


class DamagedLineError(Exception):
    """A line that is no record as it was written; the message says what is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line whose own hash is right.

    Attributes:
        seq: its number. prev, hash: of the line before, and its own, in hexadecimal. type: one of `TYPES`.
        record: all of its fields.
    """

    seq: int
    prev: str
    hash: str
    type: str
    record: dict[str, Any]


def is_hash(text: object) -> bool:
    """Whether this is a SHA-256 in lower-case hexadecimal."""
    return isinstance(text, str) and _HASH.fullmatch(text) is not None


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no white space, in ASCII.

    Raises:
        ValueError, TypeError: NaN, infinity, or what JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sealed(record: Mapping[str, Any], seq: int, prev: str) -> tuple[bytes, str]:
    """A record as a line, with its line end, and its hash.

    Raises:
        ValueError, TypeError: see `canonical`.
    """
    body = canonical({**record, "seq": seq, "prev": prev})
    own = digest(body)
    return body[:-1] + _KEY + own.encode() + b'"}\n', own


def read_line(raw: bytes) -> Line:
    """A line without its line end.

    Raises:
        DamagedLineError: it is not what `sealed` made.
    """
    tail = _TAIL.search(raw)
    if tail is None:
        raise DamagedLineError("it is no line of an audit log")
    body, own = raw[: tail.start()] + b"}", tail[1].decode()
    if digest(body) != own:
        raise DamagedLineError("its hash does not fit what it says")
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        raise DamagedLineError("it is no JSON") from None
    if not isinstance(record, dict):
        raise DamagedLineError("it is no JSON object")
    seq, prev, kind = (record.get(name) for name in ("seq", "prev", "type"))
    if type(seq) is not int or seq < 0 or not is_hash(prev) or kind not in TYPES:
        raise DamagedLineError("it lacks number, type or the hash of the line before")
    return Line(seq=seq, prev=str(prev), hash=own, type=str(kind), record=record)
