"""One conversation with the coordinator: enrolment, keys, client, and the bytes it cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from pydantic import Field, ValidationError

from appliance.client import CoordinatorClient
from appliance.connection import Successor
from appliance.context import Context
from appliance.enrolment import Enrolment, connect
from appliance.events import Note, Sink, unseen
from appliance.keys import load_keys, promote
from appliance.locks import exclusive
from appliance.paths import Paths
from appliance.trust import Trust, load_trust
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

    trust: Trust
    identity: Identity
    client: CoordinatorClient
    other_identities: tuple[Identity, ...] = ()

    @property
    def enrolment(self) -> Enrolment:
        """What enrolling fixed."""
        return self.trust.enrolment

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
def open_session(context: Context, sink: Sink = unseen) -> Iterator[Session]:
    """Connect as this hospital; ``sink`` is told when the coordinator has new keys.

    Raises IdentityError when the hospital is not enrolled.
    """
    trust = load_trust(context.paths, lambda text: sink(Note(text)))
    keys, network = load_keys(context.paths), context.config.network
    successors = partial(_successors, context.paths)
    with connect(trust.enrolment, keys.current, network, successors) as client:
        try:
            yield Session(trust, keys.current, client, keys.others)
        finally:
            _count(context.paths, client)
