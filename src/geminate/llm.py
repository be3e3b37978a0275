"""The Python interface: load a pair, generate, stream, chat, score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np

from geminate.arrays import F32
from geminate.async_calls import AsyncCalls
from geminate.calls import OnPrompt, Prompt, as_list
from geminate.engine.messages import EngineEvent, EngineRequest, Reply
from geminate.errors import ParameterError
from geminate.grammar.state import Grammar
from geminate.loaded import LoadedModel, SpeculationArg
from geminate.output import Completion, Delta, Output
from geminate.params import SamplingParams, token_ids
from geminate.session import ChatSession


class LLM(LoadedModel, AsyncCalls):
    """A target and its drafter, ready to generate.

    Args:
        model, adapter, drafter, weights, kv, threads, prefill_chunk, rope_position, use_cache, cache_dir,
        verify_weights,
        prefault, max_context, prefix_store, prefix_store_bytes: see `geminate.loading.options.LoadOptions`.
        on_message: called with what a user should know while loading.
        progress: called with (tensor, bytes done, bytes) while weights are packed; what it raises ends the loading.

    Raises:
        GeminateError: with the cause and the way out.
    """

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        speculation: SpeculationArg = "auto",
        on_logits: Callable[[int, F32], None] | None = None,
        grammar: Grammar | None = None,
        **keywords: Any,
    ) -> list[Output]:
        """Complete prompts; several share the passes over the weights.

        Args:
            prompts: text, token ids, or a list of either.
            speculation: ``auto``, ``off``, ``ngram`` or a draft length 0..16; changes the speed, not the output.
            on_logits: called with (position, raw logits float32 [vocab]) of every emitted token of a single prompt.
            grammar: what every completion must match, from ``llm.grammars.compile``.
            keywords: fields of `SamplingParams`, such as ``max_tokens=64``; they go before those of ``params``.

        Raises:
            GeminateError: bad parameters or prompts; nothing is generated then.
        """
        several = as_list(prompts)
        if on_logits is not None and len(several) != 1:
            raise ParameterError("on_logits needs exactly one prompt")
        requests = [
            self.request(
                self.encode(prompt),
                params,
                speculation=speculation,
                grammar=grammar,
                want_logits=on_logits is not None,
                **keywords,
            )
            for prompt in several
        ]
        return self._whole(requests, on_logits)

    def _whole(
        self, requests: list[EngineRequest], on_logits: Callable[[int, F32], None] | None = None
    ) -> list[Output]:
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
        reply: Reply = "text",
        on_prompt: OnPrompt | None = None,
        **keywords: Any,
    ) -> Iterator[Delta]:
        """Complete one prompt as a stream; closing the iterator ends the generation.

        Any number of streams may be open at once, in one thread or several.

        Args:
            conversation: a name under which the KV cache is kept at the end; a later prompt with the same name starts
                from what it shares with it. `forget` frees it. See `ChatSession`.
            grammar: what the completion must match, from ``llm.grammars.compile``.
            on_prompt: called with (tokens read, tokens) of the prompt after every pass that reads a part of it.
            reply: ``chat`` tells a thought from the answer, ``tools`` tool calls as well.
            keywords: as in `generate`.

        Yields:
            at most one `Delta` per round; the last carries the `Output`.
        """
        request = self.request(
            self.encode(prompt),
            params,
            speculation=speculation,
            grammar=grammar,
            conversation=conversation,
            reply=reply,
            want_progress=on_prompt is not None,
            **keywords,
        )
        yield from self._deltas(request, on_prompt)

    def _deltas(self, request: EngineRequest, on_prompt: OnPrompt | None) -> Iterator[Delta]:
        completion = Completion(request, self.tokenizer)
        for event in self._run([request]):
            if event.progress is None:
                yield completion.push(event)
            elif on_prompt is not None:
                on_prompt(event.progress.done, event.progress.total)

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None, *,
        stream: Literal[False] = False, **options: Any,
    ) -> Output: ...  # fmt: skip

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None, *,
        stream: Literal[True], **options: Any,
    ) -> Iterator[Delta]: ...  # fmt: skip

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        on_prompt: OnPrompt | None = None,
        **options: Any,
    ) -> Output | Iterator[Delta]:
        """Answer a conversation given as role/content messages; the thought is apart from the answer.

        Args:
            messages: see `ChatTemplate.render`; after an assistant message, a new turn of the model begins.
            stream: return an iterator of deltas, as `stream`. on_prompt: see `stream`; with ``stream`` alone.
            options: ``tools``, ``enable_thinking``, ``add_generation_prompt`` and ``continue_final_message`` as in
                `chat_ids`; ``speculation`` and ``grammar`` as in `generate`; fields of `SamplingParams`, which go
                before those of ``params``. A grammar is kept to behind a thought that the prompt leaves open.

        Raises:
            GeminateError: bad messages or parameters; nothing is generated then.
        """
        if on_prompt is not None and not stream:
            raise ParameterError("on_prompt needs stream=True")
        request = self.chat_request(messages, params, want_progress=on_prompt is not None, **options)
        return self._deltas(request, on_prompt) if stream else self._whole([request])[0]

    def session(
        self,
        *,
        system: str | None = None,
        enable_thinking: bool | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
    ) -> ChatSession:
        """A conversation that keeps its messages and its KV cache between turns; it may begin with ``messages``."""
        return ChatSession(self, system=system, enable_thinking=enable_thinking, messages=messages)

    def logits(self, ids: Sequence[int]) -> F32:
        """Teacher-forced logits, float32 [len(ids), vocab], through the decoding kernels.

        Raises:
            ParameterError: ids outside the vocabulary, or none.
        """
        vocab, checked = self.config.vocab_size, token_ids(ids)
        if not checked or min(checked) < 0 or max(checked) >= vocab:
            raise ParameterError(f"ids must be a non-empty list of token ids below {vocab}")
        return self.pair.target.logits(np.array(checked, dtype=np.int32), self.engine.scheduler.prefill_chunk)
