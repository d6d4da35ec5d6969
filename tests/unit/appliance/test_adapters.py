"""Adapter folders: whole or not there, found by what a person calls them."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from appliance import adapters
from appliance.adapters import AdapterCard
from appliance.paths import Paths
from federation.adapter import AdapterSchema, ModuleShape, initial_adapter
from federation.errors import InputError, StorageError
from federation.tensors import write_tensors

SCHEMA = AdapterSchema(
    modules=(ModuleShape(path="m.q_proj", inputs=6, outputs=4),), rank=2, alpha=4.0
)
CARD = AdapterCard(
    base_name="tiny", base_sha256="0" * 64, adapter_schema=SCHEMA, sha256="1" * 64, origin="test"
)


def write(path: Path) -> None:
    with path.open("wb") as file:
        write_tensors(file, SCHEMA.shapes(), initial_adapter(SCHEMA, 1))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def test_a_stored_adapter_is_found_again(paths: Paths) -> None:
    adapters.store(adapters.global_folder(paths, 2), CARD, write)
    adapters.store(adapters.global_folder(paths, 10), CARD, write)
    assert adapters.global_rounds(paths) == [2, 10]
    newest = adapters.find(paths, "global")
    assert newest is not None
    assert newest.folder.name == "0010"
    assert newest.card == CARD
    assert set(load_file(newest.weights)) == set(SCHEMA.shapes())
    second = adapters.find(paths, "round:2")
    assert second is not None
    assert second.folder.name == "0002"
    assert adapters.find(paths, "base") is None


@pytest.mark.parametrize(
    ("choice", "hint"),
    [
        ("local", "train --local"),
        ("global", "appliance sync"),
        ("round:3", "sync --round 3"),
        ("newest", "adopted, base, local, personal, global, round:N or"),
    ],
)
def test_one_that_is_not_here_says_how_to_get_it(paths: Paths, choice: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        adapters.find(paths, choice)
    assert hint in caught.value.hint


def test_a_failure_while_writing_keeps_the_old_one(paths: Paths) -> None:
    folder = paths.adapters / "local"
    adapters.store(folder, CARD, write)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise StorageError("disk full")

    with pytest.raises(StorageError):
        adapters.store(folder, CARD.model_copy(update={"origin": "new"}), fail)
    assert adapters.load(folder).card.origin == "test"
    assert sorted(p.name for p in folder.parent.iterdir()) == [".adapters.lock", "local"]


def test_weights_that_cannot_be_moved_into_their_place_are_a_storage_error(paths: Paths) -> None:
    def move(target: Path) -> None:
        (paths.home / "not there").replace(target)

    with pytest.raises(StorageError, match="Cannot write"):
        adapters.store(paths.adapters / "local", CARD, move)


def test_a_kill_between_the_two_renames_loses_nothing(paths: Paths) -> None:
    folder = paths.adapters / "local"
    adapters.store(folder, CARD, write)
    folder.rename(folder.with_name(".local.replaced"))
    left = folder.parent / ".adapter-left"
    left.mkdir()
    found = adapters.find(paths, "local")
    assert found is not None
    assert set(load_file(found.weights)) == set(SCHEMA.shapes())
    assert "local" in adapters.choices(paths)
    adapters.store(folder, CARD, write)
    assert sorted(p.name for p in folder.parent.iterdir()) == [".adapters.lock", "local"]


def test_a_reader_in_the_middle_of_a_replacement_disturbs_nobody(paths: Paths) -> None:
    folder = paths.adapters / "local"
    adapters.store(folder, CARD, write)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            # Asked in the very moment of a rename the answer may be no; asked again it is there.
            with suppress(StorageError, InputError):
                adapters.find(paths, "local")

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        adapters.store(folder, CARD, write)
    stop.set()
    reader.join()
    assert adapters.find(paths, "local") is not None


def test_a_parent_is_found_where_a_round_published_it(paths: Paths) -> None:
    adapters.store(adapters.global_folder(paths, 4), CARD, write)
    assert adapters.parent_folder(paths, CARD.sha256).name == "0004"
    assert adapters.parent_folder(paths, "2" * 64).parent.name == "parents"


def test_a_damaged_card_is_named(paths: Paths) -> None:
    folder = paths.adapters / "local"
    adapters.store(folder, CARD, write)
    (folder / "fedmed-adapter.json").write_text("{")
    with pytest.raises(StorageError, match=r"fedmed-adapter\.json"):
        adapters.find(paths, "local")
