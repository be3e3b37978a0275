"""Layouts in which people have models: a row each, with what must happen.

``T`` and ``D`` stand for target and drafter of one size, ``X`` for a drafter of another size; ``/`` behind a name is a
directory with safetensors, ``.gguf`` a GGUF file. ``a -> b`` is a link.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Q
from huggingface_hub import constants

from geminate.errors import GeminateError
from geminate.loading.drafters import find_drafter
from geminate.loading.locate import locate_model
from support.fabricate_gguf import to_gguf

HUB = "models--{}/snapshots/r1"
GOOGLE = HUB.format("google--gemma-4-E2B-it")
ASSISTANT = HUB.format("google--gemma-4-E2B-it-assistant")
QAT = HUB.format("google--gemma-4-E2B-it-qat-q4_0-gguf")
QAT_ASSISTANT = HUB.format("google--gemma-4-E2B-it-qat-q4_0-unquantized-assistant")
UNSLOTH = HUB.format("unsloth--gemma-4-E2B-it-GGUF")
NAME = "gemma-4-E2B-it"


@dataclass(frozen=True)
class Layout:
    """What is on disk, what the user names, and what must happen.

    Attributes:
        what: in a few words. put: places by what stands there: T, D, X, or a precision of D (D:BF16); of links ->.
        names: what the user names. target: what is loaded; None: the same.
        drafter: what must be found; None for none. says: words of the note, or of the refusal.
        refused: whether the name leads to no model.
    """

    what: str
    put: dict[str, str]
    names: str
    drafter: str | None = None
    target: str | None = None
    says: tuple[str, ...] = ()
    refused: bool = False


LAYOUTS = [
    # Directories.
    Layout("assistant beside", {f"{NAME}/": "T", f"{NAME}-assistant/": "D"}, NAME, f"{NAME}-assistant"),
    Layout("drafter inside", {f"{NAME}/": "T", f"{NAME}/drafter/": "D"}, NAME, f"{NAME}/drafter"),
    Layout("assistant inside", {f"{NAME}/": "T", f"{NAME}/assistant/": "D"}, NAME, f"{NAME}/assistant"),
    Layout("drafter beside", {"m/": "T", "drafter/": "D"}, "m", "drafter"),
    Layout("GGUF drafter inside", {"m/": "T", "m/mtp-x.gguf": "D"}, "m", "m/mtp-x.gguf"),
    Layout("GGUF drafter in MTP inside", {"m/": "T", "m/MTP/x.gguf": "D"}, "m", "m/MTP/x.gguf"),
    Layout("GGUF drafter in assistant inside", {"m/": "T", "m/assistant/x.gguf": "D"}, "m", "m/assistant/x.gguf"),
    Layout("GGUF drafter beside a directory", {"m/": "T", "mtp-x.gguf": "D"}, "m", "mtp-x.gguf"),
    Layout("a checkpoint for devices with the drafter of the plain weights",
           {f"{NAME}-qat-mobile-transformers/": "T", f"{NAME}-assistant/": "D"},
           f"{NAME}-qat-mobile-transformers", f"{NAME}-assistant"),
    Layout("QAT weights with theirs",
           {f"{NAME}-qat-q4_0-unquantized/": "T", f"{NAME}-qat-q4_0-unquantized-assistant/": "D",
            f"{NAME}-assistant/": "D"},
           f"{NAME}-qat-q4_0-unquantized", f"{NAME}-qat-q4_0-unquantized-assistant"),
    Layout("none", {"m/": "T"}, "m", None, says=("none found beside", "put m-assistant beside it")),
    Layout("another size's alone", {"m/": "T", "assistant/": "X"}, "m", None, says=("passed over", "backbone size")),
    Layout("another size's before the right one", {"m/": "T", "m-assistant/": "X", "m/assistant/": "D"}, "m",
           "m/assistant", says=("passed over",)),
    # GGUF files.
    Layout("mtp beside", {"m-Q4_0.gguf": "T", "mtp-m.gguf": "D"}, "m-Q4_0.gguf", "mtp-m.gguf"),
    Layout("MTP folder, as unsloth publishes", {"m.gguf": "T", "MTP/mtp-m-Q8_0.gguf": "D"}, "m.gguf",
           "MTP/mtp-m-Q8_0.gguf"),
    Layout("MTP folder, names of an earlier kind", {"m.gguf": "T", "MTP/m-Q8_0-MTP.gguf": "D"}, "m.gguf",
           "MTP/m-Q8_0-MTP.gguf"),
    Layout("MTP folder above", {"Q8_0/m.gguf": "T", "MTP/mtp-m.gguf": "D"}, "Q8_0/m.gguf", "MTP/mtp-m.gguf"),
    Layout("mtp file above", {"Q8_0/m.gguf": "T", "mtp-m.gguf": "D"}, "Q8_0/m.gguf", "mtp-m.gguf"),
    Layout("name-assistant.gguf", {"m.gguf": "T", "m-assistant.gguf": "D"}, "m.gguf", "m-assistant.gguf"),
    Layout("any name, by its header", {"m.gguf": "T", "zzz.gguf": "D"}, "m.gguf", "zzz.gguf"),
    Layout("a directory as the drafter", {"m.gguf": "T", "assistant/": "D"}, "m.gguf", "assistant"),
    Layout("a folder named", {"f/m.gguf": "T", "f/mtp-m.gguf": "D", "f/mmproj-F16.gguf": "P"}, "f", "f/mtp-m.gguf",
           target="f/m.gguf"),
    Layout("a repository with its config.json", {"f/m.gguf": "T", "f/mtp-m.gguf": "D", "f/config.json": "C"}, "f",
           "f/mtp-m.gguf", target="f/m.gguf"),
    Layout("several precisions", {"m.gguf": "T", "mtp-m-F32.gguf": "D", "mtp-m-Q8_0.gguf": "D:Q8_0",
                                  "mtp-m-BF16.gguf": "D:BF16"},
           "m.gguf", "mtp-m-BF16.gguf", says=("also there: ", "mtp-m-Q8_0.gguf", "mtp-m-F32.gguf")),
    Layout("two sizes in one folder", {"E2B.gguf": "T", "mtp-E2B.gguf": "D", "mtp-E4B.gguf": "X"}, "E2B.gguf",
           "mtp-E2B.gguf"),
    Layout("a damaged one first", {"m.gguf": "T", "mtp-m.gguf": "!", "MTP/mtp-m.gguf": "D"}, "m.gguf",
           "MTP/mtp-m.gguf", says=("passed over",)),
    # Links.
    Layout("linked directories", {"s/h1/": "T", "s/h2/": "D", "l/m -> ../s/h1": "", "l/m-assistant -> ../s/h2": ""},
           "l/m", "l/m-assistant"),
    Layout("beside what a link leads to", {"s/m/": "T", "s/m-assistant/": "D", "l/x -> ../s/m": ""}, "l/x",
           "s/m-assistant"),
    Layout("beside a link on the way", {"s/h1/": "T", "w/m -> ../s/h1": "", "w/m-assistant/": "D", "l/x -> ../w/m": ""},
           "l/x", "w/m-assistant"),
    Layout("a linked file", {"s/aa": "T.gguf", "m.gguf -> s/aa": "", "MTP/mtp-m.gguf": "D"}, "m.gguf",
           "MTP/mtp-m.gguf"),
    Layout("a link that leads nowhere", {"m/": "T", "m-assistant -> gone": ""}, "m", None,
           says=("a link to", "which is not there")),
    # Hub caches, named by path and by name.
    Layout("a snapshot by path", {f"{GOOGLE}/": "T", f"{ASSISTANT}/": "D"}, GOOGLE, ASSISTANT),
    Layout("by hub id", {f"{GOOGLE}/": "T", f"{ASSISTANT}/": "D"}, f"google/{NAME}", ASSISTANT, target=GOOGLE),
    Layout("by the catalogue", {f"{GOOGLE}/": "T", f"{ASSISTANT}/": "D"}, f"{NAME}:bf16", ASSISTANT, target=GOOGLE),
    Layout("Google's QAT file with the QAT drafter",
           {f"{QAT}/gemma-4-E2B_q4_0-it.gguf": "T", f"{ASSISTANT}/": "D", f"{QAT_ASSISTANT}/": "D"}, NAME,
           QAT_ASSISTANT, target=f"{QAT}/gemma-4-E2B_q4_0-it.gguf"),
    Layout("Google's QAT file with the plain drafter", {f"{QAT}/gemma-4-E2B_q4_0-it.gguf": "T", f"{ASSISTANT}/": "D"},
           f"{NAME}:q4_0", ASSISTANT, target=f"{QAT}/gemma-4-E2B_q4_0-it.gguf"),
    Layout("a GGUF repository", {f"{UNSLOTH}/{NAME}-Q8_0.gguf": "T", f"{UNSLOTH}/mtp-{NAME}.gguf": "D"},
           f"unsloth/{NAME}-GGUF:Q8_0", f"{UNSLOTH}/mtp-{NAME}.gguf", target=f"{UNSLOTH}/{NAME}-Q8_0.gguf"),
    Layout("a GGUF repository as an address",
           {f"{UNSLOTH}/{NAME}-Q8_0.gguf": "T", f"{UNSLOTH}/MTP/mtp-{NAME}.gguf": "D"},
           f"hf.co/unsloth/{NAME}-GGUF", f"{UNSLOTH}/MTP/mtp-{NAME}.gguf", target=f"{UNSLOTH}/{NAME}-Q8_0.gguf"),
    Layout("a GGUF repository without a drafter", {f"{UNSLOTH}/{NAME}-Q8_0.gguf": "T", f"{ASSISTANT}/": "D"},
           f"unsloth/{NAME}-GGUF", ASSISTANT, target=f"{UNSLOTH}/{NAME}-Q8_0.gguf"),
    Layout("a local directory and a drafter in the hub cache", {f"../{NAME}/": "T", f"{ASSISTANT}/": "D"},
           f"../{NAME}", ASSISTANT),
    Layout("any drafter in the hub cache that fits", {"../tuned.gguf": "T", HUB.format("a--b-assistant") + "/": "D",
                                                      HUB.format("a--c-assistant") + "/": "X"},
           "../tuned.gguf", HUB.format("a--b-assistant")),
    Layout("not pulled", {}, f"google/{NAME}", refused=True, says=(f"geminate pull google/{NAME} downloads it",)),
    Layout("a name of the catalogue, not pulled", {}, NAME, refused=True,
           says=(f"geminate pull {NAME} downloads it (3.35 GB",)),
    Layout("half of a snapshot", {f"{GOOGLE}/config.json": "C"}, f"google/{NAME}", refused=True,
           says=("only a part of", f"geminate pull google/{NAME}")),
    Layout("a missing shard", {f"{GOOGLE}/": "T", f"{GOOGLE}/model.safetensors.index.json": "I"}, f"google/{NAME}",
           refused=True, says=("only a part of",)),
    # What is no model.
    Layout("several models in a folder", {"f/a.gguf": "T", "f/b.gguf": "T"}, "f", refused=True,
           says=("holds 2 GGUF models; name one of the files",)),
    Layout("a drafter alone", {"f/mtp-m.gguf": "D"}, "f", refused=True, says=("none of its GGUF files",)),
    Layout("an adapter", {"f/adapter_config.json": "A"}, "f", refused=True, says=("is an adapter",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def sources(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories and GGUF files by their letters."""
    root = tmp_path_factory.mktemp("sources")
    found = {"T/": models["E2B"], "D/": models["E2B"].with_name("E2B-assistant")}
    found["X/"] = models["E4B"].with_name("E4B-assistant")
    for letter in "TDX":
        found[letter] = to_gguf(found[f"{letter}/"], root / f"{letter}.gguf")
    for name, quantization in (("BF16", Q.BF16), ("Q8_0", Q.Q8_0)):
        found[f"D:{name}"] = to_gguf(found["D/"], root / f"D-{name}.gguf", quantization)
    return found


def build(layout: Layout, root: Path, sources: dict[str, Path]) -> None:
    for place, what in layout.put.items():
        link, arrow, to = place.partition(" -> ")
        path = Path(os.path.normpath(root / link))
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            path.symlink_to(to)
        elif place.endswith("/"):
            shutil.copytree(sources[f"{what}/"], path, dirs_exist_ok=True)
        elif what in ("!", "P"):
            path.write_bytes(b"GGUF")
        elif what == "C":
            shutil.copyfile(sources["T/"] / "config.json", path)
        elif what == "I":
            path.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
        elif what == "A":
            path.write_text(json.dumps({"peft_type": "LORA"}))
        else:
            shutil.copyfile(sources[what.removesuffix(".gguf")], path)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.what)
def test_layout(layout: Layout, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.chdir(root)
    build(layout, root, sources)
    on_disk = Path(os.path.normpath(root / layout.names))
    name = str(on_disk) if on_disk.exists() else layout.names
    if layout.refused:
        with pytest.raises(GeminateError) as error:
            locate_model(name)
        assert all(words in str(error.value) for words in layout.says), error.value
        assert "\n" not in str(error.value)
        return
    target = locate_model(name)
    assert target == Path(os.path.normpath(root / (layout.target or layout.names)))
    found = find_drafter(name, target, "auto")
    assert found.path == (None if layout.drafter is None else root / layout.drafter), found.note
    assert all(words in found.note for words in layout.says), found.note
    assert "\n" not in found.note and (found.path is None) == (found.where == "")
