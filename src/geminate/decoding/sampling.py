"""From raw logits to a token: one function builds every distribution, one draws from it.

Order of operations for a row, each step on the result of the one before:

1. ``logit_bias`` is added (OpenAI's API; vLLM's ``LogitBiasLogitsProcessor``).
2. Repetition penalty r over every id in prompt or output: x < 0 ? x * r : x / r (Keskar et al. 2019,
   "CTRL", in the form of transformers' ``RepetitionPenaltyLogitsProcessor``).
3. x -= frequency_penalty * n + presence_penalty * [n > 0], n = occurrences in the output alone
   (OpenAI's API; vLLM's ``apply_penalties``).
   A grammar's mask comes here: tokens it does not allow get no probability.
4. Temperature 0: the argmax, lowest id on ties, and nothing of what follows. Else x / temperature.
5. ``top_k``: the k largest; ties at the boundary go to the lowest ids, so that never more than k
   stay (transformers' and vLLM's warpers keep all tied ids).
6. ``top_p`` on the softmax over what is left: a token stays while the mass before it, in order of
   falling probability and rising id, is below top_p (Holtzman et al. 2020; transformers'
   ``TopPLogitsWarper``). At least one token stays.
7. ``min_p``: a token stays if p >= min_p * max p (Nguyen et al. 2024; transformers' ``MinPLogitsWarper``).

The order of 4 to 7 is that of transformers' ``generate``. What remains is normalised. A draw is
argmax(log p + Gumbel noise), Gumbel 1954, with noise that is a function of (seed, choice, position, id)
alone (see `geminate.decoding.noise`): the token depends on nothing but prefix, parameters and logits, so it is the
same whether its row stood in a plain step or in a verification of drafts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geminate.arrays import F32, I64
from geminate.decoding.draft_rule import DraftRule
from geminate.decoding.noise import gumbel
from geminate.errors import GeminateError, ParameterError, shown
from geminate.params import ResolvedSampling

_F64 = NDArray[np.float64]
# Tokens examined first when only top_p truncates; most nuclei of a language model are smaller.
_NUCLEUS_BLOCK = 512
# Values folded into one maximum before a vocabulary is searched for its largest few.
_FOLD = 64


class TokenCounts:
    """Which tokens stand in a sequence, for penalties. Costs nothing when no penalty is on.

    Args:
        prompt: token ids of the prompt.
        sampling: whether any penalty needs counts.
    """

    def __init__(self, prompt: Iterable[int], sampling: ResolvedSampling) -> None:
        self._active = sampling.counts_tokens
        self._slots: dict[int, int] = {}
        self._ids = np.zeros(64, dtype=np.int64)
        self._output = np.zeros(64, dtype=np.int64)
        self._grown = 0
        self._base: TokenCounts = self
        self._drafts: tuple[int, ...] = ()
        if self._active:
            for token in prompt:
                self._slot(token)

    def _slot(self, token: int) -> int:
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._output = np.concatenate([self._output, np.zeros_like(self._output)])
        self._ids[slot] = token
        return slot

    def append(self, token: int) -> None:
        """Count one emitted token."""
        if self._base is not self:
            raise RuntimeError("provisional counts are for one row; append to the sequence's own")
        if self._active:
            slot = self._slot(token)  # first: it may replace the arrays
            self._output[slot] += 1
            self._grown += 1

    def extended(self, drafts: Sequence[int]) -> TokenCounts:
        """Counts as if ``drafts`` had been emitted as well; valid until the sequence grows."""
        if not self._active or not drafts:
            return self
        view = object.__new__(TokenCounts)
        view._active, view._base, view._grown = True, self._base, self._base._grown
        view._drafts = (*self._drafts, *drafts)
        return view

    def arrays(self) -> tuple[I64, I64]:
        """Distinct ids int64 [n] of prompt and output, and occurrences int64 [n] in the output."""
        base = self._base
        if self._grown != base._grown:
            raise RuntimeError("provisional counts were used after their sequence had grown")
        n = len(base._slots)
        if not self._drafts:
            return base._ids[:n], base._output[:n]
        slots: dict[int, int] = {}
        for token in self._drafts:
            if token not in base._slots:
                slots.setdefault(token, n + len(slots))
        ids = np.concatenate([base._ids[:n], np.fromiter(slots, np.int64, len(slots))])
        output = np.zeros(len(ids), dtype=np.int64)
        output[:n] = base._output[:n]
        for token in self._drafts:
            slot = base._slots.get(token)
            output[slots[token] if slot is None else slot] += 1
        return ids, output


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A normalised distribution over the tokens that truncation left.

    Attributes:
        ids: int64 [s], ascending, s >= 1.
        logp: float64 [s], natural logarithms; exp(logp) sums to 1.
    """

    ids: I64
    logp: _F64


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities of one position under the softmax of the raw logits (temperature 1).

    Attributes:
        token: the emitted token id, ``logprob`` its log-probability.
        top: (token id, log-probability) of the most likely tokens, best first, lowest id on ties.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def distribution(
    logits: F32, sampling: ResolvedSampling, counts: TokenCounts, allowed: NDArray[np.bool_] | None = None
) -> Distribution:
    """The distribution of the next token, by the steps in the module's docstring.

    Args:
        logits: float32 [vocab], raw.
        sampling: resolved parameters.
        counts: of the context this row follows (`TokenCounts.extended` for rows after drafts).
        allowed: bool [vocab] of a grammar; None allows every token.

    Raises:
        GeminateError: logits that are not finite.
        ParameterError: logit_bias names an id outside the vocabulary, or leaves no token.
    """
    _check_finite(logits)
    x = _penalised(logits, sampling, counts)
    if allowed is not None:
        x = np.where(allowed, x, -np.inf)
        if x.max() == -np.inf:
            raise ParameterError("logit_bias forbids every token that the grammar allows; allow at least one")
    if sampling.greedy:
        best = np.array([np.argmax(x)], dtype=np.int64)
        return Distribution(ids=best, logp=np.zeros(1))
    ids, x = _largest(x, sampling.top_k if 0 < sampling.top_k < len(x) else len(x))
    scaled = _scaled(x, sampling.temperature)
    if sampling.top_p < 1.0:
        keep = _nucleus(x, scaled, sampling.top_p)
        ids, scaled = ids[keep], scaled[keep]
    if sampling.min_p > 0.0:
        keep = np.flatnonzero(scaled >= math.log(sampling.min_p))
        ids, scaled = ids[keep], scaled[keep]
    alive = scaled > -np.inf
    if not alive.all():
        ids, scaled = ids[alive], scaled[alive]
    return Distribution(ids=ids, logp=scaled - np.log(np.exp(scaled).sum()))


def draw(p: Distribution, seed: int, choice: int, position: int) -> int:
    """The token at absolute ``position``: argmax of log p + noise, lowest id on ties; pure."""
    if len(p.ids) == 1:
        return int(p.ids[0])
    noise = gumbel(seed, choice, position, p.ids)
    return int(p.ids[np.argmax(p.logp + noise)])


def token_logprobs(logits: F32, token: int, top: int) -> TokenLogprobs:
    """Log-softmax of raw logits float32 [vocab], accumulated in float64, at ``token`` and the ``top`` best.

    Raises:
        GeminateError: logits that are not finite.
    """
    _check_finite(logits)
    peak = float(logits.max())
    total = peak + math.log(float(np.exp(logits.astype(np.float64) - peak).sum()))
    best: tuple[tuple[int, float], ...] = ()
    if top > 0:
        ids, x = _largest(logits, min(top, len(logits)))
        order = np.argsort(-x, kind="stable")
        best = tuple((int(ids[i]), float(x[i]) - total) for i in order)
    return TokenLogprobs(token=token, logprob=float(logits[token]) - total, top=best)


def draft_rule(sampling: ResolvedSampling, choice: int) -> DraftRule:
    """How a drafter should choose tokens to agree with `draw`: the same noise, without penalties and bias."""
    return DraftRule(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
        choice=choice,
    )


def _check_finite(logits: F32) -> None:
    # min and max carry a NaN through and see an infinity, in two passes without a temporary array.
    if not (np.isfinite(logits.max()) and np.isfinite(logits.min())):
        bad = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise GeminateError(
            f"the logit of token {bad} is {logits[bad]}: the model's weights are damaged or its "
            "arithmetic overflowed; check the files with 'geminate info' or load other weights"
        )


def _penalised(logits: F32, sampling: ResolvedSampling, counts: TokenCounts) -> F32 | _F64:
    """Steps 1 to 3: ``logits`` itself if none is asked for, else float64 [vocab]."""
    if not sampling.logit_bias and not sampling.counts_tokens:
        return logits
    x = logits.astype(np.float64)
    if sampling.logit_bias:
        tokens = [token for token, _ in sampling.logit_bias]
        if tokens[-1] >= len(x):
            raise ParameterError(f"logit_bias names token id {shown(tokens[-1])}, outside the vocabulary of {len(x)}")
        x[tokens] += [amount for _, amount in sampling.logit_bias]
    if sampling.counts_tokens:
        ids, output = counts.arrays()
        at = x[ids]
        r = sampling.repetition_penalty
        if r != 1.0:
            with np.errstate(over="ignore"):  # an overflow is refused below, by name
                at = np.where(at < 0, at * r, at / r)
        at = at - sampling.frequency_penalty * output - sampling.presence_penalty * (output > 0)
        x[ids] = at
    peak = x.max()
    if peak == -np.inf:
        raise ParameterError("logit_bias forbids every token of the vocabulary; allow at least one")
    if not np.isfinite(peak):
        raise ParameterError("logit_bias or a penalty made a logit overflow; use smaller values")
    return x


def _largest(x: F32 | _F64, k: int) -> tuple[I64, _F64]:
    """The k largest, lowest ids first among equals: ids int64 [k] ascending, values float64 [k]."""
    if k == len(x):
        return np.arange(len(x), dtype=np.int64), x.astype(np.float64)
    ids: I64 = np.arange(len(x), dtype=np.int64)
    columns = len(x) // _FOLD
    if columns > k:
        # k columns have a maximum >= bound, so k values are >= bound: the rest need not be partitioned.
        peaks = x[: columns * _FOLD].reshape(_FOLD, columns).max(axis=0)
        bound = np.partition(peaks, columns - k)[columns - k]
        ids = np.flatnonzero(x >= bound).astype(np.int64, copy=False)
    values = x[ids]
    cut = np.partition(values, len(values) - k)[len(values) - k]
    keep = np.flatnonzero(values >= cut)
    if len(keep) > k:
        tied = np.flatnonzero(values[keep] == cut)
        keep = np.delete(keep, tied[k - len(keep) :])
    return ids[keep], values[keep].astype(np.float64)


def _scaled(x: _F64, temperature: float) -> _F64:
    """(x - max) / temperature: 0 at the largest, -inf where a tiny temperature leaves no probability."""
    with np.errstate(over="ignore"):
        scaled: _F64 = (x - x.max()) / temperature
    return scaled


def _nucleus(x: _F64, scaled: _F64, top_p: float) -> I64:
    """Indices, ascending, of the tokens that top_p keeps of values ``x`` [n], falling order, ties by index.

    Sorts the largest few only and takes more of them until their mass suffices: the running sums of a
    longer block begin with those of a shorter one, so the answer does not depend on the block.
    """
    weights = np.exp(scaled)
    target = top_p * weights.sum()
    block = min(_NUCLEUS_BLOCK, len(x))
    while True:
        head, values = _largest(x, block)
        order = head[np.argsort(-values, kind="stable")]
        mass = np.cumsum(weights[order])
        # Token i stays while the mass before it is below the target.
        kept = int(np.searchsorted(mass, target, side="left")) + 1
        if kept <= block or block == len(x):
            return np.sort(order[: min(kept, block)])
        block = min(block * 8, len(x))
