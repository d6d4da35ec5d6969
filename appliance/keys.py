"""This hospital's signing keys: the present ones, those that wait, and those before.

A rotation leaves no moment without working keys. New ones are written beside the present ones
(``next.pem``) and asked for; the present ones stay in use until the coordinator has taken a request
signed by the new. Then the present ones become ``previous.pem``, which seals for a round whose
roster still names them, and the new ones replace them by one rename.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.enrolment import passphrase
from appliance.locks import exclusive
from appliance.paths import Paths
from federation.errors import IdentityError
from federation.files import storage_errors, sync_folder, write_atomically
from federation.messages import PublicIdentity
from federation.signing import Identity, is_protected


@dataclass(frozen=True)
class Keys:
    """All that this hospital holds; ``next`` waits for the coordinator, ``previous`` is void."""

    current: Identity
    next: Identity | None
    previous: Identity | None

    @property
    def others(self) -> tuple[Identity, ...]:
        """Those besides the present ones."""
        return tuple(keys for keys in (self.next, self.previous) if keys is not None)


def load_keys(paths: Paths) -> Keys:
    """Read them. Raises IdentityError naming the file."""
    return Keys(
        Identity.load(paths.keys, passphrase()),
        _load_if_there(paths.next_keys),
        _load_if_there(paths.previous_keys),
    )


def _load_if_there(path: Path) -> Identity | None:
    return Identity.load(path, passphrase()) if path.exists() else None


def prepare_next(paths: Paths) -> Identity:
    """The keys that are to come, made and written unless they wait already."""
    with exclusive(_lock(paths)):
        waiting = _load_if_there(paths.next_keys)
        if waiting is not None:
            return waiting
        made = Identity.generate()
        made.save(paths.next_keys, passphrase())
        return made


def promote(paths: Paths, confirmed: PublicIdentity) -> None:
    """Put the keys that the coordinator has confirmed in the place of the present ones.

    Killed in between, it is done again by the next command: nothing changes but by whole files.
    """
    with exclusive(_lock(paths)):
        waiting = _load_if_there(paths.next_keys)
        # Another process may have done it, and even have made further ones since.
        if waiting is None or waiting.public() != confirmed:
            return
        with storage_errors(paths.keys):
            write_atomically(paths.previous_keys, paths.keys.read_bytes(), mode=0o600)
            os.replace(paths.next_keys, paths.keys)
            sync_folder(paths.keys.parent)


def forget_previous(paths: Paths, named: PublicIdentity) -> None:
    """Remove the keys before the present ones if the newest round's roster names the present."""
    if not paths.previous_keys.exists():
        return
    with exclusive(_lock(paths)), storage_errors(paths.previous_keys):
        # Read anew: they may have been promoted since this command began.
        if Identity.load(paths.keys, passphrase()).public() == named:
            paths.previous_keys.unlink(missing_ok=True)


def protect(paths: Paths, old: str | None, new: str | None) -> list[Path]:
    """Write every key file under the passphrase ``new`` (None: without); gives their paths.

    Killed in between, the same call finishes it. Raises IdentityError when a file opens with
    neither of both.
    """
    with exclusive(_lock(paths)):
        files = [p for p in (paths.keys, paths.next_keys, paths.previous_keys) if p.exists()]
        if not files:
            raise IdentityError(
                f"There are no keys at {paths.keys}.", hint="`appliance enrol INVITE` makes them."
            )
        # All are read before one is written: a wrong passphrase changes nothing.
        opened = [(path, _open(path, old, new)) for path in files]
        for path, identity in opened:
            identity.save(path, new)
    return files


def _open(path: Path, old: str | None, new: str | None) -> Identity:
    protected = is_protected(path)
    try:
        return Identity.load(path, old if protected else None)
    except IdentityError:
        if not protected or new is None:
            raise
        return Identity.load(path, new)


def _lock(paths: Paths) -> Path:
    return paths.home / "keys.lock"
