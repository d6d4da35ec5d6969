"""Sizes that the engines keep to and that the estimate of memory reckons with."""

from __future__ import annotations

EVALUATION_TOKENS = 2048
"""Padded tokens in one forward pass of an evaluation; bounds the logits it holds."""

PLAIN_SCORES = 1 << 19
"""Up to so many attention scores a head, the torch engine's plain attention keeps them all on the
processor: rows times columns squared."""

LOGITS_AT_ONCE = 1 << 22
"""Logits that the torch engine has in float32 at a time: 17 MB."""
