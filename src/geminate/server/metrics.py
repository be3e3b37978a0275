"""Prometheus metrics: the prefix ``geminate:`` and vLLM's suffixes, in a registry of their own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from geminate.engine.service import ServiceSnapshot
from geminate.kv.prefix_store import PrefixStore, StoreStats
from geminate.params import MAX_DRAFT
from geminate.server.chunks import Chunk
from geminate.speculation.policy import REASONS

disable_created_metrics()  # type: ignore[no-untyped-call]
PREFIX = "geminate:"
_FIRST = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_BETWEEN = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2.5)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_MINUTE_S = 60.0
_WHOLE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A value that is read when the metrics are scraped.

    Attributes:
        name: without the prefix. counter: whether it only grows. labels: beside the model's name.
    """

    name: str
    help: str
    value: float
    counter: bool = False
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where the values of one model come from; see `Metrics.attach`."""

    model: str
    kv: str
    snapshot: Callable[[], ServiceSnapshot]
    grammars: Callable[[], int]
    store: PrefixStore | None
    readings: Callable[[], Iterable[Reading]]

    def read(self) -> Iterator[Reading]:
        """All values now."""
        now = self.snapshot()
        stored = StoreStats() if self.store is None else self.store.stats()
        yield Reading(
            name="kv_cache_usage_perc",
            help="Share of the KV-cache budget in use, 0 to 1; the label names the format of keys and values.",
            value=now.kv_bytes_used / now.kv_bytes_limit if now.kv_bytes_limit else 0.0,
            labels=(("kv", self.kv),),
        )
        gauges = (
            ("num_requests_running", "Sequences being decoded.", now.running),
            ("num_requests_waiting", "Requests in the queue.", now.waiting),
            ("prefix_cache_bytes", "Memory of the prefix cache, a part of the KV-cache budget.", now.kv_bytes_kept),
            ("prefix_store_bytes", "Bytes in the prefix store, as last seen.", stored.nbytes),
            ("grammar_memory_bytes", "Memory of the compiled grammars.", self.grammars()),
        )
        counters = (
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", now.prefix_queries),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", now.prefix_hits),
            ("prefix_store_queries", "Prompt tokens looked up in the prefix store.", stored.queries),
            ("prefix_store_hits", "Prompt tokens found in the prefix store.", stored.hits),
            ("prefix_store_damaged_blocks", "Stored blocks that could not be used.", stored.damaged),
            ("prefix_store_write_errors", "Blocks that could not be written.", stored.write_errors),
            ("prefix_store_dropped_blocks", "Blocks that were not written for lack of time.", stored.dropped),
            ("prefix_store_removed_blocks", "Blocks removed to keep the limit.", stored.removed),
        )
        for counter, entries in ((False, gauges), (True, counters)):
            for name, help, value in entries:
                yield Reading(name=name, help=help, value=value, counter=counter)
        yield from self.readings()


class _Gauges(Collector):
    """Values read from the services when the metrics are scraped.

    Args:
        aliases: other whole names, for what reads gauges under names of its own -> name without the prefix.
    """

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.sources: list[_Source] = []
        self._aliases = aliases

    def collect(self) -> Iterator[Metric]:
        made: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for source in self.sources:
            for reading in source.read():
                names = [PREFIX + reading.name, *(a for a, name in self._aliases.items() if name == reading.name)]
                for name in names:
                    labels = ["model_name", *(label for label, _ in reading.labels)]
                    kind = CounterMetricFamily if reading.counter else GaugeMetricFamily
                    family = made.setdefault(name, kind(name, reading.help, labels=labels))
                    family.add_metric([source.model, *(value for _, value in reading.labels)], reading.value)
        yield from made.values()


class Metrics:
    """Counters and histograms of one server.

    Args:
        aliases: further whole names of gauges; see `_Gauges`.
    """

    def __init__(self, aliases: Mapping[str, str] | None = None) -> None:
        self.registry = CollectorRegistry()
        self._gauges = _Gauges(aliases or {})
        self._families: _Families | None = None
        self._http = Counter(
            PREFIX + "http_requests", "Requests by route and status.", ["path", "status"], registry=self.registry
        )

        self._lag = Histogram(
            PREFIX + "event_loop_lag_seconds", "How late the event loop was.", buckets=_LAG, registry=self.registry
        )
        self._lags: deque[tuple[float, float]] = deque()
        gauge = Gauge(
            PREFIX + "event_loop_lag_max_seconds", "The longest lag of the last minute.", registry=self.registry
        )
        gauge.set_function(lambda: max((lag for _, lag in self._lags), default=0.0))

    def lag(self, seconds: float) -> None:
        """Count one measurement of the event loop's lag."""
        now = time.monotonic()
        self._lag.observe(seconds)
        while self._lags and (self._lags[0][0] < now - _MINUTE_S or self._lags[0][1] <= seconds):
            self._lags.popleft()
        while self._lags and self._lags[-1][1] <= seconds:
            self._lags.pop()
        self._lags.append((now, seconds))

    def http(self, path: str, status: int, seconds: float) -> None:
        """Count a finished HTTP request."""
        self._http.labels(path, str(status)).inc()

    def attach(
        self,
        model: str,
        kv: str,
        snapshot: Callable[[], ServiceSnapshot],
        grammars: Callable[[], int],
        store: PrefixStore | None = None,
        readings: Callable[[], Iterable[Reading]] = tuple,
        on_draft: Callable[[int, int], None] = lambda drafted, accepted: None,
    ) -> ModelMetrics:
        """Add the metrics of a loaded model.

        Args:
            readings: further values, read at every scrape. on_draft: called with (draft tokens, accepted ones) of every
                round that the drafter drafted.
        """
        if self._families is None:
            self._families = _Families(self.registry)
            self.registry.register(self._gauges)
        self._gauges.sources.append(
            _Source(model=model, kv=kv, snapshot=snapshot, grammars=grammars, store=store, readings=readings)
        )
        return ModelMetrics(self._families, model, on_draft)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)


class _Families:
    """The metrics of all models, which have a label with the model's name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(PREFIX + name, help, ["model_name"], buckets=buckets, registry=registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, help, ["model_name", *labels], registry=registry)

        self.first_token = histogram("time_to_first_token_seconds", "Time from arrival to the first token.", _FIRST)
        self.between_tokens = histogram(
            "inter_token_latency_seconds", "Time between tokens; a round's time is shared by its tokens.", _BETWEEN
        )
        self.whole = histogram("e2e_request_latency_seconds", "Time from arrival to the last token.", _WHOLE)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests that have started.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.drafts = counter("spec_decode_num_drafts", "Rounds with a draft.")
        self.draft_tokens = counter("spec_decode_num_draft_tokens", "Draft tokens made.")
        self.accepted_tokens = counter("spec_decode_num_accepted_tokens", "Draft tokens accepted.")
        self.accepted_at = counter(
            "spec_decode_num_accepted_tokens_per_pos", "Draft tokens accepted, by position in the draft.", "position"
        )
        self.rounds = counter("spec_decode_rounds", "Rounds by draft length.", "draft_length")
        self.undrafted = counter("spec_decode_undrafted_rounds", "Rounds without a draft, by reason.", "reason")
        self.finished = counter("request_success", "Choices by finish reason.", "finished_reason")


class ModelMetrics:
    """Counters and histograms of one model."""

    def __init__(self, families: _Families, model: str, on_draft: Callable[[int, int], None]) -> None:
        def each(family: Counter, values: Iterable[str]) -> dict[str, Counter]:
            return {value: family.labels(model, value) for value in values}

        self._on_draft = on_draft
        self.first_token = families.first_token.labels(model)
        self.between_tokens = families.between_tokens.labels(model)
        self.whole = families.whole.labels(model)
        self.prompt_tokens = families.prompt_tokens.labels(model)
        self.generation_tokens = families.generation_tokens.labels(model)
        self.drafts = families.drafts.labels(model)
        self.draft_tokens = families.draft_tokens.labels(model)
        self.accepted_tokens = families.accepted_tokens.labels(model)
        self.accepted_at = each(families.accepted_at, [str(i) for i in range(MAX_DRAFT)])
        self.rounds = each(families.rounds, [str(i) for i in range(MAX_DRAFT + 1)])
        self.undrafted = each(families.undrafted, REASONS)
        self.finished = each(families.finished, ["stop", "length", "tool_calls", "abort", "error"])

    def rounds_of(self, chunks: Iterable[Chunk]) -> None:
        """Count rounds; every counter is touched once, however many there are."""
        tokens = drafts = drafted = accepted = 0
        lengths: dict[int, int] = {}
        undrafted: dict[str, int] = {}
        places: dict[int, int] = {}
        for chunk in chunks:
            tokens += len(chunk.tokens)
            lengths[chunk.drafted] = lengths.get(chunk.drafted, 0) + 1
            if chunk.undrafted is not None:
                undrafted[chunk.undrafted] = undrafted.get(chunk.undrafted, 0) + 1
            if chunk.by_drafter:
                self._on_draft(chunk.drafted, chunk.accepted)
            drafts += chunk.drafted > 0
            drafted += chunk.drafted
            accepted += chunk.accepted
            for place in range(chunk.accepted):
                places[place] = places.get(place, 0) + 1
        self.generation_tokens.inc(tokens)
        if drafts:
            self.drafts.inc(drafts)
            self.draft_tokens.inc(drafted)
            self.accepted_tokens.inc(accepted)
        for length, count in lengths.items():
            self.rounds[str(length)].inc(count)
        for reason, count in undrafted.items():
            self.undrafted[reason].inc(count)
        for place, count in places.items():
            self.accepted_at[str(place)].inc(count)
