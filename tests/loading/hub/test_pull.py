"""`pull` against a hub of the test: what arrives, what is continued, what is removed again."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from geminate.errors import DownloadError, ModelNotFoundError
from geminate.loading.drafters import find_drafter
from geminate.loading.hub.pull import pull
from geminate.loading.hub.pulled import drafters_left_over, pulled_models, remove
from geminate.loading.hub.snapshots import PARTIAL
from geminate.loading.locate import is_model, locate_model
from support.fake_hub import FakeHub
from support.pulling import BIG, DRAFTER, GGUF, NAME, partials, told, weights


def test_target_and_drafter_come_together(pair: FakeHub, cache: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    done, said = told(NAME, on_progress=lambda file, there, size: seen.setdefault(file, []).append((there, size)))
    assert done.target == cache / "models--google--gemma-4-E2B-it" / "snapshots" / pair.repositories[NAME].commit
    assert done.drafter is not None and done.drafter_repository == DRAFTER
    assert (done.target / "model.safetensors").read_bytes() == weights(pair)
    assert (done.drafter / "model.safetensors").read_bytes() == weights(pair, DRAFTER)
    for reports in seen.values():
        assert reports == sorted(reports) and reports[-1][0] == reports[-1][1]
    assert "licence apache-2.0" in said[0] and f"drafter: {DRAFTER}" in said[0]
    assert len(said) == 3 and all("not the revision that the catalogue lists" in line for line in said[1:])
    assert locate_model(NAME) == done.target and is_model(NAME)
    assert find_drafter(NAME, done.target, "auto").path == done.drafter
    requests = len(pair.seen)
    again, said = told(NAME)
    assert again.downloaded == 0 and "all of it is here" in said[0]
    assert all(one.method == "GET" and one.path.startswith("/api/") for one in pair.seen[requests:])
    assert {model.name: model.complete for model in pulled_models()} == {
        "gemma-4-E2B-it:bf16": True, DRAFTER: True,
    }  # fmt: skip


def test_a_file_of_a_gguf_repository(hub: FakeHub, gguf_files: dict[str, bytes], cache: Path) -> None:
    hub.add(GGUF, gguf_files)
    done, _ = told(f"hf.co/{GGUF}:q8_0")
    assert done.target.name == "gemma-4-E2B-it-Q8_0.gguf" and done.target.is_file()
    assert done.drafter is not None and done.drafter.name == "mtp-gemma-4-E2B-it.gguf"
    assert sorted(path.name for path in done.target.parent.iterdir()) == [
        "gemma-4-E2B-it-Q8_0.gguf", "mtp-gemma-4-E2B-it.gguf",
    ]  # fmt: skip
    assert locate_model(GGUF) == locate_model(f"{GGUF}:Q8_0") == done.target
    assert find_drafter(GGUF, done.target, "auto").path == done.drafter
    with pytest.raises(ModelNotFoundError, match=rf"geminate pull {GGUF}:Q4_K_M downloads it"):
        locate_model(f"{GGUF}:Q4_K_M")
    other, _ = told(f"{GGUF}:Q4_K_M")
    assert other.downloaded == len(gguf_files["gemma-4-E2B-it-Q4_K_M.gguf"]), "the drafter is there already"
    assert locate_model(f"{GGUF}:Q8_0") == done.target


def test_names_of_the_catalogue(hub: FakeHub, gguf_files: dict[str, bytes], models: dict[str, Path]) -> None:
    file = gguf_files["gemma-4-E2B-it-Q4_K_M.gguf"]
    both = {"gemma-4-E2B_q4_0-it.gguf": file, "gemma-4-E2B-it-mmproj.gguf": b"x"}
    hub.add("google/gemma-4-E2B-it-qat-q4_0-gguf", both)
    qat = "google/gemma-4-E2B-it-qat-q4_0-unquantized-assistant"
    hub.add(qat, models["E2B"].with_name("E2B-assistant"))
    with pytest.raises(ModelNotFoundError, match=r"pull gemma-4-E2B-it downloads it \(3\.35 GB and its drafter"):
        locate_model("gemma-4-E2B-it")
    done, said = told("GEMMA-4-e2b-it")
    assert done.drafter_repository == qat and locate_model("gemma-4-E2B-it:q4_0") == done.target
    assert any("not the revision that the catalogue lists" in line for line in said)
    remove("gemma-4-E2B-it")
    hub.add(GGUF, gguf_files)
    told("gemma-4-E2B-it:Q8_0")
    assert locate_model("gemma-4-E2B-it").name == "gemma-4-E2B-it-Q8_0.gguf", "the only one that is here"
    told("gemma-4-E2B-it:Q4_K_M")
    with pytest.raises(ModelNotFoundError, match=r"name one of gemma-4-E2B-it:Q4_K_M, gemma-4-E2B-it:Q8_0"):
        locate_model("gemma-4-E2B-it")


@pytest.mark.parametrize(("drafter", "found"), [(None, None), ("someone/my-assistant", "someone/my-assistant")])
def test_no_drafter_or_another_one(pair: FakeHub, models: dict[str, Path], drafter: Any, found: Any) -> None:
    pair.add("someone/my-assistant", models["E2B"].with_name("E2B-assistant"))
    done, _ = told(NAME, drafter=drafter)
    assert done.drafter_repository == found


def test_a_model_without_a_drafter_says_so(hub: FakeHub, models: dict[str, Path]) -> None:
    hub.add("someone/tuned", models["E2B"])
    done, _ = told("someone/tuned")
    assert done.drafter is None and "no drafter was found for someone/tuned" in done.drafter_note
    hub.add("google/gemma-4-E2B-it-assistant", models["E2B"].with_name("E2B-assistant"))
    hub.add("someone/tuned-GGUF", {"tuned-Q8_0.gguf": BIG}, base_model="google/gemma-4-E2B-it")
    done, _ = told("someone/tuned-GGUF")
    assert done.drafter_repository == "google/gemma-4-E2B-it-assistant", "the model card says what it was made from"


def test_a_cut_download_continues_within_one_pull(hub: FakeHub, cache: Path) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    hub.cuts["m-Q8_0.gguf"] = [300_000, 200_000]
    done, said = told("a/b-GGUF", drafter=None)
    assert done.target.read_bytes() == BIG and not partials(cache)
    ranges = [one.range for one in hub.downloads("a/b-GGUF/m-Q8_0.gguf")]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert sum("broke at" in line and "going on" in line for line in said) == 2


def test_a_download_continues_in_another_process(hub: FakeHub, cache: Path) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})

    def stop(file: str, there: int, size: int) -> None:
        if there > 400_000:
            raise KeyboardInterrupt

    hub.block, before = 1 << 14, hub.block
    with pytest.raises(KeyboardInterrupt):
        pull("a/b-GGUF", drafter=None, on_progress=stop)
    (left,) = partials(cache)
    size = left.stat().st_size
    assert 0 < size < len(BIG) and BIG.startswith(left.read_bytes())
    assert not list(cache.glob("models--*/snapshots/*/*")) and not list(cache.glob("models--*/refs/*"))
    with pytest.raises(ModelNotFoundError, match="only a part of a/b-GGUF is on this machine; geminate pull a/b-GGUF"):
        locate_model("a/b-GGUF")
    assert [model.complete for model in pulled_models()] == [False]
    hub.seen.clear()
    hub.block = before
    done, _ = told("a/b-GGUF", drafter=None)
    assert [one.range for one in hub.downloads("a/b-GGUF/m-Q8_0.gguf")] == [f"bytes={size}-"]
    assert done.target.read_bytes() == BIG and done.downloaded == len(BIG) - size


def test_a_storage_without_ranges(hub: FakeHub) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    hub.cuts["m-Q8_0.gguf"] = [500_000]
    hub.ignores_ranges = True
    assert told("a/b-GGUF", drafter=None)[0].target.read_bytes() == BIG


def test_a_slow_storage(hub: FakeHub) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    hub.block, hub.pause = 1 << 17, 0.05
    assert told("a/b-GGUF", drafter=None)[0].downloaded == len(BIG)


def test_damage_on_the_way_is_found_and_nothing_is_left(hub: FakeHub, cache: Path) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    hub.damage.add("m-Q8_0.gguf")
    with pytest.raises(DownloadError, match=r"m-Q8_0\.gguf of a/b-GGUF came damaged: its SHA-256 is .*run the same"):
        pull("a/b-GGUF", drafter=None)
    assert not partials(cache) and not list(cache.glob("models--*/blobs/*"))
    hub.damage.clear()
    assert told("a/b-GGUF", drafter=None)[0].target.read_bytes() == BIG


def test_what_is_wrong_in_a_cut_file_does_not_survive(hub: FakeHub, cache: Path) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    blob = cache / "models--a--b-GGUF" / "blobs" / f"{hashlib.sha256(BIG).hexdigest()}{PARTIAL}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"other" * 1000)
    with pytest.raises(DownloadError, match="came damaged"):
        pull("a/b-GGUF", drafter=None)
    blob.write_bytes(BIG + b"more than there is")
    assert told("a/b-GGUF", drafter=None)[0].target.read_bytes() == BIG


def test_a_file_that_was_whole_but_for_its_name(hub: FakeHub, cache: Path) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    blob = cache / "models--a--b-GGUF" / "blobs" / f"{hashlib.sha256(BIG).hexdigest()}{PARTIAL}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(BIG)
    assert told("a/b-GGUF", drafter=None)[0].target.read_bytes() == BIG
    assert not hub.downloads("a/b-GGUF/m-Q8_0.gguf")


def test_the_old_revision_serves_until_the_new_one_is_whole(pair: FakeHub, cache: Path) -> None:
    first, _ = told(NAME)
    pair.repositories[NAME].files["model.safetensors"] = BIG
    pair.cuts["model.safetensors"] = [100_000] + [0] * 20
    pulled = pytest.MonkeyPatch()
    pulled.setattr("time.sleep", lambda seconds: None)
    with pulled.context(), pytest.raises(DownloadError, match="what was downloaded is kept"):
        pull(NAME)
    pulled.undo()
    assert locate_model(NAME) == first.target
    pair.cuts.clear()
    second, _ = told(NAME)
    assert second.target != first.target and locate_model(NAME) == second.target


def test_two_at_once(hub: FakeHub, cache: Path) -> None:
    hub.add("a/b-GGUF", {"m-Q8_0.gguf": BIG})
    hub.block, hub.pause = 1 << 16, 0.03
    results: list[Any] = []

    def run() -> None:
        said: list[str] = []
        results.append((pull("a/b-GGUF", drafter=None, on_message=said.append), said))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 3 and {done.target.read_bytes() == BIG for done, _ in results} == {True}
    assert len(hub.downloads("a/b-GGUF/m-Q8_0.gguf")) == 1, "one downloads, the others wait"
    assert sum("another process downloads m-Q8_0.gguf" in line for _, said in results for line in said) >= 1
    assert not partials(cache)


def test_split_files(hub: FakeHub) -> None:
    parts = {f"BF16/m-BF16-0000{at}-of-00003.gguf": BIG + bytes([at]) for at in (1, 2, 3)}
    hub.add("a/b-GGUF", parts)
    done, _ = told("a/b-GGUF:BF16", drafter=None)
    assert done.target.name == "m-BF16-00001-of-00003.gguf"
    assert {path.name for path in done.target.parent.iterdir()} == {name.rpartition("/")[2] for name in parts}
    (done.target.parent / "m-BF16-00002-of-00003.gguf").unlink()
    with pytest.raises(ModelNotFoundError, match="only a part of a/b-GGUF:BF16"):
        locate_model("a/b-GGUF:BF16")


def test_removing(hub: FakeHub, gguf_files: dict[str, bytes], cache: Path) -> None:
    hub.add(GGUF, gguf_files)
    pull(f"{GGUF}:Q8_0")
    pull(f"{GGUF}:Q4_K_M")
    freed = remove(f"{GGUF}:Q8_0")
    assert freed.nbytes == len(gguf_files["gemma-4-E2B-it-Q8_0.gguf"])
    assert locate_model(f"{GGUF}:Q4_K_M").is_file() and drafters_left_over(f"{GGUF}:Q4_K_M") == []
    with pytest.raises(ModelNotFoundError, match="is not on this machine"):
        remove(f"{GGUF}:Q8_0")
    remove(f"{GGUF}:Q4_K_M")
    assert not (cache / "models--unsloth--gemma-4-E2B-it-GGUF").exists(), "a drafter alone is of no use"


def test_removing_a_drafter_that_others_use(pair: FakeHub, models: dict[str, Path]) -> None:
    mobile = f"{NAME}-qat-mobile-transformers"
    pair.add(mobile, models["E2B"])
    pull(NAME)
    pull(mobile)
    assert drafters_left_over(NAME) == [], "that of the plain weights fits both"
    remove(mobile)
    assert drafters_left_over(NAME) == [DRAFTER]
    remove(NAME)
    assert [model.name for model in pulled_models()] == [DRAFTER]
