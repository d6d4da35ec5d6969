"""Seals and opens a 200 MB adapter in a folder; prints the growth of peak memory in bytes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from federation.adapter import AdapterSchema, ModuleShape, initial_adapter
from federation.canonical import file_sha256
from federation.envelope import open_update, payload_length, seal, sealed_length
from federation.messages import SUITE, EngineInfo, Manifest, PayloadHeader
from federation.round_keys import new_seed, private_key, public_text
from federation.signing import Identity
from federation.tensors import write_tensors


def peak() -> int:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


folder = Path(sys.argv[1])
modules = tuple(
    ModuleShape(path=f"m.{i:03d}.q_proj", inputs=4096, outputs=4096) for i in range(100)
)
schema = AdapterSchema(modules=modules, rank=64, alpha=64.0)
seed = new_seed()
before = peak()
adapter = folder / "adapter.safetensors"
with adapter.open("wb") as file:
    write_tensors(file, schema.shapes(), initial_adapter(schema, 1))
assert adapter.stat().st_size > 200e6
header = PayloadHeader(
    codec="fp32",
    rank=schema.rank,
    factors="AB",
    n_examples=1,
    metrics={},
    engine=EngineInfo(name="torch", version="2", quantisation="none"),
    plaintext_sha256=file_sha256(adapter),
)
manifest = Manifest(
    suite=SUITE,
    federation="f",
    round=1,
    descriptor_sha256="0" * 64,
    hospital="h1",
    signer="AAAA",
    recipient="0" * 64,
    upload_id="0" * 32,
    base_sha256="0" * 64,
    parent_adapter_sha256="0" * 64,
    roster_sha256="0" * 64,
    schema_sha256="0" * 64,
    body_length=sealed_length(payload_length(header, adapter)),
)
with (folder / "body").open("wb") as file:
    request = seal(manifest, header, adapter, public_text(seed), Identity.generate(), file)
update = open_update(request, folder / "body", private_key(seed), schema, {})
assert sum(1 for _ in update.tensors) == 200
print(peak() - before)
