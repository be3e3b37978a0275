"""Prometheus metrics: the prefix ``geminate:`` and vLLM's suffixes, in a registry of their own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

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


class _Gauges(Collector):
    """Values read from the service when the metrics are scraped."""

    def __init__(
        self,
        model: str,
        kv: str,
        snapshot: Callable[[], ServiceSnapshot],
        grammars: Callable[[], int],
        store: PrefixStore | None,
    ) -> None:
        self.model, self.kv, self.snapshot, self.grammars, self.store = model, kv, snapshot, grammars, store

    def collect(self) -> Iterator[Metric]:
        now = self.snapshot()
        share = now.kv_bytes_used / now.kv_bytes_limit if now.kv_bytes_limit else 0.0
        stored = StoreStats() if self.store is None else self.store.stats()
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
        usage = "Share of the KV-cache budget in use, 0 to 1; the label names the format of keys and values."
        used = GaugeMetricFamily(PREFIX + "kv_cache_usage_perc", usage, labels=["model_name", "kv"])
        used.add_metric([self.model, self.kv], share)
        yield used
        for kind, entries in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, help, value in entries:
                family = kind(PREFIX + name, help, labels=["model_name"])
                family.add_metric([self.model], value)
                yield family


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
    ) -> None:
        """Add the metrics of a loaded model; called once."""

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(PREFIX + name, help, ["model_name"], buckets=buckets, registry=self.registry).labels(model)

        def counter(name: str, help: str) -> Counter:
            return Counter(PREFIX + name, help, ["model_name"], registry=self.registry).labels(model)

        def family(name: str, help: str, label: str, values: list[str]) -> dict[str, Counter]:
            made = Counter(PREFIX + name, help, ["model_name", label], registry=self.registry)
            return {value: made.labels(model, value) for value in values}

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
        self.accepted_at = family(
            "spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens accepted, by position in the draft.",
            "position",
            [str(i) for i in range(MAX_DRAFT)],
        )
        self.rounds = family(
            "spec_decode_rounds",
            "Rounds by draft length.",
            "draft_length",
            [str(i) for i in range(MAX_DRAFT + 1)],
        )
        self.undrafted = family(
            "spec_decode_undrafted_rounds", "Rounds without a draft, by reason.", "reason", list(REASONS)
        )
        self.finished = family(
            "request_success",
            "Choices by finish reason.",
            "finished_reason",
            ["stop", "length", "tool_calls", "abort", "error"],
        )
        self.registry.register(_Gauges(model, kv, snapshot, grammars, store))

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

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
