"""`geminate pack`: target, drafter, tokenizer, chat template, configurations, licence and origin in one file.

The file is mapped as it is and needs the checkpoint no more. It is written beside its place and renamed: it is whole,
or not there.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from geminate import __version__
from geminate.checkpoint.adapter import read_adapters
from geminate.checkpoint.packed import LICENCE
from geminate.checkpoint.packed_writer import PackedWriter
from geminate.errors import ParameterError, StorageError
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.loading.drafters import check_drafter, drafter_errors
from geminate.loading.load import locate
from geminate.loading.pairing import weights_mark
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.replacing import remove_abandoned, replacing
from geminate.system.locks import turn
from geminate.weights.cache import Message
from geminate.weights.opening import Recipe, trained_codes
from geminate.weights.packing import Layouts, Progress, packed_bytes
from geminate.weights.presets import Preset
from geminate.weights.specs import Matched

MADE = f"geminate {__version__}"
SPARE = 16 << 20  # bytes beside arrays and documents: checksums, header, padding


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What was written.

    Attributes:
        path, nbytes: where, and its bytes. drafter: one line about it. licence: its name, or "".
        formats: tensors of the target by format; of the drafter too, if there is one.
    """

    path: Path
    nbytes: int
    drafter: str
    licence: str
    formats: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class PartSource:
    """A model that goes into a packed file.

    Attributes:
        part: its place there. notes: further fields of its header, such as what was merged into it.
    """

    part: Literal["target", "drafter"]
    source: Model
    config: TargetConfig | AssistantConfig
    weights: Preset
    notes: Mapping[str, Any]

    def documents(self) -> dict[str, bytes]:
        """Small files by name: configurations, and of a target what text needs.

        Raises:
            GeminateError: a damaged tokenizer or configuration. OSError: no temporary directory.
        """
        checkpoint = self.source.checkpoint
        made = {"config.json": _json(dict(self.source.raw))}
        if checkpoint.generation:
            made["generation_config.json"] = _json(dict(checkpoint.generation))
        if self.part == "target":
            with tempfile.TemporaryDirectory(prefix="geminate-") as folder:
                checkpoint.write_text_side(Path(folder))
                made |= {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        if text := checkpoint.licence().get("text"):
            made[LICENCE] = text.encode()
        return made

    def about(self) -> dict[str, Any]:
        """Fields of the header: origin, licence, and the mark that drafters are trained for."""
        licence = {key: value for key, value in self.source.checkpoint.licence().items() if key != "text"}
        origin = dict(self.source.checkpoint.origin)
        return {"origin": origin, "licence": licence, "mark": weights_mark(self.source), **self.notes}


def pack_model(
    model: str | Path | None,
    out: Path,
    *,
    drafter: str | Path | None = "auto",
    weights: Preset = "auto",
    adapters: Sequence[str | Path] = (),
    force: bool = False,
    layouts: Layouts | None = None,
    progress: Progress | None = None,
    on_message: Message | None = None,
) -> Packed:
    """Write a packed file.

    Args:
        model, drafter, weights: as for `geminate.LLM`. out: the file. force: replace it if it exists.
        adapters: merged into the target; see `read_adapters`.
        layouts: in which the file is mapped without conversion; None: those of this machine.
        progress: called with (tensor, bytes done, bytes); what it raises ends the packing.

    Raises:
        GeminateError: with the cause and the way out; nothing is left behind.
    """
    _check_place(out, force)
    located = locate(model, drafter)
    source = open_model(located.target, read_adapters(adapters))
    config = source.target_config()
    merged = [{"name": adapter.path.name, "weight": adapter.weight} for adapter in source.checkpoint.adapters]
    notes: dict[str, Any] = {"adapters": merged} if merged else {}
    parts = [PartSource(part="target", source=source, config=config, weights=weights, notes=notes)]
    if located.drafter is not None:
        with drafter_errors(located.drafter):
            other = open_model(located.drafter)
            check_drafter(config, other)
            parts.append(PartSource(part="drafter", source=other, config=other.drafter_config(), weights=weights,
                                    notes={}))  # fmt: skip
    formats = pack_parts(parts, out, layouts=layouts, progress=progress, on_message=on_message)
    return Packed(
        path=out,
        nbytes=out.stat().st_size,
        drafter=located.drafter_note,
        licence=source.checkpoint.licence().get("name", ""),
        formats=formats,
    )


def pack_parts(
    parts: Sequence[PartSource],
    out: Path,
    *,
    layouts: Layouts | None = None,
    progress: Progress | None = None,
    on_message: Message | None = None,
) -> dict[str, dict[str, int]]:
    """Write models into a file, which is replaced if it exists; tensors by format, by part.

    Raises:
        GeminateError: with the cause and the way out; nothing is left behind.
    """
    say = on_message or (lambda text: None)

    def refuse() -> NoReturn:
        raise StorageError(f"another process writes {out}; wait for it, or name another file")

    prefix = f".{out.name}-"
    formats: dict[str, dict[str, int]] = {}
    try:
        with turn(out.with_name(f".{out.name}.lock"), refuse):
            remove_abandoned(out.absolute().parent, prefix)
            recipes = [Recipe.of(one.source, one.config, one.weights, layouts) for one in parts]
            matched = [recipe.matched(say, progress) for recipe in recipes]
            documents = [one.documents() for one in parts]
            _check_space(out, recipes, matched, documents)
            with replacing(out, prefix, durable=True, public=True) as file:
                writer = PackedWriter(file, MADE)
                for one, recipe, tensors, texts in zip(parts, recipes, matched, documents, strict=True):
                    into = writer.part(one.part, whole=True, about=one.about())
                    for name, raw in texts.items():
                        into.add_document(name, raw)
                    recipe.write(into, tensors, progress)
                    del into.about["fingerprint"]  # of files that may be gone
                    if remark := trained_codes(into.tensors):
                        say(remark)
                    formats[one.part] = _counted(into.tensors)
                writer.finish()
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}; {_way_out(error)}") from None
    return formats


def _way_out(error: OSError) -> str:
    return "name a file in a directory that can be written" if isinstance(error, PermissionError) or (
        error.errno in (errno.EROFS, errno.ENOTDIR)
    ) else "free some space, or name a file on another disk"  # fmt: skip


def _check_place(out: Path, force: bool) -> None:
    """Refuse a file that cannot be written before anything is read."""
    if out.is_dir():
        raise ParameterError(f"{out} is a directory; name a file, such as {out / 'model.geminate'}")
    if not out.absolute().parent.is_dir():
        raise ParameterError(f"there is no directory {out.absolute().parent} to write {out.name} into")
    if out.exists() and not force:
        raise ParameterError(f"{out} exists; name another file, or replace it with --force")


def _check_space(
    out: Path, recipes: Sequence[Recipe], matched: Sequence[Matched], documents: Sequence[Mapping[str, bytes]]
) -> None:
    need = SPARE + sum(len(raw) for texts in documents for raw in texts.values())
    for recipe, found in zip(recipes, matched, strict=True):
        need += packed_bytes(found, recipe.config, recipe.preset, recipe.layouts)
    free = shutil.disk_usage(out.absolute().parent).free
    if need > free:
        raise StorageError(
            f"{out} needs {need / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there; free some space, or name a file "
            "on another disk"
        )


def _counted(tensors: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for info in tensors.values():
        if "format" in info:
            counts[info["format"]] = counts.get(info["format"], 0) + 1
    return counts


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
