"""The table of what clients of other servers send: fields without an effect, values that mean "off", other names.

Each API has one `Level` for the body of its requests. A field that changes the answer and is not supported stays
refused, by the validation or by a rule that names the way out.
"""

from __future__ import annotations

from typing import Any

from geminate.server.http.tolerance import Alias, Body, Hint, Level, Off, Only, Refused, Rewrite, Rule
from geminate.server.openai import tolerated_values as values
from geminate.server.openai.schemas_chat import AssistantMessage, CalledFunction, ToolCall, ToolMessage
from geminate.server.openai.schemas_responses import (
    FunctionCallItem,
    FunctionOutputItem,
    MessageItem,
    ReasoningItem,
    item_kind,
)

HINT = Hint()
NO_FILES = "this server accepts text only; images, audio and files are not supported"
NO_TOOLS = "{} is not supported: this server runs no tools of its own; declare tools of type 'function'"
THINKING = "use reasoning_effort, or chat_template_kwargs with enable_thinking"
FORMAT = "use response_format with the type 'json_schema', 'regex' or 'grammar' (Lark) on /v1/chat/completions"
PENALTY = "use repetition_penalty, which looks at the whole context"
STORED = "responses are not stored; send the whole conversation in input"

_ROUTING: dict[str, Rule] = dict.fromkeys(
    ["metadata", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "client_metadata", "verbosity",
     "prediction", "cache_prompt", "id_slot", "slot_id", "keep_alive", "request_id", "priority", "cache_salt",
     "guided_decoding_backend", "session_id", "trace_id", "litellm_metadata", "litellm_session_id", "provider", "route",
     "spaces_between_special_tokens", "timings_per_token"],
    HINT,
)  # fmt: skip
# Parameters of samplers that are not supported, with the values that turn them off; the others act only beside them.
_SAMPLERS: dict[str, Rule] = {
    "typical_p": Off((1,), instead="use top_p or min_p"),
    "typical": Off((1,), instead="use top_p or min_p"),
    "tfs_z": Off((1,), instead="use top_p or min_p"),
    "top_a": Off((0,), instead="use min_p"),
    "top_n_sigma": Off((-1, 0), instead="use min_p"),
    "mirostat": Off((0,), instead="use temperature, top_p or min_p"),
    "mirostat_mode": Off((0,), instead="use temperature, top_p or min_p"),
    "mirostat_tau": HINT,
    "mirostat_eta": HINT,
    "dynatemp_range": Off((0,), instead="use temperature"),
    "dynatemp_exponent": HINT,
    "xtc_probability": Off((0,), instead="use temperature or min_p"),
    "xtc_threshold": HINT,
    "dry_multiplier": Off((0,), instead="use repetition_penalty or frequency_penalty"),
    "dry_base": HINT,
    "dry_allowed_length": HINT,
    "dry_penalty_last_n": HINT,
    "dry_sequence_breakers": HINT,
    "length_penalty": Off((1,), instead="there is no beam search"),
    "use_beam_search": Off((False,), instead="there is no beam search"),
    "early_stopping": Off((False,), instead="there is no beam search"),
    "penalize_nl": Off((False,), instead=PENALTY),
    "min_keep": Off((0, 1), instead="use top_k, top_p or min_p alone"),
    "min_tokens": Off((0,), instead="use ignore_eos with max_tokens for an exact length"),
    "n_probs": Off((0,), instead="use logprobs"),
    "prompt_logprobs": Off((False,), instead="use echo with logprobs on /v1/completions"),
    "skip_special_tokens": Off((True,), instead="use logprobs or trace to see special tokens"),
    "include_stop_str_in_output": Off((False,), instead="stop strings are never part of the text"),
    "return_token_ids": Off((False,), instead="use trace"),
    "return_tokens_as_token_ids": Off((False,), instead="use trace"),
    "bad_words": Off(([],), instead="use logit_bias"),
    "samplers": Refused("the order of samplers is fixed"),
    "logits_processors": Off(([],), instead="use logit_bias"),
    "allowed_token_ids": Off(([],), instead="use response_format"),
}
_SAMPLING: dict[str, Rule] = {
    **_ROUTING,
    **_SAMPLERS,
    "top_k": Off((-1,), becomes=0),
    "top_p": Off((0,), becomes=values.LEAST_TOP_P),
    "seed": Off((-1,)),
    "store": Hint(lambda value, body: value is True),
    "service_tier": Hint(lambda value, body: isinstance(value, str) and value not in ("auto", "default")),
    "repeat_penalty": Rewrite(values.repeat_penalty),
    "repeat_last_n": HINT,
    "logit_bias": Off(([],)),
    "extra_body": Refused("it is an argument of client libraries; put its fields into the body itself"),
    "grammar": Off(("",), instead=FORMAT),
}
_LENGTHS: dict[str, Rule] = {
    "max_tokens": Off((-1,)),
    "max_completion_tokens": Off((-1,)),
    "n_predict": Alias("max_tokens", off=(-1,)),
    "max_new_tokens": Alias("max_tokens", off=(-1,)),
    "stop": Rewrite(values.stop),
    "stop_sequences": Alias("stop", off=([],)),
    "stream_options": Hint(lambda value, body: body.get("stream") is not True),
}
_STREAM = Level(
    {"include_obfuscation": Hint(lambda value, body: value is True), "continuous_usage_stats": Off((False,))}
)

_PART = Level({"cache_control": HINT, "id": HINT, "provider_specific_fields": HINT, "prompt_cache_breakpoint": HINT})
_SAID: dict[str, Rule] = dict.fromkeys(
    ["name", "id", "cache_control", "metadata", "timestamp", "created_at", "createdAt", "provider_specific_fields",
     "additional_kwargs", "extra_content", "phase", "status"],
    HINT,
)  # fmt: skip
_FILES: dict[str, Rule] = dict.fromkeys(
    ["images", "audio", "files", "attachments", "videos"], Off(([], ""), instead=NO_FILES)
)
_SPOKEN = Level({**_SAID, **_FILES, "content": Rewrite(values.parts), "tool_calls": Off(([],))}, {"content": _PART})
_ASSISTANT = Level(
    {
        **_SAID,
        **_FILES,
        "reasoning": Rewrite(values.reasoning),
        "refusal": Rewrite(values.refusal),
        "content": Rewrite(values.parts),
        "annotations": Hint(lambda value, body: value != []),
        "function_call": Refused("use tool_calls"),
        "prefix": Off((False,), instead="set continue_final_message: true in the request"),
    },
    {
        "content": _PART,
        "tool_calls": Level(
            below={"function": Level({"arguments": Rewrite(values.arguments)}, others=CalledFunction)}, others=ToolCall
        ),
    },
    others=AssistantMessage,
)
_TOOL = Level({**_FILES, "content": Rewrite(values.parts)}, {"content": _PART}, others=ToolMessage)
_ROLES = {"system": _SPOKEN, "developer": _SPOKEN, "user": _SPOKEN, "assistant": _ASSISTANT, "tool": _TOOL}


def _role(message: Body) -> Level | None:
    role = message.get("role")
    return _ROLES.get(role) if isinstance(role, str) else None


MESSAGES = Level(choose=_role)
_FUNCTION = Level(dict.fromkeys(["cache_control", "annotations", "title"], HINT))
TOOLS = Level({"type": Only(("function",), NO_TOOLS), "cache_control": HINT}, {"function": _FUNCTION})


def _without_tools(value: Any, body: Body) -> bool:
    return not body.get("tools")


_CHOICE: dict[str, Rule] = {
    "tool_choice": Off(("auto", "none"), when=_without_tools),
    "parallel_tool_calls": Hint(_without_tools),
}

CHAT = Level(
    {
        **_SAMPLING,
        **_LENGTHS,
        **_CHOICE,
        "response_format": Rewrite(values.response_format),
        "guided_json": Rewrite(values.guided),
        "guided_regex": Rewrite(values.guided),
        "guided_choice": Rewrite(values.guided),
        "structured_outputs": Rewrite(values.guided),
        "json_schema": Rewrite(values.guided),
        "guided_grammar": Refused(FORMAT),
        "functions": Off(([],), instead="use tools"),
        "function_call": Off(("none", "auto"), instead="use tool_choice"),
        "top_logprobs": Off((0,), when=lambda value, body: not body.get("logprobs")),
        "best_of": Off((1,), instead="use n"),
        "echo": Off((False,), instead="only /v1/completions has it"),
        "reasoning": Refused(THINKING),
        "thinking": Refused(THINKING),
        "enable_thinking": Refused(THINKING),
        "think": Refused(THINKING),
        "input": Refused("use messages, or /v1/responses"),
        "prompt": Refused("use messages, or /v1/completions"),
        "max_output_tokens": Refused("use max_completion_tokens"),
    },
    {
        "messages": MESSAGES,
        "tools": TOOLS,
        "stream_options": _STREAM,
        "response_format": Level(below={"json_schema": Level()}),
        "tool_choice": Level(),
        "chat_template_kwargs": Level(),
    },
)

COMPLETION = Level(
    {
        **_SAMPLING,
        **_LENGTHS,
        "suffix": Off(("",), instead="Gemma has no fill-in-the-middle tokens; put what follows into the prompt"),
        "logprobs": Off((False,)),
        "messages": Refused("use prompt, or /v1/chat/completions"),
        "tools": Off(([],), instead="use /v1/chat/completions"),
        "tool_choice": Off(("none", "auto"), instead="use /v1/chat/completions"),
        "functions": Off(([],), instead="use /v1/chat/completions"),
        **dict.fromkeys(
            ["response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
             "json_schema"],
            Refused(FORMAT),
        ),
    },
    {"stream_options": _STREAM},
)  # fmt: skip

DETOKENIZE = Level()
TOKENIZE = Level({"add_generation_prompt": Off((True,))}, {"messages": MESSAGES, "tools": TOOLS})

_RESPONSE_PART = Level(
    {"cache_control": HINT, "annotations": Hint(lambda value, body: value != []), "prompt_cache_breakpoint": HINT}
)
_HISTORY: dict[str, Rule] = {name: rule for name, rule in _SAID.items() if name not in ("id", "status")}
_ITEMS = {
    "message": Level(
        {**_HISTORY, **_FILES, "content": Rewrite(values.output_parts)}, {"content": _RESPONSE_PART}, others=MessageItem
    ),
    "function_call": Level(
        {k: v for k, v in _HISTORY.items() if k != "name"} | {"arguments": Rewrite(values.arguments)},
        others=FunctionCallItem,
    ),
    "function_call_output": Level(
        {"output": Rewrite(values.parts)}, {"output": _RESPONSE_PART}, others=FunctionOutputItem
    ),
    "reasoning": Level(
        {"summary": Hint(lambda value, body: value != []), "encrypted_content": HINT}, others=ReasoningItem
    ),
    "item_reference": Level(),
}


def _item(item: Body) -> Level | None:
    kind = item.get("type") or item_kind(item)
    return _ITEMS.get(kind, _OTHER_ITEM) if isinstance(kind, str) else None


_OTHER_ITEM = Level(
    {
        "type": Only(
            tuple(_ITEMS), "an input item of type {} is not supported; leave it out, or send its text as a message"
        )
    }
)

RESPONSE = Level(
    {
        **{name: rule for name, rule in _SAMPLING.items() if name not in ("metadata", "store")},
        **_CHOICE,
        "max_output_tokens": Off((-1,)),
        "max_tokens": Refused("use max_output_tokens"),
        "max_completion_tokens": Refused("use max_output_tokens"),
        "messages": Refused("use input, or /v1/chat/completions"),
        "response_format": Refused("use text.format"),
        "stop": Off(([], "", [""]), instead="/v1/responses has no stop strings; use /v1/chat/completions"),
        "reasoning_effort": Refused("use reasoning.effort"),
        "include": Rewrite(values.include),
        "truncation": Hint(lambda value, body: value == "auto"),
        "max_tool_calls": HINT,
        "background": Off((False,), instead="the response comes with the request; use stream"),
        "previous_response_id": Refused(STORED),
        "conversation": Refused(STORED),
        "prompt": Refused("there are no stored prompts; use instructions and input"),
        "stream_options": Hint(lambda value, body: body.get("stream") is not True),
    },
    {
        "input": Level(choose=_item),
        "tools": Level({"type": Only(("function",), NO_TOOLS), "cache_control": HINT, "defer_loading": Off((False,))}),
        "stream_options": Level({**_STREAM.rules, "include_usage": HINT}),
        "reasoning": Level({"summary": HINT, "generate_summary": HINT}),
        "text": Level({"verbosity": HINT}, {"format": Level()}),
        "tool_choice": Level(),
    },
)
