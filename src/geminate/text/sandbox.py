"""Jinja's sandbox with bounds: a template is a program of strangers that must neither hang nor fill the memory.

Jinja keeps a template from what it must not reach, not from what it must not cost. Here every value has a bound
(`geminate.text.ledger`), operations that make large values of small ones are checked before they are made
(`geminate.text.guards`), and loops end with a deadline (`geminate.text.deadline`).
"""

from __future__ import annotations

import functools
import json
import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from jinja2.utils import Namespace, pass_environment, pass_eval_context
from markupsafe import Markup

from geminate.text.deadline import within
from geminate.text.guards import FILTERS, guard_call, guard_operator, guard_spec, total
from geminate.text.ledger import MAX_TEXT, Ledger, refuse

DEADLINE_S = 5.0
MAX_SOURCE = 500_000
MAX_INDENT = 100
_OWN = ("_loop_vars", "_block_vars")  # arguments that Jinja adds to calls
_T = TypeVar("_T")


class _Generator(CodeGenerator):
    """Generates code that counts what it makes."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible  # computed while rendering, under its bounds
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        choice = "(escape if context.eval_ctx.autoescape else str)"
        name = choice if frame.eval_ctx.volatile else "escape" if frame.eval_ctx.autoescape else "str"
        self.write(f"environment.shown({name}, ")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        choice = "(markup_join if context.eval_ctx.volatile else str_join)"
        name = choice if frame.eval_ctx.volatile else "markup_join" if frame.eval_ctx.autoescape else "str_join"
        self.write(f"environment.chained({name}, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def _charged(self, visit: Callable[[Any, Frame], None], node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.charge(")
        visit(node, frame)
        self.write(")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._charged(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._charged(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._charged(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._charged(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)


class _Formatter(SandboxedFormatter):
    """str.format whose pieces are counted."""

    def __init__(self, env: BoundedEnvironment, **options: Any) -> None:
        super().__init__(env, **options)
        self._books, self._length = env.ledger, 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        guard_spec(format_spec)
        made = self._books.charge(super().format_field(self._books.check(value), format_spec))
        self._length += len(made)
        self._books.fits(self._length)
        return made


class _EscapeFormatter(_Formatter, SandboxedEscapeFormatter):
    pass


class _Namespace(Namespace):
    """A namespace is the one thing that a template changes, so it has no weight and prints nothing of its own."""

    def __repr__(self) -> str:
        return "<Namespace>"


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with bounds on values, text and time.

    Args:
        extensions: Jinja extensions. seconds: of compiling or rendering a template.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self, *, extensions: Iterable[type[Extension]] = (), seconds: float = DEADLINE_S) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=list(extensions))
        self._seconds, self._state = seconds, threading.local()
        self.globals["namespace"] = _Namespace
        del self.globals["lipsum"]
        self.filters |= {"tojson": self._tojson, "join": self._join, "sum": self._sum, "list": self._list}
        self.filters.update({name: self._filter(name, function) for name, function in self.filters.items()})

    @property
    def ledger(self) -> Ledger:
        """The books of this thread's rendering."""
        found: Ledger = self._state.ledger
        return found

    def bounded(self, work: Callable[[], _T], seconds: float | None = None) -> _T:
        """The result of ``work`` on this environment, with books of its own and under a deadline.

        Raises:
            TimeoutError: it took too long. Exception: whatever ``work`` raises.
        """
        self._state.ledger = Ledger()
        try:
            return within(self._seconds if seconds is None else seconds, work)
        finally:
            self._state.ledger = Ledger()

    def compiled(self, source: str) -> jinja2.Template:
        """A template.

        Raises:
            TemplateError: it is too long. TimeoutError, Exception: see `bounded`.
        """
        if len(source) > MAX_SOURCE:
            raise jinja2.TemplateError(f"it has {len(source):,} characters, of which {MAX_SOURCE:,} are allowed")
        return self.bounded(lambda: self.from_string(source))

    def rendered(self, template: jinja2.Template, variables: Mapping[str, object], seconds: float | None = None) -> str:
        """The text of a template; ended as soon as it is too long, or after ``seconds``.

        Raises:
            TemplateError: a bound is exceeded. TimeoutError, Exception: see `bounded`.
        """

        def render() -> str:
            pieces, length, ledger = [], 0, self.ledger
            for piece in template.generate(variables):
                length += len(piece)
                if length > MAX_TEXT:
                    ledger.fits(length)
                if piece:
                    pieces.append(piece)
            return "".join(pieces)

        return self.bounded(render, seconds)

    def charge(self, value: Any) -> Any:
        """See `Ledger.charge`; called by generated code."""
        return self.ledger.charge(value)

    def shown(self, show: Callable[[Any], str], value: Any) -> str:
        """A value as text, by ``str`` or ``escape``; called by generated code."""
        if show is str and type(value) is str:
            return value
        ledger = self.ledger
        made: str = ledger.charge(show(ledger.check(value)))
        return made

    def chained(self, join: Callable[[Iterable[Any]], str], parts: tuple[Any, ...]) -> str:
        """The ``~`` operator; called by generated code."""
        ledger = self.ledger
        ledger.fits(sum(ledger.weigh(ledger.check(part)) for part in parts))
        made: str = ledger.charge(join(parts))
        return made

    def concat(self, pieces: Iterable[str]) -> str:
        """The text of a block, a macro or a call; called by generated code."""
        found = list(pieces)
        self.ledger.fits(sum(map(len, found)))
        made: str = self.ledger.charge("".join(found))
        return made

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """See `SandboxedEnvironment`."""
        ledger = self.ledger
        weight = guard_operator(ledger, operator, left, right)
        made = self.binop_table[operator](left, right)
        if weight is not None:
            ledger.weighed(made, weight)
        return ledger.charge(made)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """See `SandboxedEnvironment`; double underscores as there, for keyword arguments of any name."""
        ledger = __self.ledger
        given = {name: kwargs[name] for name in kwargs if name not in _OWN} if kwargs else kwargs
        args = guard_call(ledger, __obj, args, given)
        return ledger.charge(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """See `SandboxedEnvironment`: ``str.format`` and ``str.format_map`` by a formatter that counts."""
        if super().wrap_str_format(value) is None:
            return None
        text, mapped = value.__self__, value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            markup = isinstance(text, Markup)
            formatter = _EscapeFormatter(self, escape=text.escape) if markup else _Formatter(self)
            made: str = type(text)(formatter.vformat(text, () if mapped else args, args[0] if mapped else kwargs))
            return made

        return functools.update_wrapper(formatted, value)

    def _filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter with its arguments checked and its result charged."""
        guard, passed = FILTERS.get(name), int(hasattr(function, "jinja_pass_arg"))

        @functools.wraps(function)
        def filtered(*args: Any, **kwargs: Any) -> Any:
            ledger, own = self.ledger, args[passed:]
            for value in own:
                ledger.check(value)
            for value in kwargs.values():
                ledger.check(value)
            if guard is not None:
                guard(ledger, *own, **kwargs)
            return ledger.charge(function(*args, **kwargs))

        return filtered

    def _tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML characters, which must not happen in a prompt.
        if indent is not None and (len(indent) if isinstance(indent, str) else indent) > MAX_INDENT:
            refuse(f"JSON with an indent above {MAX_INDENT}")
        if separators is not None and any(len(separator) > MAX_INDENT for separator in separators):
            refuse(f"JSON with a separator of more than {MAX_INDENT} characters")
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        if indent is None:
            return encoder.encode(value)
        pieces, length = [], 0
        for piece in encoder.iterencode(value):  # indentation grows with depth, so the pieces are counted
            length += len(piece)
            if length > MAX_TEXT:
                refuse("JSON without end")
            pieces.append(piece)
        return "".join(pieces)

    @pass_eval_context
    def _join(
        self, context: nodes.EvalContext, values: Any, separator: Any = "", attribute: str | int | None = None
    ) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        items = self.ledger.joined(separator, values)
        if context.autoescape:
            made: str = Markup(separator).join(items) if hasattr(separator, "__html__") else _escaped(separator, items)
            return made
        return str(separator).join(map(str, items))

    @pass_environment
    def _sum(self, environment: object, values: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        return total(values, start, self._added)

    def _added(self, left: Any, right: Any) -> Any:
        if isinstance(left, str):
            raise TypeError("sum() adds no strings; use join")
        weight = guard_operator(self.ledger, "+", left, right)
        made = operator.add(left, right)
        if weight is not None:
            self.ledger.weighed(made, weight)
        return self.ledger.charge(made)

    def _list(self, values: Iterable[Any]) -> list[Any]:
        return self.ledger.listed(values)


def _escaped(separator: Any, items: list[Any]) -> str:
    """Items joined where autoescaping is on: escaped if one of them is markup, as Jinja does it."""
    if any(hasattr(item, "__html__") for item in items):
        return Markup.escape(separator).join(items)
    return str(separator).join(map(str, items))
