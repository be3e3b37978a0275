"""A packed file as a checkpoint: the model in it, or the drafter beside that."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from geminate.arrays import F32, I8, U16, is_permutation
from geminate.backends.select import layout_named
from geminate.checkpoint.documents import DocumentCheckpoint
from geminate.checkpoint.entries import Grid
from geminate.checkpoint.gguf_file import is_gguf
from geminate.checkpoint.json_file import check_regular
from geminate.checkpoint.packed_file import PARTS, PackedFile, PackedPart, is_packed
from geminate.errors import GeminateError, ModelNotFoundError, WeightsError, shown
from geminate.formats.matrix import Layout, RowTable
from geminate.formats.table import FORMATS, Codes, WeightFormat

DRAFTER = "drafter"
LICENCE = "LICENSE"  # the document with its text
ORDERING = "masked_embedding.token_ordering"  # the order of rows that are packed in clusters
CARRIED = ("input_scale", "output_scale", "blocks", "on_grid")
WAY_OUT = "copy or download it again, or pack the checkpoint again"


def is_packed_path(path: Path) -> bool:
    """Whether a path is a packed file, or ``FILE/drafter`` of one."""
    return is_packed(path) or (path.name == DRAFTER and is_packed(path.parent))


class PackedCheckpoint(DocumentCheckpoint):
    """See `Checkpoint`; ``FILE`` is the target, or the drafter of a file without target, ``FILE/drafter`` the drafter.

    Attributes:
        file: its path. packed: what it holds. part: which model of it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        inside = path.name == DRAFTER and not path.is_file()
        self.file = path.parent if inside else path
        try:
            check_regular(self.file, WeightsError)
            if is_gguf(self.file):
                raise ModelNotFoundError(f"{self.file} is a GGUF file; give it the suffix .gguf")
            self.packed = PackedFile.open(self.file)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror}") from None
        except WeightsError as error:
            raise WeightsError(f"{error}; {WAY_OUT}") from None
        self.part = DRAFTER if inside else next(name for name in PARTS if name in self.packed.parts)
        if self.part not in self.packed.parts:
            raise ModelNotFoundError(f"{self.file} holds no drafter")

    @property
    def content(self) -> PackedPart:
        """The model itself."""
        return self.packed.parts[self.part]

    @property
    def drafter(self) -> Path | None:
        """The path of the drafter that stands beside this target in the file; None without one."""
        beside = self.part != DRAFTER and DRAFTER in self.packed.parts
        return self.file / DRAFTER if beside else None

    @property
    def name(self) -> str:
        """See `Checkpoint`."""
        stem = self.file.stem
        return stem if self.path == self.file else f"{stem}-{DRAFTER}"

    def called(self, name: str) -> str:
        """See `DocumentCheckpoint`."""
        return f"{name} in {self.file}"

    def document(self, name: str, error: type[GeminateError], most: int) -> bytes | None:
        """See `DocumentCheckpoint`."""
        try:
            return self.packed.document(self.part, name)
        except WeightsError as cause:
            raise error(f"{cause}; {WAY_OUT}") from None

    @functools.cached_property
    def metadata(self) -> Mapping[str, Any]:
        """See `Checkpoint`."""
        found = self.object("config.json")
        if found is None:
            raise ModelNotFoundError(
                f"{self.file} is a file of the cache, which belongs to a checkpoint and is no model by itself; "
                "name the checkpoint, or pack it with geminate pack"
            )
        return found

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Checkpoint`."""
        return (self.file,)

    @property
    def layouts(self) -> Mapping[WeightFormat, str]:
        """The name of the layout of each format in the file."""
        found = self.content.about.get("layout")
        return cast(Mapping[WeightFormat, str], found) if isinstance(found, dict) else {}

    @property
    def formats(self) -> Mapping[str, WeightFormat]:
        """The format of every matrix and table.

        Raises:
            WeightsError: one that this program does not have.
        """
        found = {name: info["format"] for name, info in self.content.tensors.items() if "format" in info}
        for name, fmt in found.items():
            if not isinstance(fmt, str) or fmt not in FORMATS:
                raise WeightsError(f"{self.file}: {name} has the format {shown(fmt)}, which is not known here")
        return cast(Mapping[str, WeightFormat], found)

    @functools.cached_property
    def tensors(self) -> Mapping[str, PackedEntry]:
        """See `Checkpoint`; vectors and matrices as they were packed, under canonical names."""
        formats = self.formats
        try:
            return {name: self._entry(name, info, formats.get(name)) for name, info in self.content.tensors.items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise WeightsError(f"{self.file} has a header that makes no sense; {WAY_OUT}") from None

    def _entry(self, name: str, info: Mapping[str, Any], fmt: WeightFormat | None) -> PackedEntry:
        arrays = self.content.arrays
        if fmt is None:
            codes = arrays[name]
            dtype = "I32" if codes.data.dtype == np.int32 else "F32"
            return PackedEntry(name=name, dtype=dtype, shape=codes.data.shape, nbytes=codes.data.nbytes,
                               offset=codes.offset, planes={"codes": codes.data})  # fmt: skip
        whole = info["role"] == "row_table" and FORMATS[fmt].blocks is not None  # scales stand in the blocks
        names = ("codes",) if whole else FORMATS[fmt].planes
        planes = {plane: arrays[name if plane == "codes" else f"{name}#{plane}"] for plane in names}
        n, k, stack = (int(info[key]) for key in ("n", "k", "stack"))
        layout = None
        if info["role"] != "row_table":
            layout = layout_named(str(self.layouts.get(fmt)), fmt)
            if layout is None:
                raise WeightsError(
                    f"{self.file} was packed in the layout {shown(self.layouts.get(fmt))}, which this version "
                    "does not have; pack the checkpoint again"
                )
        experts = info["role"] == "experts"
        order = arrays[ORDERING].data if stack > 1 and not experts and layout is not None else None
        if order is not None and not is_permutation(order, stack * n):
            raise ValueError
        return PackedEntry(
            name=name,
            dtype=fmt.upper(),
            shape=(stack, n, k) if experts else (stack * n, k),
            stack=stack,
            order=order,
            nbytes=sum(plane.data.nbytes for plane in planes.values()),
            offset=planes["codes"].offset,
            grid=None if fmt == "bf16" else fmt,
            planes={plane: array.data for plane, array in planes.items()},
            format=fmt,
            layout=layout,
            carried={key: info[key] for key in CARRIED if key in info},
        )

    @property
    def mark(self) -> str | None:
        """What tells these weights from those of a fine-tune: that of the checkpoint; None where it is not noted."""
        found = self.content.about.get("mark")
        return found if isinstance(found, str) else None

    def licence(self) -> Mapping[str, str]:
        """See `Checkpoint`."""
        said = self.content.about.get("licence")
        found = {key: str(value) for key, value in said.items()} if isinstance(said, dict) else {}
        text = self.packed.document(self.part, LICENCE)
        return found if text is None else {**found, "text": text.decode(errors="replace")}

    @functools.cached_property
    def origin(self) -> Mapping[str, Any]:
        """See `Checkpoint`: that of what was packed."""
        found = self.content.about.get("origin")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedEntry:
    """A tensor of a packed file; an `Entry`.

    Attributes:
        planes: its arrays. format, layout: None for a vector; layout None for a row table, which is row-major.
        stack: matrices in the planes, one behind the other. order: int32 [rows], the row at each place where they hold
            clusters of the rows; None: in the order of the rows.
        carried: what else the header says of it: activation scales, scales of a row.
    """

    whole_norm: ClassVar[bool] = True
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    planes: Mapping[str, np.ndarray]
    grid: Grid | None = None
    format: WeightFormat | None = None
    layout: Layout | None = None
    stack: int = 1
    order: np.ndarray | None = None
    carried: Mapping[str, Any] = field(default_factory=dict)

    def map(self) -> np.ndarray:
        """See `Entry`; of a row table its packed codes, as they are stored.

        Raises:
            WeightsError: a quantized matrix.
        """
        if self.layout is None:
            return self.planes["codes"]
        if self.format != "bf16":
            raise WeightsError(f"{self.name} is quantized; it must not be")
        return self.stored(0, self.shape[0]).values.reshape(self.shape)

    @functools.cached_property
    def _unclustered(self) -> Codes:
        """All rows in the order of the token ids."""
        assert self.order is not None
        whole = self._of(range(self.stack), self.shape[0] // self.stack)
        back = np.empty(len(self.order), dtype=np.int32)
        back[self.order] = np.arange(len(self.order), dtype=np.int32)
        return _taken(whole, back)

    def _of(self, matrices: Iterable[int], n: int) -> Codes:
        assert self.layout is not None
        each = {name: plane.reshape(self.stack, -1) for name, plane in self.planes.items()}
        k = self.shape[-1]
        return _joined(
            [self.layout.unpack({name: plane[which] for name, plane in each.items()}, n, k) for which in matrices]
        )

    def stored(self, start: int, stop: int) -> Codes:
        """`Codes` of rows start..stop of the leading axis, all rows of several matrices in one."""
        assert self.format is not None
        rows = np.arange(start, min(stop, self.shape[0]), dtype=np.int32)
        if self.layout is None:
            return self._table.codes(rows)
        if self.order is not None:
            return _taken(self._unclustered, rows)
        n, k = self.shape[-2:]
        return self.layout.unpack(self.planes, n, k, rows) if len(self.shape) == 2 else self._of(rows, n)

    @property
    def _table(self) -> RowTable:
        assert self.format is not None
        rows, width = self.shape
        return RowTable(format=self.format, rows=rows, width=width, planes=self.planes)

    def rows(self, start: int, stop: int) -> F32:
        """See `Entry`."""
        if self.format is None:
            return self.planes["codes"][start:stop].astype(np.float32)
        if self.layout is None:
            return self._table.dequantized_rows(np.arange(start, min(stop, self.shape[0]), dtype=np.int32))
        wide = FORMATS[self.format].dequantize(self.stored(start, stop))
        return wide[:, : self.shape[-1]].reshape(-1, *self.shape[1:])

    def codes(self, start: int, stop: int) -> tuple[I8, U16 | F32]:
        """See `Entry`."""
        if self.grid is None:
            raise WeightsError(f"{self.name} is {self.dtype}, which has no codes")
        found = self.stored(start, stop)
        assert found.scales is not None
        front = (-1, *self.shape[1:-1])
        values = found.values[:, : self.shape[-1]]
        return cast(I8, values.reshape(*front, self.shape[-1])), found.scales.reshape(*front, found.scales.shape[-1])


def _joined(parts: Sequence[Codes]) -> Codes:
    """`Codes` of several matrices, one below the other."""
    fields = {f.name: [getattr(part, f.name) for part in parts] for f in dataclasses.fields(Codes)}
    joined: dict[str, Any] = {name: None if of[0] is None else np.concatenate(of) for name, of in fields.items()}
    return Codes(**joined)


def _taken(codes: Codes, rows: np.ndarray) -> Codes:
    """Some rows of `Codes`."""
    fields = {f.name: getattr(codes, f.name) for f in dataclasses.fields(Codes)}
    taken: dict[str, Any] = {name: None if value is None else value[rows] for name, value in fields.items()}
    return Codes(**taken)
