"""Options of a request: sampling parameters and draft length, validated where they are made.

Parameters that are not implemented do not exist here: asking for one is a TypeError, never ignored.
"""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal

from geminate.errors import ArgumentTypeError, ParameterError, shown

MAX_DRAFT = 16
"""Longest draft of one round; a pass of the target then has MAX_DRAFT + 1 rows per sequence."""

MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_TOP_K = 2**31 - 1  # what kernels take


def _refuse(name: str, value: object, legal: str) -> ParameterError:
    given = repr(value) if value is None or isinstance(value, bool) else shown(value)  # Python's words for its values
    return ParameterError(f"{name} must be {legal}, not {given}")


def _integer(name: str, value: object, low: int, high: int | None, legal: str) -> int:
    if isinstance(value, bool):
        raise _refuse(name, value, legal)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _refuse(name, value, legal) from None
    if number < low or (high is not None and number > high):
        raise _refuse(name, value, legal)
    return number


def _real(name: str, value: object, legal: str) -> float:
    """A float that may still be infinite, never NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _refuse(name, value, legal)
    try:
        number = float(value)
    except OverflowError:
        raise _refuse(name, value, legal) from None
    if math.isnan(number):
        raise _refuse(name, value, legal)
    return number


def _temperature(name: str, value: object) -> float:
    legal = "a finite number >= 0"
    number = _real(name, value, legal)
    if not 0.0 <= number < math.inf:
        raise _refuse(name, value, legal)
    return number


def _top_k(name: str, value: object) -> int:
    return _integer(name, value, 0, MAX_TOP_K, "an integer from 0 to 2**31 - 1 (0: off)")


def _top_p(name: str, value: object) -> float:
    legal = "a number above 0 and at most 1 (1: off)"
    number = _real(name, value, legal)
    if not 0.0 < number <= 1.0:
        raise _refuse(name, value, legal)
    return number


def _min_p(name: str, value: object) -> float:
    legal = "a number from 0 to 1 (0: off)"
    number = _real(name, value, legal)
    if not 0.0 <= number <= 1.0:
        raise _refuse(name, value, legal)
    return number


def _repetition_penalty(name: str, value: object) -> float:
    legal = "a finite number > 0 (1: off)"
    number = _real(name, value, legal)
    if not 0.0 < number < math.inf:
        raise _refuse(name, value, legal)
    return number


def _additive_penalty(name: str, value: object) -> float:
    legal = "a number from -2 to 2 (0: off)"
    number = _real(name, value, legal)
    if not -2.0 <= number <= 2.0:
        raise _refuse(name, value, legal)
    return number


def _bias(value: object) -> tuple[tuple[int, float], ...]:
    legal = "a mapping of token id (>= 0) to a number, finite or -inf"
    pairs: Iterable[object]
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        pairs = value
    else:
        raise _refuse("logit_bias", value, legal)
    bias: dict[int, float] = {}
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, (str, bytes)) or len(pair) != 2:
            raise _refuse("logit_bias", value, legal)
        token = _integer("logit_bias", pair[0], 0, None, legal)
        amount = _real(f"logit_bias[{token}]", pair[1], "a number, finite or -inf")
        if amount == math.inf:
            raise _refuse(f"logit_bias[{token}]", pair[1], "a number, finite or -inf")
        if token in bias:
            raise ParameterError(f"logit_bias names token id {shown(token)} twice")
        bias[token] = amount
    return tuple(sorted(bias.items()))


def _stop(value: object) -> tuple[str, ...]:
    legal = "a non-empty string or a sequence of them"
    strings: tuple[object, ...]
    if isinstance(value, str):
        strings = (value,)
    elif isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        strings = tuple(value)
    else:
        raise _refuse("stop", value, legal)
    checked: list[str] = []
    for string in strings:
        if not isinstance(string, str) or not string:
            raise _refuse("stop", value, legal)
        if string not in checked:
            checked.append(string)
    return tuple(checked)


def _stop_ids(value: object) -> tuple[int, ...]:
    legal = "a sequence of token ids (>= 0)"
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
        raise _refuse("stop_token_ids", value, legal)
    return tuple(sorted({_integer("stop_token_ids", token, 0, None, legal) for token in value}))


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "True or False")
    return value


@dataclass(frozen=True, kw_only=True)
class ResolvedSampling:
    """Sampling parameters with nothing left open: what the engine runs on, and what a report can state.

    Made by `SamplingParams.resolved`, which validates; ``seed`` is the one that was used, drawn or given.
    Temperature 0 is greedy.
    """

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    seed: int
    ignore_eos: bool
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    logprobs: int | None

    @property
    def greedy(self) -> bool:
        """No noise: the argmax of the processed logits."""
        return self.temperature == 0.0

    @property
    def only_largest(self) -> bool:
        """Whether of all logits only the largest one matters, as the model gives it."""
        return self.greedy and self.logprobs is None and not self.logit_bias and not self.counts_tokens

    @property
    def counts_tokens(self) -> bool:
        """Whether the distribution depends on which tokens stand in the context."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. None means: the model's own default (generation_config).

    A field's metadata make its command-line option; see `geminate.loading.options.LoadOptions`.

    Attributes:
        max_tokens: maximum number of tokens to generate, >= 1.
        temperature: divides the logits; finite, >= 0; 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the most likely tokens until their mass reaches top_p, 0 < top_p <= 1.
        min_p: drop tokens less likely than min_p times the most likely one, 0 to 1.
        repetition_penalty: > 0; positive logits of tokens in prompt or output are divided by it,
            negative ones multiplied.
        presence_penalty, frequency_penalty: -2 to 2; subtracted once per token in the output, and once
            per occurrence.
        logit_bias: token id -> what is added to its logit, finite or -inf (never). Kept as a sorted tuple.
        seed: 0 to 2**63 - 1; None draws one, which the result reports.
        ignore_eos: go on past the model's end tokens.
        stop: strings that end the text (they are cut off); a single string is accepted.
        stop_token_ids: further token ids that end the generation.
        logprobs: None, or how many of the most likely tokens to report beside the chosen one, 0 to 20.

    Raises:
        ParameterError: a value outside its range; the message names field, value and range.
    """

    max_tokens: int = field(
        default=256,
        metadata={"help": "Maximum number of tokens to generate.", "flags": ("--max-tokens", "--n-predict", "-n")},
    )
    temperature: float | None = field(
        default=None,
        metadata={"help": "0 is greedy.", "flags": ("--temperature", "--temp", "-t"), "empty": "the model's"},
    )
    top_k: int | None = field(
        default=None, metadata={"help": "Keep the k most likely tokens; 0 is off.", "empty": "the model's"}
    )
    top_p: float | None = field(
        default=None,
        metadata={
            "help": "Keep the most likely tokens up to this probability mass; 1 is off.",
            "empty": "the model's",
        },
    )
    min_p: float | None = field(
        default=None,
        metadata={
            "help": "Drop tokens less likely than this fraction of the most likely one; 0 is off.",
            "empty": "the model's",
        },
    )
    repetition_penalty: float | None = field(
        default=None,
        metadata={
            "help": "Make tokens of prompt and output less likely by this factor; 1 is off.",
            "empty": "the model's",
        },
    )
    presence_penalty: float = field(
        default=0.0, metadata={"help": "Subtract this from the logit of every token in the output, -2 to 2."}
    )
    frequency_penalty: float = field(
        default=0.0, metadata={"help": "Subtract this for every occurrence of a token in the output, -2 to 2."}
    )
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    seed: int | None = field(
        default=None,
        metadata={"help": "Random seed; equal seeds give equal text.", "empty": "drawn and reported"},
    )
    ignore_eos: bool = field(default=False, metadata={"help": "Continue past end-of-sequence tokens."})
    stop: str | Sequence[str] = field(default=(), metadata={"help": "End before this text; repeatable."})
    stop_token_ids: Sequence[int] = ()
    logprobs: int | None = field(
        default=None, metadata={"help": "Number of top logprobs to report per token, with --json.", "empty": "none"}
    )

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("max_tokens", _integer("max_tokens", self.max_tokens, 1, None, "an integer >= 1"))
        for name, check in _FROM_MODEL.items():
            value = getattr(self, name)
            if value is not None:
                put(name, check(name, value))
        for name in ("presence_penalty", "frequency_penalty"):
            put(name, _additive_penalty(name, getattr(self, name)))
        put("logit_bias", _bias(self.logit_bias))
        if self.seed is not None:
            put("seed", _integer("seed", self.seed, 0, MAX_SEED, "an integer from 0 to 2**63 - 1"))
        put("ignore_eos", _flag("ignore_eos", self.ignore_eos))
        put("stop", _stop(self.stop))
        put("stop_token_ids", _stop_ids(self.stop_token_ids))
        if self.logprobs is not None:
            legal = f"an integer from 0 to {MAX_LOGPROBS}, or left out"
            put("logprobs", _integer("logprobs", self.logprobs, 0, MAX_LOGPROBS, legal))

    def resolved(self, defaults: Mapping[str, object] | None = None) -> ResolvedSampling:
        """Fill what is None from the model's generation_config, and draw a seed if one is needed.

        Args:
            defaults: generation_config.json as a mapping; only do_sample, temperature, top_k, top_p,
                min_p and repetition_penalty are read, null counts as absent. ``do_sample`` absent or
                false (as in transformers) makes the default temperature 0; an explicit temperature of
                this object wins over it.

        Raises:
            ParameterError: a default outside its range; the message names generation_config.
        """
        given = defaults or {}
        values: dict[str, float | int] = dict(_OFF)
        for name, check in _FROM_MODEL.items():
            own, default = getattr(self, name), given.get(name)
            if own is not None:
                values[name] = own
            elif default is not None:
                values[name] = check(f"generation_config {name}", default)
        if self.temperature is None and not given.get("do_sample"):
            values["temperature"] = 0.0
        seed = self.seed
        if seed is None:
            seed = secrets.randbits(63) if values["temperature"] > 0 else 0
        return ResolvedSampling(
            max_tokens=self.max_tokens,
            temperature=float(values["temperature"]),
            top_k=int(values["top_k"]),
            top_p=float(values["top_p"]),
            min_p=float(values["min_p"]),
            repetition_penalty=float(values["repetition_penalty"]),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_bias(self.logit_bias),
            seed=seed,
            ignore_eos=self.ignore_eos,
            stop=_stop(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            logprobs=self.logprobs,
        )


# Fields that a generation_config may fill, and their values when neither does.
_FROM_MODEL = {
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _top_p,
    "min_p": _min_p,
    "repetition_penalty": _repetition_penalty,
}
_OFF: dict[str, float | int] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}


def token_ids(value: object) -> list[int]:
    """The token ids of a prompt; whether the vocabulary has them is the engine's to check.

    Raises:
        ParameterError: something else than a sequence of integers.
    """
    legal = "text or a sequence of token ids"
    if isinstance(value, bytes | bytearray | memoryview):  # integers too, but nobody means token ids by them
        kind = type(value).__name__
        raise ArgumentTypeError(f"a prompt must be {legal}, not {kind}; decode it first: prompt.decode('utf-8')")
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise _refuse("a prompt", value, legal)
    return [token if type(token) is int else _token_id(token) for token in value]


def _token_id(token: object) -> int:
    return _integer("a token id", token, -(2**63), None, "an integer")


def parse_speculation(value: object) -> Literal["auto", "ngram"] | int:
    """How a request drafts.

    Args:
        value: ``"off"`` (0), ``"auto"``, ``"ngram"`` (prompt-lookup drafts only, as long as they
            may be), an integer 0 to `MAX_DRAFT` (draft tokens of the drafter), or its digits.

    Raises:
        ParameterError: anything else.
    """
    legal = f"'off', 'auto', 'ngram' or a draft length from 0 to {MAX_DRAFT}"
    if isinstance(value, str):
        word = value.strip().lower()
        if word == "auto":
            return "auto"
        if word == "ngram":
            return "ngram"
        if word == "off":
            return 0
        if not (word.isascii() and word.isdigit()) or len(word) > 4:
            raise _refuse("speculation", value, legal)
        return _integer("speculation", int(word), 0, MAX_DRAFT, legal)
    return _integer("speculation", value, 0, MAX_DRAFT, legal)
