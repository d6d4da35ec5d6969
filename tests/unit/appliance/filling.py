"""An outbox with a sealed update of round 1, made by the appliance's own functions."""

from __future__ import annotations

from pathlib import Path

from appliance.client import CoordinatorClient
from appliance.rounds.descriptor import fetch_round
from appliance.rounds.outbox import Outbox
from appliance.trust import Trust
from federation.canonical import file_sha256
from federation.messages import EngineInfo, PayloadHeader
from federation.signing import Identity
from federation.tensors import write_tensors
from tests.unit.coordinator.hospital import trained


def fill(
    outbox: Outbox, client: CoordinatorClient, trust: Trust, own: Identity, folder: Path
) -> None:
    """Fetch the round into ``folder`` and seal what hospital ``a`` would send."""
    verified = fetch_round(client, 1, folder, trust, own.public())
    adapter = folder / "update.safetensors"
    descriptor = verified.descriptor
    with adapter.open("wb") as file:
        write_tensors(file, descriptor.adapter_schema.shapes(), trained(descriptor, "a"))
    header = PayloadHeader(
        codec="fp32",
        rank=2,
        factors="AB",
        n_examples=10,
        metrics={"loss_after": 1.5},
        engine=EngineInfo(name="torch", version="2", quantisation="none"),
        plaintext_sha256=file_sha256(adapter),
    )
    outbox.put(verified, header, adapter)
