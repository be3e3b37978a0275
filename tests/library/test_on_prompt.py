"""The progress of a prompt, as the library's calls report it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from geminate import LLM
from geminate.errors import ParameterError

LONG = "The little robot walked to the river and looked at the water. " * 60


@pytest.fixture(scope="module")
def llm(packed_cache: object) -> Iterator[LLM]:
    with LLM(threads=1) as made:
        yield made


def check(told: list[tuple[int, int]]) -> None:
    assert len(told) >= 2 and told == sorted(told)
    assert all(0 < done < total == told[0][1] for done, total in told)


def test_every_stream_reports_it(llm: LLM) -> None:
    told: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        told.append((done, total))

    plain = [delta.text for delta in llm.stream(LONG, max_tokens=3, temperature=0)]
    assert [delta.text for delta in llm.stream(LONG, max_tokens=3, temperature=0, on_prompt=note)] == plain
    check(told)
    messages = [{"role": "user", "content": LONG}]
    told.clear()
    list(llm.chat(messages, stream=True, on_prompt=note, max_tokens=3))
    check(told)
    told.clear()
    list(llm.session().stream(LONG, on_prompt=note, max_tokens=3))
    check(told)
    with pytest.raises(ParameterError, match="stream=True"):
        llm.chat(messages, on_prompt=note)


def test_calls_for_event_loops_too(llm: LLM) -> None:
    told: list[tuple[int, int]] = []

    async def ask() -> None:
        def note(done: int, total: int) -> None:
            told.append((done, total))

        async for _ in llm.astream(LONG, on_prompt=note, max_tokens=3):
            pass
        check(told)
        told.clear()
        messages = [{"role": "user", "content": LONG}]
        async for _ in await llm.achat(messages, stream=True, on_prompt=note, max_tokens=3):
            pass
        check(told)
        with pytest.raises(ParameterError, match="stream=True"):
            await llm.achat(messages, on_prompt=note)

    asyncio.run(ask())
