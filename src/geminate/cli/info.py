"""``geminate info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geminate.checkpoint.packed import PackedCheckpoint
from geminate.cli.console import printable, say, tell, user_errors, write_json
from geminate.cli.flags import ModelArg, loading, options
from geminate.cli.model import load
from geminate.families.base import Model
from geminate.llm import LLM
from geminate.loading.calibrate import kept_profile
from geminate.loading.options import LoadOptions
from geminate.loading.pairing import pairing
from geminate.tools.describe.model import Described, describe_pair
from geminate.tools.describe.sentences import as_json, format_rows, needs_lines, reasons

LOADING = loading("adapter", "drafter", "weights", "kv")


@options(LOADING)
@user_errors()
def info(
    model: ModelArg = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Do not probe this machine where nothing was measured yet.")
    ] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    **given: Any,
) -> None:
    """Shape, parameters and bytes of a model, the drafter found for it, its formats, and how fast it should be here."""
    # The report has the line about the drafter too.
    llm = load(
        LoadOptions(**vars(LOADING.take(given)) | {"model": model}),
        on_message=lambda text: None if text.startswith("drafter:") else say(text),
    )
    llm.check_weights()
    body = describe(llm)
    found = describe_pair(llm.pair, kept_profile(llm.pair), measure=not no_measure, on_message=say)
    if json_out:
        expected = as_json(found)
        write_json(body | {name: expected[name] for name in ("formats", "arithmetic", "file_bytes")})
        return
    for line in [*sentences(body), *needs_lines(found), *_formats(found), *reasons(found)]:
        tell(printable(line))


def _formats(found: Described) -> list[str]:
    """The formats to choose from, a line each."""
    lines = []
    for weights, memory, quality, plain, drafted in format_rows(found):
        speed = (
            ""
            if plain == "-"
            else f", {plain} tokens a second" + (f", {drafted} with drafts" if drafted != "-" else "")
        )
        lines.append(f"--weights {weights}: {memory} in memory{speed}; {quality}")
    return lines


def describe(llm: LLM) -> dict[str, Any]:
    """Everything ``geminate info`` prints."""
    config, store, pair = llm.config, llm.pair.target.store, llm.pair
    kinds = [layer.kind for layer in config.layers]
    body: dict[str, Any] = {
        "model": str(Path(pair.located.target).absolute()),
        "model_type": config.model_type,
        "layers": {"total": len(kinds), "sliding": kinds.count("sliding_attention"),
                   "full": kinds.count("full_attention"),
                   "kv_shared": sum(layer.kv_shared for layer in config.layers)},
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "sliding_window": max(layer.window for layer in config.layers),
        "context": config.max_position_embeddings,
        "experts": None if config.moe is None else {"count": config.moe.num_experts, "top_k": config.moe.top_k},
        "weights": store.format,
        "kv": {"format": pair.target.kv_format,
               "bytes": {str(n): pair.target.kv.nbytes(n) for n in _lengths(config.max_position_embeddings)}},
        "parameters": store.parameters_by_kind(),
        "bytes": store.bytes_by_kind(),
        "on_disk_only": {"row_table": store.bytes_by_kind().get("row_table", 0)},
        "skipped": store.skipped,
        "packed_cache": None if store.path is None else str(store.path),
        "packed_file": _packed_file(pair.source),
        "backend": {"name": pair.target.backend.name, "isa": pair.target.backend.isa,
                    "threads": pair.target.backend.threads},
        "tokenizer": None if llm.tokenizer is None else llm.tokenizer.vocab_size,
        "chat_template": llm.template is not None,
        "drafter": None,
        "drafter_note": pair.located.drafter_note,
    }  # fmt: skip
    if pair.drafter is not None:
        d = pair.drafter
        body["drafter"] = {
            "model": str(Path(pair.located.drafter or "").absolute()),
            "layers": len(d.config.text.layers),
            "hidden_size": d.config.text.hidden_size,
            "centroid_head": d.config.use_ordered_embeddings,
            "weights": d.store.format,
            "parameters": sum(d.store.parameters_by_kind().values()),
            "bytes": sum(d.store.bytes_by_kind().values()),
            "rope_position": d.rope_position,
        }
        if (found := pairing(pair)) is not None:
            body["drafter"]["pairing"] = {"matched": found.matched, "note": found.note}
    return body


def _packed_file(source: Model | None) -> dict[str, Any] | None:
    """What a packed file says of itself; None for other models."""
    if source is None or not isinstance(source.checkpoint, PackedCheckpoint):
        return None
    checkpoint = source.checkpoint
    licence = {key: value for key, value in checkpoint.licence().items() if key != "text"}
    return {
        "parts": list(checkpoint.packed.parts),
        "made_by": checkpoint.packed.made,
        "bytes": checkpoint.packed.nbytes,
        "origin": dict(checkpoint.origin),
        "licence": licence,
    }


def _origin(packed: dict[str, Any] | None) -> list[str]:
    if packed is None:
        return []
    origin, licence = packed["origin"], packed["licence"]
    model = origin.get("hub") or origin.get("name") or "an unknown model"
    said = " ".join(licence[key] for key in ("name", "link") if key in licence)
    return [
        f"packed file: {' and '.join(packed['parts'])}, {_bytes(packed['bytes'])}, made of {model} by "
        f"{packed['made_by']}",
        f"licence: {said or 'the checkpoint named none'}",
    ]


def _lengths(context: int) -> list[int]:
    """Positions for which the KV cache's bytes are told."""
    return sorted({min(4096, context), context})


def sentences(body: dict[str, Any]) -> list[str]:
    """What `describe` found, for people."""
    layers, experts = body["layers"], body["experts"]
    kinds = f"{layers['sliding']} sliding, {layers['full']} full" + (
        f"; {layers['kv_shared']} use the KV cache of others" if layers["kv_shared"] else ""
    )
    row_table = body["on_disk_only"]["row_table"]
    streamed = sum(body["bytes"].values()) - row_table
    backend = body["backend"]
    lines = [
        f"model: {body['model']}",
        f"{body['model_type']}, {_counted(sum(body['parameters'].values()))} parameters, {layers['total']} layers "
        f"({kinds}), hidden size {body['hidden_size']:,}, vocabulary {body['vocab_size']:,}"
        + (f", {experts['top_k']} of {experts['count']} experts a token" if experts else ""),
        f"context: {body['context']:,} tokens, sliding window {body['sliding_window']:,}",
        f"weights: {body['weights']}, {_bytes(streamed)} in memory"
        + (f", {_bytes(row_table)} more read from disk row by row (embeddings)" if row_table else ""),
        f"KV cache: {body['kv']['format']}, "
        + ", ".join(f"{_bytes(size)} for {int(n):,} tokens" for n, size in body["kv"]["bytes"].items()),
        *_origin(body["packed_file"]),
        "packed weights: " + (body["packed_cache"] or "not kept on disk"),
        *(f"skipped: {count} tensors ({_bytes(size)}), {reason}" for reason, (count, size) in body["skipped"].items()),
        f"kernels: {backend['name']} {backend['isa']}, {backend['threads']} threads",
        "tokenizer: "
        + ("none, prompts must be token ids" if body["tokenizer"] is None else f"{body['tokenizer']:,} tokens")
        + ("; chat template" if body["chat_template"] else "; no chat template"),
    ]
    drafter = body["drafter"]
    if drafter is None:
        return [*lines, body["drafter_note"]]
    head = ", centroid head" if drafter["centroid_head"] else ""
    return [
        *lines,
        f"{body['drafter_note']} ({drafter['model']})"
        if drafter["model"] not in body["drafter_note"]
        else body["drafter_note"],
        f"the drafter has {drafter['layers']} layers, hidden size {drafter['hidden_size']:,}{head}, "
        f"{_counted(drafter['parameters'])} parameters in {drafter['weights']} ({_bytes(drafter['bytes'])})",
        *([_pairing(drafter["pairing"])] if "pairing" in drafter else []),
    ]


def _pairing(found: dict[str, Any]) -> str:
    return ("warning: " if found["matched"] is False else "pair: ") + str(found["note"])


def _counted(number: int) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,}"


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
