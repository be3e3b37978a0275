"""`LLM`'s calls for event loops: nothing blocks the loop, and cancelling a task ends its generation.

asyncio is loaded by the calls: a command line, which starts for one answer, has no use for it.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Literal, Protocol, cast, overload

from geminate.calls import OnPrompt, Prompt, as_list
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.engine.service import EngineService
from geminate.errors import ParameterError
from geminate.output import Completion, Delta, Output
from geminate.params import SamplingParams
from geminate.text.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


class Stepper:
    """Steps a service that has no thread of its own while event loops wait: in one thread, which ends with the work."""

    def __init__(self, service: EngineService) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Make sure that what was submitted is stepped."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="async steps", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with suppress(Exception):  # a pass that failed is the error of every request that was in it
                self._service.wait(lambda: self._service.idle)
            with self._lock:
                if self._service.idle:
                    self._thread = None
                    return


class _Caller(Protocol):
    """What the calls need of an LLM; see `geminate.LLM`."""

    service: EngineService
    _stepper: Stepper
    tokenizer: Tokenizer | None

    def encode(self, prompt: Prompt) -> list[int]: ...

    def request(self, ids: list[int], params: SamplingParams | None = None, **options: Any) -> EngineRequest: ...

    def chat_request(
        self, messages: Messages, params: SamplingParams | None = None, **options: Any
    ) -> EngineRequest: ...


class AsyncCalls:
    """The methods of an LLM for event loops; they take what `LLM.generate`, `LLM.stream` and `LLM.chat` take.

    Prompts are encoded, templates rendered and passes computed in threads.
    """

    async def agenerate(
        self: _Caller, prompts: Prompt | Sequence[Prompt], params: SamplingParams | None = None, **options: Any
    ) -> list[Output]:
        """`LLM.generate`, without ``on_logits``.

        Raises:
            GeminateError: bad parameters or prompts, or what ended a completion; the others are cancelled then.
        """

        import asyncio

        def requests() -> list[EngineRequest]:
            return [self.request(self.encode(prompt), params, **options) for prompt in as_list(prompts)]

        work = [asyncio.ensure_future(_whole(self, request)) for request in await asyncio.to_thread(requests)]
        try:
            return list(await asyncio.gather(*work))
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def astream(
        self: _Caller,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        on_prompt: OnPrompt | None = None,
        **options: Any,
    ) -> AsyncGenerator[Delta, None]:
        """`LLM.stream`; closing the generator, or cancelling the task that waits for it, ends the generation."""
        import asyncio

        options["want_progress"] = on_prompt is not None
        request = await asyncio.to_thread(lambda: self.request(self.encode(prompt), params, **options))
        async with aclosing(_deltas(self, request, on_prompt)) as deltas:
            async for delta in deltas:
                yield delta

    @overload
    async def achat(
        self: _Caller, messages: Messages, params: SamplingParams | None = None, *,
        stream: Literal[False] = False, **options: Any,
    ) -> Output: ...  # fmt: skip

    @overload
    async def achat(
        self: _Caller,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        **options: Any,
    ) -> AsyncGenerator[Delta, None]: ...

    async def achat(
        self: _Caller,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        on_prompt: OnPrompt | None = None,
        **options: Any,
    ) -> Output | AsyncGenerator[Delta, None]:
        """`LLM.chat`; with ``stream``, the iterator of deltas: ``async for delta in await llm.achat(...)``."""
        import asyncio

        if on_prompt is not None and not stream:
            raise ParameterError("on_prompt needs stream=True")
        options["want_progress"] = on_prompt is not None
        request = await asyncio.to_thread(lambda: self.chat_request(messages, params, **options))
        return _deltas(self, request, on_prompt) if stream else await _whole(self, request)


async def _whole(llm: _Caller, request: EngineRequest) -> Output:
    output = None
    async with aclosing(_deltas(llm, request)) as deltas:
        async for delta in deltas:
            output = delta.output
    assert output is not None
    return output


async def _deltas(
    llm: _Caller, request: EngineRequest, on_prompt: OnPrompt | None = None
) -> AsyncGenerator[Delta, None]:
    from geminate.engine.client import AsyncEvents

    completion = Completion(request, llm.tokenizer)
    events = AsyncEvents(llm.service, request)
    llm._stepper.wake()
    async with aclosing(cast(AsyncGenerator[list[EngineEvent], None], events.batches())) as batches:
        async for batch in batches:
            for event in batch:
                if event.progress is None:
                    yield completion.push(event)
                elif on_prompt is not None:
                    on_prompt(event.progress.done, event.progress.total)
