"""Vectors of words: GloVe's where there is one, and one made of the spelling where there is none.

The bundled file holds those of the bundled items' words, cut by :mod:`.make`; it is laid out as role labelling's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..srl.glove import load_vectors
from .mentions import words
from .wikihop import Item

DATA = Path(__file__).parent / "data"
VECTORS = "glove.safetensors"
"""The bundled file's name."""
SPLITS = ("train", "dev", "test")
_LENGTHS = (3, 4, 5)
"""Of the pieces of a word."""
_BYTES = 64
_SPREAD = 0.4
"""Standard deviation of the values, about that of GloVe's."""


class WordVectors:
    """Looks words up.

    Args:
        known: V words.
        vectors: ``(V, D)``, theirs.
    """

    def __init__(self, known: Sequence[str], vectors: np.ndarray) -> None:
        self.rows = {word: row for row, word in enumerate(known)}
        self.vectors = vectors
        self._spelled: dict[str, np.ndarray] = {}

    @staticmethod
    def load(path: Path, wanted: Collection[str] | None = None) -> WordVectors:
        """Return those of a file that :func:`..srl.glove.load_vectors` reads, of some words or of all.

        Raises:
            UserError: when it is none.
        """
        return WordVectors(*load_vectors(path, wanted))

    @property
    def size(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    def word(self, word: str) -> np.ndarray:
        """Return the vector ``(D,)`` of a lower-cased word."""
        row = self.rows.get(word)
        if row is not None:
            return np.asarray(self.vectors[row], np.float32)
        if word not in self._spelled:
            self._spelled[word] = spelled(word, self.size)
        return self._spelled[word]

    def name(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the mean of the vectors of a name's tokens ``(D,)``."""
        return np.asarray(np.mean([self.word(token) for token in tokens], axis=0), np.float32)


def spelled(word: str, size: int) -> np.ndarray:
    """Return a vector ``(size,)``, float32, that depends on a word's letters alone.

    It is the sum of a fixed random vector for each piece of three to five letters, with the word's ends marked, over
    the root of their number: words that share pieces are alike, and equal ones the same on every machine.
    """
    marked = f"<{word}>"
    pieces = [marked[at : at + n] for n in _LENGTHS for at in range(max(1, len(marked) - n + 1))]
    total = np.zeros(size)
    for piece in pieces:
        text = b"".join(
            hashlib.blake2b(piece.encode(), digest_size=_BYTES, salt=block.to_bytes(8, "big")).digest()
            for block in range(-(-size // _BYTES))
        )
        total += np.frombuffer(text, np.uint8)[:size] - 127.5
    # a byte's standard deviation is that of 256 equally likely values
    return np.asarray(total / np.sqrt(len(pieces) * (256**2 - 1) / 12) * _SPREAD, np.float32)


def vocabulary(items: Iterable[Item]) -> list[str]:
    """Return the lower-cased tokens of queries, candidates and documents."""
    return [
        word
        for item in items
        for text in (item.relation, item.subject, *item.candidates, *item.supports)
        for word in words(text)
    ]
