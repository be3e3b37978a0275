"""One stream of events for all requests of an ingress at a replica."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import aclosing
from typing import Any

import pytest

from geminate.decoding.sampling import TokenLogprobs
from geminate.engine.messages import EngineEvent, PromptProgress
from geminate.engine.stats import Stats
from geminate.errors import EngineFailedError
from geminate.fleet import outbox
from geminate.fleet.messages import Batch, Failure
from geminate.fleet.outbox import Outboxes, Parcel, UnsubscribedError, merged, packed, unpacked

PLAIN: dict[str, Any] = {"position": 4, "token_ids": (7, 8), "drafted": 3, "accepted": 1, "source": "ngram"}
BATCHES = (
    Batch(replica="r", proof="p"),
    Batch(replica="r", prompt=(None, 9)),
    Batch(replica="r", events=(EngineEvent(request_id="q", **PLAIN), EngineEvent(request_id="q", choice=1))),
    Batch(replica="r", events=(EngineEvent(request_id="q", token_ids=(1,), reason="off"),)),
    Batch(replica="r", events=(EngineEvent(request_id="q", **PLAIN, finish_reason="stop", stats=Stats()),)),
    Batch(replica="r", events=(EngineEvent(request_id="q", **PLAIN, stop_token=8),)),
    Batch(
        replica="r",
        events=(EngineEvent(request_id="q", **PLAIN, logprobs=(TokenLogprobs(token=7, logprob=-1.0, top=()),)),),
    ),
    Batch(
        replica="r",
        events=(EngineEvent(request_id="q", progress=PromptProgress(done=1, total=2, reused=0, seconds=0.5)),),
    ),
    Batch(replica="r", failure=Failure.of(EngineFailedError("a pass failed"))),
)


@pytest.mark.parametrize("batch", BATCHES)
def test_batches_arrive_as_they_were_sent(batch: Batch) -> None:
    assert unpacked(pickle.loads(pickle.dumps(packed("q", batch)))) == ("q", batch)


def test_parcels_hold_what_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PACE_S", 0.0)

    async def main() -> list[Parcel]:
        boxes = Outboxes()
        early = asyncio.create_task(boxes.of("one"))  # a request that is faster than its ingress's subscription
        await asyncio.sleep(0)
        made: list[Parcel] = []

        async def read() -> None:
            async with aclosing(boxes.parcels("one")) as parcels:  # type: ignore[type-var]
                async for parcel in parcels:
                    made.append(parcel)
                    if len(made) == 2:
                        return

        reading = asyncio.create_task(read())
        box = await early
        for name in ("a", "b", "a"):
            box.put(name, BATCHES[0])
        await asyncio.sleep(0.05)
        box.put("c", BATCHES[0])
        await reading
        assert box.gone.is_set()
        box.put("d", BATCHES[0])  # from the thread that steps, which must not be disturbed
        return made

    assert [[(n, entry[0]) for n, entry in parcel] for parcel in asyncio.run(main())] == [
        [(2, "a"), (1, "b")], [(1, "c")]
    ]  # fmt: skip


def test_batches_of_a_request_become_one() -> None:
    failed = Batch(replica="r", failure=Failure.of(EngineFailedError("x")))
    one = merged([*BATCHES[:4], failed])
    assert (one.proof, one.prompt, one.failure) == ("p", (None, 9), failed.failure)
    assert one.events == BATCHES[2].events + BATCHES[3].events
    assert merged([failed]) is failed


def test_without_a_subscription_a_request_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SUBSCRIBED_S", 0.05)

    async def main() -> None:
        with pytest.raises(UnsubscribedError, match="takes no events"):
            await Outboxes().of("nobody")

    asyncio.run(main())


def test_a_new_subscription_ends_the_former(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        boxes = Outboxes()
        first, second = boxes.parcels("one"), boxes.parcels("one")
        reading = asyncio.create_task(anext(first))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        old = await boxes.of("one")
        again = asyncio.create_task(anext(second))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        fresh = await boxes.of("one")
        assert old.gone.is_set() and not fresh.gone.is_set()
        fresh.put("q", BATCHES[0])
        assert len(await again) == 1
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await boxes.of("one") is fresh, "the end of the former does not end the new one"

    asyncio.run(main())
