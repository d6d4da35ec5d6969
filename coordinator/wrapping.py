"""The key that keeps round secrets unreadable in the database and its backups.

Its 32 bytes lie in a PKCS#8 container (as an X25519 key, which any 32 bytes are), so that a
passphrase protects them just as it protects the signing keys.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from federation.errors import IdentityError, StorageError
from federation.files import storage_errors, sync_folder, write_atomically

_NONCE = 12


def _context(federation: str, number: int) -> bytes:
    return f"fedmed/round-secret/v1\0{federation}\0{number}".encode()


@dataclass(frozen=True)
class WrappingKey:
    """Wraps the seed of a round's key pair; bound to federation and round."""

    key: bytes

    @classmethod
    def create(cls, path: Path, passphrase: str | None) -> WrappingKey:
        """A new key, kept at ``path`` with mode 0600."""
        container = X25519PrivateKey.generate()
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            protection = serialization.BestAvailableEncryption(passphrase.encode())
        pem = container.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
        )
        write_atomically(path, pem, mode=0o600)
        return cls(container.private_bytes_raw())

    @classmethod
    def load(cls, path: Path, passphrase: str | None) -> WrappingKey:
        """Read the key. Raises IdentityError naming the file."""
        password = passphrase.encode() if passphrase else None
        try:
            if path.stat().st_mode & 0o077:
                raise IdentityError(
                    f"{path} can be read by others.", hint=f"Run `chmod 600 {path}`."
                )
            container = serialization.load_pem_private_key(path.read_bytes(), password)
        except (OSError, ValueError, TypeError) as error:
            raise IdentityError(
                f"The wrapping key {path} cannot be read: {error}.",
                hint="Is COORDINATOR_PASSPHRASE right? Else restore the file.",
            ) from error
        if not isinstance(container, X25519PrivateKey):
            raise IdentityError(
                f"{path} does not hold a wrapping key.", hint="Restore the file from a backup."
            )
        return cls(container.private_bytes_raw())

    def wrap(self, seed: bytes, federation: str, number: int) -> bytes:
        """Encrypt the seed of one round."""
        nonce = secrets.token_bytes(_NONCE)
        aead = ChaCha20Poly1305(self.key)
        return nonce + aead.encrypt(nonce, seed, _context(federation, number))

    def unwrap(self, wrapped: bytes, federation: str, number: int) -> bytes:
        """The seed again. Raises StorageError when it was wrapped by another key."""
        aead = ChaCha20Poly1305(self.key)
        try:
            return aead.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _context(federation, number))
        except InvalidTag as error:
            raise StorageError(
                f"The secret of round {number} cannot be unwrapped.",
                hint="keys/wrapping.pem must be the one that the round was opened with.",
            ) from error


class Wrapping:
    """The wrapping key in its file, which another process may replace at any time.

    ``next`` is the key that a rotation puts in its place; while one is under way, or was cut off,
    the rounds' secrets may be wrapped under either.
    """

    def __init__(self, path: Path, passphrase: str | None) -> None:
        self._path = path
        self._next = path.with_name("wrapping.next.pem")
        self._lock = path.with_name("wrapping.lock")
        self._passphrase = passphrase
        self._key = WrappingKey.load(path, passphrase)

    @contextmanager
    def steady(self) -> Iterator[WrappingKey]:
        """The key to wrap with, which is not replaced before the block ends."""
        with self._locked(fcntl.LOCK_SH):
            yield WrappingKey.load(self._path, self._passphrase)

    def unwrap(self, wrapped: bytes, federation: str, number: int) -> bytes:
        """The seed of a round. Raises StorageError when it was wrapped by another key."""
        try:
            return self._key.unwrap(wrapped, federation, number)
        except StorageError:
            for path in (self._next, self._path):
                if path.exists():
                    self._key = WrappingKey.load(path, self._passphrase)
                    try:
                        return self._key.unwrap(wrapped, federation, number)
                    except StorageError:
                        continue
            raise

    @contextmanager
    def replaced(self) -> Iterator[WrappingKey]:
        """A new key, or the one of a rotation that was cut off; it holds when the block has ended.

        The block wraps every secret anew. Killed at any point, it may be done again.
        """
        with self._locked(fcntl.LOCK_EX):
            if self._next.exists():
                key = WrappingKey.load(self._next, self._passphrase)
            else:
                key = WrappingKey.create(self._next, self._passphrase)
            yield key
            with storage_errors(self._path):
                os.replace(self._next, self._path)
                sync_folder(self._path.parent)
            self._key = key

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with storage_errors(self._lock):
            handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)
