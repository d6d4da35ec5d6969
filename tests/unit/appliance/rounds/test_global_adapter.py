"""A published adapter comes whole, of the length that its schema states, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.client import CoordinatorClient
from appliance.events import Event, Transfer
from appliance.paths import Paths
from appliance.rounds.global_adapter import fetch_adapter
from federation.canonical import file_sha256
from federation.errors import TransportError
from federation.messages import RoundDescriptor
from tests.unit.appliance.answering import Reply
from tests.unit.appliance.line import Line, joined


@dataclass
class Site:
    """A member's connection to a coordinator with an open round."""

    line: Line
    client: CoordinatorClient
    paths: Paths
    descriptor: RoundDescriptor


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with joined(tmp_path) as a:
        a.world.open()
        descriptor = RoundDescriptor.model_validate_json(a.hospital.document(1).body)
        yield Site(a.line, a.client, Paths(tmp_path / "home"), descriptor)


def test_the_schema_states_the_length_of_the_file(site: Site) -> None:
    seen: list[Event] = []
    digest = site.descriptor.parent_adapter_sha256
    stored = fetch_adapter(
        site.client, site.paths.adapters / "0000", digest, site.descriptor, "first", seen.append
    )
    assert file_sha256(stored.weights) == digest
    last = [event for event in seen if isinstance(event, Transfer)][-1]
    assert last.done == last.of == stored.weights.stat().st_size


def test_a_longer_file_is_refused_before_it_is_whole(site: Site) -> None:
    pieces = iter([b"x" * (1 << 20)] * 64)
    site.line.trouble = lambda _: Reply(200, pieces)
    digest = site.descriptor.parent_adapter_sha256
    with pytest.raises(TransportError, match="more than the adapter's"):
        fetch_adapter(
            site.client,
            site.paths.adapters / "0000",
            digest,
            site.descriptor,
            "first",
            lambda _: None,
        )
    assert sum(f.stat().st_size for f in site.paths.adapters.rglob("*") if f.is_file()) == 0
