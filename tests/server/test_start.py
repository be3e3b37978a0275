"""SIGTERM at any moment of a start, packing and measuring included: exit code 0, a clean log, no file left."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

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
        assert json.loads(line)["level"] == "info", (moment, server.raw)
    left = [file.name for file in tmp_path.rglob("*") if file.name.startswith((".packing-", ".costs-"))]
    assert not left, moment
