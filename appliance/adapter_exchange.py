"""Adapters to and from other programs: the folders of PEFT and of mlx-lm."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from appliance import adapters, models
from appliance.adapters import CARD_NAME, AdapterCard, StoredAdapter
from appliance.context import Context
from backends import mlx_folder, peft_config
from backends.lora_adapter import LoraAdapter, write_file
from backends.mlx_folder import read_mlx, write_mlx
from backends.peft_folder import read_peft, write_peft
from federation.base_model import BaseModelCard, read_card
from federation.canonical import file_sha256
from federation.errors import AdapterError, InputError
from federation.files import storage_errors, sync_folder, write_atomically

Format = Literal["peft", "mlx"]

_WEIGHTS: dict[Format, str] = {
    "peft": peft_config.WEIGHTS_NAME,
    "mlx": mlx_folder.WEIGHTS_NAME,
}


def export_adapter(stored: StoredAdapter, form: Format, target: Path) -> Path:
    """Write the adapter as a folder that PEFT or mlx-lm loads; returns the tensors' file.

    A card beside them says which base model it is for, so that another appliance can check that.
    The folder is whole or not there. Raises InputError when it exists, AdapterError when the
    adapter is damaged or that program has no such layer, StorageError.
    """
    if target.exists():
        raise InputError(f"{target} exists.", hint="Name a folder that does not exist yet.")
    _check_digest(stored.folder, stored.weights, stored.card)
    adapter = read_peft(stored.folder, stored.card.adapter_schema.modules)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        if form == "peft":
            write_peft(temporary, adapter, stored.card.base_name)
        else:
            write_mlx(temporary, adapter, stored.card.base_name)
        digest = file_sha256(temporary / _WEIGHTS[form])
        card = stored.card.model_copy(update={"sha256": digest})
        write_atomically(temporary / CARD_NAME, card.to_json())
        with storage_errors(target):
            temporary.chmod(0o755)
            temporary.rename(target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target / _WEIGHTS[form]


def import_adapter(
    context: Context, source: Path, name: str, *, base: str = "", replace: bool = False
) -> StoredAdapter:
    """Take the adapter in a PEFT or mlx-lm folder in, as ``name``.

    It is for the base model that its card names by digest; without a card for the installed model
    called ``base``, the configured or the only one, as far as layers and shapes tell. Raises
    InputError when the name is taken and not to be replaced, ModelError when the base is not here,
    AdapterError when the adapter is damaged, incomplete, for another base, or not expressible.
    """
    paths = context.paths
    folder = adapters.imported_folder(paths, name)
    if name in adapters.imported_names(paths) and not replace:
        raise InputError(
            f"There is an imported adapter {name!r} already.",
            hint="Choose another --name, or add --replace.",
        )
    form = _format_of(source)
    stated = _read_card(source, form)
    if stated is not None:
        found = models.find(paths.models, name=base, sha256=stated.base_sha256)
    else:
        found = models.find(paths.models, name=base or context.config.model.name)
    model = read_card(found)
    adapter = (read_peft if form == "peft" else read_mlx)(source, model.linears)
    origin = stated.origin if stated else _origin(source, form, adapter)
    return _store(folder, adapter, model, origin)


def _format_of(source: Path) -> Format:
    found: list[Format] = [form for form, name in _WEIGHTS.items() if (source / name).is_file()]
    if len(found) != 1:
        names = " or ".join(_WEIGHTS.values())
        what = "both" if found else "neither"
        raise AdapterError(
            f"{source} is not an adapter folder: it holds {what} of {names}.",
            hint="Name the folder that PEFT or mlx-lm saved, with its adapter_config.json.",
        )
    return found[0]


def _read_card(source: Path, form: Format) -> AdapterCard | None:
    file = source / CARD_NAME
    try:
        card = AdapterCard.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise AdapterError(
            f"{file} cannot be read: {error}.", hint="Export the adapter again."
        ) from error
    _check_digest(source, source / _WEIGHTS[form], card)
    return card


def _check_digest(folder: Path, weights: Path, card: AdapterCard) -> None:
    try:
        digest = file_sha256(weights)
    except OSError as error:
        raise AdapterError(f"{weights} cannot be read: {error.strerror}.") from error
    if digest != card.sha256:
        raise AdapterError(
            f"{weights} is not the file that {CARD_NAME} beside it describes.",
            hint=f"It was damaged, or changed on purpose: then remove {folder / CARD_NAME}.",
        )


def _origin(source: Path, form: Format, adapter: LoraAdapter) -> str:
    trained_on = f", trained on {adapter.trained_on}" if adapter.trained_on else ""
    return f"imported from the {form} folder {source.absolute().name}{trained_on}"


def _store(folder: Path, adapter: LoraAdapter, base: BaseModelCard, origin: str) -> StoredAdapter:
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    schema = adapter.schema
    layers = [module.path for module in schema.modules]
    config = peft_config.peft_config(
        layers, schema.rank, adapter.scaling, base.name, adapter.dropout
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".import-") as room:
        weights = Path(room) / peft_config.WEIGHTS_NAME
        write_file(weights, adapter.tensors)
        card = AdapterCard(
            base_name=base.name,
            base_sha256=base.sha256,
            adapter_schema=schema,
            sha256=file_sha256(weights),
            origin=origin,
        )

        def move(target: Path) -> None:
            weights.replace(target)

        return adapters.store(folder, card, move, config)
