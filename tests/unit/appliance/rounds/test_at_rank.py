"""Where a hospital of lower rank starts from: the nearest adapter of its rank, and its cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from appliance import adapters
from appliance.adapters import AdapterCard, StoredAdapter
from appliance.events import Event, Note
from appliance.rounds.overrides import at_rank
from federation.canonical import file_sha256
from federation.tensors import read_header, read_tensors, write_tensors
from tests.aggregating import SCHEMA, assert_close, best_of_rank, delta_w, parent_of


def stored(folder: Path) -> StoredAdapter:
    weights = folder / "made.safetensors"
    with weights.open("wb") as file:
        write_tensors(file, SCHEMA.shapes(), iter(parent_of(2).items()))
    card = AdapterCard(
        base_name="tiny",
        base_sha256="0" * 64,
        adapter_schema=SCHEMA,
        sha256=file_sha256(weights),
        origin="global adapter of round 1",
    )

    def move(target: Path) -> None:
        weights.replace(target)

    return adapters.store(folder / "global", card, move)


def test_the_full_rank_starts_from_the_adapter_itself(tmp_path: Path) -> None:
    parent, said = stored(tmp_path), list[Event]()
    assert at_rank(parent, SCHEMA, tmp_path, said.append) == parent.weights
    assert said == []


def test_a_lower_rank_starts_from_the_nearest_and_says_what_is_lost(tmp_path: Path) -> None:
    parent, said = stored(tmp_path), list[Event]()
    lower = SCHEMA.model_copy(update={"rank": 1})
    with at_rank(parent, lower, tmp_path, said.append).open("rb") as file:
        found = dict(read_tensors(file, read_header(file)))
    assert {name: t.shape for name, t in found.items()} == lower.shapes()
    whole = delta_w(parent_of(2))
    assert_close(delta_w(found, 1), {path: best_of_rank(m, 1) for path, m in whole.items()})
    sigmas = [np.linalg.svd(m, compute_uv=False) for m in whole.values()]
    lost = [float(np.square(s[1:]).sum() / np.square(s).sum()) for s in sigmas]
    (note,) = said
    assert isinstance(note, Note)
    assert f"{np.mean(lost):.1%} is lost in the mean of 3 layers, {max(lost):.1%}" in note.text
