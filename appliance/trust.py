"""Whom this hospital believes: the administrator, and the coordinator by the keys that it has now.

Enrolling pinned both. The coordinator's keys may be replaced since, link by link, each signed by
the administrator and by the keys before (``federation.succession``); the links that were verified
are kept in one file. What comes from the coordinator must be signed by the newest keys. What lies
here was verified when it came, and may be signed by any keys of the chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from appliance.client import CoordinatorClient
from appliance.enrolment import Enrolment, load_enrolment
from appliance.locks import exclusive
from appliance.paths import Paths
from federation.canonical import Message
from federation.errors import IdentityError, StorageError, TransportError
from federation.files import write_atomically
from federation.messages import PublicIdentity
from federation.signing import Purpose, SignedDocument, fingerprint
from federation.succession import SuccessionChain

_M = TypeVar("_M", bound=Message)


def _unsaid(_: str) -> None:
    pass


@dataclass(frozen=True)
class Trust:
    """What enrolling fixed and, in ``file``, what followed; ``say`` tells a person of new keys.

    Methods raise StorageError for a file that is damaged, IdentityError for what does not verify.
    """

    enrolment: Enrolment
    file: Path
    say: Callable[[str], None] = _unsaid

    def chain(self) -> SuccessionChain:
        """The successions since the pinned keys that were verified here."""
        return self._kept()[0]

    @property
    def known_keys(self) -> tuple[PublicIdentity, ...]:
        """The coordinator's keys since the pinned ones, oldest first."""
        return self._kept()[1]

    @property
    def newest(self) -> PublicIdentity:
        """The keys that sign what comes now."""
        return self.known_keys[-1]

    def _kept(self) -> tuple[SuccessionChain, tuple[PublicIdentity, ...]]:
        # Read each time, since another process may have learned more.
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise StorageError(f"{self.file} cannot be read: {error.strerror}.") from error
        try:
            return _verified(content, self.enrolment)
        except (ValidationError, IdentityError) as error:
            raise StorageError(
                f"{self.file} is damaged: {error}.",
                hint="Remove it: it is fetched again, and verified from the keys of the enrolment.",
            ) from error

    def open_held(self, document: SignedDocument, model: type[_M], purpose: Purpose) -> _M:
        """A document that was verified before it was written here."""
        *former, newest = self.known_keys
        for keys in former:
            try:
                document.verify(keys, purpose)
            except IdentityError:
                continue
            return document.open(model, keys, purpose)
        return document.open(model, newest, purpose)

    def fetch(
        self,
        client: CoordinatorClient,
        ask: Callable[[], SignedDocument],
        model: type[_M],
        purpose: Purpose,
    ) -> tuple[SignedDocument, _M]:
        """What ``ask`` gets from the coordinator, and what it says.

        Where the keys known here did not sign it, others may have taken their place: those are
        learned, and then it is asked for once more.
        """
        used = self.newest
        document = ask()
        try:
            return document, document.open(model, used, purpose)
        except IdentityError as error:
            self._follow(client, error)
            if self.newest == used:
                raise
        document = ask()
        return document, document.open(model, self.newest, purpose)

    def _follow(self, client: CoordinatorClient, reason: IdentityError) -> None:
        """Learn; an answer that is none of a coordinator's leaves it at ``reason``."""
        try:
            self.learn(client)
        except TransportError as error:
            if error.retryable:
                raise
            raise reason from error

    def learn(self, client: CoordinatorClient) -> None:
        """Follow the coordinator to new keys, if it has any.

        Raises IdentityError for a link that is not signed by both, for another one in place of a
        link that is known here, and for fewer of them.
        """
        with exclusive(self.file.with_name("coordinator-keys.lock")):
            known, before = self._kept()
            pinned = self.enrolment.coordinator
            shown = client.coordinator_keys().since(pinned)
            shown.check_continues(known)
            if len(shown.links) == len(known.links):
                return
            keys = shown.keys(self.enrolment.federation, self.enrolment.admin, pinned)
            write_atomically(self.file, shown.to_json())
        self.say(
            "The coordinator's keys changed, signed by the administrator: fingerprint "
            f"{fingerprint(keys[-1])}, before {fingerprint(before[-1])}."
        )


@lru_cache(maxsize=4)
def _verified(
    content: bytes, enrolment: Enrolment
) -> tuple[SuccessionChain, tuple[PublicIdentity, ...]]:
    chain = SuccessionChain.model_validate_json(content) if content else SuccessionChain()
    return chain, chain.keys(enrolment.federation, enrolment.admin, enrolment.coordinator)


def load_trust(paths: Paths, say: Callable[[str], None] = _unsaid) -> Trust:
    """Whom the hospital with these paths believes. Raises IdentityError when not enrolled."""
    return Trust(load_enrolment(paths), paths.coordinator_keys, say)
