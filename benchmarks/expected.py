"""What hardware we do not have is expected to do: memory by our estimate, speed by arithmetic.

    .venv/bin/python -m benchmarks.expected

Nothing is measured or loaded here. Memory is ``backends.estimate`` for a LoRA of rank 8 on q, k, v
and o and a forward pass of 8 examples of 512 tokens, half of them completion.

Training computes 2 operations a weight forward and 2 back (a frozen weight needs no gradient of its
own), for the linear layers on each token and for the head on completion tokens. The range is 10 to
40 % of what the maker states for dense bfloat16; Apple states nothing, so it is 358e9 for each
core of its GPU (128 units, 2 operations, 1.4 GHz). Answering reads every weight once a token; the
range is 30 to 80 % of the stated bandwidth. Beyond both, Python starts each layer's forward pass
as some 45 small programs of 5 to 10 microseconds each (backward twice as many), which bounds small
models and small batches; MLX, which compiles training, is reckoned without that there. All shares
are assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.base import Quantisation
from backends.estimate import estimate
from backends.kept import PassShape
from backends.model_shape import ModelShape
from federation.adapter import AdapterSchema, ModuleShape

ONE = PassShape(rows=8, columns=512, n_completion=8 * 256)
TRAINING, ANSWERING, STARTING = (0.1, 0.4), (0.3, 0.8), (45 * 10e-6, 45 * 5e-6)
"""Shares of the stated figures, and seconds to start a layer; the worse first."""


@dataclass(frozen=True)
class Model:
    """A base model by the numbers of its public config.json."""

    name: str
    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def attention(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's q, k, v and o."""
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        narrow = (self.hidden, keys)
        return {"q": (self.hidden, queries), "k": narrow, "v": narrow, "o": (queries, self.hidden)}

    @property
    def linear_weights(self) -> int:
        """Of all linear layers but the head."""
        attention = sum(inputs * outputs for inputs, outputs in self.attention.values())
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Of the output head, which may be the embedding."""
        return self.vocabulary * self.hidden

    def shape(self) -> ModelShape:
        """As ``backends.estimate`` wants it, on a GPU."""
        attention = sum(inputs for inputs, _ in self.attention.values())
        return ModelShape(
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            head_dim=self.head_dim,
            intermediate=self.intermediate,
            vocabulary=self.vocabulary,
            normed=2 * self.hidden,
            soft_caps=False,
            linear_weights=self.linear_weights,
            linear_inputs=self.layers * (attention + 2 * self.hidden + self.intermediate),
            other_weights=self.head_weights * (1 if self.tied else 2),
            width=2,
        )

    def schema(self) -> AdapterSchema:
        """Rank 8 on q, k, v and o."""
        modules = [
            ModuleShape(path=f"layers.{layer}.{name}_proj", inputs=inputs, outputs=outputs)
            for layer in range(self.layers)
            for name, (inputs, outputs) in self.attention.items()
        ]
        return AdapterSchema(
            modules=tuple(sorted(modules, key=lambda m: m.path)), rank=8, alpha=16.0
        )


@dataclass(frozen=True)
class Machine:
    """A device by its maker's figures: dense bfloat16 operations and bytes, both a second."""

    name: str
    device: str
    operations: float
    bandwidth: float
    quantisations: tuple[Quantisation, ...]


MODELS = (
    Model("SmolLM2-135M", 30, 576, 9, 3, 64, 1536, 49152, tied=True),
    Model("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256, tied=True),
    Model("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, tied=False),
)
MACHINES = (
    Machine("H100 SXM, 80 GB", "cuda", 989e12, 3.35e12, ("none", "int8", "nf4")),
    Machine("RTX 4090, 24 GB", "cuda", 165e12, 1.01e12, ("none", "int8", "nf4")),
    Machine(
        "M3 Max, 40 GPU cores",
        "metal",
        40 * 128 * 2 * 1.4e9,
        0.4e12,
        ("none", "affine8", "affine4"),
    ),
)


def training_speed(model: Model, machine: Machine) -> list[float]:
    """Tokens a second of passes like ONE, at worst and at best."""
    tokens = ONE.rows * ONE.columns
    share = ONE.n_completion / tokens
    operations = 4 * tokens * (model.linear_weights + share * model.head_weights)
    found = []
    for used, starting in zip(TRAINING, STARTING, strict=True):
        started = 3 * model.layers * starting if machine.device == "cuda" else 0.0
        found.append(tokens / max(operations / (used * machine.operations), started))
    return found


def answering_speed(model: Model, machine: Machine) -> list[float]:
    """Tokens a second of one answer with an unquantised base, at worst and at best."""
    n_bytes = 2 * (model.linear_weights + model.head_weights)
    found = []
    for used, starting in zip(ANSWERING, STARTING, strict=True):
        found.append(1 / max(n_bytes / (used * machine.bandwidth), model.layers * starting))
    return found


def memory(model: Model, machine: Machine, quantisation: Quantisation) -> str:
    """Weights, and the peak of a training with activations kept and recomputed, in GB."""
    whole, again = (
        estimate(
            model.shape(),
            model.schema(),
            "AB",
            [ONE],
            quantisation=quantisation,
            recompute=recompute,
            dropout=False,
            device=machine.device,
        )
        for recompute in (False, True)
    )
    return f"{whole.weights / 1e9:.2f} / {whole.total / 1e9:.1f} / {again.total / 1e9:.1f}"


def _rounded(figure: float) -> str:
    """Two digits are more than is known."""
    return f"{float(f'{figure:.2g}'):,.0f}"


def main() -> None:
    for machine in MACHINES:
        held = " | ".join(machine.quantisations)
        print(f"\n{machine.name}\n")
        print(f"| derived, not measured | training, tokens/s | answering, tokens/s | {held} |")
        print("|---" * (3 + len(machine.quantisations)) + "|")
        for model in MODELS:
            cells = [
                f"{_rounded(low)} to {_rounded(high)}"
                for low, high in (training_speed(model, machine), answering_speed(model, machine))
            ]
            cells += [memory(model, machine, q) for q in machine.quantisations]
            print(f"| {model.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
