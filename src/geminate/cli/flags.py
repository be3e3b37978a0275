"""Command-line options made from the fields of a dataclass (`LoadOptions`, `SamplingParams`), declared once there."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Generic, Literal, TypeVar

import typer

from geminate.cli.console import fail
from geminate.errors import BackendError, ParameterError
from geminate.loading.options import LoadOptions
from geminate.params import SamplingParams, parse_speculation

ModelArg = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="Directory, GGUF or .geminate file, or pulled model.", show_default="the embedded pair"
    ),
]
ModelOpt = Annotated[
    str | None, typer.Option("--model", "-m", help="The same as the argument MODEL.", show_default=False)
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line, last.")]
SpeculationOpt = Annotated[
    str, typer.Option("--speculation", "-k", help="auto, off, ngram or a draft length 0..16; never changes the output.")
]
SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
UNUSUAL = 3.0  # temperature from which there is a remark
Options = TypeVar("Options")


class Group(Generic[Options]):
    """Options for some fields of a dataclass.

    Args:
        kind: the dataclass; a field's metadata hold ``help``, ``flags``, ``empty`` and ``none``, see `LoadOptions`.
        names: its fields, in the order of the help text; none means all that have a help text.
        defaults: other defaults than the dataclass has.
    """

    def __init__(self, kind: type[Options], *names: str, **defaults: Any) -> None:
        fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        self.kind = kind
        self.fields = [fields[name] for name in names or fields if names or "help" in fields[name].metadata]
        self.defaults = defaults
        self.hints = typing.get_type_hints(kind)

    def default(self, item: dataclasses.Field[Any]) -> Any:
        """The default of a field in this command."""
        return self.defaults.get(item.name, item.default)

    def annotation(self, item: dataclasses.Field[Any]) -> Any:
        """The field as Typer's ``Annotated[type, Option(...)]``."""
        meta = item.metadata
        option = typer.Option(
            *_flags(item), help=meta["help"], show_default=meta.get("empty", self.default(item) is not False)
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
        with self.flagged():
            return self.kind(**values)

    @contextmanager
    def flagged(self) -> Iterator[None]:
        """What is wrong with a field is said of its flags: who types them has never seen its name."""
        try:
            yield
        except (ParameterError, BackendError) as error:
            raise type(error)(self.in_flags(str(error))) from None

    def in_flags(self, message: str) -> str:
        """A message that begins with a field's name, with its flags there instead."""
        name, space, rest = message.partition(" ")
        item = next((f for f in self.fields if f.name == name), None)
        return message if item is None else f"{' or '.join(_typed(item))}{space}{rest}"


def remark_on(params: SamplingParams) -> str | None:
    """What to say of sampling that is hardly meant so: ``-t`` is the number of threads in llama.cpp."""
    if (params.temperature or 0.0) < UNUSUAL:
        return None
    return f"temperature {params.temperature:g} gives nearly random text; -t is the temperature, --threads the threads"


def speculation_of(text: str) -> None:
    """Check the value of ``--speculation``.

    Raises:
        ParameterError: see `parse_speculation`.
    """
    try:
        parse_speculation(text)
    except ParameterError as error:
        raise ParameterError(str(error).replace("speculation", "--speculation or -k", 1)) from None


def _flags(item: dataclasses.Field[Any]) -> tuple[str, ...]:
    return item.metadata.get("flags") or ("--" + item.name.replace("_", "-"),)


def _typed(item: dataclasses.Field[Any]) -> list[str]:
    """The flags that a message names: the long one and the short one, without the names of other programs."""
    long, *others = _flags(item)
    long = long.partition("/")[0]  # of a switch that has both forms
    return [long, *(flag for flag in others if not flag.startswith("--"))]


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


def one_model(argument: str | None, option: str | None) -> str | None:
    """The model that was named, as MODEL or with --model; named twice is refused."""
    if argument is not None and option is not None:
        fail(f"the model is named twice: {argument} and --model {option}")
    return argument if option is None else option


def options(*groups: Group[Any]) -> Callable[[Command], Command]:
    """Decorator of a command: its ``**given`` are the options of ``groups``, for `Group.take` to make objects of.

    A command with a parameter ``model`` takes the model as ``--model`` too.
    """

    def decorate(command: Command) -> Command:
        hints = typing.get_type_hints(command, include_extras=True)
        own = [
            _parameter(p.name, hints[p.name], p.default)
            for p in inspect.signature(command).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        names_model = any(p.name == "model" for p in own)
        alias = [_parameter("model_option", ModelOpt, None)] if names_model else []
        parameters = [*own, *alias, *(p for group in groups for p in group.parameters())]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            if names_model:
                given["model"] = one_model(given["model"], given.pop("model_option"))
            command(**given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return typing.cast(Command, run)

    return decorate


def loading(*names: str, **defaults: Any) -> Group[LoadOptions]:
    """Options of `LoadOptions`."""
    return Group(LoadOptions, *names, **defaults)


def sampling(*names: str, **defaults: Any) -> Group[SamplingParams]:
    """Options of `SamplingParams`."""
    return Group(SamplingParams, *names, **defaults)
