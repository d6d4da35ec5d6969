"""The training engine that configuration and hardware choose, and how it uses this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance.config import EngineSection
from appliance.events import Phase, Sink
from backends import choose
from backends.base import Backend, Example, LoadedModel, Probe, Quantisation
from backends.batches import check_examples
from backends.model_config import context_of, read_config
from backends.model_shape import read_shape
from backends.planning import MachinePlan, Planner
from federation.adapter import AdapterSchema, Factors
from federation.base_model import read_card
from federation.errors import BackendError
from federation.recipe import TrainingRecipe

Bits = Literal[4, 8]

_BITS: dict[Quantisation, Bits] = {"nf4": 4, "affine4": 4, "int8": 8, "affine8": 8}


@dataclass(frozen=True)
class MachineChoices:
    """What a hospital decides about a training on its own: memory and time, never the gradients.

    ``bits`` is how the base is held, None as configured; ``batch_size`` is how many examples go
    through the model at once, None as many as fit.
    """

    bits: Bits | None = None
    batch_size: int | None = None


AS_CONFIGURED = MachineChoices()


def choose_engine(settings: EngineSection) -> tuple[Backend, str]:
    """The configured engine, or the best here, and why. Raises BackendError."""
    return choose(None if settings.backend == "auto" else settings.backend)


def load_engine(
    base: Path, settings: EngineSection, sink: Sink, quantisation: Quantisation | None = None
) -> LoadedModel:
    """Load the base model in ``base`` with the configured engine. Raises BackendError.

    Without ``quantisation`` as configured; for answers ``auto`` is what just fits.
    """
    backend, _ = choose_engine(settings)
    if quantisation is None:
        quantisation = _for_answers(base, settings, backend.probe())
    sink(Phase("loading", f"{base.name} on {backend.name}"))
    return backend.load(base, quantisation=quantisation, threads=settings.threads)


def plan_training(
    base: Path,
    schema: AdapterSchema,
    factors: Factors,
    recipe: TrainingRecipe,
    examples: Sequence[Example],
    settings: EngineSection,
    choices: MachineChoices,
) -> MachinePlan:
    """How to train within the memory that is free; loads nothing.

    Raises OutOfMemory when nothing fits, ModelError for an architecture that is not known,
    DataError for an example longer than the model's context.
    """
    check_examples(examples, context_of(read_config(base)))
    probe = choose_engine(settings)[0].probe()
    shape = read_shape(base, read_card(base), probe.device)
    planner = Planner(shape, schema, factors, recipe, examples, probe)
    return planner.choose(_quantisations(settings, choices, probe), choices.batch_size)


def _quantisations(
    settings: EngineSection, choices: MachineChoices, probe: Probe
) -> list[Quantisation]:
    if choices.bits is not None:
        found = [q for q in probe.quantisations if _BITS.get(q) == choices.bits]
        if not found:
            raise BackendError(
                f"This machine's engine cannot hold a base in {choices.bits} bits: {probe.reason}",
                hint=f"Possible here: {', '.join(probe.quantisations)}.",
            )
        return found
    if settings.quantisation == "auto":
        return _finest_first(probe)
    return [settings.quantisation]


def _finest_first(probe: Probe) -> list[Quantisation]:
    return sorted(probe.quantisations, key=lambda q: -_BITS.get(q, 16))


def _for_answers(base: Path, settings: EngineSection, probe: Probe) -> Quantisation:
    if settings.quantisation != "auto":
        return settings.quantisation
    shape = read_shape(base, read_card(base), probe.device)
    ways = _finest_first(probe)
    fitting = (q for q in ways if shape.weight_bytes(q) * 1.5 < probe.free_bytes)
    return next(fitting, ways[-1])
