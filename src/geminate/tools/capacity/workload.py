"""A workload: how many requests come when, how long they are, and what they share."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

DAY_S = 86_400.0
HOURS = 24
# Relative request rates by hour of the day, from midnight; assumed shapes, to be replaced by one's own.
CURVES: dict[str, tuple[float, ...]] = {
    "flat": (1.0,) * HOURS,
    "office": (0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.5, 1.2, 2.4, 3.0, 3.0, 2.6, 1.8, 2.4, 2.8, 2.6, 2.2, 1.4, 0.8, 0.5, 0.4,
               0.3, 0.2, 0.1),
    "evening": (0.6, 0.3, 0.2, 0.2, 0.2, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.0, 1.0, 1.0, 1.1, 1.3, 1.6, 2.0, 2.3,
                2.3, 1.8, 1.1),
}  # fmt: skip
P95 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of prompts or completions.

    Attributes:
        median, p95: of a log-normal distribution; equal: all have this length.
        most: longer ones are cut to it.
    """

    median: float
    p95: float
    most: int = 1 << 20

    def at(self, share: float) -> int:
        """The length that ``share`` of all do not exceed."""
        sigma = math.log(self.p95 / self.median) / P95
        value = self.median * math.exp(sigma * NormalDist().inv_cdf(share))
        return max(1, min(self.most, round(value)))

    def scaled(self, factor: float) -> Lengths:
        """All lengths times ``factor``."""
        return replace(self, median=self.median * factor, p95=self.p95 * factor)


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """What prompts begin with in common, such as system prompts.

    Attributes:
        tokens: of each. share: of the requests that begin with one. count: how many there are.
    """

    tokens: int = 0
    share: float = 1.0
    count: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request of a simulation.

    Attributes:
        arrival: seconds. prompt, completion: tokens.
        prefix, prefix_tokens: which common beginning the prompt has, and how many tokens of it; -1 and 0 for none.
    """

    index: int
    arrival: float
    prompt: int
    completion: int
    prefix: int = -1
    prefix_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A request of a log: tokens of prompt and completion, and its common beginning, as in `Request`."""

    prompt: int
    completion: int
    prefix: int = -1
    prefix_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A day of requests.

    Attributes:
        requests_per_day: the mean. curve: relative rates of its hours.
        prompt, completion: lengths, where no log was given. prefixes: what prompts share.
        max_tokens: what clients ask for at most, which KV memory is reserved for; None: twice the 95th percentile.
        observed: requests of a log; lengths are drawn from them.
        source: in words.
    """

    requests_per_day: float
    curve: tuple[float, ...] = CURVES["flat"]
    prompt: Lengths = Lengths(median=300, p95=1200)
    completion: Lengths = Lengths(median=150, p95=500)
    prefixes: Prefixes = Prefixes()
    max_tokens: int | None = None
    observed: tuple[Observed, ...] = ()
    source: str = "stated"

    @property
    def mean_rate(self) -> float:
        """Requests a second over the day."""
        return self.requests_per_day / DAY_S

    @property
    def peak_factor(self) -> float:
        """The busiest hour's rate against the mean."""
        return max(self.curve) * len(self.curve) / sum(self.curve)

    @property
    def peak_rate(self) -> float:
        """Requests a second in the busiest hour."""
        return self.mean_rate * self.peak_factor

    def hourly(self) -> list[float]:
        """Requests a second in each hour."""
        mean = sum(self.curve) / len(self.curve)
        return [self.mean_rate * weight / mean for weight in self.curve]

    def limit(self) -> int:
        """Tokens that a completion may have."""
        if self.max_tokens is not None:
            return self.max_tokens
        if self.observed:
            return max(one.completion for one in self.observed)
        return min(self.completion.most, round(2 * self.completion.p95))

    def with_prompts(self, factor: float) -> Workload:
        """Prompts ``factor`` times as long, common beginnings included."""
        observed = tuple(
            replace(one, prompt=_times(one.prompt, factor), prefix_tokens=int(one.prefix_tokens * factor))
            for one in self.observed
        )
        prefixes = replace(self.prefixes, tokens=int(self.prefixes.tokens * factor))
        return replace(self, prompt=self.prompt.scaled(factor), prefixes=prefixes, observed=observed)

    def requests(self, count: int, seed: int) -> list[Request]:
        """``count`` requests at one a second on average (Poisson); `at_rate` gives them another rate.

        Lengths and gaps of the n-th are the same whatever else is asked for, so two loads differ in nothing else.
        """
        arrivals, lengths = random.Random(seed), random.Random(seed + 1)
        limit, now, made = self.limit(), 0.0, []
        for index in range(count):
            now += arrivals.expovariate(1.0)
            one = self._draw(lengths)
            made.append(
                Request(
                    index=index,
                    arrival=now,
                    prompt=max(one.prompt, one.prefix_tokens + 1),
                    completion=min(limit, one.completion),
                    prefix=one.prefix,
                    prefix_tokens=one.prefix_tokens,
                )
            )
        return made

    def _draw(self, source: random.Random) -> Observed:
        first, second, third, fourth = (source.random() for _ in range(4))
        if self.observed:
            return self.observed[int(first * len(self.observed))]
        prompt, completion = self.prompt.at(_inside(first)), self.completion.at(_inside(second))
        shared = self.prefixes.tokens > 0 and third < self.prefixes.share
        if not shared:
            return Observed(prompt=prompt, completion=completion)
        tokens = self.prefixes.tokens
        return Observed(
            prompt=tokens + prompt,
            completion=completion,
            prefix=int(fourth * self.prefixes.count),
            prefix_tokens=tokens,
        )


def at_rate(requests: Sequence[Request], rate: float) -> list[Request]:
    """The same requests, ``rate`` a second on average."""
    return [replace(request, arrival=request.arrival / rate) for request in requests]


def _times(tokens: int, factor: float) -> int:
    return max(1, round(tokens * factor))


def _inside(share: float) -> float:
    return min(max(share, 1e-9), 1 - 1e-9)
