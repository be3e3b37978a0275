"""GPTQ and AWQ checkpoints: codes packed across output rows or input columns of the transposed weight.

GPTQ (AutoGPTQ, GPTQModel): ``qweight`` int32 [k * bits / 32, n], word r of row n holding the codes of columns
r * 32 / bits on, low bits first; ``scales`` [groups, n]; ``qzeros`` int32 [groups, n * bits / 32], whose numbers are
stored less 1 (checkpoint_format ``gptq``) or as they are (``gptq_v2``); ``g_idx`` int32 [k], the group of each column.
AWQ (AutoAWQ, version ``gemm``): ``qweight`` int32 [k, n / 8], word c holding rows 8 c + (0, 2, 4, 6, 1, 3, 5, 7), low
bits first, and ``qzeros`` int32 [groups, n / 8] alike. w = (code - zero) * scale; what is symmetric has the zero
2^(bits - 1) everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from geminate.arrays import F32, I8
from geminate.checkpoint.coded_tensors import WAY_OUT, CodedEntry
from geminate.checkpoint.entries import Entry, Grid
from geminate.checkpoint.parts import FLOATS, Parts, plain, taken
from geminate.checkpoint.quantization_fields import WHERE, Kind, group_field, one_of, only_known
from geminate.checkpoint.safetensors_reader import TensorEntry
from geminate.errors import WeightsError
from geminate.formats.rounding import bf16_to_f32
from geminate.formats.row_codes import unpack_codes

GRIDS: dict[int, Grid] = {4: "int4", 8: "int8"}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # rows of a word, from the low bits on
# Those that are not looked at say how a checkpoint was made, or which kernels run it.
GPTQ_FIELDS = (
    "quant_method", "bits", "group_size", "desc_act", "sym", "checkpoint_format", "format", "pack_dtype", "lm_head",
    "damp_percent", "damp_auto_increment", "true_sequential", "static_groups", "act_group_aware", "mse", "meta",
    "model_name_or_path", "model_file_base_name", "quantizer", "dataset", "batch_size", "tokenizer", "model_seqlen",
    "module_name_preceding_first_block", "block_name_to_quantize", "modules_in_block_to_quantize",
    "cache_block_outputs", "pad_token_id", "use_cuda_fp16", "use_exllama", "disable_exllama", "exllama_config",
    "max_input_length", "is_marlin_format", "backend", "version", "parallel_packing",
)  # fmt: skip
AWQ_FIELDS = (
    "quant_method", "bits", "group_size", "zero_point", "version", "modules_to_not_convert", "backend", "do_fuse",
    "fuse_max_seq_len", "exllama_config", "modules_to_fuse", "meta",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Transposed(ABC):
    """What both methods store alike; a `CodeSource`.

    Attributes:
        less: by how much the zeros in the file are too small.
    """

    stored: TensorEntry
    stored_scales: TensorEntry
    zeros: TensorEntry
    bits: int
    k: int
    group: int
    less: int
    order: TensorEntry | None = None

    @property
    def parts(self) -> tuple[TensorEntry, ...]:
        """See `CodeSource`."""
        return (self.stored, self.stored_scales, self.zeros)

    @abstractmethod
    def codes(self, start: int, stop: int) -> I8:
        """See `CodeSource`."""

    def scales(self, start: int, stop: int) -> F32:
        """See `CodeSource`."""
        part = self.stored_scales
        columns = part.map()[:, start:stop]
        wide = bf16_to_f32(columns) if part.dtype == "BF16" else columns.astype(np.float32)
        return np.ascontiguousarray(wide.T)

    def check(self, zeros: I8) -> None:
        """Refuse what is not symmetric, or has its columns reordered.

        Args:
            zeros: of the rows that are wanted, less 2^(bits - 1), as they are stored.

        Raises:
            WeightsError: it is.
        """
        if (zeros != -self.less).any():
            raise WeightsError(
                f"{self.zeros.path}: {self.zeros.name} has zero points other than {1 << (self.bits - 1)}: the weights "
                f"are asymmetric, and no grid here holds them; {WAY_OUT}"
            )
        if self.order is not None and not np.array_equal(self.order.map(), np.arange(self.k) // self.group):
            raise WeightsError(
                f"{self.order.path}: {self.order.name} puts columns into groups out of their order (desc_act): that is "
                f"not read; {WAY_OUT}"
            )


class GptqCodes(_Transposed):
    """Words along the columns."""

    def codes(self, start: int, stop: int) -> I8:
        """See `CodeSource`."""
        first, each = start * self.bits // 32, 32 // self.bits
        words = np.ascontiguousarray(self.zeros.map()[:, first : -(-stop * self.bits // 32)])
        self.check(_signed(words, self.bits)[:, start - first * each :][:, : stop - start])
        return _signed(np.ascontiguousarray(self.stored.map()[:, start:stop].T), self.bits)


class AwqCodes(_Transposed):
    """Words along the rows, whose order within a word is `AWQ_ORDER`."""

    def codes(self, start: int, stop: int) -> I8:
        """See `CodeSource`."""
        first = start // 8
        take = slice(start - 8 * first, stop - 8 * first)
        here = slice(first, -(-stop // 8))
        self.check(_in_order(self.zeros.map()[:, here])[:, take])
        return np.ascontiguousarray(_in_order(self.stored.map()[:, here])[:, take].T)


def _signed(words: np.ndarray, bits: int) -> I8:
    """int32 [..., words] as int8 [..., codes]: fields of some bits, low ones first, less 2^(bits - 1)."""
    raw = words.view(np.uint8)
    return unpack_codes(raw ^ np.uint8(128) if bits == 8 else raw, bits, words.shape[-1] * 32 // bits)


def _in_order(words: np.ndarray) -> I8:
    """int32 [k, n / 8] as int8 [k, n]."""
    fields = _signed(np.ascontiguousarray(words), 4).reshape(*words.shape, 8)
    found = np.empty_like(fields)
    found[..., list(AWQ_ORDER)] = fields
    return found.reshape(len(words), -1)


@dataclass(frozen=True, kw_only=True)
class _TransposedScheme(ABC):
    """Which modules are quantized shows in the tensors that they have.

    Attributes:
        group: columns that share a scale; 0: all of them.
        less: by how much the zeros in the file are too small.
        reorders: columns may be in groups out of their order, so that g_idx is needed.
    """

    source: ClassVar[type[_Transposed]]
    parts: ClassVar[tuple[str, ...]] = ("weight", "qweight", "qzeros", "scales", "g_idx", "bias")
    width: int
    group: int
    less: int = 0
    reorders: bool = False

    @abstractmethod
    def columns(self, stored: TensorEntry) -> int:
        """Columns of a weight, by the codes of it."""

    @abstractmethod
    def shape(self, n: int, k: int) -> tuple[int, int]:
        """Shape of the codes of n rows and k columns."""

    def bits(self, module: str, kind: Kind) -> int | None:
        """See `Scheme`: tables are never quantized by these methods, of other modules the tensors say it."""
        return None

    def entry(self, module: str, parts: Parts, kind: Kind) -> Entry:
        """See `Scheme`."""
        if "qweight" not in parts:
            return plain(module, parts)
        bits = self.width
        needed = ("qweight", "scales", "qzeros", *(("g_idx",) if self.reorders else ()))
        stored, scales, zeros = taken(module, parts, bits, needed, ("g_idx", "bias"))[:3]
        order, bias = parts.get("g_idx"), parts.get("bias")
        if bias is not None and bias.map().any():
            raise WeightsError(f"{bias.path}: {bias.name} is not zero; Gemma's layers have no bias")
        if len(stored.shape) != 2 or len(scales.shape) != 2 or scales.dtype not in FLOATS:
            raise WeightsError(f"{stored.path}: {module} has no matrix of codes with a matrix of scales")
        n, k = scales.shape[1], self.columns(stored)
        group = self.group or max(1, k)
        groups, each = -(-k // group), 32 // bits
        expected = (self.shape(n, k), (groups, n), (groups, n // each))
        found = (stored.shape, scales.shape, zeros.shape)
        whole = n % each == 0 and stored.dtype == zeros.dtype == "I32" and found == expected
        if not whole or (order is not None and (order.dtype != "I32" or order.shape != (k,))):
            raise WeightsError(
                f"{stored.path}: {module} has qweight, scales and qzeros {[list(shape) for shape in found]}; {n} rows "
                f"of {k} columns in {bits} bits and groups of {group} have {[list(shape) for shape in expected]}"
            )
        codes = self.source(
            stored=stored, stored_scales=scales, zeros=zeros, bits=bits, k=k, group=group, less=self.less, order=order
        )
        return CodedEntry(name=stored.name, shape=(n, k), grid=GRIDS[bits], source=codes, group=group)


@dataclass(frozen=True, kw_only=True)
class GptqScheme(_TransposedScheme):
    """See `_TransposedScheme`."""

    method: ClassVar[str] = "gptq"
    source: ClassVar[type[_Transposed]] = GptqCodes

    def columns(self, stored: TensorEntry) -> int:
        """See `_TransposedScheme`."""
        return stored.shape[0] * 32 // self.width

    def shape(self, n: int, k: int) -> tuple[int, int]:
        """See `_TransposedScheme`."""
        return k * self.width // 32, n


@dataclass(frozen=True, kw_only=True)
class AwqScheme(_TransposedScheme):
    """See `_TransposedScheme`."""

    method: ClassVar[str] = "awq"
    source: ClassVar[type[_Transposed]] = AwqCodes

    def columns(self, stored: TensorEntry) -> int:
        """See `_TransposedScheme`."""
        return stored.shape[0]

    def shape(self, n: int, k: int) -> tuple[int, int]:
        """See `_TransposedScheme`."""
        return k, n // 8


def gptq_scheme(raw: Mapping[str, Any]) -> GptqScheme:
    """The scheme of a ``quantization_config``.

    Raises:
        ConfigError: a field that is not supported.
    """
    only_known(raw, GPTQ_FIELDS, WHERE)
    one_of(raw, WHERE, "sym", True, (True,))
    one_of(raw, WHERE, "pack_dtype", "int32", ("int32",))
    reorders = one_of(raw, WHERE, "desc_act", False, (True, False))
    form = "format" if "format" in raw and "checkpoint_format" not in raw else "checkpoint_format"
    less = 1 if one_of(raw, WHERE, form, "gptq", ("gptq", "gptq_v2")) == "gptq" else 0
    bits = one_of(raw, WHERE, "bits", None, (4, 8))
    return GptqScheme(width=bits, group=group_field(raw, WHERE), less=less, reorders=reorders)


def awq_scheme(raw: Mapping[str, Any]) -> AwqScheme:
    """The scheme of a ``quantization_config``.

    Raises:
        ConfigError: a field that is not supported.
    """
    only_known(raw, AWQ_FIELDS, WHERE)
    version = raw.get("version", "gemm")
    one_of({"version": version.lower() if isinstance(version, str) else version}, WHERE, "version", "gemm", ("gemm",))
    one_of(raw, WHERE, "zero_point", False, (True, False))  # qzeros shows whether they differ
    return AwqScheme(width=one_of(raw, WHERE, "bits", 4, (4,)), group=group_field(raw, WHERE))
