"""What an update must be: the right context, untouched, finite, bounded, as announced."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from federation.adapter import initial_adapter
from federation.messages import UploadRequest
from tests.unit.coordinator.hospital import Hospital, SealedUpdate, problem, trained
from tests.unit.coordinator.world import World


@pytest.fixture
def h01(world: World) -> Hospital:
    hospital = world.member("h01")
    world.member("h02")
    world.open(aggregator="fedavg", metrics="loss_after", max_norm=50.0)
    return hospital


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("federation", "other"),
        ("round", 2),
        ("descriptor_sha256", "0" * 64),
        ("hospital", "h02"),
        ("signer", "AAAA-AAAA-AAAA-AAAA-AAAA"),
        ("recipient", "0" * 64),
        ("base_sha256", "0" * 64),
        ("parent_adapter_sha256", "0" * 64),
        ("roster_sha256", "0" * 64),
        ("schema_sha256", "0" * 64),
    ],
)
def test_a_manifest_of_another_context_is_refused(h01: Hospital, field: str, value: object) -> None:
    update = h01.seal(1, manifest={field: value})
    status, slug, detail = problem(h01.announce(update, number=1))
    assert (status, slug) == (422, "invalid-envelope")
    assert f"manifest's {field} " in detail


def test_an_older_suite_is_refused_as_a_downgrade(h01: Hospital) -> None:
    update = h01.seal(1, manifest={"suite": "X25519-RSA"})
    assert "suite" in problem(h01.announce(update))[2]


def with_request(update: SealedUpdate, **changes: object) -> SealedUpdate:
    request = UploadRequest.model_validate({**update.request.model_dump(), **changes})
    return SealedUpdate(request, update.manifest, update.body)


def test_a_tampered_manifest_is_refused(h01: Hospital) -> None:
    update = h01.seal(1)
    longer = update.request.manifest.replace(
        f'"body_length":{len(update.body)}', f'"body_length":{len(update.body) + 1}'
    )
    assert "signature" in problem(h01.announce(with_request(update, manifest=longer)))[2]


def test_a_manifest_that_is_not_canonical_is_refused(h01: Hospital) -> None:
    update = h01.seal(1)
    spaced = update.request.manifest.replace(",", ", ")
    assert "canonical" in problem(h01.announce(with_request(update, manifest=spaced)))[2]
    doubled = update.request.manifest.replace('"v":1', '"v":1,"v":1')
    assert "canonical" in problem(h01.announce(with_request(update, manifest=doubled)))[2]


@pytest.mark.parametrize("algorithm", ["ed25519", "mldsa65"])
def test_both_signatures_must_verify(h01: Hospital, algorithm: str) -> None:
    update = h01.seal(1)
    signatures = update.request.signatures.model_dump()
    raw = bytearray(base64.b64decode(signatures[algorithm]))
    raw[0] ^= 1
    signatures[algorithm] = base64.b64encode(raw).decode()
    assert problem(h01.announce(with_request(update, signatures=signatures)))[0] == 422


def refusal(h01: Hospital, update: SealedUpdate) -> str:
    """Upload in full; the reason on the refused receipt."""
    receipt = h01.upload(update)
    assert not receipt.accepted
    return receipt.reason


def test_a_tampered_body_is_refused_by_receipt_and_frees_the_slot(
    world: World, h01: Hospital
) -> None:
    update = h01.seal(1)
    body = bytearray(update.body)
    body[len(body) // 2] ^= 1
    damaged = SealedUpdate(update.request, update.manifest, bytes(body))
    assert "damaged" in refusal(h01, damaged)
    assert not world.coordinator.blobs.body(update.manifest.upload_id).exists()
    assert not h01.receipt(h01.commit(damaged)).accepted
    assert not h01.current().delivered
    assert h01.upload(h01.seal(1)).accepted


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(world: World, h01: Hospital, value: float) -> None:
    tensors = trained(world.coordinator.store.rounds.newest().descriptor, "h01")  # type: ignore[union-attr]
    tensors[1][1][0, 0] = value
    assert "not finite" in refusal(h01, h01.seal(1, tensors))


def test_a_norm_above_the_bound_is_refused(world: World, h01: Hospital) -> None:
    row = world.coordinator.store.rounds.newest()
    assert row is not None
    tensors = [(name, 100 * tensor) for name, tensor in trained(row.descriptor, "h01")]
    assert "above the bound" in refusal(h01, h01.seal(1, tensors))


def test_another_rank_is_refused(world: World, h01: Hospital) -> None:
    row = world.coordinator.store.rounds.newest()
    assert row is not None
    narrow = row.descriptor.adapter_schema.model_copy(update={"rank": 1})
    assert "rank is 1, not 2" in refusal(h01, h01.seal(1, initial_adapter(narrow, 1), rank=1))
    wide = row.descriptor.adapter_schema.model_copy(update={"rank": 3})
    assert "rank 3 is above" in refusal(h01, h01.seal(1, initial_adapter(wide, 1), rank=3))


def test_other_factors_than_the_round_trains_are_refused(world: World, h01: Hospital) -> None:
    row = world.coordinator.store.rounds.newest()
    assert row is not None
    only_b = [(n, t) for n, t in trained(row.descriptor, "h01") if ".lora_B." in n]
    assert "factors B" in refusal(h01, h01.seal(1, only_b, header={"factors": "B"}))


def test_a_metric_the_round_does_not_ask_for_is_refused(h01: Hospital) -> None:
    header = {"metrics": {"loss_after": 1.0, "train_loss": 1.0}}
    assert "train_loss" in refusal(h01, h01.seal(1, header=header))
    assert h01.upload(h01.seal(1, header={"metrics": {}})).accepted


@pytest.mark.parametrize("n_examples", [0, -5, 10**9 + 1, 10**600])
def test_no_or_absurdly_many_examples_are_refused(h01: Hospital, n_examples: int) -> None:
    assert "n_examples" in refusal(h01, h01.seal(1, header={"n_examples": n_examples}))


@pytest.mark.parametrize("loss", [1e7, -1e7, 1.7e308])
def test_an_absurd_metric_is_refused(h01: Hospital, loss: float) -> None:
    assert "loss_after" in refusal(h01, h01.seal(1, header={"metrics": {"loss_after": loss}}))


def test_the_largest_numbers_that_are_taken_publish(world: World) -> None:
    hospital = world.member("h01")
    world.open()
    header = {"n_examples": 10**9, "metrics": {"loss_after": 1e6}}
    assert hospital.upload(hospital.seal(1, header=header)).accepted
    world.advance(1)
    assert hospital.record(1).contributions[0].n_examples == 10**9


def test_a_hospital_cannot_fill_the_record_with_refusals(h01: Hospital) -> None:
    for _ in range(20):
        refusal(h01, h01.seal(1, header={"n_examples": 0}))
    status, slug, detail = problem(h01.announce(h01.seal(1)))
    assert (status, slug) == (429, "round")
    assert "20 updates of this round refused" in detail


def test_the_plaintext_never_touches_the_disk(world: World, h01: Hospital) -> None:
    row = world.coordinator.store.rounds.newest()
    assert row is not None
    tensors = trained(row.descriptor, "h01")
    assert h01.upload(h01.seal(1, tensors)).accepted
    needle = tensors[0][1].tobytes()[:16]
    written = [p for p in world.paths.home.rglob("*") if p.is_file()]
    assert len(written) > 5
    assert not any(needle in p.read_bytes() for p in written)
