"""What the answers of a loaded pair depend on beside the request, as hashes that are the same on every machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geminate import __version__
from geminate.audit.lines import canonical, digest
from geminate.kv.store import ARITHMETIC
from geminate.llm import LLM
from geminate.loading.locate import EMBEDDED

_NO_MATTER = ("max_position_embeddings", "generation")  # a request has them resolved
NEEDED = ("arithmetic", "kv", "backend", "config", "tokenizer")
"""Facts that must agree for the same answers."""


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """Of a loaded pair.

    Attributes:
        weights: hash of names, formats and checksums of the packed weights. program: hash of the facts.
        facts: what it is made of: version, arithmetic, KV format, backend, and hashes of configuration, tokenizer and
            chat template.
    """

    weights: str
    program: str
    facts: Mapping[str, Any]

    def start(self, model: str | Path | None, preset: str, **more: Any) -> dict[str, Any]:
        """Fields of a record that begins a run of the program.

        Args:
            model, preset: what was loaded, in the words of `geminate.loading.options.LoadOptions`.
        """
        name = EMBEDDED if model is None else os.path.abspath(model) if os.path.exists(model) else str(model)
        own = {"weights": self.weights, "program": self.program, "facts": dict(self.facts)}
        return {**own, "model": name, "preset": preset, **more}


def weights_fingerprint(llm: LLM) -> str:
    """Hash of names, formats and checksums of the packed weights; the drafter is left out, since it changes no bit.

    Tensors that stay in the checkpoint have no checksum: name and size of its files stand for them.
    """
    target, source = llm.pair.target, llm.pair.source
    checkpoint = None if source is None else source.checkpoint
    files = [stamp[:2] for stamp in checkpoint.stamps] if checkpoint is not None and target.store.unchecked else []
    return digest(canonical([target.store.contents, files]))


def fingerprints(llm: LLM) -> Fingerprints:
    """The fingerprints of what an LLM has loaded."""
    target, source, tokenizer = llm.pair.target, llm.pair.source, llm.tokenizer
    checkpoint = None if source is None else source.checkpoint
    config = {name: value for name, value in asdict(target.config).items() if name not in _NO_MATTER}
    templates = {} if checkpoint is None else dict(checkpoint.templates())
    facts = {
        "version": __version__,
        "arithmetic": ARITHMETIC,
        "kv": target.kv_format,
        "backend": target.backend.name,
        "config": digest(repr(sorted(config.items())).encode()),
        "tokenizer": None if tokenizer is None else digest(tokenizer.to_json().encode()),
        "template": digest(canonical(templates)) if templates else None,
    }
    return Fingerprints(weights=weights_fingerprint(llm), program=digest(canonical(facts)), facts=facts)
