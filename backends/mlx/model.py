"""A base model loaded by MLX: what ``backends.base.LoadedModel`` asks for, wired together."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import mlx.nn as nn

from backends.adapters import fingerprint, read_adapter, write_adapter
from backends.answer import Answer, stream
from backends.base import (
    ChatMessage,
    Example,
    ExampleLoss,
    GenerateOptions,
    Progress,
    Quantisation,
    Token,
    TrainJob,
    TrainResult,
)
from backends.batches import check_examples
from backends.checkpoints import job_identity
from backends.conversations import Conversations
from backends.mlx.evaluation import Evaluation
from backends.mlx.generation import Conversation, answer_together
from backends.mlx.head import Head
from backends.mlx.lora import Lora
from backends.mlx.memory import release_memory
from backends.mlx.probe import device
from backends.mlx.training import train
from backends.tokens import ChatTokenizer
from federation.adapter import AdapterSchema
from federation.errors import AdapterError


class MlxModel:
    """See ``backends.base.LoadedModel``. For one caller at a time."""

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        names: Mapping[str, str],
        tokenizer: ChatTokenizer,
        *,
        quantisation: Quantisation,
        context: int,
    ) -> None:
        self._model = model
        self._head = head
        self._names = names
        self._tokenizer = tokenizer
        self._quantisation: Quantisation = quantisation
        self._context = context
        self._lora: Lora | None = None
        self._evaluation = Evaluation(model, head)
        self._conversations = Conversations(lambda: Conversation(model, head))
        self._adapter, self._changes = "", 0

    @property
    def engine(self) -> str:
        """See ``LoadedModel.engine``."""
        return f"mlx {version('mlx')}"

    @property
    def quantisation(self) -> Quantisation:
        """See ``LoadedModel.quantisation``."""
        return self._quantisation

    def encode(self, messages: Sequence[ChatMessage], *, max_length: int) -> Example:
        """See ``LoadedModel.encode``."""
        return self._tokenizer.encode(messages, max_length=max_length)

    def attach(self, adapter: Path, schema: AdapterSchema, *, dropout: float = 0.0) -> None:
        """See ``LoadedModel.attach``. A file that does not fit leaves everything as it was."""
        tensors = read_adapter(adapter, schema)
        if self._lora is None or (self._lora.schema, self._lora.dropout) != (schema, dropout):
            self.detach()
            self._lora = Lora(self._model, self._names, schema, dropout)
        self._lora.fill(tensors)
        self._becomes(fingerprint(tensors, schema))

    def detach(self) -> None:
        """See ``LoadedModel.detach``."""
        if self._lora is not None:
            self._lora.remove()
            self._lora = None
        self._becomes("")

    def save_adapter(self, target: Path) -> None:
        """See ``LoadedModel.save_adapter``. Raises AdapterError when none is attached."""
        write_adapter(target, self._active().tensors())

    def train(self, job: TrainJob, progress: Progress) -> TrainResult:
        """See ``LoadedModel.train``. Raises AdapterError when none is attached."""
        lora = self._active()
        check_examples(job.examples, self._context)
        check_examples(job.held_out, self._context)
        # They would be of no use to the adapter as it becomes, and training needs the memory.
        self._conversations.forget()
        self._becomes(f"trained {secrets.token_hex()}")
        identity = self._identity(job, lora) if job.checkpoints is not None else {}
        try:
            return train(self._model, self._head, lora, job, progress, identity)
        finally:
            release_memory()

    def losses(
        self, examples: Sequence[Example], progress: Progress | None = None
    ) -> list[ExampleLoss]:
        """See ``LoadedModel.losses``."""
        check_examples(examples, self._context)
        return self._evaluation.losses(examples, progress)

    def generate(
        self, messages: Sequence[ChatMessage], options: GenerateOptions
    ) -> Generator[Token, None, None]:
        """See ``LoadedModel.generate``."""
        answer = self._answer(messages, options)
        adapter, changes = self._adapter, self._changes
        conversation = self._conversations.take(adapter, answer.tokens)
        try:
            yield from stream(answer, conversation)
        finally:
            # If the adapter changed meanwhile, these are keys and values of two adapters.
            if self._changes == changes:
                self._conversations.keep(adapter, conversation)

    def generate_batch(
        self, conversations: Sequence[Sequence[ChatMessage]], options: GenerateOptions
    ) -> list[list[Token]]:
        """See ``LoadedModel.generate_batch``."""
        answers = [self._answer(messages, options) for messages in conversations]
        return answer_together(self._model, self._head, answers) if answers else []

    def n_prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """See ``LoadedModel.n_prompt_tokens``."""
        return len(self._tokenizer.prompt(messages))

    def _becomes(self, adapter: str) -> None:
        self._adapter = adapter
        self._changes += 1

    def _answer(self, messages: Sequence[ChatMessage], options: GenerateOptions) -> Answer:
        prompt = self._tokenizer.prompt(messages)
        return Answer(self._tokenizer, prompt, options, context=self._context)

    def _identity(self, job: TrainJob, lora: Lora) -> dict[str, str]:
        return job_identity(
            job,
            engine=f"{self.engine} on {device()}, {self._head.dtype}",
            quantisation=self._quantisation,
            parent=fingerprint(lora.tensors(), lora.schema),
        )

    def _active(self) -> Lora:
        if self._lora is None:
            raise AdapterError(
                "No adapter is attached.", hint="Start from the federation's current adapter."
            )
        return self._lora
