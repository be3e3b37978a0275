"""Teacher targets kept on disk between epochs: the target's outputs for a text do not change while a drafter learns.

Running the target is the larger part of training (nearly half of it for Gemma 3 270M, over nine tenths for E2B), and
its outputs are the same bits every time; so each text is run once, while there is room. They take a few KB a token:
hidden states, donors' keys and values in the cache's float16, the most likely tokens.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from geminate.replacing import replacing
from geminate.tools.train.teacher import Teacher, TeacherTargets

TEMPORARY = "."  # names of files that are being written begin with it
SPARE_BYTES = 2 << 30  # disk space that is left free


class TeacherCache:
    """A `Teacher` whose outputs are kept on disk.

    Args:
        directory: where they are kept; None keeps none. limit: maximum number of bytes.
    """

    def __init__(self, teacher: Teacher, directory: Path | None, limit: int) -> None:
        self.teacher, self.directory, self.limit = teacher, directory, limit
        self.used = 0
        if directory is not None and limit > 0:
            directory.mkdir(parents=True, exist_ok=True)
            for left in directory.glob(f"{TEMPORARY}*"):  # of a run that was killed while it wrote
                left.unlink()
            self.used = sum(path.stat().st_size for path in directory.iterdir())

    def targets(self, ids: list[int], prompt: int) -> TeacherTargets:
        """One text; see `TeacherTargets`. The same bits whether kept or made anew."""
        if self.directory is None or self.limit <= 0:
            return self.teacher.targets(ids, prompt)
        raw = torch.tensor(ids, dtype=torch.int32)
        path = self.directory / f"{hashlib.sha256(raw.numpy().tobytes()).hexdigest()[:32]}.safetensors"
        found = self._read(path, raw, prompt)
        if found is None:
            found = self.teacher.targets(ids, prompt)
            self._write(path, raw, found)
        return found

    def clear(self) -> None:
        """Remove what is kept, once the training is done."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _read(self, path: Path, ids: Tensor, prompt: int) -> TeacherTargets | None:
        try:
            kept = load_file(path)
            if not torch.equal(kept["ids"], ids):
                return None
            kinds = [name[5:] for name in kept if name.startswith("keys_")]
            return TeacherTargets(
                ids=ids.long(),
                prompt=prompt,
                embedded=torch.from_numpy(self.teacher.embed(ids.numpy())),
                hidden=kept["hidden"],
                kv={kind: (kept[f"keys_{kind}"].float(), kept[f"values_{kind}"].float()) for kind in kinds},
                top_ids=kept["top_ids"].long(),
                top_logits=kept["top_logits"],
            )
        except (OSError, KeyError, SafetensorError):  # none, or a damaged one: made anew
            return None

    def _write(self, path: Path, ids: Tensor, targets: TeacherTargets) -> None:
        tensors = {
            "ids": ids,
            "hidden": targets.hidden,
            "top_logits": targets.top_logits,
            "top_ids": targets.top_ids.int(),
        }
        for kind, (keys, values) in targets.kv.items():  # they come from a float16 cache
            tensors |= {f"keys_{kind}": keys.half(), f"values_{kind}": values.half()}
        size = sum(t.nbytes for t in tensors.values()) + 2048
        try:
            if self.used + size > self.limit or shutil.disk_usage(path.parent).free < size + SPARE_BYTES:
                return
            with replacing(path, TEMPORARY) as file:
                file.write(save(tensors))
        except (OSError, SafetensorError):  # kept or not, training goes on
            return
        self.used += size
