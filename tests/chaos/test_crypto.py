"""Vectors and damage: all of the vectors, some of the bytes."""

from __future__ import annotations

from tests.chaos.crypto import everything


def test_vectors_and_damage() -> None:
    tried = everything(every=7)
    assert tried["Wycheproof ML-DSA-65"] > 100
    assert tried["X-Wing key pairs and ciphertexts"] >= 1
    assert tried["envelope bytes flipped"] > 500
