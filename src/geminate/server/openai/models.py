"""``/v1/models``, ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from geminate.server.http.errors import JsonResponse, bad_request
from geminate.server.http.parsing import parse
from geminate.server.openai.conversation import chat_messages, template_tools, tool_functions
from geminate.server.openai.generation import INLINE_CHARS, in_thread
from geminate.server.openai.schemas_chat import DetokenizeRequest, TokenizeRequest
from geminate.server.openai.tolerated import DETOKENIZE, TOKENIZE
from geminate.server.state import ServerState

MAX_CHARACTERS, MAX_TOKENS = 1 << 20, 1 << 18  # of /tokenize and /detokenize; as many as the longest context


async def list_models(state: ServerState, request: Request) -> Response:
    """List the served models, under their ids and aliases."""
    cards = [{**model.card(), "id": name} for model in state.ready_models() for name in model.listed]
    return JsonResponse({"object": "list", "data": cards})


async def get_model(state: ServerState, request: Request) -> Response:
    """Describe the served model, by its id or an alias."""
    return JsonResponse(state.model(request.path_params["model"]).card())


async def tokenize(state: ServerState, request: Request) -> Response:
    """Tokenize a text, or a conversation through the chat template."""
    body = await parse(request, TokenizeRequest, state.check_ready, TOKENIZE)
    model = state.model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("set either prompt or messages", "prompt")
    if body.messages is None:
        for name in ("tools", "chat_template_kwargs"):
            if getattr(body, name) is not None:
                raise bad_request(f"{name} needs messages", name)
        text = body.prompt or ""
        if len(text) > MAX_CHARACTERS:
            raise bad_request(f"prompt: {len(text):,} characters; split it, the limit is {MAX_CHARACTERS:,}", "prompt")
        ids = await in_thread(
            len(text) > INLINE_CHARS,
            lambda: model.tokenizer.encode(text, add_bos=None if body.add_special_tokens is not False else False),
            param="prompt",
        )
    else:
        if body.add_special_tokens is not None:
            raise bad_request(
                "add_special_tokens needs prompt: with messages the chat template adds the special tokens",
                "add_special_tokens",
            )
        messages, tools = chat_messages(body.messages), template_tools(tool_functions(body.tools))
        thinking = body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs else None
        ids = await in_thread(
            True, lambda: model.llm.chat_ids(messages, tools=tools, enable_thinking=thinking), param="messages"
        )
    if len(ids) > MAX_TOKENS:
        raise bad_request(f"prompt: {len(ids):,} tokens; split it, the limit is {MAX_TOKENS:,}", "prompt")
    made: dict[str, Any] = {"count": len(ids), "max_model_len": model.context, "tokens": ids}
    if body.return_token_strs:
        made["token_strs"] = await in_thread(
            len(ids) > INLINE_CHARS, lambda: [model.llm.token_text(token) for token in ids], param="prompt"
        )
    return JsonResponse(made)


async def detokenize(state: ServerState, request: Request) -> Response:
    """Convert token ids to text."""
    body = await parse(request, DetokenizeRequest, state.check_ready, DETOKENIZE)
    model = state.model(body.model)
    if len(body.tokens) > MAX_TOKENS:
        raise bad_request(f"tokens: {len(body.tokens):,} ids; split them, the limit is {MAX_TOKENS:,}", "tokens")
    if body.tokens and (token := max(body.tokens)) >= model.vocab_size:
        raise bad_request(f"tokens: token id {token} is outside the vocabulary of {model.vocab_size}", "tokens")
    skip = bool(body.skip_special_tokens)
    text = await in_thread(
        len(body.tokens) > INLINE_CHARS, lambda: model.tokenizer.decode(body.tokens, skip_special=skip), param="tokens"
    )
    return JsonResponse({"prompt": text})
