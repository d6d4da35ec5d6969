"""One linear layer, several names: in the checkpoint, in transformers' module tree, in mlx-lm's.

They differ only where a language model is part of a larger one (Gemma 3, Mistral 3 and others
that see images):

    checkpoint      language_model.model.layers.0. ...   or   model.language_model.layers.0. ...
    transformers 5  model.language_model.layers.0. ...
    mlx-lm          language_model.model.layers.0. ...

A canonical adapter has the checkpoint's, as the base model's card has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PREFIX = re.compile(r"(model\.language_model|language_model\.model|language_model|model)\.")


def common_name(path: str) -> str:
    """What all names of a layer of the language model end with, such as ``layers.0.mlp.up_proj``.

    Names of other parts (a vision tower) stay as they are, but for ``model.`` in front.
    """
    return path[found.end() :] if (found := _PREFIX.match(path)) else path


def torch_path(path: str) -> str:
    """The layer's name in transformers' module tree, which PEFT uses too."""
    return f"model.language_model.{common_name(path)}" if _is_nested(path) else path


def mlx_path(path: str) -> str:
    """The layer's name in mlx-lm's module tree."""
    return f"language_model.model.{common_name(path)}" if _is_nested(path) else path


def by_common_name(paths: Iterable[str]) -> dict[str, str]:
    """Common name -> path, to look up a layer that another program named."""
    return {common_name(path): path for path in paths}


def layer_index(path: str) -> int | None:
    """Number of the block that a layer of the language model belongs to, None outside them."""
    found = re.match(r"layers\.(\d+)\.", common_name(path))
    return int(found[1]) if found else None


def _is_nested(path: str) -> bool:
    return path.startswith(("model.language_model.", "language_model."))
