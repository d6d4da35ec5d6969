"""A lying hospital, for the demonstration only: it trains, and sends something else.

It runs the ordinary ``appliance train --round N`` twice. The first run is stopped, as any sink may
stop it, when it is about to seal what it trained; then the trained adapter's folder is replaced, as
anyone could who owns that machine; the second run finds the training finished, and seals and
delivers the replacement. Theta is the trained adapter, P the one that the round started from:

    sign-flip   P - (Theta - P)
    scaling     P + 10 (Theta - P)
    noise       P + noise of the size of Theta - P, tensor by tensor
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from appliance import adapters
from appliance.cli import cli
from appliance.context import Context
from appliance.events import Event, Phase, as_record
from appliance.paths import Paths
from appliance.rounds.participation import read_metadata, take_part
from federation.canonical import file_sha256
from federation.files import atomic_writer
from federation.tensors import read_header, read_tensors, write_tensors
from federation.terminal import run

_TIMES = 10.0


class _AboutToSealError(Exception):
    """Stops the first run."""


def _stop_before_sealing(event: Event) -> None:
    if isinstance(event, Phase) and event.name == "sealing":
        raise _AboutToSealError
    print(json.dumps(as_record(event)), flush=True)


def altered(
    attack: str, trained: np.ndarray, parent: np.ndarray, stream: np.random.Generator
) -> np.ndarray:
    """What the liar sends instead of one trained tensor."""
    change = trained - parent
    if attack == "sign-flip":
        sent = -change
    elif attack == "scaling":
        sent = np.float32(_TIMES) * change
    else:
        noise = stream.standard_normal(change.shape, np.float32)
        sent = np.float32(np.linalg.norm(change) / np.linalg.norm(noise)) * noise
    lie: np.ndarray = parent + sent
    return lie


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with path.open("rb") as file:
        yield from read_tensors(file, read_header(file))


def replace_trained(paths: Paths, number: int, attack: str) -> None:
    """Replace what this hospital trained in a round by a lie, once."""
    folder = paths.round(number) / "adapter"
    honest = adapters.load(folder)
    metadata = read_metadata(paths.round(number))
    assert metadata is not None
    if honest.card.origin.endswith(attack):
        return
    parent = adapters.load(adapters.parent_folder(paths, metadata.parent_sha256))
    stream = np.random.default_rng(number)
    lie = paths.round(number) / "lie.safetensors"
    pairs = zip(_tensors(honest.weights), _tensors(parent.weights), strict=True)
    with atomic_writer(lie) as file:
        lies = ((name, altered(attack, t, p, stream)) for (name, t), (_, p) in pairs)
        write_tensors(file, honest.card.adapter_schema.shapes(), lies)
    card = honest.card.model_copy(
        update={"sha256": file_sha256(lie), "origin": f"{honest.card.origin}, {attack}"}
    )

    def move(target: Path) -> None:
        lie.replace(target)

    adapters.store(folder, card, move)


def main() -> int:
    """``python -m appliance.demo.attacker ATTACK HOME ROUND``: as ``train``, JSON lines out."""
    attack, home, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    context = Context.open(home)
    try:
        take_part(context, number, _stop_before_sealing)
    except _AboutToSealError:
        replace_trained(context.paths, number, attack)
    return run(cli, ["--home", str(home), "train", "--round", str(number), "--json"])


if __name__ == "__main__":
    sys.exit(main())
