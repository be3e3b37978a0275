"""An engine whose completions are watched: their tokens, with a digest of the logits they were drawn from."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from geminate import LLM, SamplingParams
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineEvent
from geminate.engine.sequence import Sequence
from geminate.kv.budget import KVBudget


class WatchedEngine:
    """Adds requests to an engine and digests every event's logits, by request."""

    def __init__(self, llm: LLM, engine: Engine) -> None:
        self.llm, self.engine = llm, engine
        self.errors: dict[str, Exception] = {}
        self._digests: dict[str, hashlib._Hash] = defaultdict(hashlib.blake2b)

    def add(self, prompt: list[int], params: SamplingParams, speculation: object = "auto", **more) -> Sequence:  # type: ignore[no-untyped-def]
        """Queue a completion; see `LLM.request`."""
        request = self.llm.request(prompt, params, speculation=speculation, want_logits=True, **more)  # type: ignore[arg-type]
        return self.engine.add(request)

    def step(self) -> list[EngineEvent]:
        """A step of the engine."""
        events = self.engine.step()
        for event in events:
            if event.error is not None:
                self.errors[event.request_id] = event.error
            for row in range(len(event.token_ids)):
                assert event.logits is not None
                self._digests[event.request_id].update(_entry(event.position + row, event.logits[row]))
        return events

    def run(self) -> None:
        """Step until nothing runs or waits."""
        while self.engine.running or self.engine.waiting:
            self.step()

    def digest(self, sequence: Sequence) -> str:
        """Of the logits of all tokens that a sequence has emitted."""
        return self._digests[sequence.request.request_id].hexdigest()


def cold(llm: LLM, prompt: list[int], params: SamplingParams) -> tuple[list[int], str]:
    """What a single completion without speculation gives: token ids, and the digest that `WatchedEngine` would have."""
    digest = hashlib.blake2b()
    out = llm.generate(
        [prompt], params, speculation="off", on_logits=lambda position, row: digest.update(_entry(position, row))
    )[0]
    return out.token_ids, digest.hexdigest()


def bounded(llm: LLM, *, limit: int = 1 << 28, keep: bool = True, **more: int) -> WatchedEngine:
    """A watched engine with bounded KV memory."""
    target = llm.pair.target
    memory = KVBudget(target.kv, limit=limit, keep_prefixes=keep)
    return WatchedEngine(llm, llm.new_engine(memory=memory, costs=llm.engine.timing.costs, **more))  # type: ignore[arg-type]


def _entry(position: int, logits: np.ndarray) -> bytes:
    return position.to_bytes(4, "little") + logits.tobytes()
