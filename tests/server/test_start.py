"""SIGTERM at any moment of a start, packing and measuring included: exit code 0, a clean log, no file left."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from geminate import LLM
from geminate.errors import DrainingError
from geminate.weights import packing
from support.serving import Served

STOPS = int(os.environ.get("GEMINATE_TEST_STOPS", "12"))
SLOWEST_S = 2.5  # a start of the embedded pair that packs and measures


@pytest.mark.parametrize("number", range(STOPS))
def test_sigterm_at_any_moment_of_a_start(tmp_path: Path, number: int) -> None:
    moment = SLOWEST_S * (number + random.Random(number).random()) / STOPS
    with Served(env={"GEMINATE_CACHE": str(tmp_path)}) as server:
        time.sleep(moment)
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(30)
        server.wait_end()
    assert code == 0, (moment, server.raw)
    for line in server.raw:
        said = json.loads(line)
        late = said["message"] == "the event loop was blocked"  # on a busy machine
        assert said["level"] == "info" or late, (moment, server.raw)
    left = [file.name for file in tmp_path.rglob("*") if file.name.startswith((".packing-", ".costs-"))]
    assert not left, moment


def test_loading_ends_between_blocks_and_passes(tmp_path: Path) -> None:
    """Also inside a large tensor: what is called while packing and measuring may raise, and no file is left."""
    calls = 0

    def stop_at(number: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise DrainingError("stop")

    for number in (1, 2, 40):
        calls = 0
        with pytest.raises(DrainingError):
            LLM(cache_dir=tmp_path, progress=lambda *_, at=number: stop_at(at))  # type: ignore[misc]
        assert not list(tmp_path.iterdir()), number
    llm = LLM(cache_dir=tmp_path)
    for number in (1, 30):
        calls = 0
        with pytest.raises(DrainingError):
            llm.measure_costs(lambda at=number: stop_at(at))  # type: ignore[misc]
        assert calls == number and not list(tmp_path.glob("*costs*"))
    for _ in range(10):  # what was measured beside something else is not kept
        if not list(tmp_path.glob("*.costs.json")):
            LLM(cache_dir=tmp_path).measure_costs()
    assert list(tmp_path.glob("*.costs.json"))


def test_progress_is_called_inside_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK_BYTES", 4096)
    seen: list[str] = []
    LLM(cache_dir=tmp_path, progress=lambda name, done, total: seen.append(name))
    assert seen.count("embed_tokens") > 2
