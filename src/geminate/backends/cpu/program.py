"""The native backend: plans handed to the C++ program, arrays checked and kept alive on the way."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

import numpy as np

from geminate.arrays import F32, I32, U8, U16
from geminate.backends.cpu.sampler import NativeSampler
from geminate.backends.kv_rings import RingFactory, table
from geminate.backends.tiles import LAYOUTS, TileLayout
from geminate.cores import pick_threads
from geminate.decoding.draft_rule import DraftRule, DraftStop
from geminate.errors import BackendError
from geminate.formats.matrix import PackedMatrix, Planes, RowTable
from geminate.formats.table import WeightFormat
from geminate.kv.store import KVDtype, KVFactory, KVStore, SlotSpec
from geminate.plan import nodes as p
from geminate.plan.batch import Batch

if TYPE_CHECKING:
    import geminate._native as _native

    _failure: str
else:
    _failure = ""
    try:
        _native = importlib.import_module("geminate._native")
    except ModuleNotFoundError:  # built with GEMINATE_NATIVE=0, or for another Python
        _native = None
    except ImportError as error:  # built for another processor or system
        _native, _failure = None, str(error)


def native_available() -> bool:
    """Whether the kernels are built."""
    return _native is not None


def why_not_native() -> str:
    """Why there are no kernels, and what to do; a sentence without its subject."""
    cause = f"cannot be loaded ({_failure})" if _failure else "are not built"
    return (
        f"{cause}; install a wheel for this machine, or reinstall with a C++ compiler present and without "
        "GEMINATE_NATIVE=0 (docs/install.md)"
    )


def native_file() -> str | None:
    """Path of the native module; None where it is not built."""
    return _native.__file__ if native_available() else None


def native_arithmetic() -> int | None:
    """The native module's number of the arithmetic; None where it is not built."""
    return _native.arithmetic() if native_available() else None


def supported_isas() -> list[str]:
    """Instruction sets of this build that this machine runs, best first."""
    return _native.supported_isas() if native_available() else []


def report_bus_errors(head: str, tail: str = "") -> None:
    """Write a line to stderr before the process dies of SIGBUS, as it does when a mapped file is shortened.

    Args:
        head: the line, or what stands in front of the time. tail: what stands behind the time; empty: no time.
    """
    if native_available():  # the reference has no place from which a signal can be reported
        _native.report_bus_errors(head, tail)


class NativeBackend:
    """Compiles plans for the C++ kernels.

    Args:
        threads: worker threads; None is `pick_threads`.
        isa: instruction set, None is GEMINATE_ISA or the best this machine has.

    Raises:
        BackendError: kernels not built, or an instruction set this machine lacks.
    """

    name = "native"

    def __init__(self, threads: int | None = None, isa: str | None = None) -> None:
        if not native_available():
            raise BackendError(f"the native kernels {why_not_native()}")
        legal = supported_isas()
        wanted = isa or os.environ.get("GEMINATE_ISA") or legal[0]
        if wanted not in legal:
            raise BackendError(
                f"GEMINATE_ISA={wanted} is not available here; this machine and build have: {', '.join(legal)}; "
                "without the variable the first of these is taken"
            )
        self.isa = wanted
        self.threads = threads if threads is not None else pick_threads().count
        self._pool = _native.Pool(self.threads)
        self._sampler = NativeSampler(_native.Sampler(self._pool, self.isa), _native.SamplingRule)

    @property
    def sampler(self) -> NativeSampler:
        """See `geminate.backends.base.Backend.sampler`."""
        return self._sampler

    def new_kv(self, slots: tuple[SlotSpec, ...], *, max_rows: int, dtype: KVDtype = "float16") -> KVFactory:
        """See `geminate.backends.base.Backend.new_kv`."""
        return RingFactory(slots, max_rows=max_rows, dtype=dtype)

    def layout(self, fmt: WeightFormat) -> TileLayout:
        """See `geminate.backends.base.Backend.layout`."""
        return LAYOUTS[fmt]

    def compile(self, plan: p.Plan, *, max_rows: int) -> NativeProgram:
        """A native program for ``plan``."""
        return NativeProgram(plan, self, max_rows=max_rows)

    def read_seconds(self, data: np.ndarray) -> float:
        """Seconds in which all threads together read ``data`` (uint8 [n]) once."""
        return self._pool.read_seconds(self.isa, data)

    def multiply_rate(self, rounds: int = 1 << 16) -> float:
        """int8 multiply-accumulates a second of all threads, operands in registers; 4,096 a round and thread."""
        return self._pool.multiply_rate(self.isa, rounds)

    @property
    def pool(self) -> _native.Pool:
        """The thread pool that all programs of this backend share."""
        return self._pool


def _planes(planes: Planes) -> tuple[U8, U16 | None, F32 | None]:
    """Codes as bytes, scales of groups and scales of rows, flat."""
    codes = np.ascontiguousarray(planes["codes"]).reshape(-1).view(np.uint8)
    if "scales" not in planes:
        return codes, None, None
    scales = np.ascontiguousarray(planes["scales"]).reshape(-1)
    return (codes, None, scales) if scales.dtype == np.float32 else (codes, scales, None)


class NativeProgram:
    """See `geminate.backends.base.Program`."""

    def __init__(self, plan: p.Plan, backend: NativeBackend, *, max_rows: int) -> None:
        self.plan = plan
        self.max_rows = max_rows
        self._matrices: dict[tuple[int, range], _native.Matrix] = {}
        self._keep: list[object] = []
        self._index = {name: i for i, name in enumerate(plan.widths)}
        self._program = _native.Program(backend.pool, backend.isa, max_rows, list(plan.widths.values()))
        self._tap_names: list[str] = []
        for node in plan.nodes:
            self._add(node)
        candidates = -1 if plan.candidate_ids is None else self._index[plan.candidate_ids]
        hidden, logits = self._index[plan.hidden], self._index[plan.logits]
        self._program.finish(hidden, logits, candidates, self._index.get("hidden_in", -1), sorted({hidden, logits}))

    def _matrix(self, w: PackedMatrix, rows: range | None = None) -> _native.Matrix:
        rows = range(w.n) if rows is None else rows
        key = (id(w), rows)
        if key not in self._matrices:
            layout = LAYOUTS[w.format]
            if w.layout is not layout:
                raise BackendError(f"weights in the layout {w.layout.name!r}; the native kernels read another")
            part = layout.part(w, rows)
            activations = (w.input_scale, w.output_scale)
            self._matrices[key] = _native.Matrix(w.format, part.n, w.k, w.stack, *_planes(part.planes), *activations)
            self._keep.append(w)
        return self._matrices[key]

    def _table(self, t: RowTable) -> _native.RowTable:
        return _native.RowTable(t.format, t.rows, t.width, *_planes(t.planes))

    def _add(self, node: p.Node) -> None:
        add, at = self._program, self._index
        match node:
            case p.Embed(table=RowTable() as table):
                add.lookup(at[node.out], self._table(table), node.scale, 0)
            case p.Embed(table=PackedMatrix() as matrix):
                add.embed(at[node.out], self._matrix(matrix), node.scale)
            case p.RowLookup():
                add.lookup(at[node.out], self._table(node.table), node.scale, node.column)
            case p.Concat():
                add.concat(at[node.a], at[node.b], at[node.out])
            case p.RmsNorm():
                weight = None if node.weight is None else np.ascontiguousarray(node.weight, np.float32)
                add.norm(at[node.x], at[node.out], weight, node.eps, node.groups)
            case p.Linear():
                rows = range(node.first, node.first + self.plan.widths[node.out])
                add.linear(at[node.x], at[node.out], self._matrix(node.w, rows), node.scale)
            case p.AddScaled():
                add.add(at[node.a], at[node.b], at[node.out], node.scale)
            case p.GeluMul():
                add.gelu(at[node.gate], at[node.up], at[node.out], node.up_offset)
            case p.Rope():
                add.rope(at[node.x], node.groups, node.rope)
            case p.KvStore():
                add.kv_store(at[node.k], at[node.v], node.slot, self._kv_heads(node.slot))
            case p.Attention():
                shape = (node.heads, node.kv_heads, node.head_dim)
                add.attention(at[node.q], at[node.out], node.slot, *shape, node.window, node.include_self)
            case p.Experts():
                scale = np.ascontiguousarray(node.per_expert_scale, np.float32)
                add.experts(
                    at[node.x],
                    at[node.scores],
                    at[node.out],
                    self._matrix(node.gate_up),
                    self._matrix(node.down),
                    node.top_k,
                    scale,
                )
            case p.Softcap():
                add.softcap(at[node.x], node.cap)
            case p.GatherRows():
                add.gather(at[node.x])
            case p.CentroidHead():
                order = np.ascontiguousarray(node.ordering, np.int32)
                add.centroid_head(
                    at[node.x],
                    at[node.out],
                    at[node.ids],
                    self._matrix(node.centroids),
                    self._matrix(node.table),
                    order,
                    node.top_k,
                )
            case p.Tap():
                add.tap(at[node.x], len(self._tap_names))
                self._tap_names.append(node.name)

    def _kv_heads(self, slot: int) -> int:
        return next(n.kv_heads for n in self.plan.nodes if isinstance(n, p.Attention) and n.slot == slot)

    def _ropes(self, positions: int) -> tuple[list[F32], list[F32]]:
        tables = [rope.rows(positions) for rope in self.plan.ropes]
        return [cos for cos, _ in tables], [sin for _, sin in tables]

    def run(self, batch: Batch, *, taps: dict[str, F32] | None = None) -> tuple[F32, F32]:
        """See `geminate.backends.base.Program.run`.

        Raises:
            BackendError: rows that bring their own embeddings, which the kernels do not take yet.
            ValueError: taps of a pass that does not want every row.
        """
        if batch.embeddings is not None:
            raise BackendError("the native kernels take token ids only; given embeddings need GEMINATE_ISA=reference")
        ids, caches = batch.ids, batch.caches
        widths = self.plan.widths
        hidden = np.empty((len(batch.wanted), widths[self.plan.hidden]), dtype=np.float32)
        logits = np.empty((len(batch.wanted), widths[self.plan.logits]), dtype=np.float32)
        cosines, sines = self._ropes(int(batch.positions.max()) + 1)
        tapped: list[F32] = []
        if taps is not None:
            batch.check_taps()
            buffers = [n.x for n in self.plan.nodes if isinstance(n, p.Tap)]
            tapped = [np.empty((len(ids), widths[b]), dtype=np.float32) for b in buffers]
            taps.update(zip(self._tap_names, tapped, strict=True))
        tables = table(caches[0])[None] if len(caches) == 1 else np.stack([table(cache) for cache in caches])
        self._program.run(
            ids,
            batch.positions,
            batch.sequences,
            batch.wanted,
            tables,
            cosines,
            sines,
            hidden,
            logits,
            tapped,
            batch.largest,
        )
        return hidden, logits

    def _draft(
        self,
        token: int,
        hidden: F32,
        position: int,
        rope_position: int,
        cache: KVStore,
        k: int,
        rule: DraftRule,
        stop: DraftStop | None = None,
    ) -> tuple[I32, F32, F32, F32, I32]:
        ids = np.empty(k, dtype=np.int32)
        probabilities = np.empty(k, dtype=np.float32)
        logits = np.empty(self.plan.widths[self.plan.logits], dtype=np.float32)
        following = np.empty(self.plan.widths[self.plan.hidden], dtype=np.float32)
        count = 0 if self.plan.candidate_ids is None else len(logits)
        candidates = np.empty(count, dtype=np.int32)
        cosines, sines = self._ropes(rope_position + 1)
        calibration, ahead, need = (None,) * 3 if stop is None else (stop.calibration, stop.ahead, stop.need)
        made = self._program.draft(
            token,
            hidden,
            position,
            rope_position,
            table(cache)[None],
            cosines,
            sines,
            k,
            rule.temperature,
            rule.top_k,
            rule.top_p,
            rule.min_p,
            rule.seed,
            rule.choice,
            calibration,
            ahead,
            need,
            ids,
            probabilities,
            logits,
            following,
            candidates,
        )
        return ids[:made], probabilities[:made], logits, following, candidates

    def draft(
        self,
        token: int,
        hidden: F32,
        position: int,
        rope_position: int,
        cache: KVStore,
        k: int,
        rule: DraftRule,
        stop: DraftStop | None = None,
    ) -> tuple[I32, F32]:
        """See `geminate.backends.base.Program.draft`."""
        return self._draft(token, hidden, position, rope_position, cache, k, rule, stop)[:2]

    @property
    def expert_reads(self) -> int:
        """Experts that the last pass read, over all layers."""
        return self._program.expert_reads()

    def draft_step(
        self, token: int, hidden: F32, position: int, rope_position: int, cache: KVStore
    ) -> tuple[I32, F32, F32]:
        """See `geminate.backends.base.Program.draft_step`."""
        _, _, logits, following, candidates = self._draft(token, hidden, position, rope_position, cache, 1, DraftRule())
        if self.plan.candidate_ids is None:
            candidates = np.arange(len(logits), dtype=np.int32)
        return candidates, logits, following
