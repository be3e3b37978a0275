"""``geminate list``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from geminate.cli.console import out, printable, tell, user_errors, write_json
from geminate.loading.hub.catalogue import catalogue
from geminate.loading.hub.names import known_name
from geminate.loading.hub.pulled import PulledModel, pulled_models
from geminate.loading.hub.snapshots import find_pulled, hub_cache
from geminate.sizes import gigabytes


@user_errors()
def list_command(
    whole_catalogue: Annotated[
        bool, typer.Option("--catalogue", help="List the names that pull knows, instead of what is here.")
    ] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Models and drafters that are on this machine, or the names that `geminate pull` knows."""
    if whole_catalogue:
        _catalogue(json_out)
        return
    models = sorted(pulled_models(), key=lambda model: (model.drafter, model.name.lower()))
    if json_out:
        write_json({"cache": str(hub_cache()), "models": [_json(model) for model in models]})
        return
    if not models:
        tell(printable(f"no models in {hub_cache()}; geminate list --catalogue shows what geminate pull knows"))
        return
    table = Table(box=None)
    for heading in ("name", "size", ""):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for model in models:
        state = "drafter" if model.drafter else "" if model.complete else "not whole: pull it again"
        table.add_row(printable(model.name), gigabytes(model.nbytes), state)
    out.print(table)
    tell(printable(f"in {hub_cache()}, which other programs share; geminate rm NAME removes one"))


def _json(model: PulledModel) -> dict[str, object]:
    return {
        "name": model.name,
        "repository": model.repository,
        "path": str(model.path),
        "bytes": model.nbytes,
        "complete": model.complete,
        "drafter": model.drafter,
    }


def _catalogue(json_out: bool) -> None:
    rows = [(model, variant) for model in catalogue() for variant in model.variants]
    if json_out:
        write_json({
            "models": [
                {
                    "name": f"{model.name}:{variant.name}", "default": variant.name == model.default,
                    "repository": variant.repository, "files": list(variant.files), "bytes": variant.nbytes,
                    "drafter": variant.drafter, "drafter_bytes": variant.drafter_nbytes, "licence": model.licence,
                    "what": variant.what,
                }
                for model, variant in rows
            ]
        })  # fmt: skip
        return
    table = Table(box=None)
    for heading in ("name", "download + drafter", "", "what it is"):
        right = heading == "download + drafter"
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "what it is")
    for model, variant in rows:
        name = known_name(f"{model.name}:{variant.name}")
        here = "here" if name is not None and find_pulled(name).path is not None else ""
        usual = "usual" if variant.name == model.default else ""
        state = ", ".join(word for word in (usual, here) if word)
        table.add_row(f"{model.name}:{variant.name}", variant.download, state, variant.what)
    out.print(table)
    tell("a name without its variant means the usual one; any hub id works too: geminate pull OWNER/NAME-GGUF:Q4_K_M")
