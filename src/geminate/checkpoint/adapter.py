"""LoRA adapters in PEFT's layout: adapter_config.json, and adapter_model.safetensors with low-rank parts by module.

``base_model.model.MODULE.lora_A.weight`` [r, k] and ``.lora_B.weight`` [n, r] add scale * B @ A to the weight [n, k];
``.lora_embedding_A`` [r, rows] and ``.lora_embedding_B`` [width, r] add scale * (B @ A).T to a table; the scale is
alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv:2312.03732). ``.lora_magnitude_vector`` [n] is DoRA's
(arXiv:2402.09353). Other ``MODULE.weight`` are whole weights (``modules_to_save``). The layout is that of peft 0.21.2,
tuners/lora.

The tensors say which modules are changed, not ``target_modules``: PEFT writes those of no others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geminate.arrays import F32
from geminate.checkpoint.json_file import read_object
from geminate.checkpoint.name_patterns import compiled
from geminate.checkpoint.parts import FLOATS
from geminate.checkpoint.quantization_fields import object_field, one_of, only_known
from geminate.checkpoint.safetensors_reader import TensorEntry, read_files
from geminate.errors import ConfigError, ModelNotFoundError, ParameterError, WeightsError, shown

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
MAX_PATTERNS = 10_000
# Fields that say how the adapter was made and which modules it has; of the others, those that are set are refused.
KNOWN = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "modules_to_save", "fan_in_fan_out", "bias", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
    "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "megatron_core", "qalora_group_size", "ensure_weight_tying", "parent_library",
)  # fmt: skip
# Other ways to begin take a part out of the base's weights, which the adapter then holds.
BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
_PARTS = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?|weight)"
)


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """What is added to a module's weight [n, k], or a table's.

    Attributes:
        left, right: B [n, r] and A [r, k]; of tables A transposed, [rows, r], and B, [width, r], see ``table``.
        scale: factor of the product. magnitude: DoRA's norms [n].
    """

    left: TensorEntry
    right: TensorEntry
    scale: float
    magnitude: TensorEntry | None = None
    table: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight that it belongs to."""
        if self.table:
            return self.left.shape[1], self.right.shape[0]
        return self.left.shape[0], self.right.shape[1]

    def rows(self, start: int, stop: int) -> F32:
        """Rows start..stop of the product, float32.

        Ranks are added one after the other in float32, not by a library whose order depends on the processor: the
        merged weights are the same bits everywhere.
        """
        left, right = _whole(self.left), _whole(self.right)
        left, right = (left.T[start:stop], right.T) if self.table else (left[start:stop], right)
        total = np.zeros((len(left), right.shape[1]), dtype=np.float32)
        product = np.empty_like(total)
        for rank in range(right.shape[0]):
            np.multiply(left[:, rank, None], right[rank], out=product)
            total += product
        total *= np.float32(self.scale)
        return total


def _whole(entry: TensorEntry) -> F32:
    return entry.rows(0, entry.shape[0])


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One adapter and its weight among others.

    Attributes:
        path: its directory. weight: factor of what it adds.
        low_rank: by module, named as in the base model. saved: whole weights by module.
        tied: an embedding that it holds is the head too.
    """

    path: Path
    weight: float
    low_rank: Mapping[str, LowRank] = field(repr=False)
    saved: Mapping[str, TensorEntry] = field(repr=False)
    tied: bool

    @property
    def stamp(self) -> list[Any]:
        """As `Checkpoint.stamps` has them, the weight in the name."""
        stats = (self.path / WEIGHTS).stat()
        settings = (self.path / CONFIG).stat()
        name = f"{WEIGHTS} * {self.weight!r}, {settings.st_size} {settings.st_mtime_ns}"
        return [name, stats.st_size, stats.st_mtime_ns, stats.st_ctime_ns, stats.st_ino]


def read_adapters(named: Sequence[str | Path]) -> tuple[Adapter, ...]:
    """Adapters by directory, each perhaps with ``=WEIGHT`` behind it, in the order in which they are merged.

    Raises:
        ParameterError: a weight that is no number, or an adapter named twice. ModelNotFoundError, ConfigError,
            WeightsError: no adapter, or one that cannot be merged; what stands in the way is named.
    """
    found = tuple(_read(*_named(each)) for each in named)
    if len({each.path.resolve() for each in found}) < len(found):
        raise ParameterError("adapter names a directory twice; give it once, with the sum of the weights")
    return found


def _named(text: str | Path) -> tuple[Path, float]:
    given = str(text)
    place, equals, factor = given.rpartition("=")
    if not equals or Path(given).expanduser().exists():
        return Path(given).expanduser(), 1.0
    try:
        weight = float(factor)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ParameterError(f"adapter {shown(given)} has the weight {shown(factor)}; it must be a number")
    return Path(place).expanduser(), weight


def _read(path: Path, weight: float) -> Adapter:
    config = read_object(path / CONFIG)
    if config is None:
        what = f"it has no {CONFIG}" if path.is_dir() else "there is no such directory"
        raise ModelNotFoundError(
            f"{path} is no adapter: {what} (an adapter on a hub is downloaded first: hf download NAME --local-dir DIR)"
        )
    try:
        _check(config)
        alphas = _alphas(config)
    except ConfigError as error:
        raise ConfigError(f"{path / CONFIG}: {error}") from None
    if not (path / WEIGHTS).is_file():
        other = "; adapter_model.bin is not read: load it in PEFT and save_pretrained it" if any(
            path.glob("adapter_model.bin")
        ) else ""  # fmt: skip
        raise ModelNotFoundError(f"{path} has no {WEIGHTS}{other}")
    modules = _by_module(read_files([path / WEIGHTS]))
    low_rank, saved = {}, {}
    for module, parts in modules.items():
        if set(parts) == {"weight"}:
            saved[module] = parts["weight"]
        else:
            low_rank[module] = _low_rank(module, parts, config, alphas, weight)
    if saved and weight != 1:
        raise ConfigError(
            f"{path} holds whole weights ({next(iter(saved))}: modules_to_save), which the weight {weight:g} cannot "
            "scale; take the adapter without a weight"
        )
    # An embedding that was saved without being trained is the base's, perhaps with more rows.
    trained = any("embed_tokens" in str(name) for name in config.get("modules_to_save") or ())
    tied = not trained or config.get("ensure_weight_tying") is True
    return Adapter(path=path, weight=weight, low_rank=low_rank, saved=saved, tied=tied)


def _check(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"peft_type {shown(kind)} cannot be merged here; LORA can")
    only_known(config, KNOWN, "the adapter")
    for name in ("use_rslora", "use_dora", "fan_in_fan_out", "ensure_weight_tying"):
        one_of(config, "the adapter", name, False, (None, False, True))
    begun = config.get("init_lora_weights", True)
    if begun not in BEGINNINGS:
        raise ConfigError(
            f"init_lora_weights {shown(begun)} changes the base's weights before training; convert the adapter in PEFT "
            "(save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if config.get("bias", "none") != "none":
        raise ConfigError(f"bias {shown(config['bias'])} cannot be merged: Gemma's layers have none")
    for name in ("r", "lora_alpha"):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise ConfigError(f"{name} must be a positive number, not {shown(value)}")


Alphas = list[tuple[re.Pattern[str], float]]


def _alphas(config: Mapping[str, Any]) -> Alphas:
    """Patterns of ``alpha_pattern``; the first that matches a module's name or its end decides, as in PEFT."""
    where = "alpha_pattern"
    given = object_field(config.get(where) or {}, where)
    object_field(config.get("rank_pattern") or {}, "rank_pattern")  # a rank shows in the tensors
    if len(given) > MAX_PATTERNS:
        raise ConfigError(f"{where} has {len(given):,} entries; at most {MAX_PATTERNS:,} are read")
    found: Alphas = []
    for pattern, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise ConfigError(f"{where}[{shown(pattern)}] must be a positive number, not {shown(value)}")
        compiled(pattern, where)
        found.append((re.compile(rf"(?:.*\.)?(?:{pattern})$"), float(value)))
    return found


def _by_module(entries: Mapping[str, TensorEntry]) -> dict[str, dict[str, TensorEntry]]:
    modules: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in entries.items():
        match = _PARTS.fullmatch(name.removeprefix(PREFIX))
        if match is None or entry.dtype not in FLOATS:
            raise WeightsError(f"{entry.path}: {name} ({entry.dtype}) cannot be merged")
        # An embedding that was saved although it did not change stands under the name of the wrapped layer.
        module = match["module"].removesuffix(".base_layer").removesuffix(".modules_to_save")
        part = match["part"].removesuffix(".weight") if match["part"] != "weight" else "weight"
        if part in modules.setdefault(module, {}):
            raise WeightsError(f"{entry.path}: {module} has {part} twice")
        modules[module][part] = entry
    return modules


def _low_rank(
    module: str, parts: Mapping[str, TensorEntry], config: Mapping[str, Any], alphas: Alphas, weight: float
) -> LowRank:
    path = next(iter(parts.values())).path
    table = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    a, b = ("lora_embedding_A", "lora_embedding_B") if table else ("lora_A", "lora_B")
    may = {a, b} if table else {a, b, "lora_magnitude_vector"}
    dora = config.get("use_dora") is True
    if set(parts) != (may if dora else {a, b}):
        expected = ", ".join(sorted(may if dora else {a, b}))
        what = " (DoRA of an embedding cannot be merged)" if table and dora else ""
        raise WeightsError(f"{path}: {module} has {', '.join(sorted(parts))}; {expected} are merged{what}")
    if table and dora:
        raise WeightsError(f"{path}: DoRA of the embedding {module} cannot be merged")
    down, up, magnitude = parts[a], parts[b], parts.get("lora_magnitude_vector")
    if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
        raise WeightsError(f"{path}: {module} has {a} {list(down.shape)} and {b} {list(up.shape)}, which do not fit")
    if magnitude is not None and magnitude.shape != (up.shape[0],):
        raise WeightsError(f"{path}: {module} has lora_magnitude_vector {list(magnitude.shape)} for {up.shape[0]} rows")
    rank = down.shape[0]
    alpha = next((value for pattern, value in alphas if pattern.match(module)), float(config["lora_alpha"]))
    scale = weight * (alpha / math.sqrt(rank) if config.get("use_rslora") is True else alpha / rank)
    left, right = (down, up) if table else (up, down)
    return LowRank(left=left, right=right, scale=scale, magnitude=magnitude, table=table)


def adapter_note(adapter: Adapter) -> str:
    """What to say of an adapter that is merged."""
    factor = "" if adapter.weight == 1 else f" with weight {adapter.weight:g}"
    whole = f", {len(adapter.saved)} whole weights" if adapter.saved else ""
    return f"adapter {adapter.path}{factor}: {len(adapter.low_rank)} matrices{whole}"
