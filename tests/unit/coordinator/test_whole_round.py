"""Two hospitals, one round after another, over the real HTTP application."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from coordinator.rounds import State
from federation.membership import Roster
from federation.messages import RoundDescriptor
from federation.signing import SignedDocument
from tests.unit.coordinator.hospital import trained
from tests.unit.coordinator.world import World


def test_two_hospitals_complete_a_round(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    assert h01.current().round == 0
    opened = world.open(aggregator="fedavg")
    assert h01.current().model_dump() == {
        "round": 1,
        "state": "open",
        "delivered": False,
        "quarantine": "",
    }

    receipts = [
        h01.upload(h01.seal(1, header={"n_examples": 30}), part_size=500),
        h02.upload(h02.seal(1, header={"n_examples": 10})),
    ]
    assert all(receipt.accepted for receipt in receipts)
    assert h01.current().delivered
    assert world.advance(1).state is State.PUBLISHED

    record = h02.record(1)
    assert [(c.hospital, c.weight) for c in record.contributions] == [("h01", 0.75), ("h02", 0.25)]
    assert record.contributions[0].explanation == "weight 0.75: 30 of 40 training examples"
    assert (record.outcome, record.absent, record.rejections) == ("published", (), ())

    response = h01.request("GET", f"/v1/adapters/{record.adapter_sha256}")
    adapter = safetensors.numpy.load(response.content)
    first, second = (dict(trained(opened.descriptor, name)) for name in ("h01", "h02"))
    assert adapter.keys() == first.keys()
    for name, tensor in adapter.items():
        oracle = 0.75 * first[name].astype(np.float64) + 0.25 * second[name].astype(np.float64)
        assert np.array_equal(tensor, oracle.astype(np.float32))


def test_the_next_round_starts_from_the_published_adapter(world: World) -> None:
    hospital = world.member("h01")
    world.open()
    hospital.upload(hospital.seal(1))
    first = world.advance(1)
    second = world.open(base=False)
    assert second.descriptor.parent_adapter_sha256 == first.adapter_sha256
    assert second.descriptor.round == 2
    hospital.upload(hospital.seal(2))
    assert world.advance(2).state is State.PUBLISHED
    # One hospital is the identity: its own tensors come back.
    assert hospital.record(2).contributions[0].weight == 1.0


def test_the_documents_verify_from_the_invite_alone(world: World) -> None:
    hospital = world.member("h01")
    world.open()
    assert hospital.invite is not None
    descriptor = hospital.document(1).open(
        RoundDescriptor, hospital.invite.coordinator, "descriptor"
    )
    response = hospital.request("GET", f"/v1/rosters/{descriptor.roster_sha256}")
    document = SignedDocument.model_validate_json(response.content)
    assert document.body_sha256 == descriptor.roster_sha256
    roster = document.open(Roster, hospital.invite.admin, "roster")
    assert [m.hospital for m in roster.members] == ["h01"]
