"""Stand-ins for a compiled model: the engine runs them as it runs a real one, and what they take is simulated time.

Tokens mean nothing. A request's seed is its index, from which the stand-ins know how long its completion is and which
draft tokens are right, so that a run is a function of its requests alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from geminate.arrays import F32
from geminate.backends.kv_rings import RingFactory
from geminate.decoding.draft_rule import confidence_bin
from geminate.decoding.sampler import RowsToDraw, Sampler, SequenceSampler
from geminate.decoding.sampling import TokenLogprobs
from geminate.errors import ContextLengthError
from geminate.kv.store import BLOCK, KV_FORMATS, BlockData, KVFormat, KVStore, Section
from geminate.params import ResolvedSampling
from geminate.plan.batch import Rows
from geminate.plan.config import TargetConfig
from geminate.runtime.target import TargetModel
from geminate.speculation.draft import Draft, DraftContext
from geminate.tools.capacity.pass_costs import PassTimes

END, TEXT, WRONG, FIRST_ID = 0, 1, 2, 8
_BITS = (1 << 64) - 1


class SimulatedClock:
    """Seconds that pass only where something is said to take them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a request's completion ends: the position of its last token."""

    last: int


class StandInKV:
    """A `KVStore` without keys and values; see `KVStore` for its methods."""

    def __init__(self, factory: StandInKVFactory, max_context: int) -> None:
        self._factory, self.max_context = factory, max_context
        self.length = self._high = self._low = 0

    def reserve(self, rows: int) -> None:
        if self.length + rows > self.max_context:
            raise ContextLengthError(f"position {self.length + rows} lies past {self.max_context} tokens")

    def advance(self, rows: int) -> None:
        self.length += rows
        self._high = max(self._high, self.length)

    def truncate(self, length: int) -> None:
        self.length = length

    def holds(self, start: int) -> bool:
        return start >= max(self._low, self._high - self._factory.kept_rows)

    def export(self, block: int) -> bytes:
        return self._factory.block

    def restore(self, blocks: Sequence[BlockData]) -> None:
        self._factory.on_copy(sum(len(block) for block in blocks))
        self.length = self._high = len(blocks) * BLOCK
        if blocks and self._factory.window:
            self._low = max(0, self.length - self._factory.window + 1)

    def rows(self, slot: int, start: int, stop: int) -> tuple[F32, F32]:
        raise NotImplementedError("a stand-in has no keys and values")

    @property
    def nbytes(self) -> int:
        return 0


class StandInKVFactory:
    """A `KVFactory` whose sizes are those of the real one and whose stores take no memory.

    Args:
        on_copy: called with the bytes that come from the prefix cache.

    Attributes:
        block: what every block holds.
    """

    def __init__(
        self, config: TargetConfig, *, max_rows: int, kv: KVFormat, on_copy: Callable[[int], None] = lambda size: None
    ) -> None:
        self.on_copy = on_copy
        self._sizes = RingFactory(config.kv_slots, max_rows=max_rows, dtype=KV_FORMATS[kv])
        windows = [slot.window for slot in config.kv_slots if slot.window]
        self.window = max(windows, default=0)
        # A ring holds the window and a pass's rows; stores without rings never lose a row.
        self.kept_rows = -(-(min(windows) - 1 + max_rows) // BLOCK) * BLOCK if windows else 1 << 40
        self.block = bytes(self._sizes.block_bytes)

    @property
    def block_bytes(self) -> int:
        return self._sizes.block_bytes

    @property
    def sections(self) -> tuple[Section, ...]:
        return self._sizes.sections

    @property
    def layout(self) -> str:
        return self._sizes.layout

    def new(self, max_context: int, *, whole: bool = False) -> KVStore:
        return StandInKV(self, max_context)

    def nbytes(self, max_context: int) -> int:
        return self._sizes.nbytes(max_context)


class StandInSampler:
    """A `Sampler` that draws `TEXT` up to a completion's last token, which is `END`.

    Args:
        clock: advanced by the engine's own time, which passes outside forward passes.
        endings: by request. step, sequence: seconds of a pass, and of a sequence in it.
    """

    def __init__(self, clock: SimulatedClock, endings: dict[int, Ending], step: float, sequence: float) -> None:
        self._clock, self._endings = clock, endings
        self._step, self._sequence = step, sequence

    def sequence(self, sampling: ResolvedSampling, choice: int, prompt: Sequence[int]) -> SequenceSampler:
        return StandInSequence(sampling, self._endings[sampling.seed].last)

    def draw_ahead(self, logits: F32, parts: Sequence[RowsToDraw]) -> list[list[int]]:
        self._clock.advance(self._step + len(parts) * self._sequence)
        return [
            [cast(StandInSequence, part.sampler).token(part.position + i) for i in range(len(part.drafts) + 1)]
            for part in parts
        ]

    def logprobs(self, logits: F32, tokens: Sequence[int], top: int) -> tuple[TokenLogprobs, ...]:
        raise NotImplementedError("a stand-in has no probabilities")


class StandInSequence(SequenceSampler):
    """Draws the tokens of one request."""

    def __init__(self, sampling: ResolvedSampling, last: int) -> None:
        super().__init__(sampling, 0, ())
        self._last = last

    def token(self, position: int) -> int:
        """The target's own token at a position."""
        return END if position >= self._last else TEXT

    def draw(
        self, logits: F32, position: int, drafts: tuple[int, ...] = (), allowed: NDArray[np.bool_] | None = None
    ) -> int:
        return self.token(position)


class StandInTarget:
    """What the engine needs of a `TargetModel`.

    Args:
        times: what passes take. clock: advanced by that.
    """

    def __init__(
        self,
        config: TargetConfig,
        times: PassTimes,
        clock: SimulatedClock,
        sampler: Sampler,
        *,
        max_rows: int,
        kv: KVFormat,
    ) -> None:
        self.config = SimpleNamespace(
            eos_token_ids=(END,),
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
        )
        self.max_rows = max_rows
        self.kv = StandInKVFactory(config, max_rows=max_rows, kv=kv, on_copy=self._copied)
        self.backend = SimpleNamespace(sampler=sampler)
        self.passes = self.rows = 0
        self._times, self._clock = times, clock
        self._nothing: F32 = np.zeros((max_rows, 1), dtype=np.float32)

    def new_cache(self, max_context: int | None = None) -> KVStore:
        """An empty cache."""
        return self.kv.new(max_context or self.config.max_position_embeddings)

    def extend(self, parts: Sequence[Rows]) -> tuple[F32, F32]:
        """A pass: its time goes by, and the caches grow."""
        shapes = [(part.cache.length, len(part.ids), part.wanted) for part in parts]
        for part, (_, rows, _) in zip(parts, shapes, strict=True):
            part.cache.reserve(rows)
            part.cache.advance(rows)
        prompt = sum(rows for _, rows, wanted in shapes if wanted < rows) * self._times.costs.prompt_token
        outside = 0.0 if any(wanted for _, _, wanted in shapes) else self._times.costs.step  # nothing is drawn then
        self._clock.advance(self._times.pass_time(shapes) + prompt + outside)
        self.passes += 1
        self.rows += sum(rows for _, rows, _ in shapes)
        wanted = self._nothing[: sum(wanted for _, _, wanted in shapes)]
        return wanted, wanted

    def _copied(self, size: int) -> None:
        self._clock.advance(size * self._times.costs.copy_byte)

    def as_target(self) -> TargetModel:
        """For the engine, which takes nothing else of a target than what is here."""
        return cast(TargetModel, self)


class StandInDrafter:
    """A `Drafter` whose draft tokens are right with given chances, and who knows them.

    Args:
        rates: chance that draft token i is right if those before it were; tokens behind them never are.
        endings: by request.
    """

    def __init__(
        self, rates: Sequence[float], times: PassTimes, clock: SimulatedClock, endings: dict[int, Ending]
    ) -> None:
        self._rates, self._times, self._clock, self._endings = list(rates), times, clock, endings
        self.drafted = 0

    def draft(self, context: DraftContext, k: int) -> Draft:
        """See `Drafter`; ends by ``context.stop`` as `DraftStop` says."""
        first, seed, stop = len(context.token_ids), context.rule.seed, context.stop
        last = self._endings[seed].last
        tokens: list[int] = []
        confidence: list[float] = []
        survival = 1.0
        for at in range(k):
            chance = self._rates[at] if at < len(self._rates) else 0.0
            right = uniform(seed, first + at) < chance
            tokens.append((END if first + at >= last else TEXT) if right else WRONG)
            confidence.append(chance)
            if stop is not None and at + 1 < k:
                survival *= float(stop.calibration[confidence_bin(chance)])
                if survival * float(stop.ahead[at + 1]) < float(stop.need[at + 1]):
                    break
        took = self._times.draft_time(context.cache.length, len(tokens))
        self._clock.advance(took + self._times.costs.decision)
        self.drafted += len(tokens)
        return Draft(token_ids=tuple(tokens), confidence=tuple(confidence), steps=len(tokens))


def uniform(seed: int, position: int) -> float:
    """A number from 0 to 1 that is a function of both (splitmix64, Steele, Lea and Flood 2014)."""
    x = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & _BITS
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _BITS
    return (x ^ (x >> 31)) / 2.0**64


def prompt_ids(index: int, length: int, prefix: int, prefix_tokens: int, vocab: int) -> list[int]:
    """A prompt: its common beginning, then ids that no other request of the same time has."""
    room = vocab - FIRST_ID
    shared = [FIRST_ID + prefix % room] * prefix_tokens
    own = FIRST_ID + (index * 7919 + 4099) % room
    return [*shared, *_own(own, index, length - prefix_tokens, room)]


def _own(token: int, index: int, count: int, room: int) -> list[int]:
    """Two ids in turn, so that small vocabularies tell more prompts apart."""
    other = FIRST_ID + (index // room) % room
    return [token if at % 2 == 0 else other for at in range(count)]
