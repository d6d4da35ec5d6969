"""A round's deadline as it holds now: the descriptor's, or a later one that was signed since."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from appliance.client import CoordinatorClient
from appliance.rounds.descriptor import VerifiedRound
from appliance.trust import Trust
from federation.errors import FedMedError, IdentityError, RoundError
from federation.files import write_atomically
from federation.messages import RoundExtension
from federation.signing import SignedDocument

_FILE = "extension.json"


@dataclass(frozen=True)
class Deadline:
    """Knows and learns the deadline of one round; what was learned is kept in ``folder``."""

    client: CoordinatorClient
    trust: Trust
    verified: VerifiedRound
    folder: Path

    def now(self) -> int:
        """When the round closes, by the newest extension that is known here."""
        known = self._kept()
        return known.deadline if known else self.verified.descriptor.deadline

    def latest(self) -> int:
        """Until when it may pay to go on delivering; asks the coordinator, if it answers.

        The extensions that the descriptor still allows are added: without an answer nobody here
        can know whether they were made. Where they were not, the coordinator says so (410).
        """
        try:
            self.learn()
        except FedMedError as error:
            if not error.retryable:
                raise
        known = self._kept()
        descriptor = self.verified.descriptor
        left = descriptor.extensions - (known.automatic if known else 0)
        return self.now() + left * descriptor.extension_minutes * 60

    def learn(self) -> None:
        """Fetch the newest extension, verify and keep it.

        Raises IdentityError where it is not of this round or not signed by the coordinator.
        """
        number = self.verified.descriptor.round
        try:
            signed, found = self.trust.fetch(
                self.client, lambda: self.client.extension(number), RoundExtension, "extension"
            )
        except RoundError as error:
            if error.retryable:
                raise
            return  # It was not extended.
        self._check(found)
        known = self._kept()
        if known is None or found.number > known.number:
            write_atomically(self.folder / _FILE, signed.to_json())

    def _check(self, found: RoundExtension) -> None:
        descriptor = self.verified.descriptor
        of = (found.federation, found.round, found.descriptor_sha256)
        if of != (descriptor.federation, descriptor.round, self.verified.sha256):
            raise IdentityError(
                f"The extension that came for round {descriptor.round} is of another round.",
                hint="Its own deadline holds; tell the coordinator's administrator.",
            )

    def _kept(self) -> RoundExtension | None:
        try:
            content = (self.folder / _FILE).read_bytes()
            signed = SignedDocument.model_validate_json(content)
            found = self.trust.open_held(signed, RoundExtension, "extension")
            self._check(found)
        except (FileNotFoundError, ValidationError, IdentityError):
            return None  # It is fetched again.
        return found
