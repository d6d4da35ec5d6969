"""Questions and answers: the base model loaded once, adapters swapped, guardrails always on."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from appliance import adapters, models
from appliance.context import Context
from appliance.engine import load_engine
from appliance.events import Sink
from appliance.safety import GuardEvent, Guardrails, Thresholds
from backends.base import ChatMessage, Finish, GenerateOptions, LoadedModel, Token
from federation.base_model import read_card
from federation.errors import ModelError

_TOGETHER = 8
"""Answers computed at a time: each takes memory for its keys and values."""

DEFAULT_OPTIONS = GenerateOptions(max_tokens=256, repetition_penalty=1.1)


class Watch:
    """Follows one answer: counts its tokens, and stops it from another thread.

    ``finish`` is why the model ended it: None while it has not, or was not let.
    """

    def __init__(self) -> None:
        self.n_prompt = 0
        self.n_tokens = 0
        self.finish: Finish | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the answer after the token under way."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether somebody wanted it to end."""
        return self._stopped.is_set()


class Assistant:
    """Answers with one base model and at most one adapter; not for use from two threads at once.

    The base is loaded at the first question and stays; ``use`` swaps the adapter in place.
    """

    def __init__(self, context: Context, sink: Sink) -> None:
        safety = context.config.safety
        self._context = context
        self._sink = sink
        self._guardrails = Guardrails(Thresholds(safety.low_confidence, safety.high_confidence))
        self._model: LoadedModel | None = None
        self._choice = "base"
        self._attached: str | None = None  # unknown, as after an adapter that did not fit

    @property
    def choice(self) -> str:
        """The adapter in use: base, local, global, round:N or an imported one."""
        return self._choice

    def load(self) -> None:
        """Load the base model now, so that the first question need not wait.

        Raises ModelError when there is none, or none that could be meant.
        """
        self._loaded(None)

    def use(self, choice: str) -> None:
        """Answer with this adapter from now on, in its newest state.

        Raises InputError when it is not here, ModelError when it is for another base model.
        """
        stored = adapters.find(self._context.paths, choice)
        if stored is None and self._model is None:
            # The plain base is what will be loaded, at the first question that is answered.
            self._choice, self._attached = choice, ""
            return
        model = self._loaded(stored.card.base_sha256 if stored else None)
        wanted = stored.card.digest() if stored else ""
        if wanted != self._attached:
            self._attached = None
            if stored is None:
                model.detach()
            else:
                model.attach(stored.weights, stored.card.adapter_schema)
            self._attached = wanted
        self._choice = choice

    def answer(
        self,
        conversation: Sequence[ChatMessage],
        options: GenerateOptions = DEFAULT_OPTIONS,
        watch: Watch | None = None,
    ) -> Generator[GuardEvent, None, None]:
        """The guarded answer to the conversation's last question, sentence by sentence.

        Closing the iterator stops the generation. A question that the guardrails refuse costs
        no token, and does not even load the model.
        """
        tokens = self._tokens(conversation, options, watch or Watch())
        yield from self._guardrails.guard(conversation[-1]["content"], tokens)

    def answer_each(
        self, questions: Sequence[str], options: GenerateOptions = DEFAULT_OPTIONS
    ) -> Iterator[list[GuardEvent]]:
        """The guarded answers to questions that have nothing to do with each other, in order.

        Some are computed together, which is faster; the answers are those of each alone, but
        where the engine's rounding decides between two words (in bfloat16 now and then). A
        question that the guardrails refuse is not computed.
        """
        for start in range(0, len(questions), _TOGETHER):
            batch = questions[start : start + _TOGETHER]
            open_ones = [question for question in batch if not self._refuses(question)]
            conversations: list[list[ChatMessage]] = [
                [{"role": "user", "content": question}] for question in open_ones
            ]
            given = iter(self._loaded(None).generate_batch(conversations, options))
            for question in batch:
                tokens = [] if self._refuses(question) else next(given)
                yield list(self._guardrails.guard(question, iter(tokens)))

    def _refuses(self, question: str) -> bool:
        return any(f.action == "refuse" for f in self._guardrails.check_question(question))

    def _tokens(
        self, conversation: Sequence[ChatMessage], options: GenerateOptions, watch: Watch
    ) -> Iterator[Token]:
        model = self._loaded(None)
        watch.n_prompt = model.n_prompt_tokens(conversation)
        with closing(model.generate(conversation, options)) as tokens:
            for token in tokens:
                watch.n_tokens += 1
                watch.finish = token.finish
                yield token
                if watch.stopped:
                    return

    def _loaded(self, base_sha256: str | None) -> LoadedModel:
        if self._model is None:
            self._base = self._find_base(base_sha256)
            self._model = load_engine(self._base, self._context.config.engine, self._sink)
        if base_sha256 and read_card(self._base).sha256 != base_sha256:
            raise ModelError(
                f"That adapter is for another base model than {self._base.name}.",
                hint="Set model.name in appliance.toml to the adapter's base model.",
            )
        return self._model

    def _find_base(self, base_sha256: str | None) -> Path:
        settings = self._context.config.model
        if settings.name or base_sha256 is None:
            return models.find(self._context.paths.models, name=settings.name)
        return models.find(self._context.paths.models, sha256=base_sha256)
