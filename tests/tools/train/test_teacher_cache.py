"""Teacher targets from disk: the same bits, within their limit, whatever happened to the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from geminate import LLM
from geminate.tools.train.teacher import Teacher, TeacherTargets
from geminate.tools.train.teacher_cache import TeacherCache

IDS = [2, 9, 4, 77, 30, 12, 5, 41, 8, 100, 3, 7]


class Counting(Teacher):
    calls = 0

    def targets(self, ids: list[int], prompt: int) -> TeacherTargets:
        self.calls += 1
        return super().targets(ids, prompt)


@pytest.fixture
def teacher(models: dict[str, Path]) -> Counting:
    return Counting(LLM(str(models["E2B"]), drafter=None).pair.target)


def same(a: TeacherTargets, b: TeacherTargets) -> bool:
    pairs = [(a.ids, b.ids), (a.embedded, b.embedded), (a.hidden, b.hidden), (a.top_ids, b.top_ids),
             (a.top_logits, b.top_logits)]  # fmt: skip
    assert a.kv.keys() == b.kv.keys()
    for kind in a.kv:
        pairs += list(zip(a.kv[kind], b.kv[kind], strict=True))
    return a.prompt == b.prompt and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def test_kept_targets_are_the_same_bits(teacher: Counting, tmp_path: Path) -> None:
    store = TeacherCache(teacher, tmp_path / "l", 10**9)
    first = store.targets(IDS, 4)
    again = store.targets(IDS, 4)
    assert same(first, again) and same(first, Teacher.targets(teacher, IDS, 4))
    calls = teacher.calls
    assert same(TeacherCache(teacher, tmp_path / "l", 10**9).targets(IDS, 4), first)
    assert teacher.calls == calls, "a later run reads what an earlier one kept"
    assert not same(store.targets([*IDS[:-1], 6], 4), first)


def test_the_limit_holds_and_zero_keeps_nothing(teacher: Counting, tmp_path: Path) -> None:
    TeacherCache(teacher, tmp_path / "none", 0).targets(IDS, 4)
    assert not (tmp_path / "none").exists()
    probe = TeacherCache(teacher, tmp_path / "probe", 10**9)
    probe.targets(IDS, 4)
    one = next((tmp_path / "probe").iterdir()).stat().st_size
    store = TeacherCache(teacher, tmp_path / "l", int(2.9 * one))
    for last in range(5, 15):
        store.targets([*IDS, last], 4)
    kept = sum(path.stat().st_size for path in (tmp_path / "l").iterdir())
    assert 0 < kept <= 2.9 * one
    store.clear()
    assert not (tmp_path / "l").exists()


def test_damaged_and_half_written_files_are_made_anew(teacher: Counting, tmp_path: Path) -> None:
    store = TeacherCache(teacher, tmp_path, 10**9)
    first = store.targets(IDS, 4)
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    for damaged in (b"", raw[:100], raw[: len(raw) // 2], b"x" * 500):
        path.write_bytes(damaged)
        assert same(store.targets(IDS, 4), first)
        assert load_file(path)["ids"].tolist() == IDS, "and kept again"
    (tmp_path / ".left.safetensors").write_bytes(b"x")
    TeacherCache(teacher, tmp_path, 10**9)
    assert not (tmp_path / ".left.safetensors").exists()


def test_a_full_disk_keeps_nothing_and_goes_on(
    teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geminate.tools.train.teacher_cache.save", full)
    store = TeacherCache(teacher, tmp_path, 10**9)
    assert same(store.targets(IDS, 4), store.targets(IDS, 4))
    assert list(tmp_path.iterdir()) == []
