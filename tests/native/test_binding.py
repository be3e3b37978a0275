"""The stub says what the module has, and errors name the argument, what was given and what was expected."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import geminate
from geminate.backends.cpu.program import _native, supported_isas
from support.packed import pack_matrix

STUB = ast.parse((Path(geminate.__file__).parent / "_native.pyi").read_text())
Signatures = dict[str, list[str]]


def public(names: list[str]) -> set[str]:
    return {name for name in names if not name.startswith("_") or name == "__init__"}


def stub_signatures(body: list[ast.stmt]) -> Signatures:
    return {
        item.name: [arg.arg for arg in item.args.args if arg.arg != "self"]
        for item in body
        if isinstance(item, ast.FunctionDef)
    }


def signature(function: object) -> list[str]:
    """Parameter names by the signature that nanobind writes into the docstring."""
    line = str(function.__doc__).splitlines()[0]
    return [name for name in re.findall(r"[(,] ?(\w+): ", line) if name != "self"]


def test_stub_has_the_names_of_the_module() -> None:
    classes = {item.name: item.body for item in STUB.body if isinstance(item, ast.ClassDef)}
    functions = stub_signatures(STUB.body)
    assert public(dir(_native)) == set(classes) | set(functions)
    for name, arguments in functions.items():
        assert signature(getattr(_native, name)) == arguments, name
    for name, body in classes.items():
        made = getattr(_native, name)
        methods = stub_signatures(body)
        assert public(dir(made)) == set(methods), name
        for method, arguments in methods.items():
            assert signature(getattr(made, method)) == arguments, f"{name}.{method}"


def matrix(n: int, k: int, fmt: str = "bf16", stack: int = 1) -> object:
    cells = stack * -(-n // 16) * -(-k // 32)
    per = {"bf16": 1024, "int8": 512, "int4": 256}[fmt]
    scales = None if fmt == "bf16" else np.zeros(cells * 16, np.uint16)
    return _native.Matrix(fmt, n, k, stack, np.zeros(cells * per, np.uint8), scales)


def program(*widths: int, max_rows: int = 4):  # type: ignore[no-untyped-def]
    return _native.Program(_native.Pool(1), supported_isas()[-1], max_rows, list(widths))


def floats(n: int) -> np.ndarray:
    return np.zeros(n, np.float32)


def written_too_early() -> None:
    made = program(8, 8)
    made.embed(0, matrix(20, 8), 1.0)
    made.gather(0)
    made.add(0, 0, 1, 1.0)
    made.finish(0, 1, -1, -1, [0, 1])


BAD: dict[str, Callable[[], object]] = {
    "linear: x is 64 wide, but w takes 72": lambda: program(64, 9).linear(0, 1, matrix(9, 72), 1.0),
    "linear: out is 9 wide, but w makes 10": lambda: program(64, 9).linear(0, 1, matrix(10, 64), 1.0),
    "linear: x is buffer 7, but the program has buffers 0 to 1": lambda: program(8, 8).linear(7, 1, matrix(8, 8), 1.0),
    "add: b is buffer -1, but the program has buffers 0 to 1": lambda: program(8, 8).add(0, -1, 1, 1.0),
    "concat: out is 15 wide, but a and b have 16": lambda: program(8, 15).concat(0, 0, 1),
    "norm: weight has 3 values, expected 4 for 2 groups of x": lambda: program(8).norm(0, 0, floats(3), 1e-6, 2),
    "norm: x is 8 wide, which does not split into 3 groups": lambda: program(8).norm(0, 0, None, 1e-6, 3),
    "gelu: offset is 5, but up is 12 wide and gate takes 8 of it": lambda: program(8, 12).gelu(0, 1, 0, 5),
    "lookup: column is 3, but table is 8 wide and out takes 6 of it": lambda: program(6).lookup(
        0, _native.RowTable("bf16", 4, 8, np.zeros(64, np.uint8), None), 1.0, 3
    ),
    "rope: a group of x is 9 wide, but rotation takes pairs": lambda: program(9).rope(0, 1, 0),
    "kv_store: slot must be 0 or more, but is -1": lambda: program(8).kv_store(0, 0, -1, 2),
    "attention: heads is 3, which is no multiple of the 2 kv_heads": lambda: program(24).attention(
        0, 0, 0, 3, 2, 8, 0, True
    ),
    "attention: head_dim is 1025, but must be 1 to 1024": lambda: program(8).attention(0, 0, 0, 1, 1, 1025, 0, True),
    "experts: scores is 4 wide, but gate_up has 5 experts": lambda: program(8, 4).experts(
        0, 1, 0, matrix(6, 8, stack=5), matrix(8, 3, stack=5), 2, floats(5)
    ),
    "centroid_head: max_rows is 4, but the head takes one row at a time": lambda: program(8, 6).centroid_head(
        0, 1, 1, matrix(4, 8), matrix(3, 8, stack=4), np.zeros(12, np.int32), 2
    ),
    "centroid_head: order[1] is -1, but the ids are 0 to 11": lambda: program(8, 6, max_rows=1).centroid_head(
        0, 1, 1, matrix(4, 8), matrix(3, 8, stack=4), np.array([0, -1, *range(2, 12)], np.int32), 2
    ),
    "centroid_head: order[2] is 0, which came before": lambda: program(8, 6, max_rows=1).centroid_head(
        0, 1, 1, matrix(4, 8), matrix(3, 8, stack=4), np.array([0, 1, 0, *range(3, 12)], np.int32), 2
    ),
    "gather: x is buffer 3, but the program has buffers 0 to 0": lambda: program(8).gather(3),
    "finish: hidden and logits have a row for each wanted row, but are written before the gather": written_too_early,
    "finish: hidden_in is 9 wide, but hidden has 8": lambda: program(8, 8, 9).finish(0, 1, -1, 2, []),
    "finish: candidates is 9 wide, but logits has 8": lambda: program(8, 8, 9).finish(0, 1, 2, -1, []),
    "finish: logits is buffer 3, but the program has buffers 0 to 0": lambda: program(8).finish(0, 3, -1, -1, []),
    "Matrix: format is int5, but the kernels have bf16, int8, int4": lambda: _native.Matrix(
        "int5", 1, 1, 1, np.zeros(4, np.uint8), None
    ),
    "Matrix: data has 4 values, expected 512 for int8 weights [1, 16, 32]": lambda: _native.Matrix(
        "int8", 16, 32, 1, np.zeros(4, np.uint8), None
    ),
    "Matrix: scales is None, but int8 weights need 16": lambda: _native.Matrix(
        "int8", 16, 32, 1, np.zeros(512, np.uint8), None
    ),
    "RowTable: format is int4, which has no row tables": lambda: _native.RowTable(
        "int4", 1, 1, np.zeros(4, np.uint8), None
    ),
    "Program: isa is mmx, but this machine and build have": lambda: _native.Program(_native.Pool(1), "mmx", 1, [8]),
    "Program: max_rows must be positive, but is 0": lambda: program(8, max_rows=0),
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_argument(message: str) -> None:
    with pytest.raises(ValueError) as error:
        BAD[message]()
    assert str(error.value).startswith(message)


def embedder(rows: int = 4):  # type: ignore[no-untyped-def]
    made = program(8, 8, 8, max_rows=rows)
    made.embed(0, matrix(20, 8), 1.0)
    made.gather(0)
    made.add(0, 0, 1, 1.0)
    made.add(0, 0, 2, 1.0)
    made.finish(1, 2, -1, -1, [1, 2])
    return made


def run(made, ids: list[int], **changes: object) -> None:  # type: ignore[no-untyped-def]
    n = len(ids)
    arguments: dict[str, object] = {
        "ids": np.array(ids, np.int32), "positions": np.arange(n, dtype=np.int32),
        "sequences": np.zeros(n, np.int32), "head_rows": np.arange(n, dtype=np.int32),
        "caches": np.zeros((1, 0, 5), np.uint64), "cosines": [], "sines": [],
        "hidden": floats(8 * n), "logits": floats(8 * n), "taps": [], **changes,
    }  # fmt: skip
    made.run(**arguments)


RUNS: dict[str, dict[str, object]] = {
    "run: positions has 3 values, expected 2 for 2 ids": {"positions": np.zeros(3, np.int32)},
    "run: positions[1] is -2, but must be 0 or more": {"positions": np.array([0, -2], np.int32)},
    "run: sequences[0] is 1, but the number of caches is 1": {"sequences": np.ones(2, np.int32)},
    "run: head_rows[0] is 2, but the number of rows is 2": {"head_rows": np.array([2], np.int32)},
    "run: head_rows[1] is 0, but they must ascend": {"head_rows": np.array([0, 0], np.int32)},
    "run: hidden has 9 values, expected 16 for 2 rows of 8": {"hidden": floats(9)},
    "run: logits has 9 values, expected 16 for 2 rows of 8": {"logits": floats(9)},
    "run: taps has 1 arrays, but the program has 0 taps": {"taps": [floats(16)]},
    "run: caches has 2 dimensions, expected [caches, slots, 5]": {"caches": np.zeros((1, 3), np.uint64)},
    "run: caches is [1, 0, 2], expected [caches, 0 slots or more, 5]": {"caches": np.zeros((1, 0, 2), np.uint64)},
}


@pytest.mark.parametrize("message", RUNS)
def test_errors_of_a_pass_name_the_argument(message: str) -> None:
    made = embedder()
    run(made, [3, 4])
    with pytest.raises(ValueError) as error:
        run(made, [3, 4], **RUNS[message])
    assert str(error.value) == message


def draft(made, *, k: int, logits: int) -> int:  # type: ignore[no-untyped-def]
    """A greedy draft of ``k`` tokens after token 0, the hidden state all ones."""
    return made.draft(
        token=0, hidden=floats(8) + 1, position=1, rope_position=1, caches=np.zeros((1, 0, 5), np.uint64),
        cosines=[], sines=[], k=k, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0, choice=0,
        calibration=None, ahead=None, need=None, ids=np.zeros(k, np.int32), probabilities=floats(k),
        logits=floats(logits), next=floats(8), candidates=np.zeros(0, np.int32),
    )  # fmt: skip


@pytest.mark.parametrize("k", [1, 3])
def test_a_draft_never_leaves_the_vocabulary(k: int) -> None:
    weights = np.zeros((40, 8), np.float32)
    weights[39] = 1.0
    head = pack_matrix(weights, "bf16")
    made = program(8, 8, 40, max_rows=1)
    made.embed(0, matrix(20, 8), 1.0)
    made.linear(1, 2, _native.Matrix("bf16", 40, 8, 1, head.planes["codes"].reshape(-1).view(np.uint8), None), 1.0)
    made.finish(0, 2, -1, 1, [0, 2])
    with pytest.raises(ValueError, match="draft: the drafter chose token 39, but the vocabulary has 20"):
        draft(made, k=k, logits=40)


def test_errors_of_rows() -> None:
    with pytest.raises(ValueError, match=r"run: ids\[1\] is 20, but the vocabulary has 20"):
        run(embedder(), [0, 20])
    with pytest.raises(ValueError, match="run: the number of rows is 5, but the program takes 1 to 4"):
        run(embedder(), [0] * 5)
    with pytest.raises(ValueError, match="draft: the program is no drafter"):
        draft(embedder(1), k=1, logits=8)
    ungathered = program(8, 8)
    ungathered.embed(0, matrix(20, 8), 1.0)
    ungathered.add(0, 0, 1, 1.0)
    ungathered.finish(0, 1, -1, -1, [0, 1])
    with pytest.raises(ValueError, match="run: head_rows has 1 values, but the program gathers none of its 2 rows"):
        run(ungathered, [0, 1], head_rows=np.zeros(1, np.int32))
    tapped = program(8, 8)
    tapped.embed(0, matrix(20, 8), 1.0)
    tapped.gather(0)
    tapped.tap(0, 0)
    tapped.add(0, 0, 1, 1.0)
    tapped.finish(1, 1, -1, -1, [1])
    with pytest.raises(ValueError, match="run: taps show every row, but of 2 rows 1 are head rows"):
        one = {"head_rows": np.zeros(1, np.int32), "hidden": floats(8), "logits": floats(8)}
        run(tapped, [0, 1], taps=[floats(16)], **one)
