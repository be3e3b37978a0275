"""From names to directories, and a drafter beside its target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geminate.errors import ModelNotFoundError
from geminate.loading.drafters import find_drafter, locate_drafter
from geminate.loading.load import locate as located
from geminate.loading.locate import embedded_pair, locate_model
from geminate.loading.options import LoadOptions


def model(path: Path, model_type: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/nowhere/at/all", "no such directory: /nowhere/at/all"),
        ("./google/gemma", "no such directory"),
        ("a/b/c", "no such directory"),
        ("./x.gguf", "^no such file: ./x.gguf$"),
        ("models/x.GGUF", "^no such file: models/x.GGUF$"),
        ("x.gguf", "^no such file: x.gguf$"),
        ("", "an empty model name"),
        ("Once upon a time. " * 400, "cannot look for a model at 'Once upon"),
        ("~no-such-user-here/model", "cannot look for a model at"),
    ],
)
def test_names_that_lead_nowhere(name: str, says: str) -> None:
    with pytest.raises(ModelNotFoundError, match=says) as error:
        locate_model(name)
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


@pytest.mark.parametrize("drafter", ["auto", "embedded", None])
def test_embedded_names_the_pair(drafter: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path / "embedded", "gemma4")
    monkeypatch.chdir(tmp_path)
    assert located("embedded", drafter) == located(None, drafter)
    assert LoadOptions(model="embedded") == LoadOptions()
    assert located("./embedded", None).target == Path("embedded")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ModelNotFoundError, match="is a file"):
        locate_model(tmp_path / "x")


@pytest.mark.parametrize("place", ["m-assistant", "m/drafter", "m/assistant", "drafter", "assistant"])
def test_auto_finds_a_drafter_beside_or_inside(place: str, tmp_path: Path) -> None:
    target = model(tmp_path / "m", "gemma4")
    assert locate_drafter(str(target), target, "auto") is None
    found = model(tmp_path / place, "gemma4_assistant")
    assert locate_drafter(str(target), target, "auto") == found
    assert locate_drafter(str(target), target, None) is None


def test_auto_passes_over_what_is_no_drafter(tmp_path: Path) -> None:
    target = model(tmp_path / "m", "gemma4")
    model(tmp_path / "m-assistant", "gemma4")
    (tmp_path / "drafter").mkdir()
    (tmp_path / "drafter" / "config.json").write_text("{")
    assert locate_drafter(str(target), target, "auto") is None


def test_a_named_drafter_must_be_there(tmp_path: Path) -> None:
    target = model(tmp_path / "m", "gemma4")
    named = model(tmp_path / "elsewhere", "gemma4_assistant")
    assert locate_drafter(str(target), target, named) == named
    with pytest.raises(ModelNotFoundError, match="no such directory"):
        locate_drafter(str(target), target, tmp_path / "none")


def test_hub_ids_find_the_assistant_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    target = model(tmp_path / "models--google--gemma-4-E2B-it" / "snapshots" / "r", "gemma4")
    (target / "model.safetensors").write_bytes(b"")
    assert locate_model("google/gemma-4-E2B-it") == target
    assert locate_drafter("google/gemma-4-E2B-it", target, "auto") is None, "not found is no drafter"
    note = find_drafter("google/gemma-4-E2B-it", target, "auto").note
    assert "geminate pull google/gemma-4-E2B-it downloads the published one" in note
    with pytest.raises(ModelNotFoundError, match=r"geminate pull google/other-assistant .*--drafter none"):
        locate_drafter("google/gemma-4-E2B-it", target, "google/other-assistant")
    drafter = model(tmp_path / "models--google--gemma-4-E2B-it-assistant" / "snapshots" / "r", "gemma4_assistant")
    assert locate_drafter("google/gemma-4-E2B-it", target, "auto") == drafter


def test_embedded_pair() -> None:
    target, own = embedded_pair()
    assert locate_drafter("", target, "auto") == own.resolve()
