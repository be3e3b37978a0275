"""The checkpoint's chat template, rendered in a sandbox.

A template is a program supplied with the checkpoint, so it runs in a sandbox with bounds (`geminate.text.sandbox`).
Settings, filters and globals are those of transformers' ``apply_chat_template``, so the prompt has the format the
model was trained on.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from geminate.checkpoint.checkpoint import Checkpoint
from geminate.errors import ParameterError, TemplateTimeoutError, TokenizerError, kind_of
from geminate.text.dialect import PLAIN, Dialect
from geminate.text.messages import prepared
from geminate.text.sandbox import DEADLINE_S, BoundedEnvironment

MAX_CAUSE = 800  # characters of an error that a template made
ROLES = ("system", "developer", "user", "assistant", "model", "tool")


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text for training; rendering just outputs its body."""

    tags = {"generation"}  # noqa: RUF012  (an instance variable in jinja2's own types)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    if len(form) > MAX_CAUSE:
        raise jinja2.TemplateError(f"a date format of {len(form):,} characters")
    return datetime.datetime.now().strftime(form)


def _environment(seconds: float) -> BoundedEnvironment:
    environment = BoundedEnvironment(extensions=[_Generation, loopcontrols], seconds=seconds)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """The chat template of a checkpoint, or several named ones.

    Args:
        source: Jinja source, or a mapping from names (``default``, ``tool_use``, ...) to sources.
        specials: special tokens such as ``bos_token``, passed to the template as variables.
        seconds: after which parsing or rendering is stopped.

    Raises:
        TokenizerError: the source cannot be parsed, or not in time.
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        *,
        specials: Mapping[str, str] | None = None,
        seconds: float = DEADLINE_S,
    ) -> None:
        sources = {"default": source} if isinstance(source, str) else dict(source)
        if not sources:
            raise TokenizerError("the checkpoint has no chat template; pass plain text or token ids instead")
        self._environment = _environment(seconds)
        self._specials = dict(specials or {})
        self._sources = sources
        self._templates: dict[str, jinja2.Template] = {}
        for name, text in sources.items():
            try:
                self._templates[name] = self._environment.compiled(text)
            except Exception as error:  # Jinja evaluates parts of a template while it parses
                raise TokenizerError(f"the chat template does not parse: {_cause(error)}") from error

    @classmethod
    def load(cls, checkpoint: Checkpoint, dialect: Dialect = PLAIN) -> ChatTemplate | None:
        """The chat templates of a checkpoint, or None if it has none.

        Raises:
            TokenizerError: a damaged file.
        """
        templates = checkpoint.templates()
        if not templates:
            return None
        own = {name: dialect.specials[name] for name in ("bos_token", "eos_token") if name in dialect.specials}
        specials = checkpoint.specials() or own
        return cls(templates, specials=specials)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        enable_thinking: bool | None = None,
        seconds: float | None = None,
        **variables: object,
    ) -> str:
        """Render a conversation to prompt text, which must be tokenized with ``add_bos=False``.

        Args:
            messages: each with ``role`` (one of `ROLES`) and ``content``: a string or a list of
                ``{"type": "text", "text": ...}``; content may be absent with ``tool_calls`` or ``tool_responses``,
                and a mapping in a tool's result.
            tools: function declarations as JSON schemas; a template named ``tool_use`` is then preferred.
            add_generation_prompt: open the model's turn at the end; None: unless the last message is continued.
            continue_final_message: end with the last message, an assistant's, so that the reply goes on with its text.
            enable_thinking: passed to the template unless None.
            seconds: after which rendering is stopped; None: as given at the start.
            variables: additional variables for this checkpoint's template.

        Raises:
            ParameterError: malformed messages.
            TokenizerError: the template rejects the messages, fails, or violates the sandbox or its bounds.
            TemplateTimeoutError: it did not end in time.
        """
        check_messages(messages)
        if continue_final_message:
            _check_continued(messages, add_generation_prompt)
        name = self._choose(tools is not None)
        known: dict[str, object] = {
            **self._specials,
            **variables,
            "messages": prepared(_marked(messages) if continue_final_message else messages, self._sources[name]),
            "tools": tools,
            "documents": None,
            "add_generation_prompt": not continue_final_message
            if add_generation_prompt is None
            else add_generation_prompt,
        }
        if enable_thinking is not None:
            known["enable_thinking"] = enable_thinking
        try:
            text = self._environment.rendered(self._templates[name], known, seconds)
        except TimeoutError as error:
            raise TemplateTimeoutError(f"the chat template failed: {error}") from error
        except Exception as error:  # a template is untrusted code and can raise anything
            raise TokenizerError(f"the chat template failed: {_cause(error)}") from error
        return _before_mark(text) if continue_final_message else text

    def _choose(self, with_tools: bool) -> str:
        for name in ("tool_use", "default") if with_tools else ("default",):
            if name in self._templates:
                return name
        if len(self._templates) == 1:
            return next(iter(self._templates))
        raise TokenizerError(f"no default among the chat templates {sorted(self._templates)}")


_END = "\ue0e1continue\ue0e2"  # marks where a message ends that is to be continued; private-use characters


def _check_continued(messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool | None) -> None:
    if add_generation_prompt:
        raise ParameterError(
            "continue_final_message and add_generation_prompt exclude each other: the reply goes on with the last "
            "message, or it begins a new one"
        )
    last = messages[-1]
    if last.get("role") not in ("assistant", "model"):
        raise ParameterError(
            f"continue_final_message needs an assistant message at the end, and the last one is of {last.get('role')!r}"
        )
    if last.get("tool_calls") or last.get("tool_responses"):
        raise ParameterError("continue_final_message cannot go on with a message that has tool calls")


def _marked(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    last = messages[-1]
    content = last["content"]
    if isinstance(content, str):
        content += _END
    else:
        content = [*content, {"type": "text", "text": _END}]
    return [*messages[:-1], {**last, "content": content}]


def _before_mark(text: str) -> str:
    if _END not in text:
        raise TokenizerError("the chat template leaves out the end of the last message, so it cannot be continued")
    return text[: text.rindex(_END)]


def check_messages(messages: object) -> None:
    """Check that messages form a conversation of texts.

    Raises:
        ParameterError: names the malformed message and the reason.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise ParameterError(f"messages must be a list, not {kind_of(messages)}")
    if not messages:
        raise ParameterError("messages is empty: at least one message is needed")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise ParameterError(f"{where} must be an object, not {kind_of(message)}")
        role = message.get("role")
        if role not in ROLES:
            given = repr(role) if isinstance(role, str) else kind_of(role)
            raise ParameterError(f"{where}: role must be one of {', '.join(ROLES)}, not {given}")
        content = message.get("content")
        if isinstance(content, str):
            continue
        if content is None and (message.get("tool_calls") or message.get("tool_responses")):
            continue
        if role == "tool" and isinstance(content, Mapping):
            continue
        if not isinstance(content, Sequence) or isinstance(content, bytes):
            raise ParameterError(f"{where}: content must be a string or a list of text parts, not {kind_of(content)}")
        for part in content:
            if not isinstance(part, Mapping):
                raise ParameterError(f"{where}: a part of content must be an object, not {kind_of(part)}")
            kind = part.get("type")
            if kind != "text":
                raise ParameterError(f"{where}: a part of type {kind!r}; only 'text' is supported")
            if not isinstance(part.get("text"), str):
                raise ParameterError(f"{where}: a text part needs a string under 'text'")


def _cause(error: BaseException) -> str:
    name = type(error).__name__
    text = " ".join(str(error)[:MAX_CAUSE].split())
    if isinstance(error, jinja2.TemplateSyntaxError):
        text += f" (line {error.lineno})"
    # raise_exception and the bounds raise a bare TemplateError, whose message is sufficient; so is the deadline's.
    return text if type(error) in (jinja2.TemplateError, TimeoutError) and text else f"{name}: {text}".rstrip(": ")
