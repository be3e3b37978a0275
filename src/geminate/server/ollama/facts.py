"""What Ollama's clients ask about the model."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from geminate.checkpoint.gguf import GgufCheckpoint
from geminate.checkpoint.packed import PackedCheckpoint
from geminate.server.state import Model

NEVER = "9999-12-31T23:59:59Z"
"""When the model is unloaded."""
_PARAMETERS = ("temperature", "top_k", "top_p")


def _family(model: Model) -> str:
    source = model.llm.pair.source
    return str(source.raw.get("model_type") or "unknown") if source is not None else "unknown"


def _count(model: Model) -> int:
    return sum(model.llm.pair.target.store.parameters_by_kind().values())


def _details(model: Model) -> dict[str, Any]:
    source, family, count = model.llm.pair.source, _family(model), _count(model)
    kind = "safetensors"
    if source is not None and isinstance(source.checkpoint, GgufCheckpoint):
        kind = "gguf"
    elif source is not None and isinstance(source.checkpoint, PackedCheckpoint):
        kind = "geminate"
    return {
        "parent_model": "",
        "format": kind,
        "family": family,
        "families": [family],
        "parameter_size": f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M",
        "quantization_level": model.llm.pair.target.store.format,
    }


def tag(model: Model) -> dict[str, Any]:
    """The entry of ``/api/tags``; ``size`` is that of the weights in memory, ``digest`` changes with the model."""
    return {
        "name": model.id,
        "model": model.id,
        "modified_at": _time(model),
        "size": sum(model.llm.pair.target.store.bytes_by_format().values()),
        "digest": hashlib.sha256(model.fingerprint.encode()).hexdigest(),
        "details": _details(model),
    }


def running(model: Model) -> dict[str, Any]:
    """The entry of ``/api/ps``."""
    made = {name: value for name, value in tag(model).items() if name != "modified_at"}
    return {**made, "expires_at": NEVER, "size_vram": 0, "context_length": model.context}


def shown(model: Model) -> dict[str, Any]:
    """The body of ``/api/show``."""
    config, family = model.llm.config, _family(model)
    source, dialect = model.llm.pair.source, model.tokenizer.dialect
    templates = {} if source is None else dict(source.checkpoint.templates())
    chat = model.llm.template is not None
    able = {
        "completion": True,
        "tools": chat and dialect.tools is not None,
        "thinking": chat and dialect.reasoning is not None,
    }
    defaults = asdict(config.generation)
    return {
        "modelfile": f"# Served by Geminate, which reads no Modelfile.\nFROM {model.id}\n",
        "parameters": "\n".join(f"{name} {defaults[name]}" for name in _PARAMETERS if defaults.get(name) is not None),
        "template": templates.get("default", ""),
        "details": _details(model),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": _count(model),
            f"{family}.context_length": model.context,
            f"{family}.embedding_length": config.hidden_size,
            f"{family}.block_count": len(config.layers),
            f"{family}.vocab_size": config.vocab_size,
        },
        "capabilities": [name for name, able_to in able.items() if able_to],
        "modified_at": _time(model),
    }


def _time(model: Model) -> str:
    return datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")
