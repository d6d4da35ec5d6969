"""The adapters of this appliance, in PEFT's form: one folder each, swapped in place.

adapters/global/0003/   the global adapter that round 3 published (0000: where it started)
adapters/local/         the one trained on this hospital's data alone
adapters/personal/      a mixture of global and own, where that was adopted
adapters/imported/NAME/ one from elsewhere (appliance.adapter_exchange)
rounds/0003/adapter/    what this hospital trained in round 3
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from appliance.adopted import read_adoption
from appliance.locks import exclusive
from appliance.paths import Paths
from backends.lora_adapter import Scaling
from backends.peft_config import CONFIG_NAME, WEIGHTS_NAME, peft_config
from federation.adapter import AdapterSchema
from federation.canonical import Message, Sha256
from federation.errors import InputError, StorageError
from federation.files import storage_errors, sync_folder, write_atomically

CARD_NAME = "fedmed-adapter.json"
_TEMPORARY = ".adapter-"
_IMPORTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LIST = (
    "Choose adopted, base, local, personal, global, round:N or an imported one: "
    "`appliance adapter list`."
)
_TAKEN = {"base", "local", "global", "personal", "adopted"}


class AdapterCard(Message):
    """What an adapter is: its base model, schema, digest of its tensors' file and origin."""

    base_name: str
    base_sha256: Sha256
    adapter_schema: AdapterSchema
    sha256: Sha256
    origin: str


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter folder and its card."""

    folder: Path
    card: AdapterCard

    @property
    def weights(self) -> Path:
        """The canonical safetensors file."""
        return self.folder / WEIGHTS_NAME


def store(
    folder: Path,
    card: AdapterCard,
    write_weights: Callable[[Path], None],
    config: Mapping[str, object] | None = None,
) -> StoredAdapter:
    """Make an adapter folder in one step: it is whole, or it is not there.

    ``write_weights`` makes the safetensors file at a path, durably; PEFT's ``config`` follows
    from the card's schema unless given. A folder that exists is replaced; until then it can be
    read. One writer at a time. Raises StorageError.
    """
    schema = card.adapter_schema
    if config is None:
        paths = [module.path for module in schema.modules]
        config = peft_config(paths, schema.rank, Scaling(schema.alpha), card.base_name)
    with exclusive(folder.parent / ".adapters.lock"):
        _sweep(folder)
        with storage_errors(folder):
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_TEMPORARY))
        try:
            with storage_errors(folder):
                write_weights(temporary / WEIGHTS_NAME)
            write_atomically(temporary / CONFIG_NAME, json.dumps(config, indent=2).encode())
            write_atomically(temporary / CARD_NAME, card.to_json())
            with storage_errors(folder):
                temporary.chmod(0o755)
                _replace(folder, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return StoredAdapter(folder, card)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _replace(folder: Path, new: Path) -> None:
    # Folders cannot be exchanged portably: the old one waits aside, where readers look too, until
    # the new one is in place.
    if folder.exists():
        folder.rename(_aside(folder))
    new.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Mend what a killed writer left; the lock says that none is at work."""
    for left in folder.parent.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(left, ignore_errors=True)
    if _aside(folder).exists():
        if folder.exists():
            shutil.rmtree(_aside(folder))
        else:
            _aside(folder).rename(folder)


def _present(folder: Path) -> Path | None:
    return next((f for f in (folder, _aside(folder)) if f.is_dir()), None)


def load(folder: Path) -> StoredAdapter:
    """Read an adapter folder's card. Raises StorageError naming the file."""
    there = _present(folder) or folder
    card = there / CARD_NAME
    try:
        return StoredAdapter(there, AdapterCard.model_validate_json(card.read_bytes()))
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{card} cannot be read: {error}.",
            hint="Remove that folder: a global adapter is fetched again, another trained again.",
        ) from error


def global_folder(paths: Paths, number: int) -> Path:
    """Where the global adapter that a round published lies."""
    return paths.adapters / "global" / f"{number:04d}"


def parent_folder(paths: Paths, digest: str) -> Path:
    """Where the adapter with this digest lies that a round started from: with the global ones,
    where a round published it, else with the parents."""
    for number in global_rounds(paths):
        folder = global_folder(paths, number)
        if load(folder).card.sha256 == digest:
            return folder
    return paths.adapters / "parents" / digest[:16]


def global_rounds(paths: Paths) -> list[int]:
    """Rounds whose global adapter is here, in order."""
    names = [p.name for p in (paths.adapters / "global").glob("*") if p.is_dir()]
    there = {name.removeprefix(".").removesuffix(".replaced") for name in names}
    return sorted(int(name) for name in there if name.isdigit())


def imported_folder(paths: Paths, name: str) -> Path:
    """Where the imported adapter of this name lies. Raises InputError for an impossible name."""
    if not _IMPORTED.fullmatch(name) or name in _TAKEN:
        raise InputError(
            f"An imported adapter cannot be called {name!r}.",
            hint="Up to 64 of A-Z a-z 0-9 . - _, and not base, local or global.",
        )
    return paths.adapters / "imported" / name


def imported_names(paths: Paths) -> list[str]:
    """The imported adapters, by name."""
    return sorted(p.name for p in (paths.adapters / "imported").glob("[!.]*") if p.is_dir())


def remove_imported(paths: Paths, name: str) -> None:
    """Delete an imported adapter. Raises InputError when there is none of that name."""
    folder = imported_folder(paths, name)
    if _present(folder) is None:
        raise InputError(f"There is no imported adapter {name!r}.", hint=_LIST)
    with exclusive(folder.parent / ".adapters.lock"), storage_errors(folder):
        for left in (folder, _aside(folder)):
            if left.exists():
                shutil.rmtree(left)


def choices(paths: Paths) -> list[str]:
    """What ``find`` finds here now: base, local, personal, global, each round:N, each imported
    one, and last the adopted one, which is one of these."""
    rounds = global_rounds(paths)
    local = [name for name in ("local", "personal") if _present(paths.adapters / name)]
    adopted = ["adopted"] if read_adoption(paths) else []
    newest = ["global"] if rounds else []
    published = [f"round:{number}" for number in rounds]
    return ["base", *local, *newest, *published, *imported_names(paths), *adopted]


def find(paths: Paths, choice: str) -> StoredAdapter | None:
    """The adapter a person means by one of ``choices``.

    None is the plain base. ``global`` is the newest global adapter here, ``round:N`` the one that
    round N published, ``adopted`` the one this hospital decided to use: the base until it did.
    Raises InputError when there is no such adapter.
    """
    if choice == "adopted":
        adoption = read_adoption(paths)
        choice = adoption.choice if adoption else "base"
    if choice == "base":
        return None
    if choice == "local":
        folder, remedy = paths.adapters / "local", "`appliance train --local` makes one."
    elif choice == "personal":
        folder = paths.adapters / "personal"
        remedy = '`appliance sync` makes one where [adopt] rule is "best" or "mixture".'
    elif choice == "global":
        rounds = global_rounds(paths)
        folder = global_folder(paths, rounds[-1] if rounds else 0)
        remedy = "`appliance sync` fetches the newest published one."
    elif found := re.fullmatch(r"round:(\d{1,6})", choice):
        folder = global_folder(paths, int(found[1]))
        remedy = f"`appliance sync --round {found[1]}` fetches it, once it is published."
    elif _IMPORTED.fullmatch(choice):
        folder, remedy = imported_folder(paths, choice), _LIST
    else:
        raise InputError(f"There is no adapter {choice!r}.", hint=_LIST)
    if _present(folder) is None:
        raise InputError(f"There is no {choice} adapter here yet.", hint=remedy)
    return load(folder)
