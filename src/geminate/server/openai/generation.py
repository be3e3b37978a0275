"""One HTTP request in the engine service: its engine requests, their chunks as they arrive, and its totals."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar, cast

from starlette.types import Receive

from geminate.audit.runs import Run
from geminate.engine.client import AsyncEvents
from geminate.engine.messages import EngineEvent, EngineRequest, Speculation
from geminate.engine.messages import Reply as ReplyKind
from geminate.engine.stats import Stats
from geminate.errors import GeminateError, GrammarBusyError, GrammarError
from geminate.grammar.compiler import Grammar
from geminate.params import SamplingParams, parse_speculation
from geminate.server.chunks import Chunk, ChunkReader, merged
from geminate.server.http.errors import bad_request, from_geminate
from geminate.server.http.logs import RequestContext
from geminate.server.http.parsing import ClientGone
from geminate.server.openai.schemas_common import Sampling
from geminate.server.openai.tokens import trace
from geminate.server.state import Model, ServerState
from geminate.text.reply import open_thought

_NUMBERS = itertools.count()
INLINE_CHARS = 20_000
"""Texts up to this length are tokenized in the event loop, because starting a thread would cost more."""
_T = TypeVar("_T")


def sampling_params(
    body: Sampling,
    model: Model,
    *,
    max_tokens: int,
    stop: str | Sequence[str] | None = None,
    logprobs: int | None = None,
) -> SamplingParams:
    """Convert a request's sampling fields to `SamplingParams`.

    Raises:
        ApiError: 400.
    """
    bias = {int(token): amount for token, amount in (body.logit_bias or {}).items()}
    for name, tokens in (("logit_bias", bias), ("stop_token_ids", body.stop_token_ids or ())):
        for token in tokens:
            if token >= model.vocab_size:
                raise bad_request(f"{name}: token id {token} is outside the vocabulary of {model.vocab_size}", name)
    try:
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=bias,
            seed=body.seed,
            ignore_eos=bool(body.ignore_eos),
            stop=stop or (),
            stop_token_ids=body.stop_token_ids or (),
            logprobs=logprobs,
        )
    except GeminateError as error:
        raise from_geminate(error, fields=type(body).model_fields) from error


async def in_thread(heavy: bool, work: Callable[[], _T], *, param: str | None = None) -> _T:
    """Run ``work`` in a thread if it is heavy, so that other requests' streams continue.

    Raises:
        ApiError: the work raised a `GeminateError`; ``param`` is the request field to name.
    """
    try:
        return await asyncio.to_thread(work) if heavy else work()
    except GeminateError as error:
        refused = from_geminate(error)
        refused.param = param
        raise refused from error


class Generation:
    """All choices of one request: n for each prompt, numbered prompt by prompt.

    Args:
        reply: how each choice is parsed; see `EngineRequest`.
        bounded: whether the client asked for ``max_tokens``, which is refused if the context does not hold as many;
            otherwise the completion ends with the context.
        prompt_logprobs: see `EngineRequest`.
        progress: whether chunks tell how far the prompt is, before those with tokens.

    Raises:
        ApiError: 400, 429 or 503; nothing is queued then.
    """

    def __init__(
        self,
        state: ServerState,
        model: Model,
        context: RequestContext,
        *,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        n: int,
        body: Sampling,
        bounded: bool,
        reply: ReplyKind,
        grammar: Grammar | None = None,
        prompt_logprobs: int | None = None,
        progress: bool = False,
    ) -> None:
        self.state, self.model, self.context, self.n = state, model, context, n
        self.prompt_tokens = sum(map(len, prompts))
        self.stats: dict[int, Stats] = {}
        self.generated = self.reasoning = 0
        self._bounded, self._trace = bounded, bool(body.trace)
        self._prompt_logprobs, self._progress = prompt_logprobs, progress
        self._thinking: set[int] = set()
        self._last: dict[int, float] = {}
        self._prompts = [len(prompt) for prompt in prompts]
        wanted = body.speculation if body.speculation is not None else state.settings.speculation
        speculation = parse_speculation(wanted)
        self.streams: list[AsyncEvents] = []
        self._readers: dict[int, ChunkReader] = {}
        self._runs = context.runs
        if body.user is not None:
            context.fields["user"] = body.user
        try:
            for prompt in prompts:
                self.streams.append(self._submit(prompt, params, n, speculation, reply, grammar))
        except GeminateError as error:
            self.cancel()
            raise from_geminate(error, fields=type(body).model_fields) from error
        except BaseException:
            self.cancel()
            raise

    def _submit(
        self,
        prompt: list[int],
        params: SamplingParams,
        n: int,
        speculation: Speculation,
        reply: ReplyKind,
        grammar: Grammar | None,
    ) -> AsyncEvents:
        room = self.model.room(len(prompt), params.max_tokens if self._bounded else None)
        if params.max_tokens > room:
            params = replace(params, max_tokens=room)
        request = EngineRequest(
            request_id=f"{self.context.id}-{next(_NUMBERS)}",  # clients may use one id for two requests
            prompt_ids=prompt,
            sampling=self.model.llm.resolve(params),
            speculation=speculation,
            n=n,
            grammar=None if grammar is None else grammar.source,
            reply=reply,
            prompt_logprobs=self._prompt_logprobs,
            want_progress=self._progress,
            client=self.context.client,
            timeout_s=self.state.settings.request_seconds,
        )
        first = len(self.streams) * n
        if reply != "text" and open_thought(self.model.tokenizer, prompt) is not None:
            self._thinking.update(range(first, first + n))
        for choice in range(n):
            self._readers[first + choice] = ChunkReader(self.model.llm, self.model.tokenizer, request)
        stream = AsyncEvents(self.model.service, request)
        if self._runs is not None:
            self._runs.append(Run(request, self.model.id))
        return stream

    def cancel(self) -> None:
        """Cancel all choices; their KV cache is freed within a round."""
        for stream in self.streams:
            stream.cancel()

    @property
    def seed(self) -> int:
        """The seed of the first prompt's choices."""
        return self.streams[0].request.sampling.seed

    async def batches(self) -> AsyncGenerator[list[tuple[int, Chunk]], None]:
        """(choice, chunk) of all choices, as many at once as are available; merged by choice unless traced.

        Raises:
            ApiError: the request failed or timed out.
        """
        outcome = "error"
        try:
            source = self._one(0) if len(self.streams) == 1 else self._merged()
            async with aclosing(source) as batches:
                async for batch in batches:
                    self._count(batch)
                    yield batch if self._trace else merged(batch)
            outcome = "done"
        except GrammarBusyError as error:
            raise from_geminate(error) from error
        except GrammarError as error:  # a grammar that compiles can still exceed the matcher's limits
            raise bad_request(str(error), code="grammar_failed") from error
        except GeminateError as error:
            raise from_geminate(error) from error
        except (GeneratorExit, asyncio.CancelledError):
            outcome = "abort"
            raise
        finally:
            self.cancel()
            self._finish(outcome)

    async def _one(self, index: int) -> AsyncGenerator[list[tuple[int, Chunk]], None]:
        first = index * self.n
        source = cast(AsyncGenerator[list[EngineEvent], None], self.streams[index].batches())
        async with aclosing(source) as batches:
            async for events in batches:
                if self._runs is not None:
                    for event in events:
                        self._runs[index].take(event)
                yield [(first + e.choice, self._readers[first + e.choice].read(e)) for e in events]

    async def _merged(self) -> AsyncGenerator[list[tuple[int, Chunk]], None]:
        queue: asyncio.Queue[list[tuple[int, Chunk]] | BaseException | None] = asyncio.Queue()

        async def pump(index: int) -> None:
            try:
                async with aclosing(self._one(index)) as batches:
                    async for batch in batches:
                        queue.put_nowait(batch)
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(pump(index)) for index in range(len(self.streams))]
        open_streams = len(tasks)
        try:
            while open_streams:
                item = await queue.get()
                if item is None:
                    open_streams -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self, batch: list[tuple[int, Chunk]]) -> None:
        if self._progress:
            batch = [(choice, chunk) for choice, chunk in batch if chunk.progress is None]
        metrics, now = self.state.metrics, time.perf_counter()
        opened, closed = self.model.thought_open, self.model.thought_close
        counts: dict[int, int] = {}
        metrics.rounds_of(chunk for _, chunk in batch)
        for choice, chunk in batch:
            counts[choice] = counts.get(choice, 0) + len(chunk.tokens)
            for token in chunk.tokens:
                if token.id == opened:
                    self._thinking.add(choice)
                if choice in self._thinking:
                    self.reasoning += 1
                    if token.id == closed:
                        self._thinking.discard(choice)
            if chunk.stats is not None:
                self.stats[choice] = chunk.stats
        for choice, count in counts.items():
            self.generated += count
            last = self._last.get(choice)
            if last is None:
                metrics.first_token.observe(now - self.streams[choice // self.n].arrived)
                if choice % self.n == 0:
                    metrics.prompt_tokens.inc(self._prompts[choice // self.n])
            elif count:
                for _ in range(count):
                    metrics.between_tokens.observe((now - last) / count)
            self._last[choice] = now

    def _finish(self, outcome: str) -> None:
        metrics = self.state.metrics
        if outcome == "done":
            metrics.whole.observe(time.perf_counter() - self.streams[0].arrived)
        else:
            metrics.finished[outcome].inc()
        self.context.fields.update(prompt_tokens=self.prompt_tokens, completion_tokens=self.generated)
        if outcome == "abort":
            self.context.fields["aborted"] = True

    def ended(self, choice: int, reason: str) -> None:
        """Record how a choice ended."""
        self.state.metrics.finished[reason].inc()
        reasons = self.context.fields.setdefault("finish_reasons", [])
        reasons.append(reason)

    @property
    def cached(self) -> int:
        """Prompt tokens found in the prefix cache."""
        return sum(s.reused_tokens for choice, s in self.stats.items() if choice % self.n == 0)

    def extras(self, choice: int, chunk: Chunk, *, last: bool) -> dict[str, Any]:
        """A chunk's extension fields: the round if tracing is on, and with the ``last`` chunk the timings."""
        more: dict[str, Any] = {}
        if self._trace:
            more["geminate"] = trace(choice, chunk)
        if last:
            more["timings"] = self.timings()
            if self._trace:
                more["geminate"]["seed"] = self.seed
        return more

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage; completion tokens are emitted tokens, rejected drafts are not counted."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt_tokens + self.generated,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }

    def timings(self) -> dict[str, Any]:
        """Timings and draft counts over all choices; choices run concurrently, so the longest time is reported."""
        stats = list(self.stats.values())
        rounds, accepted = sum(s.rounds for s in stats), sum(s.accepted for s in stats)
        decode = max((s.decode_s for s in stats), default=0.0)
        later = sum(max(0, s.generated_tokens - 1) for s in stats)
        lengths: dict[str, int] = {}
        undrafted: dict[str, int] = {}
        for s in stats:
            for reason, count in s.undrafted.items():
                undrafted[reason] = undrafted.get(reason, 0) + count
            for length, count in s.draft_lengths.items():
                lengths[str(length)] = lengths.get(str(length), 0) + count
        return {
            "prompt_n": self.prompt_tokens,
            "cached_n": self.cached,
            "prompt_ms": _ms(max((s.prefill_s for s in stats), default=0.0)),
            "predicted_n": self.generated,
            "predicted_ms": _ms(decode),
            "predicted_per_second": round(later / decode, 3) if decode > 0 else 0.0,
            "draft_n": sum(s.drafted for s in stats),
            "draft_n_accepted": accepted,
            "acceptance_length": round(1 + accepted / rounds, 4) if rounds else 0.0,
            "accepted_per_position": _added([s.accepted_per_position for s in stats]),
            "drafted_per_position": _added([s.drafted_per_position for s in stats]),
            "draft_lengths": dict(sorted(lengths.items(), key=lambda item: int(item[0]))),
            "undrafted": undrafted,
        }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _added(lists: list[list[int]]) -> list[int]:
    longest = max(map(len, lists), default=0)
    return [sum(counts[i] for counts in lists if i < len(counts)) for i in range(longest)]


async def until_gone(receive: Receive, work: Coroutine[Any, Any, _T], cancel: Callable[[], None]) -> _T:
    """The result of ``work``, which is cancelled as soon as the client closes the connection.

    ``cancel`` is always called at the end, because work that never started runs none of its own cleanup.

    Raises:
        ClientGone: the client closed the connection first.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            if not task.done():
                task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
        cancel()
