"""CoNLL-2009: files come back byte for byte, and a bad one gives one line that says where and why."""

import gzip
import importlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attribench.base.errors import UserError

conll: Any = importlib.import_module("attribench.tasks.srl.conll")
files: Any = importlib.import_module("attribench.tasks.srl.files")
read_conll, write_conll = conll.read_conll, conll.write_conll
DEV = Path(conll.__file__).parent / "data" / "dev.conll09.gz"

# "She wants to sing .", with two predicates; "Stop !", with none.
ROWS = [
    "1\tShe\tshe\tshe\tPRP\tPRP\t_\t_\t2\t2\tnsubj\tnsubj\t_\t_\tA0\tA0",
    "2\twants\twant\twant\tVBZ\tVBZ\t_\t_\t0\t0\troot\troot\tY\twant.01\t_\t_",
    "3\tto\tto\tto\tTO\tTO\t_\t_\t4\t4\tmark\tmark\t_\t_\t_\t_",
    "4\tsing\tsing\tsing\tVB\tNN\t_\tNum=Sing\t2\t2\txcomp\tdobj\tY\tsing.02\tAC\t_",
    "5\t.\t.\t.\t.\t.\t_\t_\t2\t4\tpunct\tpunct\t_\t_\t_\t_",
]
SHORT = [
    "1\tStop\tstop\t_\tVB\t_\t_\t_\t0\t_\troot\t_\t_\t_",
    "2\t!\t!\t_\t.\t_\t_\t_\t1\t_\tpunct\t_\t_\t_",
]
FIRST, SECOND = "\n".join(ROWS), "\n".join(SHORT)


def cell(row: int, column: str, value: str) -> str:
    """Return the file with one cell of the first sentence changed."""
    rows = [text.split("\t") for text in ROWS]
    rows[row][conll.COLUMNS.index(column)] = value
    return "\n".join(map("\t".join, rows)) + "\n\n" + SECOND + "\n\n"


def refused(path: Path) -> str:
    """Return the message of a file that is refused; it is one line and names the file."""
    with pytest.raises(UserError) as error:
        read_conll(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert message.startswith("expected ")
    return message


def test_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(f"{FIRST}\n\n{SECOND}\n\n", encoding="utf-8")
    first, second = read_conll(path)
    assert (len(first), len(second)) == (5, 2)
    assert first.form == ["She", "wants", "to", "sing", "."]
    assert first.lemma == first.plemma == ["she", "want", "to", "sing", "."]
    assert (first.pos[3], first.ppos[3], first.feat[3], first.pfeat[3]) == ("VB", "NN", "_", "Num=Sing")
    assert (first.head, first.phead) == ([2, 0, 4, 2, 2], [2, 0, 4, 2, 4])
    assert (first.heads, first.predicted_heads) == ([1, -1, 3, 1, 1], [1, -1, 3, 1, 3])
    assert (first.deprel[3], first.pdeprel[3]) == ("xcomp", "dobj")
    assert (first.predicates, first.pred) == ([1, 3], ["want.01", "sing.02"])
    assert first.roles == [["A0", "_", "_", "AC", "_"], ["A0", "_", "_", "_", "_"]]
    assert [first.arguments(k) for k in range(2)] == [[(0, "A0"), (3, "AC")], [(0, "A0")]]
    assert (second.phead, second.predicted_heads) == (None, None)
    assert (second.predicates, second.pred, second.roles) == ([], [], [])


@pytest.mark.parametrize("suffix", [".conll", ".gz"])
@pytest.mark.parametrize(
    "text",
    [
        f"{FIRST}\n\n{SECOND}\n\n",
        f"{FIRST}\n\n{SECOND}\n",
        f"{FIRST}\n\n{SECOND}",
        f"{FIRST}\n\n\n\n{SECOND}\n\n\n",
        f"{FIRST}\n\n{SECOND}\n\n".replace("\n", "\r\n"),
        f"{FIRST}\r\n\n{SECOND}".replace("\n", "\r\n"),
        SHORT[0],
        cell(0, "FORM", "_"),
        cell(0, "FORM", "a b\u00a0c\u2028d\u0085é\U0001f600"),
        cell(0, "HEAD", "0"),  # two roots
    ],
)
def test_files_come_back_byte_for_byte(tmp_path: Path, text: str, suffix: str) -> None:
    pack: Callable[[bytes], bytes] = gzip.compress if suffix == ".gz" else bytes
    unpack: Callable[[bytes], bytes] = gzip.decompress if suffix == ".gz" else bytes
    path, copy = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    path.write_bytes(pack(text.encode()))
    write_conll(read_conll(path), copy)
    assert unpack(copy.read_bytes()) == text.encode()


def test_the_bundled_file_comes_back_byte_for_byte(tmp_path: Path) -> None:
    sentences = read_conll(DEV)
    copies = tmp_path / "a.gz", tmp_path / "b.gz"
    for copy in copies:
        write_conll(sentences, copy)
        assert gzip.decompress(copy.read_bytes()) == gzip.decompress(DEV.read_bytes())
    assert copies[0].read_bytes() == copies[1].read_bytes()
    assert copies[0].read_bytes()[3:8] == bytes(5)  # neither name nor time


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (cell(2, "ID", "x"), ("expected ID 3", "line 3, column 1 (ID)", "got 'x'")),
        (cell(2, "ID", "4"), ("expected ID 3", "line 3, column 1 (ID)", "got '4'")),
        (cell(2, "ID", "03"), ("expected ID 3", "got '03'")),
        (cell(2, "ID", "3-4"), ("expected ID 3", "got '3-4'")),
        (cell(2, "HEAD", "x"), ("expected a number from 0 to 5", "line 3, column 9 (HEAD)", "got 'x'")),
        (cell(2, "HEAD", "_"), ("expected a number from 0 to 5", "line 3, column 9 (HEAD)", "got '_'")),
        (cell(2, "HEAD", "6"), ("expected a number from 0 to 5", "line 3, column 9 (HEAD)", "got '6'")),
        (cell(2, "HEAD", "-1"), ("expected a number from 0 to 5", "got '-1'")),
        (cell(2, "HEAD", "٤"), ("expected a number from 0 to 5", "got '٤'")),
        (cell(2, "HEAD", "9" * 5000), ("expected a number from 0 to 5", "column 9 (HEAD)")),
        (cell(2, "PHEAD", "6"), ("expected a number from 0 to 5", "line 3, column 10 (PHEAD)", "got '6'")),
        (cell(2, "PHEAD", "_"), ("expected a number from 0 to 5", "line 3, column 10 (PHEAD)", "got '_'")),
        (cell(3, "HEAD", "3"), ("expected a tree", "line 3, column 9 (HEAD)", "got '4', which closes a cycle")),
        (cell(2, "HEAD", "3"), ("expected a tree", "line 3, column 9 (HEAD)", "got '3', which closes a cycle")),
        (cell(3, "PHEAD", "3"), ("expected a tree", "line 3, column 10 (PHEAD)", "closes a cycle")),
        (cell(1, "HEAD", "1"), ("expected a root (0)", "line 1, column 9 (HEAD)", "got none: mend the sentence")),
        (cell(2, "FORM", ""), ("expected a value or _", "line 3, column 2 (FORM)", "got nothing")),
        (cell(2, "FILLPRED", "y"), ("expected Y or _", "line 3, column 13 (FILLPRED)", "got 'y'")),
        (cell(2, "PRED", "to.01"), ("expected _ where FILLPRED is _", "line 3, column 14 (PRED)", "got 'to.01'")),
        (cell(1, "PRED", "_"), ("expected a sense such as say.01 where FILLPRED is Y", "line 2, column 14", "got '_'")),
        (f"{FIRST}\t_\n", ("expected 2 APRED columns", "line 5, column 17 (APRED3)", "got 3")),
        (FIRST[:-2] + "\n", ("expected 2 APRED columns", "line 5, column 16 (APRED2)", "got 1")),
        (f"{FIRST}\n\n{SHORT[0]}\t_\n", ("expected 0 APRED columns", "line 7, column 15 (APRED1)", "got 1")),
        (
            f"{FIRST}\n5\tx\t_\n",
            ("expected 14 columns and more", "line 6, column 4 (PLEMMA)", "got 3, without PLEMMA, "),
        ),
        (f"{FIRST}\nhello\n", ("expected 14 columns", "line 6, column 2 (FORM)", "got 1, without FORM, ")),
        (FIRST.replace("\t", " "), ("expected 14 columns, parted by tabs", "line 1, column 2 (FORM)", "got 1")),
        (f"{FIRST}\n\n\t\n{SECOND}", ("expected 14 columns", "line 7", "got 2", "make it empty")),
        (f"{FIRST}\n{SECOND}\n", ("expected ID 6", "line 6, column 1 (ID)", "got '1'")),
        (f"\n{FIRST}\n", ("expected a row", "line 1 is blank", "remove blank lines")),
        (f"{FIRST}\n".replace("\n", "\r\n", 2), ("same line end", "line 3 ends in b'\\n'", "line 1 in b'\\r\\n'")),
        (f"{FIRST}\n".replace("\n", "\r\n")[:-1], ("expected a line feed", "line 5 ends in a carriage return alone")),
        ("", ("expected at least one sentence", "is empty")),
        ("\n\n", ("expected a row", "line 1 is blank")),
        (f"\ufeff{FIRST}\n", ("expected UTF-8 without a byte-order mark", "line 1, column 1 (ID)", "convert the file")),
        (f"{FIRST}\n".encode("utf-16"), ("expected UTF-8", "line 1", "got byte 0xff at place 1", "convert the file")),
        (
            cell(2, "FORM", "é").encode("latin-1"),
            ("expected UTF-8", "line 3, column 2 (FORM)", "got byte 0xe9 at place 3"),
        ),
    ],
)
def test_a_bad_file_gives_one_clear_error(tmp_path: Path, text: str | bytes, parts: tuple[str, ...]) -> None:
    path = tmp_path / "bad.conll"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    message = refused(path)
    for part in parts:
        assert part in message
    assert len(message) < 6000


def test_a_missing_column_is_found_in_its_own_row(tmp_path: Path) -> None:
    """Also where the row is a predicate's, whose loss would make all other rows look too long."""
    path = tmp_path / "bad.conll"
    for column in range(1, len(ROWS[1].split("\t"))):
        row = ROWS[1].split("\t")
        del row[column]
        path.write_text("\n".join([ROWS[0], "\t".join(row), *ROWS[2:]]) + "\n", encoding="utf-8")
        assert "line 2, column " in refused(path)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.conll", None, ("No such file", "check the path")),
        ("a.gz", None, ("No such file", "check the path")),
        ("a.gz", FIRST.encode(), ("Not a gzipped file",)),
        ("a.gz", gzip.compress(FIRST.encode(), mtime=0)[:-20], ("ended before",)),
        ("a.gz", gzip.compress(FIRST.encode(), mtime=0)[:20] + b"\xff" * 40, ("expected a CoNLL-2009 file",)),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, name: str, content: bytes | None, parts: tuple[str, ...]) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    for part in parts:
        assert part in message


def test_pipes_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gz")
    assert "not a regular file: check the path" in refused(tmp_path / "pipe.gz")
    assert "not a regular file: check the path" in refused(tmp_path)


def test_bombs_are_refused_while_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.gz"
    monkeypatch.setattr(conll, "MAX_BYTES", 10_000)
    path.write_bytes(gzip.compress(f"{SECOND}\n\n".encode() * 1_000_000, mtime=0))
    assert "at most 10000 bytes" in refused(path)
    monkeypatch.undo()
    path.write_bytes(gzip.compress(bytes(files.MAX_LINE_BYTES + 1), mtime=0))
    assert "line 1 is longer" in refused(path)
    path.write_bytes(gzip.compress(f"{FIRST}\n".encode() + b"\n" * 10_000_000, mtime=0))
    assert "expected at most 10000 blank lines" in refused(path)
    path.write_bytes(gzip.compress(b"x\n" * 10_000_000, mtime=0))
    assert "a blank line after at most 10000 rows" in refused(path)


def test_damaged_files_are_refused_or_come_back(tmp_path: Path) -> None:
    """Bytes changed at random: whatever is accepted is written back as it was."""
    draw = random.Random(0)
    original = f"{FIRST}\n\n{SECOND}\n\n".encode()
    path, copy = tmp_path / "a.conll", tmp_path / "b.conll"
    accepted = 0
    for _ in range(400):
        content = bytearray(original)
        for _ in range(draw.choice([1, 1, 2])):
            place = draw.randrange(len(content))
            new = draw.choice([b"", b"\t", b"\n", b"\r\n", b"_", b"Y", b"0", b"3", b"\xff", "é".encode()])
            content[place : place + draw.choice([0, 1])] = new
        path.write_bytes(content)
        try:
            sentences = read_conll(path)
        except UserError:
            refused(path)
            continue
        accepted += 1
        write_conll(sentences, copy)
        assert copy.read_bytes() == content
    assert 40 < accepted < 360


@pytest.mark.parametrize("value", ["", "a\tb", "a\nb"])
def test_cells_that_would_not_come_back_are_not_written(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text(f"{SECOND}\n", encoding="utf-8")
    (sentence,) = read_conll(path)
    sentence.form[0] = value
    with pytest.raises(ValueError, match="expected a cell without tabs"):
        write_conll([sentence], tmp_path / "b.conll")
