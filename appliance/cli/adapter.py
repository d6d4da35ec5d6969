"""``appliance adapter``: list, show, export, import and remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.context import Context
from federation.errors import InputError
from federation.terminal import emit, json_option

if TYPE_CHECKING:
    from appliance.adapter_exchange import Format
    from appliance.adapters import StoredAdapter
    from federation.adapter import AdapterSchema


@click.group("adapter")
def command() -> None:
    """List adapters; export them for PEFT or mlx-lm, import theirs."""


@command.command("list")
@json_option
@click.pass_obj
def list_command(context: Context, as_json: bool) -> None:
    """Show which adapters are here: local, global ones by round, imported ones."""
    from appliance import adapters
    from appliance.adopted import read_adoption

    found = [
        (name, stored)
        for name in adapters.choices(context.paths)
        if name not in ("global", "adopted")
        and (stored := adapters.find(context.paths, name)) is not None
    ]
    lines = [_line(name, stored) for name, stored in found]
    rounds = adapters.global_rounds(context.paths)
    if rounds:
        lines.append(f"`global` is round:{rounds[-1]}.")
    adoption = read_adoption(context.paths)
    if adoption:
        lines.append(f"`adopted` is {adoption.choice}: {adoption.reason}.")
    data = {
        "adapters": [_row(name, stored) for name, stored in found],
        "global": f"round:{rounds[-1]}" if rounds else None,
        "adopted": adoption.choice if adoption else None,
    }
    emit(data, "\n".join(lines) or "There is no adapter here yet.", as_json=as_json)


@command.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show_command(context: Context, name: str, as_json: bool) -> None:
    """Say what the adapter NAME is: base model, layers, rank, scale, origin, and whether intact."""
    from appliance.models import installed
    from federation.canonical import file_sha256

    stored = _find(context, name)
    row = _row(name, stored)
    row["path"] = str(stored.folder)
    row["layers"] = _layers(stored.card.adapter_schema)
    row["intact"] = file_sha256(stored.weights) == stored.card.sha256
    row["base_installed"] = stored.card.base_sha256 in {
        model.card.sha256 for model in installed(context.paths.models)
    }
    emit(row, "\n".join(f"{key:14} {_text(value)}" for key, value in row.items()), as_json=as_json)


@command.command("export")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "form",
    type=click.Choice(["peft", "mlx"]),
    default="peft",
    show_default=True,
    help="The program that shall load it.",
)
@json_option
@click.pass_obj
def export_command(context: Context, name: str, folder: Path, form: Format, as_json: bool) -> None:
    """Write the adapter NAME into a new FOLDER that PEFT or mlx-lm loads.

    A local adapter was trained on this hospital's records: keep it as confidential as those.
    """
    from appliance.adapter_exchange import export_adapter

    weights = export_adapter(_find(context, name), form, folder)
    data = {"path": str(folder), "format": form, "n_bytes": weights.stat().st_size}
    emit(data, f"Exported {name} to {folder} for {form}.", as_json=as_json)


@command.command("import")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--name", help="What to call it here; else the folder's name.")
@click.option("--base", default="", help="The installed base model it is for, where several are.")
@click.option("--replace", is_flag=True, help="Replace an imported adapter of that name.")
@json_option
@click.pass_obj
def import_command(
    context: Context, folder: Path, name: str | None, base: str, replace: bool, as_json: bool
) -> None:
    """Take the adapter in FOLDER in, as PEFT or mlx-lm saved it.

    Only whole adapters of linear layers of an installed base model are taken. An adapter that
    another appliance exported says by digest which base model that must be.
    """
    from appliance.adapter_exchange import import_adapter

    name = name or folder.absolute().name
    stored = import_adapter(context, folder, name, base=base, replace=replace)
    text = f"Imported {_line(name, stored)}\nTry it: appliance ask --adapter {name} QUESTION"
    emit(_row(name, stored), text, as_json=as_json)


@command.command("remove")
@click.argument("name")
@json_option
@click.pass_obj
def remove_command(context: Context, name: str, as_json: bool) -> None:
    """Delete the imported adapter NAME; what rounds and training made is kept."""
    from appliance import adapters

    adapters.remove_imported(context.paths, name)
    emit({"removed": name}, f"Removed {name}.", as_json=as_json)


def _find(context: Context, name: str) -> StoredAdapter:
    from appliance import adapters

    if (stored := adapters.find(context.paths, name)) is None:
        raise InputError(
            "The base model is no adapter.", hint="`appliance adapter list` shows the adapters."
        )
    return stored


def _row(name: str, stored: StoredAdapter) -> dict[str, Any]:
    card = stored.card
    return {
        "name": name,
        "base": card.base_name,
        "base_sha256": card.base_sha256,
        "rank": card.adapter_schema.rank,
        "scale": card.adapter_schema.alpha / card.adapter_schema.rank,
        "n_parameters": card.adapter_schema.n_parameters(),
        "sha256": card.sha256,
        "origin": card.origin,
    }


def _line(name: str, stored: StoredAdapter) -> str:
    schema = stored.card.adapter_schema
    millions = schema.n_parameters() / 1e6
    shape = f"rank {schema.rank} on {', '.join(_layers(schema))}; {millions:.2f} M parameters"
    return f"{name}  for {stored.card.base_name}  {shape}  ({stored.card.origin})"


def _layers(schema: AdapterSchema) -> list[str]:
    return sorted({module.path.rsplit(".", 1)[-1] for module in schema.modules})


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)
