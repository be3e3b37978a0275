"""The Python interface: load a pair, generate, stream, chat, score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from geminate.arrays import F32
from geminate.engine.engine import Engine
from geminate.engine.sequence import Sequence as EngineSequence
from geminate.errors import ParameterError, TokenizerError
from geminate.grammar.compiler import Grammar, GrammarCompiler
from geminate.kv.cache import KVCache
from geminate.loading.calibrate import cost_profile
from geminate.loading.load import load_pair
from geminate.output import Delta, Output, TextSide
from geminate.params import ResolvedSampling, SamplingParams, parse_speculation
from geminate.runtime.drafter import RopePosition
from geminate.speculation.costs import CostModel
from geminate.speculation.sources.mtp import MtpDrafter
from geminate.text.template import ChatTemplate
from geminate.text.tokenizer import Tokenizer
from geminate.weights.packing import Progress
from geminate.weights.presets import Preset
from geminate.weights.store import Message

Prompt = str | Sequence[int]
SpeculationArg = Literal["auto", "off", "ngram"] | int | str
MAX_TOGETHER = 8  # sequences that share passes in `LLM.generate`


class LLM:
    """A target and its drafter, ready to generate.

    Args:
        model: directory or hub id; None is the embedded pair.
        drafter: ``auto`` (found beside the model), a directory or hub id, or None for none.
        weights: ``bf16``, ``int8`` or ``int4``; the drafter is never kept below int8.
        threads: worker threads; None is the number of physical cores.
        prefill_chunk: prompt tokens per pass.
        rope_position: the drafter's rotary position, ``P`` (transformers) or ``P-1`` (LiteRT-LM, vLLM);
            changes acceptance, never the output.
        use_cache, cache_dir: whether and where packed weights are kept.
        prefault: touch all weights while loading, so that the first answer does not wait for the disk.
        on_message: told what a user should know while loading. progress: (tensor, bytes done, bytes).

    Raises:
        GeminateError: with the cause and the way out.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        drafter: str | Path | None = "auto",
        weights: Preset = "auto",
        threads: int | None = None,
        prefill_chunk: int = 256,
        rope_position: RopePosition = "P",
        use_cache: bool = True,
        cache_dir: str | Path | None = None,
        prefault: bool = False,
        on_message: Message | None = None,
        progress: Progress | None = None,
    ) -> None:
        pair = load_pair(
            model,
            drafter=drafter,
            weights=weights,
            threads=threads,
            prefill_chunk=prefill_chunk,
            rope_position=rope_position,
            use_cache=use_cache,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            prefault=prefault,
            on_message=on_message,
            progress=progress,
        )
        self.pair = pair
        self.config = pair.target.config
        self.tokenizer = Tokenizer.load(pair.located.target)
        self.template = ChatTemplate.load(pair.located.target)
        mtp = MtpDrafter(pair.drafter) if pair.drafter is not None else None
        self.engine = Engine(pair.target, mtp, prefill_chunk=prefill_chunk)
        self._on_message = on_message
        self._costs_known = False
        self._grammars: GrammarCompiler | None = None

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text is encoded after the bos token, ids are taken as they are.

        Raises:
            TokenizerError: text for a model without tokenizer, or text that cannot be encoded.
        """
        if isinstance(prompt, str):
            return self._need_tokenizer().encode(prompt)
        return [int(token) for token in prompt]

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError("this model has no tokenizer.json: pass token ids instead of text")
        return self.tokenizer

    def token_text(self, token: int) -> str:
        """What a token reads like by itself, special tokens included; a byte as ``<0xE2>``."""
        piece = None if self.tokenizer is None else self.tokenizer.piece(token)
        if isinstance(piece, int):
            return f"<0x{piece:02X}>"
        return piece or ""

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
    ) -> list[int]:
        """Token ids of a conversation through the checkpoint's chat template.

        Raises:
            TokenizerError: no template, or one that refuses the messages. ParameterError: bad messages.
        """
        if self.template is None:
            raise TokenizerError("this model has no chat template: use generate with plain text")
        text = self.template.render(messages, tools=tools, enable_thinking=enable_thinking)
        return self._need_tokenizer().encode(text, add_bos=False)

    @property
    def grammars(self) -> GrammarCompiler:
        """Compiles grammars for this model's replies.

        Raises:
            TokenizerError: the model has no tokenizer.
        """
        if self._grammars is None:
            self._grammars = GrammarCompiler(
                self._need_tokenizer(), vocab_size=self.config.vocab_size, eos_ids=self.config.eos_token_ids
            )
        return self._grammars

    def resolve(self, params: SamplingParams | None) -> ResolvedSampling:
        """Fill parameters from the model's generation defaults."""
        return (params or SamplingParams()).resolved(asdict(self.config.generation))

    def measure_costs(self) -> None:
        """Make sure that ``auto`` knows what passes cost here; the first use on a machine takes a second or two."""
        if not self._costs_known:
            self._costs_known = True
            self.engine.costs = CostModel(cost_profile(self.pair, self._on_message))

    def _start(
        self,
        ids: list[int],
        sampling: ResolvedSampling,
        speculation: SpeculationArg,
        *,
        cache: KVCache | None = None,
        on_logits: Callable[[int, F32], None] | None = None,
        grammar: Grammar | None = None,
    ) -> tuple[EngineSequence, TextSide]:
        wanted = parse_speculation(speculation)
        if wanted == "auto":
            self.measure_costs()
        side = TextSide(self.tokenizer, sampling.stop)
        sequence = self.engine.add(
            ids,
            sampling,
            speculation=wanted,
            cache=cache,
            on_token=side.on_token,
            on_logits=on_logits,
            constraint=None if grammar is None else grammar.start(),
        )
        return sequence, side

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        speculation: SpeculationArg = "auto",
        on_logits: Callable[[int, F32], None] | None = None,
        grammar: Grammar | None = None,
    ) -> list[Output]:
        """Complete prompts; several share the passes over the weights.

        Args:
            prompts: text, token ids, or a list of either.
            speculation: ``auto``, ``off``, ``ngram`` or a draft length 0..16; changes the speed, not the output.
            on_logits: told (position, raw logits float32 [vocab]) of every emitted token of a single prompt.
            grammar: what every answer is kept to, from ``llm.grammars.compile``.

        Raises:
            GeminateError: bad parameters or prompts; nothing is generated then.
        """
        several = _as_list(prompts)
        if on_logits is not None and len(several) != 1:
            raise ParameterError("on_logits needs exactly one prompt")
        ids = [self.encode(prompt) for prompt in several]
        waiting = [(i, self.resolve(params)) for i in range(len(ids))]
        running: dict[int, tuple[EngineSequence, TextSide]] = {}
        done: dict[int, Output] = {}
        try:
            while waiting or running:
                while waiting and len(running) < MAX_TOGETHER:
                    i, sampling = waiting.pop(0)
                    running[i] = self._start(ids[i], sampling, speculation, on_logits=on_logits, grammar=grammar)
                self.engine.step()
                for i, (sequence, side) in list(running.items()):
                    if sequence.finish_reason is not None:
                        _raise_own(sequence)
                        side.finish(sequence)
                        done[i] = side.output(sequence)
                        del running[i]
        finally:
            for sequence, _ in running.values():
                self.engine.abort(sequence)
        return [done[i] for i in range(len(ids))]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        speculation: SpeculationArg = "auto",
        cache: KVCache | None = None,
        grammar: Grammar | None = None,
    ) -> Iterator[Delta]:
        """Complete one prompt piece by piece; closing the iterator ends the generation.

        Args:
            cache: of an earlier call over a strict prefix of the prompt; see `ChatSession`.
            grammar: what the answer is kept to, from ``llm.grammars.compile``.

        Yields:
            one `Delta` per round; the last carries the `Output`.
        """
        sequence, side = self._start(
            self.encode(prompt), self.resolve(params), speculation, cache=cache, grammar=grammar
        )
        try:
            while sequence.finish_reason is None:
                tokens = [t for e in self.engine.step() if e.sequence is sequence for t in e.token_ids]
                _raise_own(sequence)
                if sequence.finish_reason is not None:
                    side.finish(sequence)
                    output = side.output(sequence)
                    yield Delta(text=side.take(), token_ids=tokens, output=output)
                elif tokens:
                    yield Delta(text=side.take(), token_ids=tokens)
        finally:
            self.engine.abort(sequence)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        speculation: SpeculationArg = "auto",
        grammar: Grammar | None = None,
    ) -> Output:
        """Answer a conversation given as role/content messages."""
        ids = self.chat_ids(messages, tools=tools, enable_thinking=enable_thinking)
        return self.generate([ids], params, speculation=speculation, grammar=grammar)[0]

    def session(self, *, system: str | None = None, enable_thinking: bool | None = None) -> ChatSession:
        """A conversation that keeps its messages and its KV cache between turns."""
        return ChatSession(self, system=system, enable_thinking=enable_thinking)

    def logits(self, ids: Sequence[int]) -> F32:
        """Teacher-forced logits, float32 [len(ids), vocab], through the decoding kernels.

        Raises:
            ParameterError: ids outside the vocabulary, or none.
        """
        array = np.asarray(ids, dtype=np.int64)
        vocab = self.config.vocab_size
        if array.ndim != 1 or not len(array) or array.min() < 0 or array.max() >= vocab:
            raise ParameterError(f"ids must be a non-empty list of token ids below {vocab}")
        return self.pair.target.logits(array.astype(np.int32), self.engine.prefill_chunk)


def _raise_own(sequence: EngineSequence) -> None:
    if sequence.error is not None:
        raise sequence.error


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    items = list(prompts)
    if items and all(isinstance(item, (int, np.integer)) for item in items):
        return [[int(cast(int, item)) for item in items]]
    return items  # type: ignore[return-value]


class ChatSession:
    """A conversation. What the next prompt shares with the cached tokens is not computed again.

    Attributes:
        messages: role/content mappings so far.
    """

    def __init__(self, llm: LLM, *, system: str | None, enable_thinking: bool | None) -> None:
        self.llm = llm
        self.enable_thinking = enable_thinking
        self.messages: list[dict[str, Any]] = []
        if system:
            self.messages.append({"role": "system", "content": system})
        self._cache: KVCache | None = None
        self._cached_ids: list[int] = []

    def reset(self) -> None:
        """Forget all turns but the system message."""
        self.messages = [m for m in self.messages if m["role"] == "system"]
        self._cache, self._cached_ids = None, []

    def _reusable(self, ids: list[int]) -> KVCache | None:
        if self._cache is None:
            return None
        common = 0
        # An answer stopped in mid-pass may leave more rows in the cache than tokens we know.
        limit = min(len(ids) - 1, self._cache.length, len(self._cached_ids))
        while common < limit and ids[common] == self._cached_ids[common]:
            common += 1
        try:
            self._cache.truncate(common)
        except ValueError:  # a sliding layer has lost rows that this branch needs
            return None
        return self._cache

    def stream(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        speculation: SpeculationArg = "auto",
    ) -> Iterator[Delta]:
        """Say something; the answer, as far as it was generated, joins the conversation."""
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self.llm.chat_ids(messages, enable_thinking=self.enable_thinking)
        cache = self._reusable(ids) or self.llm.pair.target.new_cache()
        self._cache, self._cached_ids = None, []
        answer: list[str] = []
        emitted: list[int] = []
        try:
            for delta in self.llm.stream(ids, params, speculation=speculation, cache=cache):
                answer.append(delta.text)
                emitted.extend(delta.token_ids)
                yield delta
        finally:
            self.messages = [*messages, {"role": "assistant", "content": "".join(answer)}]
            self._cache, self._cached_ids = cache, [*ids, *emitted]
