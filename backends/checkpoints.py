"""A training written down while it runs, so that it goes on after a crash as if there was none.

A checkpoint is one safetensors file. Its metadata holds ``state``, a ``TrainingState`` as JSON,
and ``sha256``, a digest over that text and every tensor; the tensors are the engine's own (factors,
gradients, the optimizer's moments, random generators). It is written whole or not at all, and two
are kept: when the newer is damaged, the older still serves.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from backends.base import CheckpointPlan, Example, ForwardPlan, TrainJob
from federation.canonical import Message
from federation.errors import StorageError
from federation.files import atomic_path, storage_errors

_PATTERN = "step-*.safetensors"
_DAMAGED = "damaged.safetensors"
_KEPT = 2


class TrainingState(Message):
    """Where a training stands, beside its tensors.

    ``job`` tells this training from others, by ``job_identity``. ``passes`` forward passes of step
    ``steps`` + 1 are done, cut by ``forward``; ``partial_loss`` is their share of that step's mean
    loss, and their gradients are among the tensors. ``seconds`` is how long it took so far.
    ``threads`` is what the engine computed with, 0 where it has no such number.
    """

    v: Literal[1] = 1
    job: dict[str, str]
    steps: int
    passes: int
    partial_loss: float
    step_losses: tuple[float, ...]
    n_tokens: int
    seconds: float
    forward: ForwardPlan
    threads: int


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a training; tensors of any dtype that numpy and safetensors share."""

    state: TrainingState
    tensors: dict[str, np.ndarray]


class _Damaged(Exception):
    """Why a file is not a checkpoint."""


def job_identity(job: TrainJob, *, engine: str, quantisation: str, parent: str) -> dict[str, str]:
    """What has to be equal for a checkpoint to be used, by what a person calls it.

    ``engine`` is name, version and device; ``parent`` a digest of the adapter that training
    starts from and of its schema.
    """
    return {
        "base model": "" if job.checkpoints is None else job.checkpoints.base_sha256,
        "parent adapter": parent,
        "examples": _examples_digest(job),
        "recipe": job.recipe.digest(),
        "factors": job.factors,
        "start in the data": str(job.start_step),
        "engine": engine,
        "quantisation": quantisation,
    }


def _examples_digest(job: TrainJob) -> str:
    digest = hashlib.sha256()
    for example in job.examples:
        digest.update(_example_bytes(example))
    return digest.hexdigest()


def _example_bytes(example: Example) -> bytes:
    return np.array([len(example.tokens), example.n_prompt, *example.tokens], "<i8").tobytes()


class Checkpoints:
    """The checkpoints of one training in one folder; ``say`` gets sentences for people.

    ``clock`` gives seconds and is injected in tests.
    """

    def __init__(
        self,
        plan: CheckpointPlan,
        job: Mapping[str, str],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._job = dict(job)
        self._say = say
        self._clock = clock
        self._last = clock()
        self._own: list[Path] = []
        self._failed = False

    def newest(self) -> tuple[Checkpoint, Path] | None:
        """The newest checkpoint of this very training, or None to begin at the start.

        A damaged one is set aside, one of another training left alone until this one writes.
        """
        for path in sorted(self._plan.folder.glob(_PATTERN), reverse=True):
            try:
                checkpoint = _read(path)
            except _Damaged as error:
                self._set_aside(path, str(error))
                continue
            other = [n for n, v in self._job.items() if checkpoint.state.job.get(n) != v]
            if not other:
                self._own.append(path)
                return checkpoint, path
            self._say(
                f"The checkpoint {path} belongs to another training: {', '.join(other)} "
                "changed. It is not used."
            )
        return None

    def due(self) -> bool:
        """Whether it is time to write the next one."""
        return self._clock() - self._last >= self._plan.seconds

    def write(self, state: TrainingState, tensors: Mapping[str, np.ndarray]) -> None:
        """Write one durably and keep two. A disk that refuses costs the checkpoint only."""
        self._last = self._clock()
        text = state.to_json().decode()
        metadata = {"state": text, "sha256": _digest(text, tensors)}
        path = self._plan.folder / f"step-{state.steps:07}-{state.passes:05}.safetensors"
        try:
            with atomic_path(path) as temporary:
                save_file(dict(tensors), temporary, metadata=metadata)
        except (StorageError, SafetensorError) as error:
            if not self._failed:
                self._say(f"No checkpoint could be written: {error} Training goes on without.")
            self._failed = True
            return
        self._failed = False
        self._own = [*(old for old in self._own if old != path), path][-_KEPT:]
        # Of another training, or half-written when this one was killed.
        for old in (*self._plan.folder.glob(_PATTERN), *self._plan.folder.glob(f".{_PATTERN}*")):
            if old not in self._own:
                old.unlink(missing_ok=True)

    def _set_aside(self, path: Path, reason: str) -> None:
        target = path.with_name(_DAMAGED)
        with storage_errors(target):
            path.replace(target)
        self._say(f"The checkpoint {path} is damaged ({reason}); it is set aside as {target.name}.")


def remove_checkpoints(folder: Path) -> None:
    """Remove them all, when what they led to is kept."""
    shutil.rmtree(folder, ignore_errors=True)


def _digest(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read(path: Path) -> Checkpoint:
    """Read and check one file. Raises _Damaged with the reason."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = TrainingState.model_validate_json(metadata["state"])
    except KeyError as error:
        raise _Damaged("it states nothing about the training") from error
    except (OSError, SafetensorError) as error:
        raise _Damaged(str(error)) from error
    except ValidationError as error:
        raise _Damaged(f"{error.error_count()} fields of its state are not valid") from error
    if metadata.get("sha256") != _digest(metadata["state"], tensors):
        raise _Damaged("its digest does not match")
    return Checkpoint(state, tensors)
