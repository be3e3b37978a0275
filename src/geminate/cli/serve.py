"""``geminate serve``: its flags are made from the settings, so that there is one list of them."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from geminate.cli import common as c

NEEDS = ("fastapi", "uvicorn", "prometheus_client", "llguidance", "pydantic")
MISSING = "the server needs {}, which is not installed: pip install 'geminate[server]'"


def _missing() -> str | None:
    return next((name for name in NEEDS if importlib.util.find_spec(name) is None), None)


def _serve(config: str | None, flags: dict[str, Any]) -> None:
    with c.user_errors():
        missing = _missing()
        if missing is not None:
            c.fail(MISSING.format(missing))
        from geminate.server.http.logs import log
        from geminate.server.run import serve
        from geminate.server.settings import load_settings

        settings = load_settings(flags, config=config)
        serve(
            settings,
            lambda: c.load(
                settings.model,
                drafter=settings.drafter,
                weights=settings.weights,
                threads=settings.threads,
                rope_position=settings.rope_position,
                no_cache=not settings.cache,
                prefault=settings.prefault,
                tell=lambda message: log("info", message),
            ),
        )


def command() -> Callable[..., None]:
    """The command, with one option for each setting."""
    from geminate.server.settings import rows

    def serve(**given: Any) -> None:
        """Serve a model over OpenAI's API, with a page at /. Every flag is also a variable GEMINATE_SERVE_<NAME> and
        a key of the TOML file."""
        _serve(given.pop("config"), given)

    parameters = [
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option("--config", help="TOML file with settings.")],
        )
    ]
    for row in rows():
        kind: Any = list[row.kind] if row.several else str if row.size else row.kind  # type: ignore[name-defined]
        says = f"{row.help} Default: {row.default}."
        info = typer.Argument(help=says) if row.name == "model" else typer.Option(row.flag, help=says)
        parameters.append(
            inspect.Parameter(
                row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
            )
        )
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {p.name: p.annotation for p in parameters}
    return serve
