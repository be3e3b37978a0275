"""From raw logits to a token: one function builds every distribution, one draws from it.

Order of operations for a row, each step on the result of the one before:

1. ``logit_bias`` is added (OpenAI's API; vLLM's ``LogitBiasLogitsProcessor``).
2. Repetition penalty r over every id in prompt or output: x < 0 ? x * r : x / r (Keskar et al. 2019,
   "CTRL", in the form of transformers' ``RepetitionPenaltyLogitsProcessor``).
3. x -= frequency_penalty * n + presence_penalty * [n > 0], n = occurrences in the output alone
   (OpenAI's API; vLLM's ``apply_penalties``).
   A grammar's mask comes here: tokens it does not allow get no probability.
4. Temperature 0: the argmax, lowest id on ties, and nothing of what follows. Else (x - max x) * (1 / temperature).
5. ``top_k``: the k largest; ties at the boundary go to the lowest ids, so that never more than k
   stay (transformers' and vLLM's warpers keep all tied ids).
6. ``top_p`` on the softmax over what is left: a token stays while the mass before it, in order of
   falling probability and rising id, is below top_p (Holtzman et al. 2020; transformers'
   ``TopPLogitsWarper``). At least one token stays. Masses are multiples of 2**-44 of the largest token's.
7. ``min_p``: a token stays if p >= min_p * max p (Nguyen et al. 2024; transformers' ``MinPLogitsWarper``).

The order of 4 to 7 is that of transformers' ``generate``. A draw is argmax(log p + Gumbel noise), Gumbel 1954, of what
remains, with noise that is a function of (seed, choice, position, id) alone (see `geminate.decoding.noise`): the token
depends on nothing but prefix, parameters and logits, so it is the same whether its row stood in a plain step or in a
verification of drafts.

All of it is IEEE arithmetic in a fixed order (`geminate.elementary`), and this module is the oracle of the
native sampler (native/sampling), which gives the same tokens and the same bits of every log-probability.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geminate.arrays import F32, F64, I64
from geminate.decoding.draft_rule import DraftRule
from geminate.decoding.noise import gumbel
from geminate.decoding.truncation import largest, truncated
from geminate.elementary import WEIGHT_BITS, exp, log_scalar, weights
from geminate.errors import GeminateError, ParameterError, shown
from geminate.params import ResolvedSampling


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
    """A distribution over the tokens that truncation left.

    Attributes:
        ids: int64 [s], ascending, s >= 1.
        scaled: float64 [s], log-probabilities up to a constant.
    """

    ids: I64
    scaled: F64

    @property
    def logp(self) -> F64:
        """Natural logarithms of the probabilities, float64 [s]; exp(logp) sums to 1."""
        normalised: F64 = self.scaled - log_scalar(float(exp(self.scaled).sum()))
        return normalised


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
        return Distribution(ids=np.array([np.argmax(x)], dtype=np.int64), scaled=np.zeros(1))
    ids, scaled = truncated(x, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    return Distribution(ids=ids, scaled=scaled)


def draw(p: Distribution, seed: int, choice: int, position: int) -> int:
    """The token at absolute ``position``: argmax of log p + noise, lowest id on ties; pure."""
    if len(p.ids) == 1:
        return int(p.ids[0])
    noise = gumbel(seed, choice, position, p.ids)
    return int(p.ids[np.argmax(p.scaled + noise)])


def token_logprobs(logits: F32, token: int, top: int) -> TokenLogprobs:
    """Log-softmax of raw logits float32 [vocab], summed as `weights`, at ``token`` and the ``top`` best.

    Raises:
        GeminateError: logits that are not finite.
    """
    _check_finite(logits)
    peak = float(logits.max())
    mass = int(weights(logits.astype(np.float64) - peak).sum())
    total = peak + log_scalar(mass * 2.0**-WEIGHT_BITS)
    best: tuple[tuple[int, float], ...] = ()
    if top > 0:
        ids, x = largest(logits, min(top, len(logits)))
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


def _penalised(logits: F32, sampling: ResolvedSampling, counts: TokenCounts) -> F32 | F64:
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
