"""The CoNLL-2009 format (Hajič et al. 2009): a token a row, its columns parted by tabs, a blank line after a sentence.

Columns: ID FORM LEMMA PLEMMA POS PPOS FEAT PFEAT HEAD PHEAD DEPREL PDEPREL FILLPRED PRED, and one APRED for every row
whose FILLPRED is Y, in their order. ``_`` stands for nothing.

Nothing is normalised: what :func:`read_conll` accepts, :func:`write_conll` writes back byte for byte, with the file's
line ends, its blank lines between and after sentences, and with or without a newline at its end (of a ``.gz`` file
this holds for the unpacked text). A file that could not be written back so is refused: rows with different line ends,
numbers such as 07, a byte-order mark. So are comments, lines of blanks alone, and blanks around a cell or for a tab.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attribench.base.errors import UserError

from .files import read_lines

COLUMNS = (
    *("ID", "FORM", "LEMMA", "PLEMMA", "POS", "PPOS", "FEAT", "PFEAT"),
    *("HEAD", "PHEAD", "DEPREL", "PDEPREL", "FILLPRED", "PRED"),
)
NOTHING = "_"
MAX_BYTES = 2**31
"""Of a file's text, unpacked."""
MAX_TOKENS = 10_000
"""Of a sentence; and blank lines in a row."""
_HEAD, _PHEAD, _FILLPRED, _PRED, _APREDS = 8, 9, 12, 13, 14
_BLANKS = " \u00a0"
"""Also the one that does not break a line: both look like nothing."""
_BETWEEN, _AROUND = re.compile(f"[^{_BLANKS}][{_BLANKS}]+[^{_BLANKS}]"), re.compile(f"^[{_BLANKS}]|[{_BLANKS}]$")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence's columns, named as in the file: heads are the IDs of tokens, from 1, and 0 at a root."""

    form: list[str]
    lemma: list[str]
    plemma: list[str]
    pos: list[str]
    ppos: list[str]
    feat: list[str]
    pfeat: list[str]
    head: list[int]
    phead: list[int] | None
    """None where the file has ``_`` in every row."""
    deprel: list[str]
    pdeprel: list[str]
    predicates: list[int]
    """The positions, from 0, of the tokens whose FILLPRED is Y."""
    pred: list[str]
    """PRED of every predicate, such as say.01."""
    roles: list[list[str]]
    """APRED of every predicate: for every token a role or ``_``."""
    newline: str = "\n"
    """What ends every row but the last."""
    end: str = "\n\n"
    """What stands between the last row and the next sentence."""
    line: int = field(default=1, compare=False)
    """Of the first row, in the file that was read."""

    def __len__(self) -> int:
        return len(self.form)

    @property
    def heads(self) -> list[int]:
        """The positions of the heads, from 0; -1 at a root."""
        return [head - 1 for head in self.head]

    @property
    def predicted_heads(self) -> list[int] | None:
        """The positions of the predicted heads, from 0, -1 at a root; None where there are none."""
        return None if self.phead is None else [head - 1 for head in self.phead]

    def arguments(self, predicate: int) -> list[tuple[int, str]]:
        """Return position and role of the arguments of a predicate, given its place among the predicates."""
        return [(position, role) for position, role in enumerate(self.roles[predicate]) if role != NOTHING]


def read_conll(path: Path) -> list[Sentence]:
    """Read a file in CoNLL-2009 format; one that ends in ``.gz`` is unpacked.

    Raises:
        UserError: when it cannot be read, is empty or too large, or for the first malformed row, with its line and
            column.
    """
    memory: dict[str, str] = {}  # equal words are kept once
    sentences = []
    for start, rows, newline, end in _blocks(path):
        try:
            text = _decode(rows, start)
            cells = [row.split("\t") for row in text.split("\n")]
            if any(blank in text for blank in _BLANKS):
                _check_blanks(cells)
            sentences.append(_parse(cells, newline, end, start, memory))
        except _RowError as error:
            raise UserError(error.message(path, start)) from None
    if not sentences:
        raise UserError(f"expected at least one sentence; {path} is empty: check the file")
    return sentences


def write_conll(sentences: Iterable[Sentence], path: Path) -> None:
    """Write a file that :func:`read_conll` reads; a ``.gz`` is packed without name and time of day.

    Raises:
        ValueError: when a cell is empty or holds a tab or a line break.
    """
    with path.open("wb") as raw:
        if path.suffix != ".gz":
            raw.writelines(_format(sentence) for sentence in sentences)
            return
        with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
            packed.writelines(_format(sentence) for sentence in sentences)


class _RowError(Exception):
    """What is wrong in a row, counted from 0 in its sentence; ``column`` counts from 0, too."""

    def __init__(self, row: int, expected: str, got: str, column: int, remedy: str = "mend the row") -> None:
        super().__init__(expected)
        self.row, self.expected, self.got, self.column, self.remedy = row, expected, got, column, remedy

    def message(self, path: Path, start: int) -> str:
        column = COLUMNS[self.column] if self.column < _APREDS else f"APRED{self.column - _APREDS + 1}"
        where = f"{path}: line {start + self.row}, column {self.column + 1} ({column})"
        return f"expected {self.expected}; {where}: got {self.got}: {self.remedy}"


def _blocks(path: Path) -> Iterator[tuple[int, list[bytes], str, str]]:
    """Yield every sentence: the line of its first row, its rows without line ends, its line end, what follows it."""
    rows: list[bytes] = []
    ends: list[bytes] = []  # the line ends of the last row and of the blank lines after it
    start, newline = 1, b"\n"
    for number, line in enumerate(read_lines(path, "a CoNLL-2009 file", MAX_BYTES), 1):
        content = line.rstrip(b"\r\n") if line.endswith(b"\n") else line
        end = line[len(content) :]
        if content.endswith(b"\r"):
            raise UserError(f"expected a line feed; {path}: line {number} ends in a carriage return alone: add it")
        if not content:
            if not rows:
                raise UserError(f"expected a row; {path}: line {number} is blank: remove blank lines at the start")
            ends.append(end)
            if len(ends) > MAX_TOKENS:
                raise UserError(
                    f"expected at most {MAX_TOKENS} blank lines; {path}: line {number} is one more: trim it"
                )
            continue
        if not content[:1].isdigit():
            _check_line(content, f"{path}: line {number}")
        if len(ends) > 1:
            yield start, rows, newline.decode(), b"".join(ends).decode()
            rows = []
        if not rows:
            start, newline = number, end or b"\n"
        elif ends[0] != newline:
            raise UserError(
                f"expected the same line end in all rows; {path}: line {number - 1} ends in {ends[0]!r} "
                f"and line {start} in {newline!r}: convert the file"
            )
        rows.append(content)
        if len(rows) > MAX_TOKENS:
            raise UserError(
                f"expected a blank line after at most {MAX_TOKENS} rows; {path}: none up to line {number}: add them"
            )
        ends = [end]
    if rows:
        yield start, rows, newline.decode(), b"".join(ends).decode()


def _check_line(content: bytes, where: str) -> None:
    """Refuse a line of blanks, which is not the empty one that ends a sentence, and a comment."""
    text = content.decode(errors="replace")
    if not text.strip():
        count = 1 + text.count("\t")
        raise UserError(
            f"expected {_APREDS} columns and more, or an empty line; {where}: got {count}, of blanks: make it empty"
        )
    if text.startswith("#"):
        raise UserError(f"expected rows and empty lines; {where}: got a comment, {text[:40]!r}: remove the line")


def _decode(rows: list[bytes], start: int) -> str:
    """Return the rows as text."""
    if start == 1 and rows[0].startswith(_BOM):
        raise _RowError(0, "UTF-8 without a byte-order mark", "one", 0, "convert the file")
    try:
        return b"\n".join(rows).decode()
    except UnicodeDecodeError:
        for index, row in enumerate(rows):
            try:
                row.decode()
            except UnicodeDecodeError as error:
                got = f"byte 0x{row[error.start]:02x} at place {error.start + 1}"
                column = row[: error.start].count(b"\t")
                raise _RowError(index, "UTF-8", got, column, "convert the file") from None
        raise


def _check_blanks(cells: list[list[str]]) -> None:
    """Refuse blanks where a tab should be, and blanks around a cell: ``A0`` and a blank would be another role."""
    usual = max(_APREDS, Counter(map(len, cells)).most_common(1)[0][0])
    for index, row in enumerate(cells):
        for column, cell in enumerate(row):
            if len(row) < usual and _BETWEEN.search(cell):
                expected, got = f"{usual} columns, parted by tabs", f"{len(row)}, with blanks for the tab before it"
                raise _RowError(index, expected, got, column + 1, "put a tab after every column")
            if _AROUND.search(cell):
                raise _RowError(index, "a cell without blanks around it", repr(cell), column, "remove the blanks")


def _parse(cells: list[list[str]], newline: str, end: str, line: int, memory: dict[str, str]) -> Sentence:
    """Return the sentence that these rows hold."""
    _check_columns(cells)
    share = memory.setdefault
    columns = [list(map(share, column, column)) for column in zip(*cells, strict=True)]
    predicates = [position for position, fill in enumerate(columns[_FILLPRED]) if fill == "Y"]
    phead = columns[_PHEAD]
    return Sentence(
        form=columns[1],
        lemma=columns[2],
        plemma=columns[3],
        pos=columns[4],
        ppos=columns[5],
        feat=columns[6],
        pfeat=columns[7],
        head=_heads(columns[_HEAD], _HEAD),
        phead=None if set(phead) == {NOTHING} else _heads(phead, _PHEAD),
        deprel=columns[10],
        pdeprel=columns[11],
        predicates=predicates,
        pred=[columns[_PRED][position] for position in predicates],
        roles=columns[_APREDS:],
        newline=newline,
        end=end,
        line=line,
    )


def _check_columns(cells: list[list[str]]) -> None:
    """Check IDs, the number of columns, and that there is a sense exactly where there is a predicate."""
    for index, row in enumerate(cells):
        if len(row) < _APREDS:
            missing = ", ".join(COLUMNS[len(row) :])
            raise _RowError(index, f"{_APREDS} columns and more", f"{len(row)}, without {missing}", len(row))
        if row[0] != str(index + 1):
            raise _RowError(index, f"ID {index + 1}", repr(row[0]), 0)
        if "" in row:
            raise _RowError(index, "a value or _", "nothing", row.index(""))
        fill, sense = row[_FILLPRED], row[_PRED]
        if fill not in ("Y", NOTHING):
            raise _RowError(index, "Y or _", repr(fill), _FILLPRED)
        if (fill == "Y") == (sense == NOTHING):
            expected = "a sense such as say.01 where FILLPRED is Y" if fill == "Y" else "_ where FILLPRED is _"
            raise _RowError(index, expected, repr(sense), _PRED)
    predicates = sum(row[_FILLPRED] == "Y" for row in cells)
    for index, row in enumerate(cells):
        found = len(row) - _APREDS
        if found != predicates:
            expected = f"{predicates} APRED columns, one for every predicate (FILLPRED Y) of the sentence"
            raise _RowError(index, expected, str(found), _APREDS + min(found, predicates))


def _heads(column: list[str], number: int) -> list[int]:
    """Return the heads of a tree as numbers."""
    ids = {str(head): head for head in range(len(column) + 1)}
    try:
        heads = [ids[cell] for cell in column]
    except KeyError:
        index = next(i for i, cell in enumerate(column) if cell not in ids)
        expected = f"a number from 0 to {len(column)}" + (", or _ in all rows" if number == _PHEAD else "")
        raise _RowError(index, expected, repr(column[index]), number) from None
    if 0 not in heads:
        raise _RowError(0, "a root (0) in some row of the sentence", "none", number, "mend the sentence")
    reaches = [False] * len(heads)  # the root
    for token in range(len(heads)):
        path = set()
        while token >= 0 and not reaches[token]:
            if token in path:
                raise _RowError(token, "a tree", f"{column[token]!r}, which closes a cycle", number)
            path.add(token)
            token = heads[token] - 1
        for node in path:
            reaches[node] = True
    return heads


def _format(sentence: Sentence) -> bytes:
    """Return the sentence as it stands in a file."""
    count = len(sentence)
    fill, pred = [NOTHING] * count, [NOTHING] * count
    for position, sense in zip(sentence.predicates, sentence.pred, strict=True):
        fill[position], pred[position] = "Y", sense
    columns = [
        [str(i) for i in range(1, count + 1)],
        *(sentence.form, sentence.lemma, sentence.plemma, sentence.pos, sentence.ppos, sentence.feat, sentence.pfeat),
        [str(head) for head in sentence.head],
        [NOTHING] * count if sentence.phead is None else [str(head) for head in sentence.phead],
        *(sentence.deprel, sentence.pdeprel, fill, pred, *sentence.roles),
    ]
    for column in columns:
        for cell in column:
            if not cell or "\t" in cell or "\n" in cell:
                raise ValueError(f"expected a cell without tabs and line breaks that is not empty; got {cell!r}")
    rows = sentence.newline.join(map("\t".join, zip(*columns, strict=True)))
    return (rows + sentence.end).encode()
