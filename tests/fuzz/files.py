"""Damaged model files: loading ends in a GeminateError or works, within 10 s and 1 GB.

An input is a JSON line that says what to change (kind, file), then the bytes of the changed file.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

from fuzz.mutate import bad_json, damaged, dumped, mutated
from fuzz.target import SEEDS
from fuzz.worker import Worker

BASE = "GEMINATE_FUZZ_BASE"
DIRECTORY = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
FOLDERS = ("model", "model-assistant", "mobile")
ODD_FIELDS = ["num_hidden_layers", "layer_types", "rope_parameters", "quantization_config", "per_layer_config",
              "module_quant_configs", "num_bits", "config_groups", "x"]  # fmt: skip


def prepare(base: Path) -> None:
    """Random models as a directory, as a GGUF file and for devices, a drafter, and the packed files of all."""
    from geminate import LLM
    from geminate.tools.pack import pack_model
    from support.fabricate import make_drafter, make_target
    from support.fabricate_gguf import to_gguf
    from support.mobile import copied
    from support.tiny_tokenizer import backend

    target = make_target("E2B", base / "model")
    make_drafter("E2B", base / "model-assistant")
    backend().save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text('{"eos_token": "<eos>", "bos_token": "<bos>"}')
    vocab = sorted(backend().get_vocab().items(), key=lambda item: item[1])
    tokens = [name for name, _ in vocab] + [f"<unused{i}>" for i in range(512 - len(vocab))]
    to_gguf(target, base / "model.gguf", tokenizer={
        "ggml.model": "gemma4", "ggml.tokens": tokens, "ggml.scores": [-1.0 * i for i in range(512)],
        "ggml.token_type": [1] * 512, "ggml.bos_token_id": 2, "ggml.eos_token_id": 1,
        "ggml.merges": ["t h", "i n"],
    })  # fmt: skip
    copied("e2b", base / "mobile")
    LLM(base / "mobile", drafter=None, cache_dir=base / "cache", threads=1).close()
    for file in ("model", "model.gguf"):
        LLM(base / file, drafter=base / "model-assistant", cache_dir=base / "cache", threads=1).close()
    pack_model(target, base / "whole.geminate", drafter=base / "model-assistant")


def split(data: bytes) -> tuple[dict[str, str], bytes]:
    """The line and the bytes of an input."""
    line, _, content = data.partition(b"\n")
    return json.loads(line), content


def load(data: bytes) -> None:
    """Load the pair with one file changed, and complete a prompt."""
    from geminate import LLM, SamplingParams

    what, content = split(data)
    base = Path(os.environ[BASE])
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for folder in FOLDERS:
            (place / folder).mkdir()
            for file in (base / folder).iterdir():
                (place / folder / file.name).symlink_to(file)
        mobile = what.get("file", "").startswith("mobile") or what.get("model") == "mobile"
        model, cache = place / ("mobile" if mobile else "model"), place / "fresh"
        if what["kind"] == "gguf":
            model = place / "changed.gguf"
            model.write_bytes(content)
        elif what["kind"] == "whole":
            model = place / "changed.geminate"
            model.write_bytes(content)
        elif what["kind"] == "packed":
            # The same files under the same paths, so that the packed ones belong to them.
            model, cache = base / what["model"], place / "cache"
            shutil.copytree(base / "cache", cache)
            (cache / what["file"]).write_bytes(content)
        else:
            changed = place / what["file"]
            changed.unlink(missing_ok=True)
            changed.write_bytes(content)
        drafter = None if mobile else (base if what["kind"] == "packed" else place) / "model-assistant"
        drafter = "auto" if what["kind"] == "whole" else drafter
        with LLM(model, drafter=drafter, cache_dir=cache, threads=1) as llm:
            llm.generate([[5, 7, 9]], SamplingParams(max_tokens=3), speculation=2)
            if llm.tokenizer is not None:
                llm.tokenizer.decode(llm.tokenizer.encode("The the <|turn> é🙂"))


class Files:
    """See the module."""

    name = "files"

    def __init__(self, folder: Path) -> None:
        self._base = folder / "base"
        shutil.rmtree(self._base, ignore_errors=True)
        self._base.mkdir(parents=True)
        prepare(self._base)
        os.environ[BASE] = str(self._base)
        self._worker = Worker("files:load")

    def seeds(self) -> list[bytes]:
        """See `Target`."""
        return [file.read_bytes() for file in sorted((SEEDS / "files").iterdir())]

    def make(self, rng: random.Random) -> bytes:
        """See `Target`."""
        kind = rng.choice(["json", "json", "safetensors", "gguf", "gguf", "packed", "whole"])
        if kind == "whole":
            change = forged if rng.random() < 0.7 else damaged
            return dumped({"kind": kind}) + b"\n" + change(rng, (self._base / "whole.geminate").read_bytes())
        if kind == "gguf":
            data = damaged(rng, (self._base / "model.gguf").read_bytes(), reach=rng.choice([64, 2000, 20_000, None]))
            return dumped({"kind": kind}) + b"\n" + data
        if kind == "packed":
            file = rng.choice(sorted((self._base / "cache").glob("*.geminate")))
            model = next(m for m in ("model.gguf", "mobile", "model") if file.name.startswith(m))
            change = forged if rng.random() < 0.6 else damaged
            return dumped({"kind": kind, "file": file.name, "model": model}) + b"\n" + change(rng, file.read_bytes())
        folder = rng.choice(["model", "model", "model-assistant", "mobile", "mobile"])
        if kind == "safetensors":
            file = self._base / folder / "model.safetensors"
            data = headed(rng, file.read_bytes()) if rng.random() < 0.6 else damaged(rng, file.read_bytes(), reach=4000)
        else:
            names = [n for n in DIRECTORY if n.endswith(".json") and (self._base / folder / n).exists()]
            file = self._base / folder / rng.choice(names)
            value = json.loads(file.read_text())
            value = mutated(rng, value, ODD_FIELDS)
            data = dumped(value) if rng.random() < 0.8 else bad_json(rng, value)
        return dumped({"kind": kind, "file": f"{folder}/{file.name}"}) + b"\n" + data

    def attempt(self, data: bytes) -> str | None:
        """See `Target`."""
        return self._worker.attempt(data)

    def close(self) -> str | None:
        """See `Target`."""
        self._worker.close()
        return None


def headed(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file whose header is another JSON value."""
    length = struct.unpack("<Q", data[:8])[0]
    header = dumped(mutated(rng, json.loads(data[8 : 8 + length])))
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def forged(rng: random.Random, data: bytes) -> bytes:
    """A packed file whose header is another JSON value, with a right checksum."""
    length = struct.unpack("<II8s", data[-16:])[0]
    header = json.loads(data[-16 - length : -16])
    changed = {**header, **{key: mutated(rng, header[key]) for key in rng.choices(["parts", "checksums"], [9, 1])}}
    raw = dumped(changed)
    return data[: -16 - length] + raw + struct.pack("<II", len(raw), zlib.crc32(raw)) + b"GEMINATE"
