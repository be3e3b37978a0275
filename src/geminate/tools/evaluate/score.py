"""Perplexity, KL divergence and agreement of weight formats against bf16, teacher-forced over windows of a text.

All models see the same rows in the same passes, and their logits meet a few rows at a time, so memory grows neither
with the text nor, beyond one pass, with the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geminate.arrays import F32, F64, I32
from geminate.kv.store import KVStore
from geminate.plan.batch import Rows
from geminate.runtime.target import TargetModel

CHUNK = 32  # rows of a pass; one float64 probability for each row and token of the vocabulary is kept


@dataclass(frozen=True, kw_only=True)
class Score:
    """A format beside the reference, over all scored positions.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the text.
        kl: mean KL(reference || format) in nats. kl_error: its standard error over windows; None for one window.
        kl_p99: what one position in a hundred exceeds. top1: share of positions whose likeliest token is the same.
    """

    perplexity: float
    kl: float
    kl_error: float | None
    kl_p99: float
    top1: float

    def as_dict(self) -> dict[str, Any]:
        """Rounded, for JSON."""
        return {
            "perplexity": round(self.perplexity, 4),
            "kl": float(f"{self.kl:.5g}"),
            "kl_error": None if self.kl_error is None else float(f"{self.kl_error:.3g}"),
            "kl_p99": float(f"{self.kl_p99:.4g}"),
            "top1": round(self.top1, 5),
        }


@dataclass
class _Sums:
    nll: float = 0.0
    equal: int = 0
    kl: list[list[float]] = field(default_factory=list)  # by window


class ReferenceRows:
    """The reference's distribution at some rows, to be compared with several others.

    Args:
        logits: float32 [rows, vocab], logits of the reference.
        pool: rows are shared out over its threads.
    """

    def __init__(self, logits: F32, pool: ThreadPoolExecutor) -> None:
        self.logits = logits
        self.top: I32 = logits.argmax(axis=1).astype(np.int32)
        self.log_sum: F64 = np.empty(len(logits))  # log of the sum of exp(logits)
        self._p: F64 = np.empty(logits.shape)
        self._pool = pool
        list(pool.map(self._softmax, range(len(logits))))

    def _softmax(self, row: int) -> None:
        wide, most = self.logits[row].astype(np.float64), float(self.logits[row, self.top[row]])
        np.exp(wide - most, out=self._p[row])
        total = self._p[row].sum()
        self._p[row] /= total
        self.log_sum[row] = most + math.log(total)

    def apart(self, logits: F32) -> tuple[F64, F64]:
        """KL(reference || other) in nats and the other's log of the sum of exp(logits), float64 [rows] each.

        With d = reference - other and c = E[d] under the reference, KL = log E[exp(c - d)]: no difference of two
        large logarithms, so small divergences keep their digits; and log Z_other = log Z + log E[exp(-d)].
        """
        kl, log_sum = np.empty(len(logits)), np.empty(len(logits))

        def one(row: int) -> None:
            p = self._p[row]
            d = self.logits[row].astype(np.float64) - logits[row]
            c = float(p @ d)
            kl[row] = max(0.0, math.log1p(float(p @ np.expm1(c - d))))
            log_sum[row] = self.log_sum[row] - c + kl[row]

        list(self._pool.map(one, range(len(logits))))
        return kl, log_sum


def compare(
    reference: TargetModel,
    others: Mapping[str, TargetModel],
    windows: Sequence[I32],
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[float, dict[str, Score]]:
    """Run all models over all windows; every position but a window's last predicts the next token.

    Args:
        others: by name; all have the reference's vocabulary.
        windows: token ids, int32 [context] each.
        on_rows: called with (positions done, total positions).

    Returns:
        the reference's perplexity, and a score for each of the others.
    """
    sums = {name: _Sums() for name in others}
    total = sum(len(part) - 1 for part in windows)
    nll, done = 0.0, 0
    with _threads(reference.backend.threads) as pool:
        for part in windows:
            caches = {name: model.new_cache(len(part)) for name, model in others.items()}
            own = reference.new_cache(len(part))
            for each in sums.values():
                each.kl.append([])
            for start in range(0, len(part) - 1, CHUNK):
                ids = part[start : min(start + CHUNK, len(part) - 1)]
                rows = np.arange(len(ids))
                following = part[start + 1 : start + 1 + len(ids)]
                want = ReferenceRows(_logits(reference, ids, own), pool)
                nll += float((want.log_sum - want.logits[rows, following]).sum())
                for name, model in others.items():
                    logits, mine = _logits(model, ids, caches[name]), sums[name]
                    kl, log_sum = want.apart(logits)
                    mine.kl[-1].extend(kl.tolist())
                    mine.nll += float((log_sum - logits[rows, following]).sum())
                    mine.equal += int((logits.argmax(axis=1) == want.top).sum())
                done += len(ids)
                on_rows(done, total)
    return math.exp(nll / total), {name: _score(each, total) for name, each in sums.items()}


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for rows that no one will read


def _logits(model: TargetModel, ids: I32, cache: KVStore) -> F32:
    return model.extend([Rows(cache=cache, ids=ids, wanted=len(ids))])[1]


def _score(sums: _Sums, total: int) -> Score:
    means = [float(np.mean(part)) for part in sums.kl]
    every = np.concatenate([np.array(part) for part in sums.kl])
    error = float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
    return Score(
        perplexity=math.exp(sums.nll / total),
        kl=float(every.mean()),
        kl_error=error,
        kl_p99=float(np.quantile(every, 0.99)),
        top1=sums.equal / total,
    )
