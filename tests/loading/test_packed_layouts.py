"""How models stand on disks, a row each: what a name leads to, or what is said of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T

from geminate import LLM, SamplingParams
from geminate.errors import GeminateError
from geminate.loading.load import locate
from geminate.tools.pack import pack_model
from support.fabricate import published
from support.fabricate_gguf import to_gguf

PARAMS = SamplingParams(max_tokens=4, ignore_eos=True, temperature=0)


@dataclass(frozen=True)
class Sources:
    """What the rows are made of: a directory with its drafter, the same as GGUF, and packed."""

    target: Path
    drafter: Path
    gguf: Path
    gguf_drafter: Path
    packed: Path
    packed_alone: Path
    kept: Path


@pytest.fixture(scope="module")
def sources(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Sources:
    root = tmp_path_factory.mktemp("sources")
    target, drafter = models["E2B"], models["E2B"].with_name("E2B-assistant")
    pack_model(target, root / "both.geminate")
    pack_model(target, root / "alone.geminate", drafter=None)
    LLM(target, drafter=None, cache_dir=root / "cache", threads=1).close()
    [kept] = (root / "cache").glob("*.geminate")
    return Sources(
        target=target,
        drafter=drafter,
        gguf=to_gguf(target, root / "m.gguf", T.Q8_0),
        gguf_drafter=to_gguf(drafter, root / "mtp-m.gguf"),
        packed=root / "both.geminate",
        packed_alone=root / "alone.geminate",
        kept=kept,
    )


def put(source: Path, place: Path) -> Path:
    """A copy of a file or directory."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        shutil.copyfile(source, place)
    return place


def linked(source: Path, place: Path) -> Path:
    """A link to a file or directory."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(source)
    return place


def written(place: Path, raw: bytes) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(raw)
    return place


Make = Callable[[Sources, Path], Path]
"""Of (sources, empty directory): makes a layout, returns what is named."""


def directory_with_drafter_beside(s: Sources, at: Path) -> Path:
    put(s.drafter, at / "m-assistant")
    return put(s.target, at / "m")


def shards(s: Sources, at: Path) -> Path:
    return published("E2B", s.target, at / "m", shards=3)


def shard_missing(s: Sources, at: Path) -> Path:
    made = published("E2B", s.target, at / "m", shards=3)
    sorted(made.glob("*.safetensors"))[1].unlink()
    return made


def gguf_with_mtp(s: Sources, at: Path) -> Path:
    put(s.gguf_drafter, at / "MTP" / "mtp-m.gguf")
    return put(s.gguf, at / "m.gguf")


def folder_of_one_gguf(s: Sources, at: Path) -> Path:
    put(s.gguf, at / "m.gguf")
    put(s.gguf_drafter, at / "mtp-m.gguf")
    return at


def folder_of_two_gguf(s: Sources, at: Path) -> Path:
    put(s.gguf, at / "a.gguf")
    put(s.gguf, at / "b.gguf")
    return at


def folder_of_one_packed(s: Sources, at: Path) -> Path:
    put(s.packed, at / "m.geminate")
    return at


def folder_of_packed_and_gguf(s: Sources, at: Path) -> Path:
    put(s.packed, at / "m.geminate")
    put(s.gguf, at / "m.gguf")
    return at


def packed_without_suffix(s: Sources, at: Path) -> Path:
    return put(s.packed, at / "model.bin")


def packed_with_drafter_beside(s: Sources, at: Path) -> Path:
    put(s.drafter, at / "m-assistant")
    return put(s.packed_alone, at / "m.geminate")


def packed_drafter_beside(s: Sources, at: Path) -> Path:
    return put(s.packed_alone, at / "m.geminate")


def link_to_packed(s: Sources, at: Path) -> Path:
    return linked(put(s.packed, at / "real.geminate"), at / "link.geminate")


def dangling(s: Sources, at: Path) -> Path:
    return linked(at / "nothing", at / "m.geminate")


def empty(s: Sources, at: Path) -> Path:
    return written(at / "m.geminate", b"")


def truncated(s: Sources, at: Path) -> Path:
    return written(at / "m.geminate", s.packed.read_bytes()[:-5000])


def half(s: Sources, at: Path) -> Path:
    return written(at / "m.geminate", s.packed.read_bytes()[: s.packed.stat().st_size // 2])


def grown(s: Sources, at: Path) -> Path:
    return written(at / "m.geminate", s.packed.read_bytes() + b"\0")


def pipe(s: Sources, at: Path) -> Path:
    os.mkfifo(at / "m.geminate")
    return at / "m.geminate"


def pointer(s: Sources, at: Path) -> Path:
    return written(at / "m.geminate", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def gguf_called_packed(s: Sources, at: Path) -> Path:
    return put(s.gguf, at / "m.geminate")


def drafter_inside(s: Sources, at: Path) -> Path:
    return put(s.packed, at / "m.geminate") / "drafter"


def no_drafter_inside(s: Sources, at: Path) -> Path:
    return put(s.packed_alone, at / "m.geminate") / "drafter"


def of_the_cache(s: Sources, at: Path) -> Path:
    return put(s.kept, at / "m.geminate")


def adapter(s: Sources, at: Path) -> Path:
    written(at / "m" / "adapter_config.json", b'{"peft_type": "LORA", "base_model_name_or_path": "google/x"}')
    return at / "m"


RUNS: dict[Make, str | None] = {
    directory_with_drafter_beside: "m-assistant",
    shards: None,
    gguf_with_mtp: "MTP/mtp-m.gguf",
    folder_of_one_gguf: "mtp-m.gguf",
    folder_of_one_packed: "m.geminate/drafter",
    packed_without_suffix: "model.bin/drafter",
    packed_with_drafter_beside: "m-assistant",
    packed_drafter_beside: None,
    link_to_packed: "link.geminate/drafter",
}
"""Layout -> where its drafter is found, relative to the directory; None: nowhere."""

REFUSED: dict[Make, str] = {
    shard_missing: "lacks .* which its index names",
    folder_of_two_gguf: "holds 2 GGUF models; name one of the files: a.gguf, b.gguf",
    folder_of_packed_and_gguf: "holds 2 GGUF or packed models; name one of the files: m.gguf, m.geminate",
    dangling: "is a link to .*nothing, which is not there",
    empty: "is truncated, or no packed file; copy or download it again",
    truncated: "is truncated, or no packed file; copy or download it again",
    half: "is truncated, or no packed file; copy or download it again",
    grown: "is truncated, or no packed file; copy or download it again",
    pipe: "is a file, but no GGUF or packed file",
    pointer: "is a Git LFS pointer",
    gguf_called_packed: "is a GGUF file; give it the suffix .gguf",
    drafter_inside: "is a drafter; name its target",
    no_drafter_inside: "holds no drafter",
    of_the_cache: "is a file of the cache, which belongs to a checkpoint",
    adapter: "is an adapter .*, not a whole model",
}
"""Layout -> what is said, in one line."""


@pytest.mark.parametrize("make", RUNS, ids=lambda make: make.__name__)
def test_layouts_that_run(make: Make, sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    name = make(sources, tmp_path / "here")
    drafter = RUNS[make]
    assert locate(name, "auto").drafter == (None if drafter is None else tmp_path / "here" / drafter)
    with LLM(name, cache_dir=tmp_path / "cache", threads=1) as llm:
        plain = llm.generate([[2, 7, 30]], PARAMS, speculation="off")[0].token_ids
        drafted = llm.generate([[2, 7, 30]], PARAMS, speculation="ngram" if drafter is None else 2)
        assert drafted[0].token_ids == plain and len(plain) == 4


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_layouts_that_are_refused(make: Make, sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    name = make(sources, tmp_path / "here")
    with pytest.raises(GeminateError, match=REFUSED[make]) as error:
        LLM(name, drafter=None, cache_dir=tmp_path / "cache", threads=1)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
