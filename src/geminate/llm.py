"""The Python interface: load a pair, generate, stream, chat, score."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geminate.arrays import F32
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.sequence import StopCheck
from geminate.engine.service import EngineService
from geminate.errors import GeminateError, ParameterError, TokenizerError
from geminate.grammar.compiler import GrammarCompiler
from geminate.grammar.state import Grammar
from geminate.kv.budget import KVBudget
from geminate.loading.calibrate import cost_profile
from geminate.loading.load import load_pair
from geminate.loading.options import LoadOptions
from geminate.output import Completion, Delta, Output
from geminate.params import ResolvedSampling, SamplingParams, parse_speculation, token_ids
from geminate.runtime.drafter import RopePosition
from geminate.session import ChatSession
from geminate.speculation.costs import CostModel
from geminate.speculation.sources.mtp import MtpDrafter
from geminate.text.reply import make_reply
from geminate.text.template import ChatTemplate
from geminate.text.tokenizer import Tokenizer
from geminate.weights.packing import Progress
from geminate.weights.presets import Preset
from geminate.weights.store import Message

Prompt = str | Sequence[int]
SpeculationArg = Literal["auto", "off", "ngram"] | int | str
MAX_RUNNING = 8  # completions of one LLM that share passes; more of them wait


def stop_check(request: EngineRequest, tokenizer: Tokenizer) -> StopCheck:
    """A function that takes a completion's tokens in order and returns True once a stop string is complete."""
    reply = make_reply(request.reply, tokenizer, request.sampling.stop)

    def check(token: int) -> bool:
        reply.push(token)
        return reply.stopped

    return check


class LLM:
    """A target and its drafter, ready to generate.

    Args:
        model, drafter, weights, threads, prefill_chunk, rope_position, use_cache, cache_dir, check, prefault:
            see `geminate.loading.options.LoadOptions`.
        on_message: called with what a user should know while loading.
        progress: called with (tensor, bytes done, bytes) while weights are packed; what it raises ends the loading.

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
        check: bool = False,
        prefault: bool = False,
        on_message: Message | None = None,
        progress: Progress | None = None,
    ) -> None:
        options = LoadOptions(
            model=model,
            drafter=drafter,
            weights=weights,
            threads=threads,
            prefill_chunk=prefill_chunk,
            rope_position=rope_position,
            use_cache=use_cache,
            cache_dir=cache_dir,
            check=check,
            prefault=prefault,
        )
        pair = load_pair(options, on_message=on_message, progress=progress)
        self.pair = pair
        self.config = pair.target.config
        source = pair.source
        assert source is not None  # `load_pair` always has one
        self.tokenizer = Tokenizer.load(source.checkpoint, source.family.dialect)
        self.template = ChatTemplate.load(source.checkpoint, source.family.dialect)
        tokenizer, config = self.tokenizer, self.config
        self._grammars: GrammarCompiler | None = None
        if tokenizer is not None:
            self._grammars = GrammarCompiler(tokenizer, vocab_size=config.vocab_size, eos_ids=config.eos_token_ids)
        self._prefill_chunk = prefill_chunk
        self._drafter = MtpDrafter(pair.drafter) if pair.drafter is not None else None
        self.engine = self.new_engine(max_running=MAX_RUNNING)
        self.service = EngineService(self.engine)
        self._numbers = itertools.count()
        self._on_message = on_message
        self._loading = threading.Lock()
        self._costs_known = self._closed = False

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text is encoded after the bos token, ids are taken as they are.

        Raises:
            TokenizerError: text for a model without tokenizer, or text that cannot be encoded. ParameterError: neither
                text nor token ids.
        """
        if isinstance(prompt, str):
            return self._need_tokenizer().encode(prompt)
        return token_ids(prompt)

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError("this model has no tokenizer.json: pass token ids instead of text")
        return self.tokenizer

    def token_text(self, token: int) -> str:
        """The text of a single token, special tokens included; a byte as ``<0xE2>``."""
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
        seconds: float | None = None,
    ) -> list[int]:
        """Token ids of a conversation through the checkpoint's chat template.

        Args:
            seconds: after which the template is stopped; None: 5.

        Raises:
            TokenizerError: no template, or one that refuses the messages. TemplateTimeoutError: one that does not end.
            ParameterError: bad messages.
        """
        if self.template is None:
            raise TokenizerError("this model has no chat template: use generate with plain text")
        text = self.template.render(messages, tools=tools, enable_thinking=enable_thinking, seconds=seconds)
        return self._need_tokenizer().encode(text, add_bos=False)

    @property
    def grammars(self) -> GrammarCompiler:
        """Compiles grammars for this model's replies.

        Raises:
            TokenizerError: the model has no tokenizer.
        """
        self._need_tokenizer()
        assert self._grammars is not None
        return self._grammars

    def resolve(self, params: SamplingParams | None) -> ResolvedSampling:
        """Fill parameters from the model's generation defaults."""
        return (params or SamplingParams()).resolved(asdict(self.config.generation))

    def measure_costs(self, on_pass: Callable[[], None] | None = None) -> None:
        """Make sure that ``auto`` knows what passes cost here; the first use on a machine takes a second or two.

        Args:
            on_pass: called before every pass that is measured; what it raises ends the measuring.
        """
        with self._loading:
            if not self._costs_known:
                self.engine.timing.costs = CostModel(cost_profile(self.pair, self._on_message, on_pass))
                self._costs_known = True

    def new_engine(
        self,
        *,
        prefill_chunk: int | None = None,
        prefill_share: int | None = None,
        max_running: int | None = None,
        memory: KVBudget | None = None,
        costs: CostModel | None = None,
    ) -> Engine:
        """Another engine over the same weights; see `Engine`. None for the chunk is the LLM's own."""
        tokenizer, grammars = self.tokenizer, self._grammars
        return Engine(
            self.pair.target,
            self._drafter,
            prefill_chunk=prefill_chunk or self._prefill_chunk,
            prefill_share=prefill_share,
            max_running=max_running,
            memory=memory,
            costs=costs,
            constraints=None if grammars is None else grammars.start,
            stop_checks=None if tokenizer is None else lambda request: stop_check(request, tokenizer),
        )

    def request(
        self,
        ids: list[int],
        params: SamplingParams | None = None,
        *,
        speculation: SpeculationArg = "auto",
        grammar: Grammar | None = None,
        conversation: str | None = None,
        want_logits: bool = False,
    ) -> EngineRequest:
        """The arguments of `generate` and `stream` as what the engine takes, with an id of its own.

        Raises:
            ParameterError: bad parameters. GeminateError: the LLM is closed.
        """
        if self._closed:
            raise GeminateError("this LLM is closed; make a new one")
        if params is not None and not isinstance(params, SamplingParams):
            raise ParameterError(f"params must be SamplingParams, not {type(params).__name__}")
        if grammar is not None and not isinstance(grammar, Grammar):
            raise ParameterError(f"grammar must come from llm.grammars.compile, not be {type(grammar).__name__}")
        wanted = parse_speculation(speculation)
        if wanted == "auto":
            self.measure_costs()
        return EngineRequest(
            request_id=f"llm-{next(self._numbers)}",
            prompt_ids=ids,
            sampling=self.resolve(params),
            speculation=wanted,
            grammar=None if grammar is None else grammar.source,
            conversation=conversation,
            want_logits=want_logits,
        )

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
            on_logits: called with (position, raw logits float32 [vocab]) of every emitted token of a single prompt.
            grammar: what every completion must match, from ``llm.grammars.compile``.

        Raises:
            GeminateError: bad parameters or prompts; nothing is generated then.
        """
        several = _as_list(prompts)
        if on_logits is not None and len(several) != 1:
            raise ParameterError("on_logits needs exactly one prompt")
        requests = [
            self.request(
                self.encode(prompt),
                params,
                speculation=speculation,
                grammar=grammar,
                want_logits=on_logits is not None,
            )
            for prompt in several
        ]
        completions = {request.request_id: Completion(request, self.tokenizer) for request in requests}
        done: dict[str, Output] = {}
        for event in self._run(requests):
            if on_logits is not None and event.logits is not None:
                for row, logits in enumerate(event.logits):
                    on_logits(event.position + row, logits)
            output = completions[event.request_id].add(event)
            if output is not None:
                done[event.request_id] = output
        return [done[request.request_id] for request in requests]

    def _run(self, requests: list[EngineRequest]) -> Iterator[EngineEvent]:
        """Events of all requests; leaving the iteration cancels what still runs."""
        for request in requests:
            self.engine.check(request)  # all are refused before one is begun
        ids: list[str] = []
        try:
            for request in requests:
                ids.append(request.request_id)
                self.service.submit(request)
            yield from self.service.events(*ids)
        finally:
            for request_id in ids:
                self.service.cancel(request_id)

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        speculation: SpeculationArg = "auto",
        conversation: str | None = None,
        grammar: Grammar | None = None,
    ) -> Iterator[Delta]:
        """Complete one prompt as a stream; closing the iterator ends the generation.

        Any number of streams may be open at once, in one thread or several.

        Args:
            conversation: a name under which the KV cache is kept at the end; a later prompt with the same name starts
                from what it shares with it. `forget` frees it. See `ChatSession`.
            grammar: what the completion must match, from ``llm.grammars.compile``.

        Yields:
            at most one `Delta` per round; the last carries the `Output`.
        """
        request = self.request(
            self.encode(prompt), params, speculation=speculation, grammar=grammar, conversation=conversation
        )
        completion = Completion(request, self.tokenizer)
        for event in self._run([request]):
            yield completion.push(event)

    def check_weights(self) -> None:
        """Read all packed weights of target and drafter and compare them with their checksums.

        Raises:
            WeightsError: damage; the packed file is removed, so that loading again packs it anew.
        """
        self.pair.target.store.check()
        if self.pair.drafter is not None:
            self.pair.drafter.store.check()

    def forget(self, conversation: str) -> None:
        """Free the KV cache that `stream` keeps under a name; unknown names are fine."""
        self.service.forget(conversation)

    def close(self) -> None:
        """Stop: running requests end with an error, and the LLM cannot be used afterwards."""
        if not self._closed:
            self._closed = True
            self.service.stop()
            if self._grammars is not None:
                self._grammars.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

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
        vocab, checked = self.config.vocab_size, token_ids(ids)
        if not checked or min(checked) < 0 or max(checked) >= vocab:
            raise ParameterError(f"ids must be a non-empty list of token ids below {vocab}")
        return self.pair.target.logits(np.array(checked, dtype=np.int32), self.engine.scheduler.prefill_chunk)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Iterable):
        return [token_ids(prompts)]  # refused there
    items = list(prompts)
    if items and all(isinstance(item, (int, np.integer)) for item in items):
        return [token_ids(items)]
    return items  # type: ignore[return-value]
