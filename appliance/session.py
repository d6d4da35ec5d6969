"""One conversation with the coordinator: enrolment, keys, client, and the bytes it cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import Field, ValidationError

from appliance.client import CoordinatorClient
from appliance.connection import Successor
from appliance.context import Context
from appliance.enrolment import Enrolment, connect, load_enrolment
from appliance.keys import load_keys, promote
from appliance.locks import exclusive
from appliance.paths import Paths
from federation.canonical import Message
from federation.files import write_atomically
from federation.messages import PublicIdentity
from federation.signing import Identity


class Traffic(Message):
    """Bytes of request and answer bodies since this appliance was set up."""

    sent: int = Field(0, ge=0)
    received: int = Field(0, ge=0)


@dataclass(frozen=True)
class Session:
    """An enrolled hospital, connected."""

    enrolment: Enrolment
    identity: Identity
    client: CoordinatorClient
    other_identities: tuple[Identity, ...] = ()

    @property
    def own(self) -> tuple[PublicIdentity, ...]:
        """The public halves of all keys of this hospital, also while they are rotated."""
        return tuple(i.public() for i in (self.identity, *self.other_identities))

    def signer(self, member: PublicIdentity) -> Identity:
        """Those of this hospital's keys that a round's roster names."""
        return next(i for i in (self.identity, *self.other_identities) if i.public() == member)


def read_traffic(paths: Paths) -> Traffic:
    """The counters so far; zero where there are none, since they are only for information."""
    try:
        return Traffic.model_validate_json((paths.home / "traffic.json").read_bytes())
    except (OSError, ValidationError):
        return Traffic()


def _count(paths: Paths, client: CoordinatorClient) -> None:
    with exclusive(paths.home / "traffic.lock"):
        before = read_traffic(paths)
        after = Traffic(
            sent=before.sent + client.bytes_sent, received=before.received + client.bytes_received
        )
        write_atomically(paths.home / "traffic.json", after.to_json())


def _successors(paths: Paths) -> list[Successor]:
    """The keys here as they are now: another process may have rotated them since."""
    keys = load_keys(paths)
    found = [Successor(keys.current.ed25519, lambda: None)]
    if waiting := keys.next:
        found.append(Successor(waiting.ed25519, lambda: promote(paths, waiting.public())))
    return found


@contextmanager
def open_session(context: Context) -> Iterator[Session]:
    """Connect as this hospital. Raises IdentityError when it is not enrolled."""
    enrolment = load_enrolment(context.paths)
    keys = load_keys(context.paths)
    network = context.config.network
    with connect(enrolment, keys.current, network, lambda: _successors(context.paths)) as client:
        try:
            yield Session(enrolment, keys.current, client, keys.others)
        finally:
            _count(context.paths, client)
