"""``auto`` looks beside the name as given, passes over what does not fit, and says in one line what came of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T

from geminate import LLM
from geminate.errors import DrafterMismatchError, GeminateError, ModelNotFoundError, WeightsError
from geminate.loading.drafters import find_drafter
from geminate.loading.load import load_pair, locate
from geminate.loading.options import LoadOptions
from support.fabricate_gguf import to_gguf


def choice(target: Path) -> tuple[Path | None, str]:
    found = find_drafter(str(target), target, "auto")
    assert "\n" not in found.note and found.note.startswith("drafter: ")
    return found.path, found.note


@pytest.fixture(scope="module")
def files(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUF targets E2B and E4B, and drafters of both."""
    root = tmp_path_factory.mktemp("gguf")
    made = {}
    for size in ("E2B", "E4B"):
        made[size] = to_gguf(models[size], root / f"{size}.gguf")
        made[f"{size}-drafter"] = to_gguf(models[size].with_name(f"{size}-assistant"), root / f"{size}-d.gguf")
    return made


def put(source: Path, where: Path) -> Path:
    where.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, where)
    return where


def test_files_of_two_sizes_in_one_folder(files: dict[str, Path], tmp_path: Path) -> None:
    large = put(files["E4B"], tmp_path / "gemma-4-E4B-it-Q8_0.gguf")
    small = put(files["E2B"], tmp_path / "gemma-4-E2B-it-Q8_0.gguf")
    drafter = put(files["E2B-drafter"], tmp_path / "mtp-gemma-4-E2B-it.gguf")
    assert choice(small)[0] == drafter
    path, note = choice(large)
    assert path is None and str(drafter) in note and "backbone size" in note and "--drafter" in note
    said: list[str] = []
    assert load_pair(LoadOptions(model=large), on_message=said.append).drafter is None
    assert [line for line in said if "drafter" in line] == [note], "it is said once"


def test_a_directory_of_another_size(models: dict[str, Path], tmp_path: Path) -> None:
    target = shutil.copytree(models["E4B"], tmp_path / "E4B")
    other = shutil.copytree(models["E2B"].with_name("E2B-assistant"), tmp_path / "assistant")
    path, note = choice(target)
    assert path is None and f"{other} (backbone size" in note
    right = shutil.copytree(models["E4B"].with_name("E4B-assistant"), target / "drafter")
    path, note = choice(target)
    assert path == right


def test_links_are_followed_as_given(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["E2B"], tmp_path / "store" / "hash1")
    shutil.copytree(models["E2B"].with_name("E2B-assistant"), tmp_path / "store" / "hash2")
    links = tmp_path / "links"
    links.mkdir()
    (links / "gemma-4-E2B-it").symlink_to(tmp_path / "store" / "hash1")
    (links / "gemma-4-E2B-it-assistant").symlink_to(tmp_path / "store" / "hash2")
    assert choice(links / "gemma-4-E2B-it")[0] == links / "gemma-4-E2B-it-assistant"
    (links / "elsewhere").symlink_to(links / "gemma-4-E2B-it")
    assert choice(links / "elsewhere")[0] == links / "gemma-4-E2B-it-assistant", "step by step"
    (links / "gemma-4-E2B-it-assistant").unlink()
    assert choice(links / "elsewhere")[0] is None
    (tmp_path / "store" / "hash1-assistant").symlink_to(tmp_path / "store" / "hash2")
    assert choice(links / "elsewhere")[0] == tmp_path / "store" / "hash1-assistant", "then where the link leads"


def test_a_gguf_pair_in_the_hub_cache(files: dict[str, Path], tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--gemma-4-E2B-it-GGUF"
    snapshot = repository / "snapshots" / "0a1b"
    (snapshot / "MTP").mkdir(parents=True)
    for blob, source, name in (
        ("aa", "E2B", "gemma-4-E2B-it-Q8_0.gguf"),
        ("bb", "E2B-drafter", "MTP/mtp-gemma-4-E2B-it.gguf"),
    ):
        (snapshot / name).symlink_to(put(files[source], repository / "blobs" / blob))
    assert choice(snapshot / "gemma-4-E2B-it-Q8_0.gguf")[0] == snapshot / "MTP" / "mtp-gemma-4-E2B-it.gguf"


def test_a_snapshot_given_as_path(models: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "models--google--gemma-4-E2B-it" / "snapshots" / "r1"
    shutil.copytree(models["E2B"], target)
    repository = tmp_path / "models--google--gemma-4-E2B-it-assistant"
    for revision in ("old", "new"):
        shutil.copytree(models["E2B"].with_name("E2B-assistant"), repository / "snapshots" / revision)
    assert choice(target)[0] == repository / "snapshots" / "new", "any of them without refs"
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("old")
    assert choice(target)[0] == repository / "snapshots" / "old"


def test_of_several_precisions_one_is_taken(models: dict[str, Path], files: dict[str, Path], tmp_path: Path) -> None:
    target = put(files["E2B"], tmp_path / "gemma-4-E2B-it-Q4_0.gguf")
    source = models["E2B"].with_name("E2B-assistant")
    full = to_gguf(source, tmp_path / "mtp-gemma-4-E2B-it-F32.gguf")
    assert choice(target)[0] == full
    half = to_gguf(source, tmp_path / "mtp-gemma-4-E2B-it-BF16.gguf", T.BF16)
    assert choice(target)[0] == half, "the smallest that loses nothing"
    put(half, tmp_path / "another-drafter-BF16.gguf")
    assert choice(target)[0] == half, "the one that is named like the target"


def test_without_a_drafter_the_line_says_where_and_what_to_do(models: dict[str, Path], tmp_path: Path) -> None:
    target = shutil.copytree(models["E2B"], tmp_path / "mine")
    path, note = choice(target)
    assert path is None
    assert f"none found beside {target}" in note and "prompt lookup" in note and "put mine-assistant beside it" in note


@pytest.mark.parametrize("word", [None, "none"])
def test_none_is_none_in_the_library_too(word: str | None) -> None:
    assert locate(None, word).drafter is None and "as asked" in locate(None, word).drafter_note
    llm = LLM(drafter=word, threads=1)
    assert llm.pair.drafter is None


def test_the_embedded_drafter_is_named() -> None:
    said: list[str] = []
    pair = load_pair(LoadOptions(threads=1), on_message=said.append)
    assert pair.drafter is not None and said[-1] == "drafter: the embedded pair's own"


def test_a_named_drafter_that_does_not_fit_is_refused_before_packing(models: dict[str, Path], tmp_path: Path) -> None:
    other = models["E4B"].with_name("E4B-assistant")
    with pytest.raises(DrafterMismatchError, match=r"E4B-assistant: .*backbone size.*--drafter none"):
        load_pair(LoadOptions(model=models["E2B"], drafter=other, cache_dir=tmp_path))
    assert not list(tmp_path.iterdir())


def test_damaged_files_beside_a_model_are_passed_over(files: dict[str, Path], tmp_path: Path) -> None:
    target = put(files["E2B"], tmp_path / "m.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    (tmp_path / "empty.gguf").write_bytes(b"")
    drafter = put(files["E2B-drafter"], tmp_path / "z.gguf")
    assert choice(target)[0] == drafter
    with pytest.raises(GeminateError):
        find_drafter("m", target, tmp_path / "broken.gguf") and load_pair(
            LoadOptions(model=target, drafter=tmp_path / "broken.gguf")
        )


def test_a_link_that_leads_nowhere_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    target = shutil.copytree(models["E2B"], tmp_path / "m")
    link = tmp_path / "m-assistant"
    link.symlink_to(tmp_path / "gone")
    path, note = choice(target)
    assert path is None and f"{link} (a link to {tmp_path / 'gone'}, which is not there)" in note
    with pytest.raises(ModelNotFoundError, match=r"a link to .*gone, which is not there; .*--drafter none"):
        find_drafter("m", target, link)


def test_a_damaged_configuration_is_named_and_passed_over(models: dict[str, Path], tmp_path: Path) -> None:
    target = shutil.copytree(models["E2B"], tmp_path / "m")
    broken = shutil.copytree(models["E2B"].with_name("E2B-assistant"), tmp_path / "assistant")
    (broken / "config.json").write_text("{")
    path, note = choice(target)
    assert path is None and f"passed over: {broken} (cannot read" in note and "name a drafter with --drafter" in note


def test_a_damaged_file_that_is_named_like_a_drafter(files: dict[str, Path], tmp_path: Path) -> None:
    target = put(files["E2B"], tmp_path / "m.gguf")
    broken = tmp_path / "mtp-m.gguf"
    broken.write_bytes(b"GGUF")
    path, note = choice(target)
    assert path is None and f"passed over: {broken} (" in note


@pytest.mark.parametrize("drafter", ["auto", "named"])
def test_damaged_weights_of_a_drafter_say_what_to_do(models: dict[str, Path], tmp_path: Path, drafter: str) -> None:
    target = shutil.copytree(models["E2B"], tmp_path / "m")
    own = shutil.copytree(models["E2B"].with_name("E2B-assistant"), tmp_path / "m-assistant")
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    chosen = own if drafter == "named" else drafter
    with pytest.raises(WeightsError, match=r"m-assistant.*truncated.*; name another drafter .*--drafter none"):
        load_pair(LoadOptions(model=target, drafter=chosen, cache_dir=tmp_path / "cache"))
    load_pair(LoadOptions(model=target, drafter=None, cache_dir=tmp_path / "cache"))
