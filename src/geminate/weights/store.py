"""Packed weights by name, as plans and kernels read them."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geminate.arrays import F32, I32, is_permutation
from geminate.checkpoint.packed import WAY_OUT
from geminate.checkpoint.packed_file import PackedArray
from geminate.errors import WeightsError
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.formats.table import FORMATS, WeightFormat
from geminate.weights.packing import Layouts, Progress
from geminate.weights.verification import RowCheck, find_damage

PREFAULT_BLOCK = 64 << 20


class WeightStore:
    """Packed weights by canonical name.

    Attributes:
        format: of the matrices that passes stream, ``mixed``, or ``mobile`` with static activations.
        skipped: reason -> (tensors, bytes) passed over knowingly.
        from_cache: whether they were mapped rather than packed now.
        path: the packed file, or None. kept: whether it is one of the cache.
        costs: where measured costs of this model are kept, or None.
        tensors: what each tensor is, as the packed file has it.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        tensors: Mapping[str, dict[str, Any]],
        layouts: Layouts,
        *,
        sums: Mapping[str, PackedArray],
        skipped: Mapping[str, tuple[int, int]] | None = None,
        path: Path | None = None,
        kept: bool = False,
        costs: Path | None = None,
        from_cache: bool = False,
    ) -> None:
        self.path, self.kept, self.costs = path, kept, costs
        self.from_cache = from_cache
        self.skipped: dict[str, tuple[int, int]] = {
            reason: (count, size) for reason, (count, size) in (skipped or {}).items()
        }
        self._arrays = arrays
        self._layouts = layouts
        self.tensors = tensors
        self._sums = sums
        self._made: dict[str, PackedMatrix] = {}
        streamed = self.bytes_by_format()
        self.format: WeightFormat | Literal["mixed", "mobile"] = next(iter(streamed), "bf16")
        if any(FORMATS[name].row_scaled for name in streamed):
            self.format = "mobile"
        elif len(streamed) > 1:
            self.format = "mixed"

    def replaced(self, names: Collection[str], other: WeightStore) -> WeightStore:
        """These weights with the tensors ``names`` taken from ``other``; nothing is copied."""
        tensors = {n: (other if n in names else self)._info(n) for n in self.tensors}
        arrays = {a: v for a, v in self._arrays.items() if a.split("#")[0] not in names}
        arrays |= {a: v for a, v in other._arrays.items() if a.split("#")[0] in names}
        sums = {a: v for a, v in self._sums.items() if a.split("#")[0] not in names}
        sums |= {a: v for a, v in other._sums.items() if a.split("#")[0] in names}
        return WeightStore(arrays, tensors, self._layouts, sums=sums, from_cache=self.from_cache)

    def _info(self, name: str) -> dict[str, Any]:
        if name not in self.tensors:
            raise WeightsError(f"no tensor {name} in these weights")
        return self.tensors[name]

    @property
    def contents(self) -> list[tuple[str, int, str]]:
        """(name, CRC-32, format and activation scales) of every packed array."""
        formats = {
            name: " ".join(str(info[key]) for key in ("format", "input_scale", "output_scale") if key in info)
            for name, info in self.tensors.items()
        }
        return [(name, array.crc, formats.get(name.split("#")[0], "")) for name, array in sorted(self._sums.items())]

    @property
    def unchecked(self) -> bool:
        """Whether some tensors have no checksum, because they stay in the checkpoint."""
        return any(name not in self._sums for name in self._arrays)

    def matrix(self, name: str) -> PackedMatrix:
        """A packed matrix, or a stack of them (experts); the same object every time."""
        if name not in self._made:
            info = self._info(name)
            self._made[name] = PackedMatrix(
                format=info["format"],
                n=info["n"],
                k=info["k"],
                planes=self._planes(name),
                layout=self._layouts(info["format"]),
                stack=info["stack"],
                input_scale=info.get("input_scale", 0.0),
                output_scale=info.get("output_scale", 0.0),
            )
        return self._made[name]

    def _planes(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a tensor by plane; of a vector, ``codes`` alone."""
        kept, info = {"codes": self._arrays[name]}, self._info(name)
        row = FORMATS[info.get("format", "bf16")]
        if info["role"] == "row_table" and row.blocks is not None:
            return kept  # scales stand in the blocks
        for plane in row.planes[1:]:
            kept[plane] = self._arrays[f"{name}#{plane}"]
        return kept

    def embedding(self) -> PackedMatrix | RowTable:
        """The token embedding; the head too, unless it is a table of its own."""
        if self._info("embed_tokens")["role"] == "row_table":
            return self.row_table("embed_tokens")
        return self.matrix("embed_tokens")

    def head(self) -> PackedMatrix:
        """The matrix that makes logits: the embedding, unless the two are stored apart."""
        return self.matrix("lm_head" if "lm_head" in self.tensors else "embed_tokens")

    def row_table(self, name: str) -> RowTable:
        """A table that is read row by row."""
        info = self._info(name)
        return RowTable(
            format=info["format"],
            rows=info["n"],
            width=info["k"],
            planes=self._planes(name),
        )

    def vector(self, name: str) -> F32:
        """A float32 vector."""
        self._info(name)
        return np.array(self._arrays[name], dtype=np.float32)

    def scalar(self, name: str) -> float:
        """A single number."""
        return float(self.vector(name).reshape(-1)[0])

    def order(self, name: str) -> I32:
        """The token order of the centroid head, int32 [vocab].

        Raises:
            WeightsError: not a permutation of the token ids; the kernels use them as addresses.
        """
        table = self._info("embed_tokens")
        vocab = table["n"] * table.get("stack", 1)
        found = np.array(self._arrays[name], dtype=np.int32)
        if not is_permutation(found, vocab):
            raise WeightsError(f"{name} is not a permutation of the {vocab} token ids")
        return found

    def check(self, *, tables: bool = True, threads: int = 1, progress: Progress | None = None) -> None:
        """Read packed weights and compare them with their checksums.

        Args:
            tables: those that are read row by row too. threads: that read. progress: see `find_damage`.

        Raises:
            WeightsError: damage; a file of the cache is removed, so that the next start packs the weights again.
        """
        chosen = (array for name, array in self._sums.items() if tables or not self._is_table(name.split("#")[0]))
        if problem := find_damage(chosen, threads, progress):
            raise self._damaged(problem)

    def row_check(self) -> Callable[[I32], None]:
        """A function that compares the rows of token ids int32 [n] with their checksums when they are first read.

        It raises WeightsError, as `check` does.
        """
        tables = [name for name in self.tensors if self._is_table(name) and name in self._sums]
        check = RowCheck([[self._sums[a] for a in self._sums if a.split("#")[0] == name] for name in tables])

        def run(ids: I32) -> None:
            if problem := check(ids):
                raise self._damaged(problem)

        return run

    def _is_table(self, name: str) -> bool:
        return bool(self._info(name)["role"] == "row_table")

    def _damaged(self, problem: str) -> WeightsError:
        if not self.kept:
            return WeightsError(f"{problem}; {WAY_OUT}")
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        return WeightsError(f"{problem}; start again to pack the weights anew from the checkpoint")

    def prefault(self, progress: Progress | None = None) -> int:
        """Touch every page that passes stream, in order, so that no pass waits for the disk; bytes touched.

        Tables that are read row by row are left alone. The system may still drop pages when memory is short.
        """
        names = [n for n, info in self.tensors.items() if info["role"] != "row_table"]
        arrays = [array for name in names for array in self._planes(name).values()]
        total, done = sum(a.nbytes for a in arrays), 0
        for array in arrays:
            flat = array.reshape(-1).view(np.uint8)
            for start in range(0, len(flat), PREFAULT_BLOCK):
                flat[start : start + PREFAULT_BLOCK : mmap.PAGESIZE].max()
                done += min(PREFAULT_BLOCK, len(flat) - start)
                if progress is not None:
                    progress("touching", done, total)
        return total

    def bytes_by_format(self) -> dict[WeightFormat, int]:
        """Packed bytes per format of the matrices that passes stream; routers and centroids, always bf16, left out."""
        formats: dict[WeightFormat, int] = {}
        for name, info in self.tensors.items():
            if info["role"] in ("matrix", "embedding", "experts"):
                formats[info["format"]] = formats.get(info["format"], 0) + self.tensor_bytes(name)
        return formats

    def tensor_bytes(self, name: str) -> int:
        """Packed bytes of one tensor, scales included."""
        self._info(name)
        return sum(array.nbytes for array in self._planes(name).values())

    def bytes_by_kind(self) -> dict[str, int]:
        """Packed bytes per kind of tensor: matrix, embedding, experts, row_table, vector, ..."""
        kinds: dict[str, int] = {}
        for name, info in self.tensors.items():
            kinds[info["role"]] = kinds.get(info["role"], 0) + self.tensor_bytes(name)
        return kinds

    def parameters_by_kind(self) -> dict[str, int]:
        """Parameters per kind of tensor."""
        kinds: dict[str, int] = {}
        for info in self.tensors.values():
            kinds[info["role"]] = kinds.get(info["role"], 0) + info["parameters"]
        return kinds
