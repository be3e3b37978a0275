"""``geminate serve``: its flags are made from the settings, so that there is one list of them."""

from __future__ import annotations

import importlib.util
import inspect
import os
import signal
from collections.abc import Callable
from typing import Annotated, Any

import typer

from geminate.cli.console import fail, user_errors
from geminate.cli.flags import ModelOpt, one_model
from geminate.cli.model import load

NEEDS = ("fastapi", "uvicorn", "prometheus_client", "pydantic")
MISSING = "the server needs {}, which is not installed; in a checkout: pip install '.[server]'"


def _missing() -> str | None:
    return next((name for name in NEEDS if importlib.util.find_spec(name) is None), None)


def _leave_quietly() -> None:
    """Until the server has handlers of its own: a stop ends the process at once, a reload has nothing to reload."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _serve(config: str | None, flags: dict[str, Any]) -> None:
    with user_errors():
        missing = _missing()
        if missing is not None:
            fail(MISSING.format(missing))
        from geminate.server.http.logs import log
        from geminate.server.run import serve as run
        from geminate.server.sources import load_settings

        settings = load_settings(flags, config=config)
        run(
            settings,
            lambda check: load(settings.loading(), on_message=lambda message: log("info", message), on_progress=check),
        )


def command() -> Callable[..., None]:
    """The command, with one option for each setting."""
    from geminate.server.settings import rows

    def serve(**given: Any) -> None:
        """Serve a model over OpenAI's API, with a page at /. Every flag is also a variable GEMINATE_SERVE_<NAME> and
        a key of the TOML file."""
        _leave_quietly()
        given["model"] = one_model(given["model"], given.pop("model_option"))
        _serve(given.pop("config"), given)

    parameters = [
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option("--config", help="TOML file with settings.")],
        )
    ]
    parameters.append(
        inspect.Parameter("model_option", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ModelOpt)
    )
    for row in rows():
        kind: Any = list[row.kind] if row.several else str if row.size else row.kind  # type: ignore[name-defined]
        text = f"{row.help} Default: {row.default}."
        info = (
            typer.Argument(metavar="[MODEL]", help=text) if row.name == "model" else typer.Option(row.flag, help=text)
        )
        parameters.append(
            inspect.Parameter(
                row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
            )
        )
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {p.name: p.annotation for p in parameters}
    return serve


serve = command()
