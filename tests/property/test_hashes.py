"""Token ids and logits are those of a committed table, on every machine, instruction set, Python and NumPy.

`python tests/property/test_hashes.py` prints the table anew, for a release that changes the arithmetic.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from geminate import LLM, SamplingParams
from geminate.backends.cpu.program import supported_isas

TABLE = Path(__file__).with_name("hashes.json")
SIZES = ("E2B", "E4B", "12B", "26B-A4B", "31B")
BLOCKS = "block formats"
FORMATS = ("bf16", "int8", "int4")
KVS = ("f16", "int8")
MOBILE = [Path(__file__).parents[1] / "conformance" / "mobile" / name for name in ("e2b", "e4b")]
PROMPT = [2, *(7 + 31 * i % 400 for i in range(70))]


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that are hashes of their places, bfloat16-representable float32: norms near 1, matrices near 0."""
    z = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    steps = ((z ^ (z >> np.uint64(31))) >> np.uint64(57)).astype(np.float32) - np.float32(63.5)  # -63.5 to 63.5
    made = steps / np.float32(1024) if len(shape) > 1 else 1 + steps / np.float32(512)
    bits = made.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).reshape(shape)


def rewritten(source: Path, directory: Path) -> Path:
    """A fabricated model whose weights come from no library's generator."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
            continue
        tensors = load_file(file)
        kept = {name: t for name, t in tensors.items() if t.dtype.kind in "iu"}  # the drafter's ordering of tokens
        save_file({n: kept.get(n, numbers(n, t.shape)) for n, t in tensors.items()}, directory / file.name)
    return directory


def hash_of(llm: LLM) -> str:
    """Over token ids and logits of a greedy and a sampled answer, with the longest drafts there are."""
    digest = hashlib.blake2b(digest_size=12)
    prompt = [token % llm.config.vocab_size for token in PROMPT]
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_tokens=20, temperature=temperature, top_k=40, seed=5, ignore_eos=True)
        speculation = 0 if llm.pair.drafter is None else 5
        [out] = llm.generate(
            [prompt], params, speculation=speculation, on_logits=lambda _, row: digest.update(row.tobytes())
        )
        digest.update(json.dumps(out.token_ids).encode())
    return digest.hexdigest()


def rows(models: dict[str, Path | None]) -> dict[str, str]:
    """Hashes of all models, formats of weights and of keys and values."""
    made = {(name, path, weights) for name, path in models.items() for weights in FORMATS if name != BLOCKS}
    made.add((BLOCKS, models[BLOCKS], "auto"))
    made |= {(f"mobile {path.name}", path, "auto") for path in MOBILE}
    return {
        f"{name}, {weights}, {kv}": hash_of(LLM(path, weights=weights, kv=kv, threads=2))
        for name, path, weights in sorted(made, key=str)
        for kv in KVS
    }


def block_model(directory: Path) -> Path:
    """A GGUF file with every block format, tables among them."""
    from gguf import GGMLQuantizationType as T

    from support.fabricate import WIDE, make_target
    from support.fabricate_gguf import to_gguf

    kinds = {"token_embd": T.Q6_K, "per_layer_token_embd": T.Q5_K, "attn_q": T.Q4_K, "attn_k": T.Q5_K, "attn_v": T.Q6_K,
             "attn_output": T.Q5_0, "ffn_gate": T.IQ4_NL, "ffn_up": T.Q5_1, "ffn_down": T.Q4_K}  # fmt: skip
    source = make_target("E2B", directory / "made", changes=WIDE)
    return to_gguf(
        rewritten(source, directory / "hashed"),
        directory / "model.gguf",
        lambda name: kinds.get(name.split(".")[-2], T.Q5_1),
    )


@pytest.fixture(scope="module")
def known(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    root = tmp_path_factory.mktemp("hashed")
    for size in SIZES:
        for name in (size, f"{size}-assistant"):
            rewritten(models[size].with_name(name), root / name)
    blocks = block_model(root / "blocks")
    return {"embedded pair": None} | {size: root / size for size in SIZES} | {BLOCKS: blocks}


@pytest.mark.parametrize("isa", supported_isas())
def test_this_machine_computes_the_committed_bits(
    isa: str, known: dict[str, Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINATE_ISA", isa)
    table = json.loads(TABLE.read_text())
    assert rows(known) == table
    assert len(set(table.values())) == len(table) == 42, "every format has bits of its own"


def fabricate(place: Path) -> dict[str, Path | None]:
    """The table's models, by name, made in ``place``; None is the embedded pair."""
    from support.fabricate import make_drafter, make_target

    found = dict[str, Path | None]({"embedded pair": None})
    for size in SIZES:
        make_target(size, place / size)
        make_drafter(size, place / f"{size}-assistant")
        for name in (size, f"{size}-assistant"):
            rewritten(place / name, place / "hashed" / name)
        found[size] = place / "hashed" / size
    found[BLOCKS] = block_model(place / "blocks")
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(rows(fabricate(Path(place))), indent=1))
