"""A small model with made-up pass costs, for simulations whose times can be computed by hand."""

from __future__ import annotations

from typing import Any

from geminate.tools.capacity.models import Candidate, make_candidate
from geminate.tools.capacity.pass_costs import PassCosts
from geminate.tools.capacity.simulate import ServerLimits, Simulated
from geminate.tools.capacity.workload import Request

COSTS = PassCosts(
    body=((1, 0.010), (257, 0.266)),  # a row costs a millisecond, a pass nine beside
    whole=((1, 0.020), (17, 0.020), (257, 0.5)),  # logits cost 10 ms
    attention_byte=0.0,
    attention_mac=0.0,
    prompt_mac=0.0,
    draft_call=0.0005,
    draft_step=0.0005,
    step=0.001,
    sequence=0.0005,
    decision=0.0,
    request=0.0,
    prompt_token=0.0,
    copy_byte=0.0,
    kind="computed",
    basis="made up",
)
PROMPT = 100
FIRST = 0.010 + 0.099 + 0.010 + 0.001 + 0.0005  # a prompt of `PROMPT` tokens in one pass, with the logits of one row
NEXT = 0.020 + 0.001 + 0.0005


def embedded() -> Candidate:
    """The embedded pair's shape."""
    return make_candidate("embedded", "int8", "f16")


def simulated(
    candidate: Candidate, costs: PassCosts = COSTS, limits: dict[str, Any] | None = None, **more: Any
) -> Simulated:
    """The embedded pair with these costs, speculation off unless said otherwise."""
    settings = {"speculation": 0, **more}
    return Simulated(
        config=candidate.config, work=candidate.work, costs=costs, limits=ServerLimits(**(limits or {})), **settings
    )


def alike(count: int, completion: int, prompt: int = PROMPT, gap: float = 0.0) -> list[Request]:
    """Requests of one length, ``gap`` seconds apart."""
    return [Request(index=i, arrival=gap * i, prompt=prompt, completion=completion) for i in range(count)]
