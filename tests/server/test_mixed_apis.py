"""Some of the load of ``benchmarks/serve/mixed_apis.py``: all APIs at once, a third cut off, nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "serve" / "mixed_apis.py"


def test_nothing_is_lost(packed_cache: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--requests", "200", "--clients", "16", "--no-memory"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout[-4000:], done.stderr[-2000:])
    figures = json.loads(done.stdout.splitlines()[-1])
    assert all(figures["marks"].values()) and figures["faults"] == []
    assert {name.split(" ")[0] for name in figures["statuses"]} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/api/chat",
        "/api/generate",
    }
