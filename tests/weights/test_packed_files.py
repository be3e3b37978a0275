"""`geminate pack`: one file gives the bits that the checkpoint gave, needs it no more, and damage in it is found."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from geminate import LLM, SamplingParams
from geminate.checkpoint.packed_file import ALIGN, BLOCK, packed_version
from geminate.errors import GeminateError, ParameterError, StorageError, WeightsError
from geminate.families.registry import open_model
from geminate.formats.table import FORMATS
from geminate.loading import load
from geminate.loading.pairing import pairing, weights_mark
from geminate.tools.pack import pack_model
from geminate.tools.quantize.run import quantize_model
from geminate.weights import store as store_module
from geminate.weights import verification
from geminate.weights.opening import open_weights
from geminate.weights.specs import canonical
from support import fabricate, fabricate_gemma3, mobile
from support.cache_files import arrays_of, flip, header_of
from support.fabricate_gguf import to_gguf
from support.row_layout import RowLayout, either

PROMPT = [2, 7, 30, 9, 41, 5, 77, 12]
PARAMS = SamplingParams(max_tokens=12, ignore_eos=True, temperature=0)


def answer(llm: LLM, speculation: Any = None) -> tuple[list[int], bytes]:
    """Tokens and the bits of their logits; with three draft tokens a round where there is a drafter."""
    speculation = speculation or ("off" if llm.pair.drafter is None else 3)
    seen: list[np.ndarray] = []
    ids = llm.generate([PROMPT], PARAMS, speculation=speculation, on_logits=lambda at, row: seen.append(row.copy()))
    return ids[0].token_ids, np.array(seen).tobytes()


def copied(model: Path, directory: Path) -> Path:
    """A target and its drafter in a directory that may be removed."""
    for name in (model.name, f"{model.name}-assistant"):
        if model.with_name(name).exists():
            shutil.copytree(model.with_name(name), directory / name)
    return directory / model.name


@pytest.fixture
def pair(models: dict[str, Path], tmp_path: Path) -> Path:
    """A packed E2B with its drafter."""
    pack_model(models["E2B"], tmp_path / "E2B.geminate")
    return tmp_path / "E2B.geminate"


@pytest.mark.parametrize(
    ("size", "weights"),
    [("E2B", "auto"), ("E2B", "int4+"), ("E4B", "bf16"), ("26B-A4B", "int8"), ("26B-A4B", "int4"), ("12B", "int4")],
)
def test_the_same_bits_without_the_checkpoint(size: str, weights: Any, models: dict[str, Path], tmp_path: Path) -> None:
    source, cache = copied(models[size], tmp_path / "source"), tmp_path / "cache"
    with LLM(source, weights=weights, cache_dir=cache, threads=1) as llm:
        wanted, drafter = answer(llm), llm.pair.drafter is not None
        contents = llm.pair.target.store.contents
    out = tmp_path / "m.geminate"
    made = pack_model(source, out, weights=weights)
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(cache)
    with LLM(out, weights=weights, cache_dir=cache, threads=1) as llm:
        assert answer(llm) == answer(llm, "off") == wanted
        assert (llm.pair.drafter is not None) == drafter
        assert llm.pair.target.store.path == out
        assert (
            dict.fromkeys(n for n, *_ in contents).items()
            <= dict.fromkeys(n for n, *_ in llm.pair.target.store.contents).items()
        ), "tables that the cache left in the checkpoint are new"
    assert made.nbytes == out.stat().st_size and not list(cache.glob("*.geminate")), "mapped as it is"


def test_gguf_mobile_and_gemma3(tmp_path: Path, models: dict[str, Path]) -> None:
    gguf = to_gguf(models["E2B"], tmp_path / "m.gguf", T.Q4_0)
    sources = [gguf, mobile.copied("e2b", tmp_path / "mobile")]
    sources += [fabricate_gemma3.make_target(size, tmp_path / f"g3-{size}") for size in ("1B", "4B")]
    for source in sources:
        out = tmp_path / f"{source.name}.geminate"
        pack_model(source, out, drafter=None)
        with LLM(source, drafter=None, cache_dir=tmp_path / "cache", threads=1) as llm:
            wanted = answer(llm)
        with LLM(out, drafter=None, cache_dir=tmp_path / "cache", threads=1) as llm:
            assert answer(llm) == wanted, source.name


@pytest.mark.parametrize("rows", [False, True])
def test_k_quants_stay_as_they_are(rows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes, scales and minima as the file has them, in either layout."""
    wide = fabricate.make_target("E2B", tmp_path / "wide", changes=fabricate.WIDE)
    kinds = {"token_embd": T.Q6_K, "attn_v": T.Q6_K, "ffn_down": T.Q5_K}
    gguf = to_gguf(wide, tmp_path / "m.gguf", lambda name: kinds.get(name.split(".")[-2], T.Q4_K))
    monkeypatch.setattr("geminate.checkpoint.packed.layout_named", either)
    out, cache = tmp_path / "m.geminate", tmp_path / "cache"
    made = pack_model(gguf, out, drafter=None, layouts=RowLayout if rows else None)
    assert {"q4_k", "q5_k", "q6_k"} <= set(made.formats["target"])
    assert rows or made.nbytes < 1.1 * gguf.stat().st_size + (1 << 20)
    with LLM(gguf, drafter=None, cache_dir=cache, threads=1) as llm:
        wanted = answer(llm)
    with LLM(out, drafter=None, cache_dir=cache, threads=1) as llm:
        assert answer(llm) == wanted and (llm.pair.target.store.path == out) != rows
    entries = open_model(out).tensors
    for name, entry in open_model(gguf).tensors.items():
        if entry.dtype in ("Q4_K", "Q5_K", "Q6_K"):
            assert np.array_equal(entries[canonical(name)].rows(3, 40), entry.rows(3, 40)), name


def test_text_licence_and_origin_go_along(tmp_path: Path) -> None:
    out = tmp_path / "small.geminate"
    made = pack_model(None, out)
    hub = tmp_path / "models--org--small" / "snapshots" / "abc"
    with LLM(None, threads=1) as llm:
        shutil.copytree(llm.pair.located.target, hub)
        message = [{"role": "user", "content": "Tell me a story."}]
        wanted = llm.chat_ids(message), llm.config.eos_token_ids, answer(llm)
        assert pairing(llm.pair)
    with LLM(out, threads=1) as llm:
        assert (llm.chat_ids(message), llm.config.eos_token_ids, answer(llm)) == wanted
        assert "packed together" in llm.pair.located.drafter_note == made.drafter or made.drafter
        assert llm.pair.drafter is not None
    (hub / "README.md").write_text("---\nlicense: other\nlicense_name: gemma\nlicense_link: https://x.org/l\n---\nHi\n")
    (hub / "LICENSE").write_text("The terms.\n")
    made = pack_model(hub, tmp_path / "hub.geminate", drafter=None)
    checkpoint = open_model(tmp_path / "hub.geminate").checkpoint
    assert made.licence == "gemma"
    assert dict(checkpoint.licence()) == {"name": "gemma", "link": "https://x.org/l", "text": "The terms.\n"}
    assert checkpoint.origin["hub"] == "org/small" and checkpoint.origin["revision"] == "abc"
    assert str(tmp_path) not in json.dumps(header_of(tmp_path / "hub.geminate")), "no path of this machine"


def test_drafters_know_the_target_again(models: dict[str, Path], tmp_path: Path) -> None:
    pack_model(models["E2B"], tmp_path / "m.geminate", weights="int4")
    assert weights_mark(open_model(tmp_path / "m.geminate")) == weights_mark(open_model(models["E2B"]))


@pytest.mark.parametrize("size", ["E2B", "26B-A4B"])
@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_tensors_read_as_they_were_packed(size: str, weights: Any, models: dict[str, Path], tmp_path: Path) -> None:
    pack_model(models[size], tmp_path / "m.geminate", drafter=None, weights=weights)
    model = open_model(tmp_path / "m.geminate")
    store = open_weights(model, model.target_config(), "auto")
    for name, entry in model.tensors.items():
        info = store.tensors[name]
        if "format" not in info:
            want = np.asarray(store.vector(name) if info["role"] != "order" else store.order(name))
            assert np.array_equal(entry.rows(0, len(want)), want.astype(np.float32))
        elif info["role"] == "row_table":
            assert np.array_equal(entry.rows(3, 9), store.row_table(name).dequantized()[3:9])
        else:
            matrix = store.matrix(name)
            want = np.stack([matrix.dequantized(which) for which in range(matrix.stack)])
            want = want if info["role"] == "experts" else want[0]
            assert np.array_equal(entry.rows(1, 5), want[1:5]), name
            if entry.grid is not None:
                codes, scales = entry.codes(1, 3)
                assert codes.shape == want[1:3].shape and scales.shape[:-1] == codes.shape[:-1]


def test_rows_that_are_packed_in_clusters_read_in_their_own_order(pair: Path, models: dict[str, Path]) -> None:
    drafter = open_model(pair / "drafter")
    entry = drafter.tensors["embed_tokens"]
    assert drafter.checkpoint.content.tensors["embed_tokens"]["stack"] > 1  # type: ignore[attr-defined]
    original = open_model(models["E2B"].with_name("E2B-assistant")).tensors["model.embed_tokens.weight"]
    int8 = FORMATS["int8"]
    rows, width = original.shape
    want = int8.dequantize(int8.quantize(original.rows(0, rows)))[:, :width]
    assert entry.shape == (rows, width) and np.array_equal(entry.rows(0, rows), want)
    assert np.array_equal(entry.rows(100, 117), want[100:117])


def test_packed_again_and_in_another_format(pair: Path, models: dict[str, Path], tmp_path: Path) -> None:
    pack_model(pair, tmp_path / "again.geminate")
    for part in ("target", "drafter"):
        once, twice = (header_of(path)["parts"][part] for path in (pair, tmp_path / "again.geminate"))
        crcs = [{name: array["crc"] for name, array in content["arrays"].items()} for content in (once, twice)]
        assert crcs[0] == crcs[1] and once["tensors"] == twice["tensors"] and once["origin"] == twice["origin"]
    said: list[str] = []
    with LLM(pair, weights="int4", cache_dir=tmp_path / "cache", threads=1, on_message=said.append) as llm:
        assert llm.pair.target.store.format == "int4" and llm.pair.target.store.kept
        assert llm.pair.drafter is not None and llm.pair.drafter.store.format == "int8"
        assert llm.pair.drafter.store.path == pair, "a drafter stays int8: mapped as it is"
    assert sum("converting it once" in line for line in said) == 1
    said.clear()
    LLM(pair, weights="int4", cache_dir=tmp_path / "cache", threads=1, on_message=said.append).close()
    assert not any("converting" in line for line in said)
    quantize_model(pair, tmp_path / "int4", "int4")
    with LLM(tmp_path / "int4", drafter=None, threads=1) as llm:
        assert llm.pair.target.store.format == "int4"


@pytest.mark.parametrize(("size", "weights"), [("E2B", "auto"), ("26B-A4B", "int4"), ("mobile", "auto")])
def test_another_processors_layout_is_converted_once(
    size: str, weights: Any, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geminate.checkpoint.packed.layout_named", either)
    source = mobile.copied("e2b", tmp_path / "mobile") if size == "mobile" else models[size]
    out, cache = tmp_path / "rows.geminate", tmp_path / "cache"
    pack_model(source, out, weights=weights, layouts=RowLayout)
    assert set(header_of(out)["parts"]["target"]["layout"].values()) == {"rows"}
    with LLM(source, weights=weights, cache_dir=tmp_path / "other", threads=1) as llm:
        wanted = answer(llm)
    said: list[str] = []
    with LLM(out, cache_dir=cache, threads=1, on_message=said.append) as llm:
        assert answer(llm) == wanted and not llm.pair.target.store.from_cache
        assert not llm.pair.target.store.unchecked, "the table that stays in the file has its checksums"
    parts = 1 + (size != "mobile" and llm.pair.drafter is not None)
    assert sum("converting it once" in line for line in said) == parts == len(list(cache.glob("*.geminate")))
    if size == "E2B":
        [kept] = [path for path in cache.glob("*.geminate") if "drafter" not in path.name]
        assert kept.stat().st_size < out.stat().st_size - 512 * 8, "tables are not copied"
    with LLM(out, cache_dir=cache, threads=1) as llm:
        assert answer(llm) == wanted and llm.pair.target.store.from_cache
    # What is damaged does not get a fresh checksum.
    shutil.rmtree(cache)
    array = max(arrays_of(out).values(), key=lambda one: one["nbytes"])
    flip(out, array["offset"] + array["nbytes"] // 2)
    with pytest.raises(WeightsError, match=r"is damaged in .*copy or download it again"):
        LLM(out, cache_dir=cache, threads=1)
    assert not list(cache.glob("*.geminate"))


def test_an_unknown_layout_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    pack_model(models["31B"], tmp_path / "m.geminate", drafter=None, layouts=RowLayout)
    with pytest.raises(WeightsError, match="in the layout 'rows', which this version does not have"):
        LLM(tmp_path / "m.geminate", threads=1)


def regions(path: Path) -> list[tuple[str, int, int]]:
    """(what, offset, bytes) of everything in a packed file that matters."""
    header = header_of(path)
    found = [("start", 0, 12), ("end", path.stat().st_size - 3000, 3000)]
    found.append(("checksums", header["checksums"]["offset"], header["checksums"]["nbytes"]))
    for part, content in header["parts"].items():
        found += [(f"{part}/{name}", array["offset"], array["nbytes"]) for name, array in content["arrays"].items()]
        found += [(f"{part}/{name}", offset, nbytes) for name, (offset, nbytes, _) in content["documents"].items()]
    return [region for region in found if region[2]]


@pytest.mark.parametrize("verify", [None, True])
def test_a_damaged_byte_anywhere_is_reported_before_a_token(verify: bool | None, pair: Path, tmp_path: Path) -> None:
    """First use: everything at once. At every start: what passes read at once, tables before their rows are read."""
    rng = random.Random(3)
    everything = regions(pair)
    large = [region for region in everything if region[2] > 2 * BLOCK]
    whole = pair.read_bytes()
    with LLM(pair, cache_dir=tmp_path / "cache", verify_weights=verify, threads=1) as llm:
        wanted = answer(llm)
    for what, offset, nbytes in rng.sample(everything, 40) + large:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        flip(pair, offset + rng.randrange(nbytes), rng.randrange(8))
        emitted: list[int] = []
        try:
            with LLM(pair, cache_dir=tmp_path / "cache", verify_weights=verify, threads=1) as llm:
                # Rows of a table that no token of this answer reads may be damaged: the answer is the same bits.
                assert "per_layer" in what and verify, what
                emitted += llm.generate([PROMPT], PARAMS)[0].token_ids
                assert answer(llm) == wanted
        except GeminateError as error:
            said = str(error)
            assert str(pair) in said and not emitted, (what, said)
        assert pair.exists(), "a file that the user named is never removed"
        pair.write_bytes(whole)
    with LLM(pair, cache_dir=tmp_path / "cache", verify_weights=verify, threads=1) as llm:
        assert answer(llm) == wanted


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packed model whose per-layer table has twenty blocks."""
    vocab = {"vocab_size": 4096, "vocab_size_per_layer_input": 4096, "hidden_size_per_layer_input": 32}
    settings = fabricate.text_settings("E2B") | vocab
    monkeypatch.setattr(fabricate, "text_settings", lambda size: settings)
    pack_model(fabricate.make_target("E2B", tmp_path / "wide"), tmp_path / "wide.geminate", drafter=None)
    return tmp_path / "wide.geminate"


def test_rows_are_compared_before_they_are_first_read(wide: Path, tmp_path: Path) -> None:
    table = arrays_of(wide)["target/embed_tokens_per_layer"]
    width = table["shape"][1]
    bad = 3000
    assert table["nbytes"] > 15 * BLOCK
    flip(wide, table["offset"] + bad * width + 3)
    with LLM(wide, cache_dir=tmp_path / "cache", verify_weights=False, threads=1) as llm:
        llm.generate([[5, bad, 9]], PARAMS)  # nobody asked
    with LLM(wide, cache_dir=tmp_path / "cache", verify_weights=True, threads=1) as llm:
        once = SamplingParams(max_tokens=1, ignore_eos=True)
        llm.generate([list(range(300))], once, speculation="off")
        emitted: list[int] = []
        with pytest.raises(WeightsError, match="is damaged in embed_tokens_per_layer, between bytes"):
            for delta in llm.stream([5, bad, 9], PARAMS, speculation="off"):
                emitted += delta.token_ids
        assert not emitted


def test_the_first_use_is_remembered(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    real = verification.find_damage

    def counting(arrays: Any, *rest: Any, **more: Any) -> str | None:
        reads.append("all")
        return real(arrays, *rest, **more)

    monkeypatch.setattr(store_module, "find_damage", counting)
    cache = tmp_path / "cache"
    for expected in (2, 2):  # target and drafter, then nothing more
        LLM(pair, cache_dir=cache, threads=1).close()
        assert len(reads) == expected
    LLM(pair, cache_dir=cache, verify_weights=True, threads=1).close()
    assert len(reads) == 4
    os.utime(pair)
    LLM(pair, cache_dir=cache, threads=1).close()
    assert len(reads) == 6, "it has changed since"
    LLM(pair, cache_dir=cache, verify_weights=False, threads=1).close()
    assert len(reads) == 6
    (cache / verification.RECORD).write_text("[")
    LLM(pair, cache_dir=cache, threads=1).close()
    assert len(reads) == 8


def test_measured_costs_stay_out_of_the_users_directory(pair: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in pair.parent.iterdir())
    with LLM(pair, cache_dir=tmp_path / "c", threads=1) as llm:
        assert llm.pair.target.store.costs is not None and llm.pair.target.store.costs.parent == tmp_path / "c"
    assert sorted(path.name for path in pair.parent.iterdir() if path.name != "c") == before


def test_a_file_without_drafter_and_a_drafter_alone(models: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "E2B.geminate"
    pack_model(models["E2B"], alone, drafter=None)
    shutil.copytree(models["E2B"].with_name("E2B-assistant"), tmp_path / "E2B-assistant")
    assert load.locate(alone, "auto").drafter == tmp_path / "E2B-assistant", "looked for beside the file"
    other = tmp_path / "both" / "m.geminate"
    other.parent.mkdir()
    pack_model(models["E2B"], other)
    assert load.locate(alone, other).drafter == other / "drafter" == load.locate(other, "auto").drafter
    assert load.locate(other, None).drafter is None
    with pytest.raises(GeminateError, match="holds no drafter"):
        LLM(models["E2B"], drafter=alone / "drafter", threads=1)
    with pytest.raises(GeminateError, match="is a drafter; name its target"):
        LLM(other / "drafter", threads=1)
    with LLM(alone, drafter=other, cache_dir=tmp_path / "c", threads=1) as llm:
        assert llm.pair.drafter is not None and answer(llm) == answer(llm, "off")


def test_places_that_cannot_be_written(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="exists; name another file, or replace it with --force"):
        pack_model(None, pair)
    with pytest.raises(ParameterError, match="is a directory; name a file"):
        pack_model(None, tmp_path)
    with pytest.raises(ParameterError, match="there is no directory"):
        pack_model(None, tmp_path / "none" / "m.geminate")
    pack_model(None, pair, force=True)
    with LLM(pair, threads=1) as llm:
        assert llm.tokenizer is not None, "replaced"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(StorageError, match=r"needs 0\.\d\d GB, and 0\.00 GB are free there"):
        pack_model(None, tmp_path / "x.geminate")
    assert not (tmp_path / "x.geminate").exists()


def test_the_format_has_a_version(pair: Path, tmp_path: Path) -> None:
    assert packed_version(pair) == 4
    newer = bytearray(pair.read_bytes())
    newer[8] = 9
    (tmp_path / "newer.geminate").write_bytes(newer)
    with pytest.raises(WeightsError, match="version 9 of the format, this program has 4"):
        LLM(tmp_path / "newer.geminate", threads=1)
    assert all(array["offset"] % ALIGN == 0 for array in arrays_of(pair).values())
