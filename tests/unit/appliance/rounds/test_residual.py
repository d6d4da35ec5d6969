"""Error feedback over rounds with a real coordinator: sent once, neither lost nor sent twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance import adapters
from appliance.adapters import AdapterCard, StoredAdapter
from appliance.paths import Paths
from appliance.rounds.coding import write_update
from appliance.rounds.descriptor import VerifiedRound, fetch_round
from appliance.rounds.global_adapter import fetch_adapter
from appliance.rounds.outbox import Outbox
from appliance.rounds.residual import owed, remember
from appliance.session import Session
from appliance.trust import Trust
from coordinator.rounds import Request, State
from federation.canonical import file_sha256
from federation.errors import StorageError
from federation.messages import EngineInfo, PayloadHeader, Receipt
from federation.tensors import TensorFile, write_tensors
from tests.unit.appliance.line import Line, joined
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World

Tensors = dict[str, np.ndarray]


@dataclass
class Site:
    """A hospital's home and its line to the coordinator."""

    world: World
    hospital: Hospital
    paths: Paths
    trust: Trust
    session: Session
    line: Line

    def open(self, *, codec: str = "int8", **settings: Any) -> VerifiedRound:  # noqa: ANN401
        """Open a round that takes all updates, and fetch it."""
        all_of_them = {"anomalies": "note", "review_minutes": 0, "quorum": 1, "max_norm": 1000.0}
        row = self.world.open(codec=codec, **{"aggregator": "fedavg", **all_of_them, **settings})
        own = self.session.own
        client = self.session.client
        return fetch_round(client, row.number, self.folder(row.number), self.trust, *own)

    def folder(self, number: int) -> Path:
        return self.paths.round(number)

    def residual(self, number: int) -> Path:
        return self.folder(number) / "residual.safetensors"

    def parent(self, verified: VerifiedRound) -> StoredAdapter:
        descriptor = verified.descriptor
        digest = descriptor.parent_adapter_sha256
        place = adapters.parent_folder(self.paths, digest)
        return fetch_adapter(self.session.client, place, digest, descriptor, "", lambda _: None)

    def due(self, verified: VerifiedRound) -> Tensors:
        remember(self.paths, self.session, verified.descriptor)
        return dict(owed(self.paths, self.trust, verified.descriptor))

    def code(self, verified: VerifiedRound, factor: float = 1.0) -> Path:
        """Train, in that every live tensor changes as ``change`` says, and code it."""
        descriptor, folder = verified.descriptor, self.folder(verified.descriptor.round)
        parent, due = self.parent(verified), self.due(verified)
        schema = descriptor.adapter_schema
        live = schema.shapes(descriptor.factors)
        tensors = {
            name: tensor + np.float32(factor) * change(tensor.shape) if name in live else tensor
            for name, tensor in TensorFile(parent.weights).items()
        }
        card = AdapterCard(
            base_name="tiny", base_sha256="ab" * 32, adapter_schema=schema, sha256="0" * 64,
            origin="",
        )  # fmt: skip

        def write(target: Path) -> None:
            with target.open("wb") as file:
                write_tensors(file, schema.shapes(), iter(tensors.items()))

        trained = adapters.store(folder / "adapter", card, write)
        update = folder / ".update"
        write_update(update, descriptor, trained, parent, due)
        return update

    def send(self, verified: VerifiedRound, factor: float = 1.0) -> Receipt:
        """Code, seal and deliver."""
        update, descriptor = self.code(verified, factor), verified.descriptor
        outbox = Outbox(update.parent / "outbox", self.trust, self.session.identity)
        header = PayloadHeader(
            codec=descriptor.codec,
            rank=descriptor.adapter_schema.rank,
            factors=descriptor.factors,
            n_examples=10,
            metrics={},
            engine=EngineInfo(name="torch", version="2", quantisation="none"),
            plaintext_sha256=file_sha256(update),
        )
        outbox.put(verified, header, update)
        clock = self.world.clock
        return outbox.deliver(
            self.session.client, lambda: clock() + 3600, lambda _: None, clock, lambda _: None
        )

    def close(self, number: int) -> None:
        """End a round with what was delivered."""
        assert self.world.advance(number, Request.CLOSE).state is State.PUBLISHED

    def published(self, number: int) -> Tensors:
        row = self.world.coordinator.store.rounds.get(number)
        assert row is not None
        assert row.adapter_sha256 is not None
        return dict(self.world.coordinator.blobs.read_adapter(row.adapter_sha256))


def change(shape: tuple[int, ...]) -> np.ndarray:
    """The same every round; far from what int8 can say exactly."""
    learnt = np.random.default_rng(5).normal(0, 0.1, shape).astype(np.float32)
    learnt.flat[0] = 10
    return learnt


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with joined(tmp_path) as a:
        session = Session(a.trust, a.hospital.identity, a.client)
        yield Site(a.world, a.hospital, Paths(tmp_path / "a"), a.trust, session, a.line)


def test_the_sum_over_rounds_is_the_truth_but_for_the_last_residual(site: Site) -> None:
    first = site.open()
    start = dict(TensorFile(site.parent(first).weights))
    assert site.due(first) == {}
    assert site.send(first).accepted
    site.close(1)
    for _ in range(3):
        verified = site.open()
        assert site.due(verified).keys() == start.keys()
        site.send(verified)
        site.close(verified.descriptor.round)
    found, left = site.published(4), TensorFile(site.residual(4))
    for name, tensor in start.items():
        truth = tensor + 4 * change(tensor.shape)
        np.testing.assert_allclose(found[name] + left[name], truth, atol=2e-5)
        # Without it four rounds of the same change are four times as far off.
        assert np.abs(found[name] - truth).max() < 0.045 < np.abs(truth).max()


def test_only_the_newest_residual_that_counted_stays(site: Site) -> None:
    for number in (1, 2, 3):
        site.send(site.open())
        site.close(number)
    assert [site.residual(number).exists() for number in (1, 2, 3)] == [False, True, True]


def test_an_aborted_round_neither_loses_a_residual_nor_adds_its_own(site: Site) -> None:
    site.send(site.open())
    site.close(1)
    kept = dict(TensorFile(site.residual(1)))
    assert site.send(site.open(), factor=3).accepted
    site.world.advance(2, Request.ABORT)
    assert site.residual(2).exists()
    again = site.due(site.open())
    assert all(np.array_equal(again[name], kept[name]) for name in kept)


def test_a_refused_update_neither_loses_a_residual_nor_adds_its_own(site: Site) -> None:
    other = site.world.member("b")
    site.send(site.open())
    site.close(1)
    kept = dict(TensorFile(site.residual(1)))
    refused = site.send(site.open(max_norm=40.0), factor=100)
    assert "above the bound" in refused.reason
    assert other.upload(other.seal(2)).accepted
    site.close(2)
    again = site.due(site.open())
    assert all(np.array_equal(again[name], kept[name]) for name in kept)


def test_a_missed_round_loses_nothing(site: Site) -> None:
    other = site.world.member("b")
    site.send(site.open())
    site.close(1)
    site.world.open(base=False, codec="fp32", quorum=1, aggregator="fedavg")
    assert other.upload(other.seal(2)).accepted
    site.close(2)
    kept = dict(TensorFile(site.residual(1)))
    again = site.due(site.open())
    assert again.keys() == kept.keys()


def test_after_a_fresh_start_nothing_is_owed(site: Site) -> None:
    site.send(site.open())
    site.close(1)
    assert site.due(site.open(fresh=True)) == {}


def test_of_factors_that_were_turned_since_nothing_is_owed(site: Site) -> None:
    """By the singular value decomposition of a round in between; other weights turn nothing."""
    other = site.world.member("b")
    site.send(site.open())
    site.close(1)
    for number, aggregator, still_owed in ((2, "equal+fedavg", True), (4, "stacked", False)):
        site.world.open(base=False, codec="fp32", quorum=1, aggregator=aggregator)
        assert other.upload(other.seal(number)).accepted
        site.close(number)
        again = site.open()
        assert bool(site.due(again)) == still_owed
        site.world.advance(again.descriptor.round, Request.ABORT)


def test_in_another_federation_nothing_is_owed(site: Site) -> None:
    """The home's round 1 was not this coordinator's: its descriptor is another."""
    site.send(site.open())
    site.close(1)
    (site.folder(1) / "descriptor.json").write_text("{}")
    assert site.due(site.open()) == {}


def test_of_a_frozen_factor_the_residual_waits_for_its_turn(site: Site) -> None:
    site.send(site.open(aggregator="alternating"))
    site.close(1)
    of_b = dict(TensorFile(site.residual(1)))
    assert all("lora_B" in name for name in of_b)
    site.send(site.open(aggregator="alternating"))
    site.close(2)
    both = site.due(site.open(aggregator="alternating"))
    assert all(np.array_equal(both[name], of_b[name]) for name in of_b)
    assert any("lora_A" in name for name in both)


@pytest.mark.parametrize(("codec", "aggregator"), [("int8", "stacked"), ("fp32", "fedavg")])
def test_where_it_would_not_fit_nothing_is_kept(site: Site, codec: str, aggregator: str) -> None:
    site.send(site.open(codec=codec, aggregator=aggregator))
    site.close(1)
    assert not site.residual(1).exists()
    assert site.due(site.open(codec=codec, aggregator=aggregator)) == {}


def test_coded_again_after_a_crash_it_is_the_same(site: Site) -> None:
    site.send(site.open())
    site.close(1)
    verified = site.open()
    update = site.code(verified)
    whole, residual = update.read_bytes(), site.residual(2).read_bytes()
    update.write_bytes(whole[:100])
    (site.folder(2) / ".residual.safetensors.xyz").write_bytes(b"torn")
    assert site.code(verified).read_bytes() == whole
    assert site.residual(2).read_bytes() == residual


def test_sealing_needs_no_coordinator(site: Site) -> None:
    site.send(site.open())
    site.close(1)
    verified = site.open()
    known = site.due(verified)
    asked = len(site.line.asked)
    assert owed(site.paths, site.trust, verified.descriptor).keys() == known.keys()
    assert len(site.line.asked) == asked


@pytest.mark.parametrize("damage", ["torn", "other"])
def test_a_damaged_residual_is_named_with_the_remedy(site: Site, damage: str) -> None:
    site.send(site.open())
    site.close(1)
    with site.residual(1).open("r+b" if damage == "torn" else "wb") as file:
        if damage == "torn":
            file.truncate(20)
        else:
            write_tensors(file, {"x": (1,)}, iter([("x", np.ones(1, np.float32))]))
    with pytest.raises(StorageError, match=r"residual\.safetensors") as caught:
        site.due(site.open())
    assert "Remove it" in caught.value.hint
