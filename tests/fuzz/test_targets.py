"""Each fuzzing target for some seconds; scripts/fuzz runs them for as long as one likes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the server's packages are not installed")
pytest.importorskip("transformers", reason="transformers makes the models whose files are damaged")

from fuzz.bodies import Bodies
from fuzz.files import Files
from fuzz.grammars import Grammars
from fuzz.raw_http import RawHttp
from fuzz.target import SEEDS, Target, run

SECONDS, SEED = 5, 1
TARGETS: dict[str, Callable[[Path], Target]] = {
    "files": Files,
    "bodies": lambda folder: Bodies(),
    "grammars": lambda folder: Grammars(),
    "raw_http": lambda folder: RawHttp(),
}


@pytest.mark.parametrize("name", TARGETS)
def test_some_seconds_of(name: str, tmp_path: Path) -> None:
    report = run(TARGETS[name](tmp_path), seconds=SECONDS, seed=SEED, keep=tmp_path / "kept")
    assert not report.failures, str(report)
    assert report.executions > len(list((SEEDS / name).iterdir()))


class Broken:
    """A target whose inputs fail when they are even."""

    name = "broken"

    def seeds(self) -> list[bytes]:
        return [b"\x02", b"\x03"]

    def make(self, rng: object) -> bytes:
        return b"\x05"

    def attempt(self, data: bytes) -> str | None:
        return "even" if data[0] % 2 == 0 else None

    def close(self) -> str | None:
        return "leaked"


def test_failures_are_kept_and_named(tmp_path: Path) -> None:
    report = run(Broken(), seconds=0, seed=0, keep=tmp_path)
    [file] = tmp_path.iterdir()
    assert file.read_bytes() == b"\x02"
    assert report.executions == 2 and report.failures == {str(file): "even", "(at the end)": "leaked"}
    assert "2 executions, 2 failures" in str(report) and str(file) in str(report)
