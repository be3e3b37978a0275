"""``geminate info``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from geminate.cli.console import out, printable, user_errors, write_json
from geminate.cli.flags import ModelArg, loading, options
from geminate.cli.model import load
from geminate.llm import LLM
from geminate.loading.options import LoadOptions

LOADING = loading("drafter", "weights")


@options(LOADING)
@user_errors()
def info(
    model: ModelArg = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    **given: Any,
) -> None:
    """Shape, parameters and bytes of a model, and the drafter found for it."""
    llm = load(LoadOptions(**vars(LOADING.take(given)) | {"model": model}))
    llm.check_weights()
    body = describe(llm)
    if json_out:
        write_json(body)
        return
    table = Table(show_header=False, box=None)
    for key, value in body.items():
        text = json.dumps(value) if isinstance(value, dict) else printable(str(value))
        table.add_row(key, Text(text))  # no markup either: names are of files
    out.print(table)


def describe(llm: LLM) -> dict[str, Any]:
    """Everything ``geminate info`` prints."""
    config, store, pair = llm.config, llm.pair.target.store, llm.pair
    kinds = [layer.kind for layer in config.layers]
    body: dict[str, Any] = {
        "model": str(pair.located.target),
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
        "parameters": store.parameters_by_kind(),
        "bytes": store.bytes_by_kind(),
        "on_disk_only": {"row_table": store.bytes_by_kind().get("row_table", 0)},
        "skipped": store.skipped,
        "packed_cache": None if store.path is None else str(store.path),
        "backend": {"name": pair.target.backend.name, "isa": pair.target.backend.isa,
                    "threads": pair.target.backend.threads},
        "tokenizer": None if llm.tokenizer is None else llm.tokenizer.vocab_size,
        "chat_template": llm.template is not None,
        "drafter": None,
    }  # fmt: skip
    if pair.drafter is not None:
        d = pair.drafter
        body["drafter"] = {
            "model": str(pair.located.drafter),
            "layers": len(d.config.text.layers),
            "hidden_size": d.config.text.hidden_size,
            "centroid_head": d.config.use_ordered_embeddings,
            "weights": d.store.format,
            "parameters": sum(d.store.parameters_by_kind().values()),
            "bytes": sum(d.store.bytes_by_kind().values()),
            "rope_position": d.rope_position,
        }
    return body
