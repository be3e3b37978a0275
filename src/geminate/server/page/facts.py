"""What only the page asks: the model's card, and what the engine is doing now.

Both routes need the API key where keys are set. They stand outside the OpenAPI document: their fields may change with
the page.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from geminate import __version__
from geminate.server.http.errors import JsonResponse
from geminate.server.metrics import PREFIX
from geminate.server.state import Model, ServerState
from geminate.weights.store import WeightStore

MAX_ID = 200  # characters of a request id


def facts_router(state: ServerState) -> APIRouter:
    """Routes ``/ui/card`` and ``/ui/work``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/ui/card")
    async def card(request: Request) -> Response:
        return JsonResponse(model_card(state.check_ready(), state))

    @router.get("/ui/work")
    async def work(request: Request, id: str = "") -> Response:
        return JsonResponse(work_now(state.check_ready(), state, id[:MAX_ID]))

    return router


def model_card(model: Model, state: ServerState) -> dict[str, Any]:
    """The model, its drafter, memory in bytes, threads, default sampling and limits."""
    llm, pair = model.llm, model.llm.pair
    drafter = None
    if pair.drafter is not None:
        drafter = _weights(pair.drafter.store)
        drafter["name"] = None if pair.located.drafter is None else pair.located.drafter.name
    sampling = llm.resolve(None)
    now = model.service.snapshot()
    marks = model.tokenizer.dialect.reasoning
    return {
        "id": model.id,
        "version": __version__,
        "context": model.context,
        "target": _weights(pair.target.store) | {"name": pair.located.target.name, "type": llm.config.model_type},
        "drafter": drafter,
        "speculation": str(model.settings.speculation),
        "threads": pair.target.backend.threads,
        "instructions": pair.target.backend.isa,
        "memory": {"resident": resident_bytes(), "kv_used": now.kv_bytes_used, "kv_limit": now.kv_bytes_limit},
        "sampling": {
            name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        },
        "max_tokens": state.settings.max_tokens,
        "thinking": marks is not None and llm.template is not None,
    }


def work_now(model: Model, state: ServerState, request_id: str) -> dict[str, Any]:
    """Requests running and waiting, tokens generated since the start, and how far one request's prompt is.

    ``prompt`` is None for a request that is unknown or has ended; ``done`` of ``of`` prompt tokens are processed, and
    ``done`` is None while the request waits.
    """
    now = model.service.snapshot()
    name = PREFIX + "generation_tokens_total"
    generated = state.metrics.registry.get_sample_value(name, {"model_name": model.id})
    prompt = None
    if request_id:
        found = model.service.prompt_progress(request_id + "-")
        prompt = None if found is None else {"done": found[0], "of": found[1]}
    return {"running": now.running, "waiting": now.waiting, "generated": int(generated or 0), "prompt": prompt}


def resident_bytes() -> int | None:
    """Memory of this process that is resident, or None where the system does not say."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _weights(store: WeightStore) -> dict[str, Any]:
    return {
        "format": store.format,
        "parameters": sum(store.parameters_by_kind().values()),
        "bytes": sum(store.bytes_by_kind().values()),
    }
