"""What crosses between ingress and replicas. Plain data only, like an engine's messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import geminate.errors
from geminate.engine.messages import EngineEvent
from geminate.engine.service import ServiceSnapshot
from geminate.errors import EngineFailedError, GeminateError
from geminate.kv.prefix_tree import DIGEST_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An error as its class's name in `geminate.errors` and its message."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """From an error; details of one that is none of ours stay in the replica's log."""
        if isinstance(error, GeminateError):
            return cls(kind=type(error).__name__, message=str(error))
        return cls(kind=EngineFailedError.__name__, message=f"a replica failed ({type(error).__name__})")

    def error(self) -> GeminateError:
        """The error."""
        kind = getattr(geminate.errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, GeminateError)):
            kind = EngineFailedError
        made: GeminateError = kind.__new__(kind)  # some take other arguments than a message
        Exception.__init__(made, self.message)
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a replica sends of one request: events, or nothing but a sign of life.

    Attributes:
        replica: who sends it.
        prompt: prompt tokens processed (None while it waits), and prompt tokens; before the first token.
        failure: what ended the request, behind ``events``.
        proof: with the first batch, what the replica's fixed run has given; see `geminate.fleet.proof`.
    """

    replica: str
    proof: str = ""
    events: tuple[EngineEvent, ...] = ()
    prompt: tuple[int | None, int] | None = None
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaStats:
    """What a replica publishes now and then.

    Attributes:
        snapshot: of its engine service.
        pass_s: seconds of a pass over 1, 2, .. rows lately. prompt_row_s: seconds to read a token of a prompt.
        blocks: digests of the blocks in its prefix cache, `DIGEST_BYTES` each, one behind the other.
        pid, node: its process, and the name of its machine.
    """

    snapshot: ServiceSnapshot
    pass_s: tuple[float, ...]
    prompt_row_s: float
    blocks: bytes = b""
    pid: int = 0
    node: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For Ray, whose routing statistics are a dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ReplicaStats:
        """From `as_dict`."""
        return cls(**{**raw, "snapshot": ServiceSnapshot(**raw["snapshot"])})

    def digests(self) -> frozenset[bytes]:
        """The blocks' digests."""
        return frozenset(self.blocks[at : at + DIGEST_BYTES] for at in range(0, len(self.blocks), DIGEST_BYTES))
