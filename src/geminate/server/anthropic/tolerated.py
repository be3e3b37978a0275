"""What Anthropic's clients send that has no effect here, and what is refused with a way out."""

from __future__ import annotations

from geminate.server.http.errors import bad_request
from geminate.server.http.tolerance import Hint, Level, Off, Only, Place, Reading, Refused, Rule

HINT = Hint()
_OWN_TOOLS = "{} is not supported: this server runs no tools of its own; declare tools with an input_schema"
_BLOCK_RULES: dict[str, Rule] = {
    "cache_control": HINT,
    "citations": HINT,
    "caller": HINT,
    "is_error": Hint(lambda value, body: value is True),
}
_BLOCK = Level(_BLOCK_RULES, {"content": Level(_BLOCK_RULES)})
_TOOL = Level(
    {
        "type": Only(("custom",), _OWN_TOOLS),
        **dict.fromkeys(
            ["cache_control", "eager_input_streaming", "input_examples", "defer_loading", "allowed_callers"], HINT
        ),
    }
)


class _Threads:
    """Refuses threads in the way after which Anthropic's SDK goes on without them."""

    def apply(self, reading: Reading, place: Place, key: str) -> None:
        raise bad_request(
            "thread: conversations are not kept; send all messages without it", "thread", "thread_unsupported_request"
        )


_RULES: dict[str, Rule] = {
    "thread": _Threads(),
    **dict.fromkeys(
        ["cache_control", "context_management", "betas", "speed", "service_tier", "inference_geo", "diagnostics",
         "user_profile_id", "workspace_id"],
        HINT,
    ),
    "top_k": Off((-1,), becomes=0),
    "seed": Off((-1,)),
    "container": Refused("this server runs no code"),
    "mcp_servers": Off(([],), instead="this server calls no other servers; declare their tools in tools"),
}  # fmt: skip
_BELOW = {
    "messages": Level(below={"content": _BLOCK}),
    "system": _BLOCK,
    "tools": _TOOL,
    "thinking": Level({"budget_tokens": HINT}),
    "output_config": Level({"effort": HINT}, {"format": Level({"name": HINT})}),
    "output_format": Level({"name": HINT}),
}
MESSAGES = Level(_RULES, _BELOW)
COUNT = Level(
    {
        **_RULES,
        **dict.fromkeys(
            ["max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_k", "top_p", "seed"], HINT
        ),
    },
    _BELOW,
)
