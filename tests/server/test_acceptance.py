"""A drafter that no longer fits is noticed: in the log, the metrics and the health routes."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import numpy as np

from geminate import LLM
from geminate.families.registry import open_model
from geminate.server.acceptance import BLOCK, BLOCKS, LEAST, AcceptanceWatch
from geminate.server.app import make_app
from geminate.server.http.auth import Keys
from geminate.server.settings import Settings
from geminate.server.state import ServerState

EMBEDDED = Path(open_model.__code__.co_filename).parents[1] / "assets" / "embedded"

SURVIVAL = (0.8, 0.6, 0.4, 0.3)


def rounds(watch: AcceptanceWatch, count: int, factor: float, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        drafted = int(rng.integers(1, 5))
        shares = [s * factor for s in SURVIVAL[:drafted]]
        u = rng.random()
        watch.add(drafted, sum(u < s for s in shares))


def test_what_it_had_is_fine() -> None:
    said: list[str] = []
    watch = AcceptanceWatch(SURVIVAL, said.append)
    rounds(watch, LEAST - 1, 1.0)
    assert watch.ratio is None, "too few rounds to say anything"
    rounds(watch, 20 * BLOCK, 1.0)
    assert watch.ratio is not None and 0.9 < watch.ratio < 1.1
    assert said == [] and watch.note is None and watch.rounds <= BLOCK * BLOCKS


def test_a_fall_is_said_once_and_taken_back() -> None:
    said: list[str] = []
    watch = AcceptanceWatch(SURVIVAL, said.append)
    rounds(watch, 2 * BLOCKS * BLOCK, 1.0)
    rounds(watch, 2 * BLOCKS * BLOCK, 0.4)
    assert len(said) == 1 and "retrain it: geminate train drafter" in said[0] and watch.note is not None
    assert {r.name: r.value for r in watch.readings()}["spec_decode_drafter_outdated"] == 1
    rounds(watch, 2 * BLOCKS * BLOCK, 1.0)
    assert len(said) == 2 and "is back" in said[1] and watch.note is None


def test_a_drafter_of_unknown_making_is_counted_alone() -> None:
    watch = AcceptanceWatch(None, lambda line: None)
    rounds(watch, 2 * LEAST, 0.1)
    names = {r.name for r in watch.readings()}
    assert watch.ratio is None and watch.note is None
    assert names == {"spec_decode_recent_accepted_per_draft", "spec_decode_drafter_outdated"}


def test_long_drafts_are_expected_to_fade() -> None:
    watch = AcceptanceWatch((0.5,), lambda line: None)
    for _ in range(LEAST):
        watch.add(16, 1)  # 0.5 + 0.25 + ... = 1
    assert watch.ratio is not None and abs(watch.ratio - 1) < 1e-3


def test_health_and_metrics_say_it(tmp_path: Path) -> None:
    drafter = shutil.copytree(EMBEDDED / "drafter", tmp_path / "drafter")
    raw = json.loads((drafter / "config.json").read_text())
    (drafter / "config.json").write_text(json.dumps(raw | {"geminate": {"survival": list(SURVIVAL)}}))
    llm = LLM(drafter=drafter)
    state = ServerState(Settings())
    state.attach(llm, llm.service)
    app = make_app(state, Keys(()))

    async def ready() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            return await client.get("/health/ready")

    assert asyncio.run(ready()).json() == {"status": "ready"}
    rounds(state.models[0].acceptance, 2 * BLOCKS * BLOCK, 0.4)
    answer = asyncio.run(ready()).json()
    assert answer["status"] == "ready" and "retrain it" in answer["notes"][0]
    assert b'geminate:spec_decode_drafter_outdated{model_name="geminate-embedded"} 1.0' in state.metrics.text()
    state.close()
    llm.close()
