"""CoNLL-2009 files: which columns are read is one decision for all files, and said; what is odd is named."""

import importlib
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_helpers import Command

from attribench.base.errors import UserError
from attribench.plugins.configs import make_config
from attribench.plugins.registry import TASKS
from attribench.plugins.task import TaskSeeds, Workshop, build_problem, without_cache

conll: Any = importlib.import_module("attribench.tasks.srl.conll")
columns_of: Any = importlib.import_module("attribench.tasks.srl.columns")
graphs_of: Any = importlib.import_module("attribench.tasks.srl.graphs")
TASKS["srl-gnn"]
labelling: Any = importlib.import_module("attribench.tasks.srl.labelling")
Columns = columns_of.Columns

# "Dogs chase cats", whose gold and predicted columns all differ; the second time with another tree.
ROWS = """
1 Dogs  g-dog   p-dog   GN PN _ _ 2 0 sbj  root2 _ _        A0
2 chase g-chase p-chase GV PV _ _ 0 1 root obj2  Y chase.01 _
3 cats  g-cat   p-cat   GN PN _ _ 2 1 obj  obj2  _ _        A1
"""
PREDICTED = ("PHEAD", "PDEPREL", "PPOS", "PLEMMA")
FILES = {"train": "train.conll", "validation": "dev.conll", "test": "test.conll"}
OWN = {f"{split}_file": name for split, name in FILES.items()} | {
    "width": 8, "epochs": 1, "explained": 4, "batch_tokens": 30,
}  # fmt: skip


def text(empty: Iterable[str] = (), cells: dict[tuple[int, str], str] | None = None, count: int = 3) -> str:
    """Return a file of equal sentences, with ``_`` in some columns and with other cells: (line, column) -> value."""
    lines: list[str] = []
    for _ in range(count):
        for row in ROWS.strip().splitlines():
            values = row.split()
            for name in empty:
                values[14 if name == "APRED1" else conll.COLUMNS.index(name)] = "_"
            for (line, name), value in (cells or {}).items():
                if line == len(lines) + 1:
                    values[14 if name == "APRED1" else conll.COLUMNS.index(name)] = value
            lines.append("\t".join(values))
        lines.append("")
    return "\n".join(lines) + "\n"


def write(folder: Path, **files: str) -> None:
    """Write the three files; those that are not given have gold columns alone."""
    for split, name in FILES.items():
        (folder / name).write_text(files.get(split, text(PREDICTED)), encoding="utf-8")


def task(folder: Path, **options: Any) -> Any:
    kind = TASKS["srl-gnn"]
    return kind(make_config("srl-gnn", kind.Config, {**OWN, "data_dir": str(folder), **options}))


def built(folder: Path, **options: Any) -> Any:
    return build_problem(task(folder, **options), TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))


def refused(folder: Path, **options: Any) -> str:
    """Return the one line with which files are refused, before a model is built and when it is, without the folder."""
    messages = []
    for refuse in (task(folder, **options).sources, lambda: built(folder, **options)):
        with pytest.raises(UserError) as error:
            refuse()
        messages.append(str(error.value).replace(f"{folder}/", ""))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    return messages[0]


def chosen(folder: Path, **options: Any) -> Any:
    made = task(folder, **options)
    return made._columns(made._read()[0])


@pytest.mark.parametrize(
    ("empty", "expected"),
    [
        ((), Columns("predicted", "predicted", "predicted")),
        (PREDICTED, Columns("gold", "gold", "gold")),
        (("PPOS", "PLEMMA"), Columns("predicted", "gold", "gold")),  # trees from a parser, and nothing else
        (("PHEAD", "PDEPREL", "PLEMMA"), Columns("gold", "predicted", "gold")),
        (("PHEAD", "PDEPREL", "PPOS", "LEMMA"), Columns("gold", "gold", "predicted")),
        (("POS", "LEMMA", "DEPREL"), Columns("predicted", "predicted", "predicted")),  # a file without gold
        (("PHEAD", "PPOS", "PLEMMA"), Columns("gold", "gold", "gold")),  # relations without heads are no tree
    ],
)
def test_each_column_is_read_where_it_is_filled(tmp_path: Path, empty: tuple[str, ...], expected: Any) -> None:
    write(tmp_path, **dict.fromkeys(FILES, text(empty)))
    columns = chosen(tmp_path)
    assert columns == expected
    sentences = labelling.load(tmp_path / "train.conll", str(empty))
    vocabulary = graphs_of.Vocabulary.of(sentences, [], 1, columns)
    sign = {"gold": "gG", "predicted": "pP"}
    assert set(vocabulary.tags) == {f"{sign[columns.tags][1]}{x}" for x in "NV"}
    assert set(vocabulary.lemmas) == {f"{sign[columns.lemmas][0]}-chase"}
    assert set(vocabulary.relations) == ({"sbj", "root", "obj"} if columns.trees == "gold" else {"root2", "obj2"})
    graphs = graphs_of.make_split(sentences[:1], vocabulary, "x").graphs
    heads = graphs.edge_index[0, graphs["direction"] == 0].tolist()
    assert heads == ([1, 1] if columns.trees == "gold" else [0, 0])
    assert (graphs["tag"] > 0).all()
    assert (graphs["lemma"] > 0).all()


def test_what_was_read_is_in_the_table_of_tasks_and_mixed_kinds_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for empty, figures, said in (
        (PREDICTED, (0.0, 0.0, 0.0), ""),
        ((), (1.0, 1.0, 1.0), ""),
        (("PPOS", "PLEMMA"), (1.0, 0.0, 0.0), f"predicted trees, gold tags, gold lemmas are read in {tmp_path}"),
        (("PHEAD", "PDEPREL", "PPOS"), (0.0, 0.0, 1.0), "gold trees, gold tags, predicted lemmas are read"),
    ):
        write(tmp_path, **dict.fromkeys(FILES, text(empty)))
        caplog.clear()
        task(tmp_path).sources()
        lines = [record.getMessage() for record in caplog.records if "are read" in record.getMessage()]
        assert len(lines) == bool(said)
        assert not said or lines[0].startswith(said)
        found = built(tmp_path).figures
        assert tuple(found[f"predicted_{part}"] for part in ("trees", "tags", "lemmas")) == figures


def test_of_the_bundled_files_nothing_new_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(labelling.DATA / "glove.safetensors", tmp_path)
    monkeypatch.setattr(labelling, "DATA", tmp_path)
    write(tmp_path)
    bundled = task(tmp_path, data_dir="")
    caplog.set_level(logging.INFO)
    bundled.sources()
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
    assert set(built(tmp_path, data_dir="").figures) == {
        "epochs", "best_epoch", "validation", "test", "lookup_offset_and_tag", "lookup_relation",
    }  # fmt: skip


ADVICE = "fill them in every file, or set srl.columns=gold"


@pytest.mark.parametrize(
    ("files", "message", "predicted"),
    [
        (
            {"train": text(("PPOS", "PLEMMA"))},
            "expected PHEAD and PDEPREL in every file or in none; train.conll: filled, dev.conll and test.conll: "
            f"nothing but _: {ADVICE}",
            "dev.conll: line 1, column 10 (PHEAD): got _: fill it",
        ),
        (
            {"test": text(("PHEAD", "PDEPREL", "PPOS"))},
            f"expected PLEMMA in every file or in none; test.conll: filled, train.conll and dev.conll: nothing but _: "
            f"{ADVICE}",
            "train.conll: line 1, column 10 (PHEAD)",
        ),
        (
            {"train": text(), "test": text()},
            "expected PHEAD and PDEPREL in every file or in none; train.conll and test.conll: filled, dev.conll: "
            f"nothing but _: {ADVICE}",
            "dev.conll: line 1, column 10 (PHEAD)",
        ),
        (
            {"train": text(("PPOS",)), "validation": text(("PLEMMA",)), "test": text()},
            f"expected PPOS in every file or in none; dev.conll and test.conll: filled, train.conll: nothing but _: "
            f"{ADVICE}",
            "train.conll: line 1, column 6 (PPOS)",
        ),
    ],
)
def test_files_that_differ_are_refused_unless_it_is_said_what_to_read(
    tmp_path: Path, files: dict[str, str], message: str, predicted: str
) -> None:
    write(tmp_path, **files)
    assert refused(tmp_path) == message
    assert chosen(tmp_path, columns="gold") == Columns("gold", "gold", "gold")
    assert predicted in refused(tmp_path, columns="predicted")
    assert "since srl.columns=predicted asks for them" in refused(tmp_path, columns="predicted")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            text(("PDEPREL", "PPOS", "PLEMMA")),
            "expected PHEAD and PDEPREL in every row or in none; {}: line 1, column 12 (PDEPREL): got _",
        ),
        (
            text((), {(7, "PDEPREL"): "_"}),
            "expected PHEAD and PDEPREL in every row or in none; {}: line 7, column 12 (PDEPREL): got _",
        ),
        (
            text((), {(line, "PHEAD"): "_" for line in (5, 6, 7)}),  # a sentence without a predicted tree
            "expected PHEAD and PDEPREL in every row or in none; {}: line 5, column 10 (PHEAD): got _",
        ),
        (text((), {(10, "PPOS"): "_"}), "expected PPOS in every row or in none; {}: line 10, column 6 (PPOS): got _"),
        (
            text(("PLEMMA",), {(6, "PLEMMA"): "chase"}),
            "expected PLEMMA in every row or in none; {}: line 1, column 4 (PLEMMA): got _",
        ),
    ],
)
@pytest.mark.parametrize("split", FILES)
def test_a_column_that_is_filled_here_and_there_is_refused(tmp_path: Path, split: str, file: str, message: str) -> None:
    write(tmp_path, **{**dict.fromkeys(FILES, text()), split: file})
    assert refused(tmp_path) == f"{message.format(FILES[split])}: fill it, or set srl.columns=gold"
    assert chosen(tmp_path, columns="gold") == Columns("gold", "gold", "gold")


def test_a_row_without_a_predicted_head_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, validation=text((), {(6, "PHEAD"): "_"}))
    expected = "expected a number from 0 to 3, or _ in all rows; dev.conll: line 6, column 10 (PHEAD): got '_'"
    assert refused(tmp_path) == f"{expected}: mend the row"


@pytest.mark.parametrize(
    ("options", "file", "message"),
    [
        ({}, text(("POS", "PPOS")), "expected POS in every row, since gold tags are read; {}: line 1, column 5 (POS)"),
        (
            {},
            text(PREDICTED, {(11, "DEPREL"): "_"}),
            "expected HEAD and DEPREL in every row, since gold trees are read; {}: line 11, column 11 (DEPREL)",
        ),
        (
            {},
            text(PREDICTED, {(2, "LEMMA"): "_"}),
            "expected LEMMA in every row, since gold lemmas are read; {}: line 2, column 3 (LEMMA)",
        ),
        (
            {"columns": "gold"},
            text(("POS",)),
            "expected POS in every row, since gold tags are read; {}: line 1, column 5 (POS)",
        ),
    ],
)
def test_a_gold_column_that_is_read_and_empty_is_refused(
    tmp_path: Path, options: dict[str, Any], file: str, message: str
) -> None:
    write(tmp_path, **dict.fromkeys(FILES, file))
    advice = "fill it, with one value in all rows where there is nothing to say"
    advice += ", or set srl.columns=auto" if options else ""
    assert refused(tmp_path, **options) == f"{message.format('train.conll')}: got _: {advice}"


def test_words_without_a_form_may_lack_tag_and_lemma_but_no_relation(tmp_path: Path) -> None:
    silent = {(5, name): "_" for name in ("FORM", "LEMMA", "PLEMMA", "PPOS")}
    write(tmp_path, **dict.fromkeys(FILES, text((), silent)))
    assert chosen(tmp_path) == Columns("predicted", "predicted", "predicted")
    write(tmp_path, **dict.fromkeys(FILES, text((), {**silent, (5, "PDEPREL"): "_"})))
    assert "train.conll: line 5, column 12 (PDEPREL): got _" in refused(tmp_path)


def test_sentences_without_predicates_do_not_count_since_nothing_is_read_of_them(tmp_path: Path) -> None:
    hush = "1\tHush\t_\t_\t_\t_\t_\t_\t0\t_\t_\t_\t_\t_\n\n"
    write(tmp_path, **dict.fromkeys(FILES, hush + text((), {(2, "PPOS"): "_"})))
    assert "train.conll: line 4, column 6 (PPOS)" in refused(tmp_path)  # the line in the file, hush and all
    write(tmp_path, **dict.fromkeys(FILES, hush + text()))
    assert chosen(tmp_path) == Columns("predicted", "predicted", "predicted")


BLANK = "expected 14 columns and more, or an empty line; bad.conll: line {}: got {}, of blanks: make it empty"
TABS = "expected {} columns, parted by tabs; bad.conll: line {}, column {}: got {}, with blanks for the tab before it"
TABS += ": put a tab after every column"
COMMENT = "expected rows and empty lines; bad.conll: line {}: got a comment, {!r}: remove the line"
AROUND = "expected a cell without blanks around it; bad.conll: line {}, column {}: got {!r}: remove the blanks"
PLAIN = text(PREDICTED)
LINES = PLAIN.splitlines()


def changed(number: int, line: str) -> str:
    """Return the file with another line; it counts from 1."""
    return "\n".join([*LINES[: number - 1], line, *LINES[number:]]) + "\n"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        # blanks where nothing should be
        (changed(4, " "), BLANK.format(4, 1)),
        (changed(8, "\t"), BLANK.format(8, 2)),
        (changed(4, " \t  \t"), BLANK.format(4, 3)),
        (changed(8, "\u00a0"), BLANK.format(8, 1)),
        (changed(12, "   "), BLANK.format(12, 1)),
        (changed(4, " ").replace("\n", "\r\n"), BLANK.format(4, 1)),
        ("  \n" + PLAIN, BLANK.format(1, 1)),
        (PLAIN.replace("\n\n", "\n \n"), BLANK.format(4, 1)),
        # blanks for tabs
        (PLAIN.replace("\t", " "), TABS.format(14, 1, "2 (FORM)", 1)),
        (PLAIN.replace("\t", "   ").replace("\n", "\r\n"), TABS.format(14, 1, "2 (FORM)", 1)),
        (PLAIN.replace("\t", "\u00a0"), TABS.format(14, 1, "2 (FORM)", 1)),
        (changed(2, LINES[1].replace("\t", " ")), TABS.format(15, 2, "2 (FORM)", 1)),
        (changed(6, LINES[5].replace("chase\t", "chase  ", 1)), TABS.format(15, 6, "3 (LEMMA)", 14)),
        (changed(7, LINES[6][::-1].replace("\t", " ", 1)[::-1]), TABS.format(15, 7, "15 (APRED1)", 14)),
        (changed(1, "  " + LINES[0].replace("\t", "  ")), TABS.format(15, 1, "2 (FORM)", 1)),
        # comments
        (f"# text = Dogs\n{PLAIN}", COMMENT.format(1, "# text = Dogs")),
        (f"{PLAIN}# end", COMMENT.format(13, "# end")),
        (changed(6, f"#{LINES[5]}"), COMMENT.format(6, f"#{LINES[5]}"[:40])),  # within a sentence, for a row
        (PLAIN.replace("\n\n", "\n\n#\tnext\n", 1), COMMENT.format(5, "#\tnext")),
        (f"#begin document\n{PLAIN}".replace("\n", "\r\n"), COMMENT.format(1, "#begin document")),
        # blanks around a cell would make of it another role, tag or word
        (changed(3, LINES[2] + " "), AROUND.format(3, "15 (APRED1)", "A1 ")),
        (changed(2, LINES[1] + "\u00a0"), AROUND.format(2, "15 (APRED1)", "_\u00a0")),
        (changed(5, LINES[4].replace("Dogs", " Dogs")), AROUND.format(5, "2 (FORM)", " Dogs")),
        (changed(5, LINES[4].replace("\tg-dog", "\t ")), AROUND.format(5, "3 (LEMMA)", " ")),
        (changed(9, LINES[8].replace("1", "1 ", 1)), AROUND.format(9, "1 (ID)", "1 ")),
    ],
)
def test_what_looks_right_and_is_not_is_named(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "bad.conll").write_bytes(file.encode())
    with pytest.raises(UserError) as error:
        conll.read_conll(tmp_path / "bad.conll")
    assert str(error.value).replace(f"{tmp_path}/", "") == message


@pytest.mark.parametrize(
    "row",
    [LINES[0].replace("Dogs", "#"), LINES[0].replace("Dogs", "New York"), LINES[0].replace("g-dog", "10\u00a0000")],
)
def test_hashes_and_blanks_within_words_are_no_fault(tmp_path: Path, row: str) -> None:
    path, copy = tmp_path / "a.conll", tmp_path / "b.conll"
    path.write_text(changed(1, row), encoding="utf-8")
    sentences = conll.read_conll(path)
    assert [sentence.line for sentence in sentences] == [1, 5, 9]
    conll.write_conll(sentences, copy)
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("split", "option"),
    [("train", ""), ("validation", ""), ("test", ", or set srl.blind=true to explain it all the same")],
)
def test_a_file_without_roles_is_refused(tmp_path: Path, split: str, option: str) -> None:
    write(tmp_path, **{split: text((*PREDICTED, "APRED1"))})
    message = (
        f"expected roles in the APRED columns; {FILES[split]}: all of them are _ though there are 3 predicates (a "
        f"blind file): give a {split} file with roles"
    )
    assert refused(tmp_path) == message + option
    if split != "test":
        assert refused(tmp_path, blind=True) == message


def test_one_role_is_enough_and_predicates_may_have_none(tmp_path: Path) -> None:
    one = text((*PREDICTED, "APRED1"), {(9, "APRED1"): "A1"})
    write(tmp_path, validation=one, test=one)
    figures = built(tmp_path).figures
    assert "blind_test" not in figures
    assert "test" in figures


def test_a_blind_test_set_is_explained_on_request_against_what_the_model_predicts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, train=text(PREDICTED, count=30), test=text((*PREDICTED, "APRED1")))
    options = {"blind": True, "epochs": 20, "learning_rate": 0.05}
    task(tmp_path, **options).sources()
    (line,) = [record.getMessage() for record in caplog.records if "blind" in record.getMessage()]
    assert line == (
        f"{tmp_path / 'test.conll'} is a blind test set (every APRED is _): what the model predicts stands for the "
        "roles, and F1 says nothing of the truth"
    )
    problem = built(tmp_path, **options)
    assert problem.figures["blind_test"] == 1.0
    assert problem.figures["validation"] == 1.0  # so that the predictions are the roles that were held back
    assert not {"test", "lookup_offset_and_tag", "lookup_relation"} & set(problem.figures)
    assert problem.splits["test"].labels.view(-1, 3).tolist() == [[1, 0, 2]] * 3


@pytest.mark.parametrize(
    ("split", "cells", "message"),
    [
        ("test", {"APRED1": {"A0": "ARG0", "A1": "ARG1"}}, "expected roles of train.conll; test.conll: none of its 2"),
        ("validation", {"APRED1": {"A0": "a0", "A1": "a1"}}, "expected roles of train.conll; dev.conll: none of its 2"),
        (
            "test",
            {"DEPREL": {"sbj": "SBJ", "root": "ROOT", "obj": "OBJ"}},
            "expected relations of train.conll; test.conll: none of its 3",
        ),
    ],
)
def test_files_with_other_labels_are_refused(
    tmp_path: Path, split: str, cells: dict[str, dict[str, str]], message: str
) -> None:
    file = PLAIN
    for names in cells.values():
        for old, new in names.items():
            file = file.replace(f"\t{old}\t", f"\t{new}\t").replace(f"\t{old}\n", f"\t{new}\n")
    write(tmp_path, **{split: file})
    found = refused(tmp_path)
    assert found.startswith(f"{message}, such as ")
    assert found.endswith(", is one of them: use files with the same labels")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": text()}, "expected PHEAD and PDEPREL in every file or in none; "),
        ({"test": text((*PREDICTED, "APRED1"))}, "expected roles in the APRED columns; "),
        ({"train": changed(4, " ")}, "expected 14 columns and more, or an empty line; "),
    ],
)
def test_it_is_one_line_and_exit_code_2_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    files: dict[str, str],
    message: str,
) -> None:
    write(tmp_path, **files)
    options = [word for split, name in FILES.items() for word in ("--set", f"srl.{split}_file={name}")]
    run = ["run", "--task", "srl-gnn", "--methods", "gate-values", "--data-dir", str(tmp_path), "--jobs", "0"]
    monkeypatch.chdir(tmp_path)
    code, _, said = command(*run, *options, "--out", "r")
    assert code == 2
    (line,) = said.splitlines()
    assert message in line
    assert not (tmp_path / "r" / "cells").exists()
