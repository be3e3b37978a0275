"""Whether target and drafter were made for each other: what the drafter records, else what the names say.

The output never depends on it. Acceptance does: a drafter predicts the text of the weights that it was trained for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geminate.checkpoint.packed import PackedCheckpoint
from geminate.families.base import Model
from geminate.families.registry import open_model
from geminate.loading.hub.names import drafter_repositories
from geminate.loading.hub.snapshots import repository_of
from geminate.loading.load import Pair
from geminate.loading.locate import embedded_pair

RECORD = "geminate"  # object of a trained drafter's config.json
SURVIVAL = "survival"  # in it: shares of accepted draft tokens by position on the held-out prompts
PROBE = 4096  # bytes of each tensor that enter the mark
MOBILE = "mobile"
_WAY_OUT = "expect fewer accepted draft tokens, or train one for this target: geminate train drafter"


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """What is known of a pair.

    Attributes:
        matched: whether the drafter was made for the target's weights; None: nothing says.
        note: one line for users.
    """

    matched: bool | None
    note: str


def weights_mark(source: Model) -> str:
    """A hash that tells a model's weights from those of a fine-tune or another quantization, however they are packed.

    The first `PROBE` bytes of every stored text tensor enter, with names, types and shapes. A packed file has that of
    the checkpoint that was packed.
    """
    if isinstance(source.checkpoint, PackedCheckpoint) and source.checkpoint.mark is not None:
        return source.checkpoint.mark
    digest = hashlib.sha256()
    for name, entry in sorted(source.tensors.items()):
        if any(part in name for part in ("vision", "audio")):
            continue
        digest.update(f"{name} {entry.dtype} {entry.shape};".encode())
        rows = max(1, PROBE * entry.shape[0] // max(1, entry.nbytes)) if entry.shape and entry.shape[0] else 0
        if rows and math.prod(entry.shape):
            digest.update(entry.rows(0, rows).tobytes())
    return digest.hexdigest()[:32]


def record(target: Pair) -> Mapping[str, str]:
    """What a drafter that was trained on a loaded target keeps in its config.json, under `RECORD`."""
    if target.source is None:
        return {}
    return {"trained_for": weights_mark(target.source), "weights": target.target.store.format}


def made_survival(pair: Pair) -> tuple[float, ...] | None:
    """Shares of accepted draft tokens by position that the drafter had when it was made; None if it records none."""
    if pair.located.drafter is None:
        return None
    kept = open_model(pair.located.drafter).raw.get(RECORD)
    shares = kept.get(SURVIVAL) if isinstance(kept, Mapping) else None
    if not isinstance(shares, list) or not all(isinstance(s, int | float) and 0 <= s <= 1 for s in shares):
        return None
    return tuple(float(share) for share in shares) or None


def pairing(pair: Pair) -> Pairing | None:
    """What is known of a loaded pair; None without a drafter, or for random weights."""
    if pair.drafter is None or pair.source is None or pair.located.drafter is None:
        return None
    drafter = pair.located.drafter
    if (pair.located.target, drafter) == embedded_pair():
        return Pairing(matched=True, note="the drafter was trained for these weights")
    kept = open_model(drafter).raw.get(RECORD)
    mark = kept.get("trained_for") if isinstance(kept, Mapping) else None
    served = pair.target.store.format
    if isinstance(mark, str):
        if mark != weights_mark(pair.source):
            return Pairing(
                matched=False, note=f"the drafter was trained for other weights, or another file of these; {_WAY_OUT}"
            )
        trained = kept.get("weights") if isinstance(kept, Mapping) else None
        other = "" if trained == served else f", in {trained}: in {served} it may lose a little"
        return Pairing(matched=True, note=f"the drafter was trained for these weights{other}")
    if pair.source.checkpoint.adapters:
        return Pairing(
            matched=False,
            note="the drafter was trained for the target without its adapter; expect fewer accepted draft tokens, or "
            "train one for both: geminate train drafter --adapter",
        )
    mobile = served == MOBILE
    if mobile != (MOBILE in drafter.name.lower()) and (mobile or MOBILE in drafter.name.lower()):
        which = "mobile weights, the drafter's name says other ones" if mobile else "other weights than mobile"
        return Pairing(matched=False, note=f"the target has {which}; {_WAY_OUT}")
    if _base(drafter) == _base(pair.located.target):
        return Pairing(matched=True, note="the drafter has its target's name")
    published = _published(pair.located.target, drafter)
    if published:
        return Pairing(matched=True, note=published)
    return Pairing(matched=None, note="nothing says for which weights the drafter was trained")


def _published(target: Path, drafter: Path) -> str:
    """What the repositories of a pair in a hub cache say; "" for nothing."""
    theirs, its = repository_of(target), repository_of(drafter)
    if theirs is None or its is None:
        return ""
    if theirs == its:
        return "the drafter comes from its target's repository"
    return "the drafter is the one published for these weights" if drafter_repositories(theirs)[:1] == [its] else ""


def _base(path: Path) -> str:
    """A model's name without what tells drafters from targets; of a hub snapshot, the repository's."""
    for part in (path, *path.parents):
        if part.name.startswith("models--"):
            return part.name.removesuffix("-assistant").lower()
    return path.name.removesuffix(".gguf").removesuffix("-assistant").lower()
