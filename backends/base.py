"""The one interface to a training engine; neither torch nor mlx shows through it.

A backend is a folder here with a ``BACKEND`` object. It loads a base model once; on that model
adapters are attached, swapped and detached in place, trained, evaluated and asked. Adapters
cross this interface as canonical safetensors files (``federation.adapter``), examples as token
ids, everything else as plain Python numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from federation.adapter import AdapterSchema, Factors
from federation.recipe import TrainingRecipe

Quantisation = Literal["none", "nf4", "int8", "affine4", "affine8"]
"""How the frozen base is held: bf16 as it is, or in 4 or 8 bits by a quantiser of the engine.

``nf4`` and ``int8`` are bitsandbytes' (torch), ``affine4`` and ``affine8`` MLX's groups of weights
with a scale and an offset each: other numbers than the first two give (docs/engines.md).
"""

ChatMessage = dict[Literal["role", "content"], str]
"""One turn of a conversation; role is system, user or assistant."""


@dataclass(frozen=True)
class Probe:
    """What an engine found on this machine, and why it can or cannot be used.

    ``forward_tokens`` is how many padded tokens this engine puts into one forward pass of a
    training: larger batches are cut, with the same gradients. An engine that is ``only_by_name``
    is available, but never chosen by itself: it serves tests.

    ``device`` is metal, cuda, mps or cpu; ``reason`` is a sentence for people, with the device's
    name. ``memory_bytes`` is the GPU's own memory, or the machine's where it has none of its own;
    ``free_bytes`` of it are free at present.
    """

    backend: str
    available: bool
    reason: str
    device: str = ""
    engine: str = ""
    version: str = ""
    memory_bytes: int = 0
    free_bytes: int = 0
    forward_tokens: int = 8192
    quantisations: tuple[Quantisation, ...] = ("none",)
    only_by_name: bool = False


@dataclass(frozen=True)
class Example:
    """One training example: ``tokens[n_prompt:]`` is the completion that is learned."""

    tokens: tuple[int, ...]
    n_prompt: int

    @property
    def n_completion(self) -> int:
        """Number of tokens whose loss counts."""
        return len(self.tokens) - self.n_prompt


@dataclass(frozen=True)
class ExampleLoss:
    """Mean negative log-likelihood in nats a completion token, and how many tokens it is over."""

    loss: float
    n_tokens: int


@dataclass(frozen=True)
class TrainStep:
    """Progress after one optimizer step; ``loss`` is the mean over the step's completion tokens.

    ``n_tokens`` and ``tokens_per_second`` count prompts and completions, not padding;
    ``grad_norm`` is the norm before clipping.
    """

    step: int
    of: int
    loss: float
    learning_rate: float
    grad_norm: float
    n_tokens: int
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EvalStep:
    """Progress of an evaluation, in examples; ``loss`` is the token-weighted mean so far."""

    done: int
    of: int
    loss: float


@dataclass(frozen=True)
class Resumed:
    """A training goes on after ``step`` of ``of`` optimizer steps, from the file ``checkpoint``."""

    step: int
    of: int
    checkpoint: str


@dataclass(frozen=True)
class Note:
    """Something a person should read; nothing failed."""

    text: str


@dataclass(frozen=True)
class TrainResult:
    """What training did. ``step_losses`` in nats a completion token, one an optimizer step.

    ``peak_memory_bytes`` is that of the tensors on CUDA and with MLX, elsewhere of the process
    since it began.
    """

    steps: int
    step_losses: tuple[float, ...]
    n_tokens: int
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class GenerateOptions:
    """How an answer is sampled and where it ends; temperature 0 is greedy.

    An answer ends before the first of the ``stop`` strings, which is not part of it.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


Finish = Literal["stop", "length"]
"""Why an answer ended: an end token or a stop string; or ``max_tokens`` or the context."""


@dataclass(frozen=True)
class Token:
    """One generated token as the text it adds, which may be empty: inside a character of several
    bytes, while it could be the beginning of a stop string, and for the end token.

    ``probability`` is that of the chosen token under the model, before temperature and penalty.
    ``finish`` is set on an answer's last token, and only there.
    """

    text: str
    probability: float
    finish: Finish | None = None


@dataclass(frozen=True)
class ForwardPlan:
    """How batches go through the model: a matter of memory and time, the gradients are the same.

    One forward pass has at most ``tokens`` padded tokens and ``rows`` examples; an example that
    is longer goes alone. ``recompute`` is gradient checkpointing: each layer's activations are
    computed again in the backward pass instead of kept.
    """

    tokens: int
    rows: int | None = None
    recompute: bool = False


@dataclass(frozen=True)
class CheckpointPlan:
    """Where a training is written down, and after how many ``seconds`` each time.

    ``base_sha256`` is the base model's digest: an engine does not know it, and a checkpoint on
    another base must not be used. With 0 seconds each forward pass is written down.
    """

    folder: Path
    base_sha256: str
    seconds: float = 120.0


@dataclass(frozen=True)
class TrainJob:
    """Everything one training needs beside the loaded model and the attached adapter.

    ``start_step`` is where in the data order to begin, so that a later round sees new examples.
    ``held_out`` is evaluated every ``recipe.eval_every`` optimizer steps, where that is not 0.
    Without ``forward`` the engine takes its own width; without ``checkpoints`` it writes none.
    """

    examples: Sequence[Example]
    recipe: TrainingRecipe
    factors: Factors = "AB"
    start_step: int = 0
    held_out: Sequence[Example] = field(default=())
    forward: ForwardPlan | None = None
    checkpoints: CheckpointPlan | None = None


Progress = Callable[[TrainStep | EvalStep | Resumed | Note], None]
"""Called after each step. An exception that it raises ends the training: that is how to stop."""


class LoadedModel(Protocol):
    """A base model in memory, with at most one adapter active at a time."""

    @property
    def engine(self) -> str:
        """Engine name and version for the update's header, such as ``torch 2.13.0``."""

    @property
    def quantisation(self) -> Quantisation:
        """How the base is held in memory."""

    def encode(self, messages: Sequence[ChatMessage], *, max_length: int) -> Example:
        """Tokens of a conversation by the model's chat template; the last turn is the completion.

        Tokens beyond ``max_length`` are cut from the completion's end. Raises DataError when the
        prompt alone is too long, ModelError when there is no chat template.
        """

    def attach(self, adapter: Path, schema: AdapterSchema, *, dropout: float = 0.0) -> None:
        """Make the adapter in this canonical safetensors file the active one.

        Where an adapter of the same schema and dropout is attached, its tensors are swapped in
        place; the base is never reloaded. Raises AdapterError when the file does not fit.
        """

    def detach(self) -> None:
        """Back to the plain base model; without an adapter, does nothing."""

    def save_adapter(self, target: Path) -> None:
        """Write the active adapter as canonical float32 safetensors, durably."""

    def train(self, job: TrainJob, progress: Progress) -> TrainResult:
        """Train the active adapter in place; with checkpoints, go on from the newest that fits.

        Out of memory, the engine takes ``job.forward`` down once, says so in a Note, and repeats
        the step. Raises OutOfMemory the second time, LossNotFinite with the examples' indices,
        DataError for no examples or one longer than the model's context.
        """

    def losses(
        self, examples: Sequence[Example], progress: Progress | None = None
    ) -> list[ExampleLoss]:
        """Loss of each example under base plus active adapter, dropout off, in the given order.

        Out of memory, the engine halves its forward passes once, says so in a Note, and goes on.
        Raises OutOfMemory the second time, DataError as ``train``.
        """

    def generate(
        self, messages: Sequence[ChatMessage], options: GenerateOptions
    ) -> Generator[Token, None, None]:
        """The answer as a stream; closing the iterator stops the generation.

        Keys and values of the conversation stay known, within the bounds of
        ``backends.conversations``, also while other adapters answer: the next question of it
        computes only what is new. ``backends.answer`` has what engines share. Raises DataError
        where the conversation fills the context.
        """

    def generate_batch(
        self, conversations: Sequence[Sequence[ChatMessage]], options: GenerateOptions
    ) -> list[list[Token]]:
        """The answers to several conversations, computed together: the caller bounds how many.

        Each has the tokens that ``generate`` gives it alone, up to what the engine rounds
        differently in a product of several rows. Raises as ``generate``.
        """

    def n_prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """Number of tokens that the conversation has as a prompt. Raises as ``encode``."""


class Backend(Protocol):
    """A training engine."""

    name: str

    def probe(self) -> Probe:
        """Look, cheaply and without importing the engine's heavy parts where that is possible."""

    def load(
        self, base: Path, *, quantisation: Quantisation = "none", threads: int | None = None
    ) -> LoadedModel:
        """Load the base model in this folder (Hugging Face layout, safetensors).

        Raises ModelError when the folder is not a model, BackendError when the engine cannot.
        """
