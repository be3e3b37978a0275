"""``geminate fleet up``: a fleet on Ray Serve, here or on a cluster that is there."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Annotated

import typer

from geminate.cli.console import fail, user_errors
from geminate.cli.model import load
from geminate.cli.serve import NEEDS

if TYPE_CHECKING:
    from geminate.fleet.config import FleetConfig

MISSING = "a fleet needs {}, which is not installed; in a checkout: pip install '.[fleet]'"


def _missing() -> str | None:
    for name in (*NEEDS, "ray"):
        try:
            found = importlib.util.find_spec(name)
        except ValueError:  # its place in sys.modules is blocked
            found = None
        if found is None:
            return name
    return None


def up(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Directory, GGUF file or pulled model.", show_default=False)
    ] = None,
    config: Annotated[str | None, typer.Option("--config", help="TOML file; see docs/fleet.md.")] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", help="Replicas of each model. Default: 2.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads, and cores, of a replica. Default: the cores shared out.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on. Default: 8000.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Running Ray cluster to use, such as auto. Default: one of its own.")
    ] = None,
    dashboard: Annotated[
        bool | None, typer.Option("--dashboard/--no-dashboard", help="Start Ray's dashboard. Default: no.")
    ] = None,
) -> None:
    """Serve with several replicas on Ray: routing by prefix, streams that outlive a dead replica."""
    with user_errors():
        missing = _missing()
        if missing is not None:
            fail(MISSING.format(missing))
        from geminate.fleet.config import load_fleet

        given = {
            "model.model": model,
            "model.replicas": replicas,
            "model.threads": threads,
            "serve.host": host,
            "serve.port": port,
            "fleet.address": address,
            "fleet.dashboard": dashboard,
        }

        def read() -> FleetConfig:
            return load_fleet(config, overrides=given)

        wanted = read()
        from geminate.server.http.auth import load_keys
        from geminate.server.http.logs import configure, log

        configure(wanted.settings.log_format)
        load_keys(wanted.settings)
        if wanted.fleet.address is None:
            for one in wanted.models:  # packed once here, with progress, instead of in every replica
                load(one.settings.loading(), on_message=lambda message: log("info", message)).close()
        from geminate.fleet.up import run

        run(wanted, read)
