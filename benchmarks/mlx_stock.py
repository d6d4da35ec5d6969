"""mlx-lm as its users have it, for ``mlx_speed.py``; see ``benchmarks.conversation.Engine``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm import load, stream_generate
from mlx_lm.models.cache import LRUPromptCache, make_prompt_cache
from mlx_lm.tuner.utils import load_adapters, remove_lora_layers
from mlx_lm.utils import quantize_model

from backends.base import ChatMessage, Quantisation
from backends.lora_adapter import LoraAdapter
from backends.mlx.config import complete_config
from backends.mlx.loading import BITS, GROUP
from backends.mlx_folder import WEIGHTS_NAME, write_mlx
from benchmarks.conversation import Turn

_FOLDER = "mlx"


def write_folder(place: Path, adapter: LoraAdapter, base_name: str) -> None:
    """The adapter in mlx-lm's layout, inside the folder that holds it in PEFT's."""
    (place / _FOLDER).mkdir()
    write_mlx(place / _FOLDER, adapter, base_name)


class Stock:
    """mlx-lm as its README shows it: each prompt whole, nothing kept."""

    def __init__(self, base: Path, quantisation: Quantisation) -> None:
        # Of the configuration mlx-lm itself would miss what transformers 5 writes elsewhere.
        model, self._tokenizer = load(str(base), model_config=complete_config(base))
        self._model: Any = model
        if quantisation in BITS:
            quantize_model(self._model, {}, GROUP, BITS[quantisation])
            mx.eval(self._model.parameters())

    def use(self, _: LoraAdapter, folder: Path) -> None:
        """See ``Engine.use``."""
        remove_lora_layers(self._model)
        load_adapters(self._model, str(folder / _FOLDER))
        self._model.eval()
        mx.eval(self._model.parameters())

    def forget(self) -> None:
        """See ``Engine.forget``: it keeps nothing."""

    def turn(self, chat: list[ChatMessage], n_tokens: int) -> tuple[Turn, str]:
        """See ``Engine.turn``."""
        began = time.perf_counter()
        return self._answer(began, self._prompt(chat), n_tokens, None)[:2]

    def _prompt(self, chat: list[ChatMessage]) -> list[int]:
        found: list[int] = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True)
        return found

    def _answer(
        self, began: float, prompt: list[int], n_tokens: int, cache: list[Any] | None
    ) -> tuple[Turn, str, list[int]]:
        """Times, text and tokens of the answer."""
        text, first, tokens = "", 0.0, []
        for piece in stream_generate(
            self._model, self._tokenizer, prompt, max_tokens=n_tokens, prompt_cache=cache
        ):
            first = first or time.perf_counter() - began
            text += piece.text
            tokens.append(piece.token)
        return (first, time.perf_counter() - began - first, len(tokens)), text, tokens


class Cached(Stock):
    """mlx-lm as its own server uses it: keys and values of conversations are kept."""

    def __init__(self, base: Path, quantisation: Quantisation) -> None:
        super().__init__(base, quantisation)
        self._adapter = ""
        self.forget()

    def use(self, adapter: LoraAdapter, folder: Path) -> None:
        """See ``Engine.use``; after the first, only tensors are exchanged."""
        if not self._adapter:
            super().use(adapter, folder)
        else:
            self._model.load_weights(str(folder / _FOLDER / WEIGHTS_NAME), strict=False)
            mx.eval(self._model.parameters())
        self._adapter = folder.name

    def forget(self) -> None:
        """See ``Engine.forget``."""
        self._kept = LRUPromptCache()

    def turn(self, chat: list[ChatMessage], n_tokens: int) -> tuple[Turn, str]:
        """See ``Engine.turn``."""
        began = time.perf_counter()
        prompt = self._prompt(chat)
        cache, new = self._kept.fetch_nearest_cache(self._adapter, prompt)
        cache = make_prompt_cache(self._model) if cache is None else cache
        took, text, tokens = self._answer(began, new, n_tokens, cache)
        self._kept.insert_cache(self._adapter, prompt + tokens, cache)
        return took, text
