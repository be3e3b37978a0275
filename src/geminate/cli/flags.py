"""Command-line options made from the fields of a dataclass (`LoadOptions`, `SamplingParams`), declared once there."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import typer

from geminate.loading.options import LoadOptions
from geminate.params import SamplingParams

ModelArg = Annotated[
    str | None, typer.Argument(help="Directory, GGUF file or hub id.", show_default="the embedded pair")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line, last.")]
SpeculationOpt = Annotated[
    str, typer.Option("--speculation", "-k", help="auto, off, ngram or a draft length 0..16; never changes the output.")
]
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")
Options = TypeVar("Options")


class Group(Generic[Options]):
    """Options for some fields of a dataclass.

    Args:
        kind: the dataclass; a field's metadata hold ``help``, ``flags``, ``empty`` and ``none``, see `LoadOptions`.
        names: its fields, in the order of the help text; none means all.
        defaults: other defaults than the dataclass has.
    """

    def __init__(self, kind: type[Options], *names: str, **defaults: Any) -> None:
        fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        self.kind = kind
        self.fields = [fields[name] for name in names or fields]
        self.defaults = defaults
        self.hints = typing.get_type_hints(kind)

    def default(self, item: dataclasses.Field[Any]) -> Any:
        """The default of a field in this command."""
        return self.defaults.get(item.name, item.default)

    def annotation(self, item: dataclasses.Field[Any]) -> Any:
        """The field as Typer's ``Annotated[type, Option(...)]``."""
        meta = item.metadata
        flags = meta.get("flags", ("--" + item.name.replace("_", "-"),))
        option = typer.Option(
            *flags, help=meta["help"], show_default=meta.get("empty", self.default(item) is not False)
        )
        return Annotated[_plain(self.hints[item.name]), option]

    def parameters(self) -> list[inspect.Parameter]:
        """The options as parameters of a command."""
        made = []
        for item in self.fields:
            default = self.default(item)
            # A field that is on by default becomes a switch that turns it off.
            shown = False if default is True else None if default == () else default
            made.append(_parameter(item.name, self.annotation(item), shown))
        return made

    def take(self, given: dict[str, Any]) -> Options:
        """Remove the options from ``given`` and make the dataclass of them.

        Raises:
            ParameterError: a value outside its range.
        """
        values = {}
        for item in self.fields:
            value = given.pop(item.name)
            if self.default(item) is True:
                value = not value
            elif value is None and item.default == ():
                value = ()
            elif value is not None and value == item.metadata.get("none"):
                value = None
            values[item.name] = value
        return self.kind(**values)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _plain(hint: Any) -> Any:
    """A type that Typer can parse: text for paths and literals, a list for repeated options."""
    kinds = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else [hint]
    )
    empty = type(None) in kinds
    if any(typing.get_origin(kind) is Sequence for kind in kinds):
        return list[str] | None
    if str in kinds or any(typing.get_origin(kind) is Literal for kind in kinds):
        return str | None if empty else str
    return hint


Command = TypeVar("Command", bound=Callable[..., None])


def options(*groups: Group[Any]) -> Callable[[Command], Command]:
    """Decorator of a command: its ``**given`` are the options of ``groups``, for `Group.take` to make objects of."""

    def decorate(command: Command) -> Command:
        hints = typing.get_type_hints(command, include_extras=True)
        own = [
            _parameter(p.name, hints[p.name], p.default)
            for p in inspect.signature(command).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        parameters = [*own, *(p for group in groups for p in group.parameters())]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def loading(*names: str, **defaults: Any) -> Group[LoadOptions]:
    """Options of `LoadOptions`."""
    return Group(LoadOptions, *names, **defaults)


def sampling(*names: str, **defaults: Any) -> Group[SamplingParams]:
    """Options of `SamplingParams`."""
    return Group(SamplingParams, *names, **defaults)
