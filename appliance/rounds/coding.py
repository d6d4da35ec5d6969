"""From the adapter that was trained to the file that is sealed: live factors, coded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from appliance.adapters import StoredAdapter
from appliance.rounds.residual import keep
from federation.codec import encode, reference
from federation.files import storage_errors
from federation.messages import RoundDescriptor
from federation.tensors import TensorFile, read_header, read_tensors


def write_update(
    target: Path,
    descriptor: RoundDescriptor,
    trained: StoredAdapter,
    parent: StoredAdapter,
    owed: Mapping[str, np.ndarray],
) -> None:
    """Write the factors that the round trains by its codec, with what earlier updates ``owed``.

    With error feedback what is lost now is kept beside ``target``, in the round's folder. The same
    bytes whenever it is repeated. Raises AdapterError and StorageError.
    """
    schema, codec = trained.card.adapter_schema, descriptor.codec
    live = schema.shapes(descriptor.factors)
    since = reference(codec, descriptor.adapter_schema, schema.rank, TensorFile(parent.weights))
    with storage_errors(target), trained.weights.open("rb") as source, target.open("wb") as file:
        tensors = read_tensors(source, read_header(source))
        sent = _with_owed(((n, t) for n, t in tensors if n in live), owed)
        lost = encode(file, codec, live, sent, since)
        if descriptor.error_feedback:
            keep(target.parent, schema, lost, live, owed)
        else:
            for _ in lost:
                pass


def _with_owed(
    tensors: Iterator[tuple[str, np.ndarray]], owed: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in tensors:
        yield name, tensor + owed[name] if name in owed else tensor
