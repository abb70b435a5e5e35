"""Parts of a study are made anew beside rows that stay, and every row says which code made it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from command_helpers import Command, exit_code
from hostile_helpers import assert_clear

from attribench.base.errors import UserError
from attribench.base.pieces import Cell
from attribench.base.portable import portable_digest
from attribench.plugins.registry import METHODS, TASKS
from attribench.running import keys
from attribench.running.execution import Execution
from attribench.running.keys import Keys
from attribench.running.plan import Plan
from attribench.studies import parts_of
from attribench.telling.cards import Reference
from attribench.telling.kept import KEPT, joined, other_code, read_tables, write_tables

TOY = "toy[train=200,validation=30,test=20,colours=3,width=16,epochs=2]"
RELAY = "relay[depth=3,train=60,validation=30,test=30]"
IG = "integrated-gradients[steps=2]"
STUDY = f"""
[one]
task = ["{TOY}", "{RELAY}"]
methods = ["{IG}", "gate-values"]
seeds = 2
randomised-graphs = 0
[two]
task = "{TOY}"
methods = "gate-values"
"""
PLACES = ("--out", "kept", "--work", "work", "--cache-dir", "cache", "--jobs", "0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a whole study was made."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "mine.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert exit_code("study", "mine.toml", *PLACES) == 0
    return folder


@pytest.fixture
def made(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, in which the test is."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function after which the code of a module counts as another one."""

    def edit(module: str) -> None:
        before = portable_digest
        monkeypatch.setattr(keys, "portable_digest", lambda *roots: before(*roots) + "+" * (module in roots))

    return edit


def texts(run: str, name: str) -> pd.DataFrame:
    return pd.read_csv(f"kept/{run}/{name}.csv", dtype=str, keep_default_na=False)


def change(run: str, edit: Callable[[pd.DataFrame], pd.DataFrame], names: tuple[str, ...] = KEPT) -> None:
    for name in names:
        edit(texts(run, name)).to_csv(f"kept/{run}/{name}.csv", index=False, lineterminator="\n")


def files(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*.csv"))}


def study(*only: str) -> int:
    return exit_code("study", "mine.toml", *PLACES, *(word for text in only for word in ("--only", text)))


@pytest.mark.usefixtures("made")
def test_rows_are_in_the_order_of_the_study_and_have_the_code_of_their_maker() -> None:
    for name in KEPT:
        assert list(dict.fromkeys(texts("one", name)["task"])) == [TOY, RELAY]
    comparison, tasks = texts("one", "comparison"), texts("one", "tasks").set_index("task")["code"]
    assert comparison["code"].str.fullmatch("c[0-9a-f]{11}").all()
    codes = {(row["task"], row["method"]): row["code"] for row in comparison.to_dict("records")}
    for task in (TOY, RELAY):
        method = "integrated-gradients[steps=2]"
        assert codes[task, f"random({method})"] == codes[task, method] != codes[task, "gate-values"]
        assert codes[task, "keep-all"] == codes[task, "gold"] == tasks[task].iloc[0]
    assert len(set(codes.values())) == 6
    assert all(codes[row["task"], row["method"]] == row["code"] for row in texts("one", "scores").to_dict("records"))


@pytest.mark.usefixtures("made")
def test_parts_make_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    before = {(run, name): texts(run, name) for run in ("one", "two") for name in KEPT}
    shutil.rmtree("kept")
    assert study(f"one,{RELAY}") == 0
    assert set(texts("one", "scores")["task"]) == {RELAY}
    assert f"not of today's code in kept/one, or not there: {TOY}: make each with" in capsys.readouterr().err
    assert not Path("kept/two").exists()
    assert study("two", f"one,{TOY}") == 0
    assert "today's code" not in capsys.readouterr().err
    for (run, name), table in before.items():
        pd.testing.assert_frame_equal(texts(run, name), table, check_like=True)


@pytest.mark.usefixtures("made")
def test_the_rows_of_one_method_are_made_where_they_stood() -> None:
    method = IG
    whole = {name: texts("one", name) for name in KEPT}
    mine = (method, f"random({method})")

    def by_hand(table: pd.DataFrame) -> pd.DataFrame:
        table[table.columns[5]] = "0.50"
        return table

    change("one", by_hand)
    assert study(f"one,{TOY},{method}") == 0
    for name, table in whole.items():
        now = texts("one", name)
        made = (table["task"] == TOY) & (table["method"].isin(mine) if "method" in table else False)
        pd.testing.assert_frame_equal(now[made], table[made])
        pd.testing.assert_frame_equal(now[~made], by_hand(table.copy())[~made])
    assert study(f"one,all,{method}") == study("one,all,gate-values") == 0
    for name in ("comparison", "scores"):
        now, table = texts("one", name), whole[name]
        of_tasks = table["method"].isin(["gold", "keep-all", "drop-all"])
        pd.testing.assert_frame_equal(now[~of_tasks], table[~of_tasks])
        assert set(now[of_tasks][now.columns[5]]) == {"0.50"}


def test_what_is_to_be_made_is_grouped_by_methods(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(STUDY)
    gates = "gate-values"

    def wanted(*only: str) -> list[tuple[str, list[str], list[str], bool]]:
        parts = parts_of(tmp_path / "mine.toml", tmp_path / "kept", only)
        return [(part.name, part.tasks, part.methods, part.whole) for part in parts]

    both = [TOY, RELAY]
    assert wanted() == [("one", both, [IG, gates], True), ("two", [TOY], [gates], True)]
    assert wanted(f"one,all,{gates}") == [("one", both, [gates], False)]
    assert wanted(f"one,{TOY}", f"one,{RELAY},{IG}") == [
        ("one", [TOY], [IG, gates], False),
        ("one", [RELAY], [IG], False),
    ]
    assert wanted(f"one,all,{gates}", f"one,all,{IG}") == wanted("one")


def test_other_rows_stay_as_they_stand(made: Path) -> None:
    whole = {name: texts("one", name) for name in KEPT}

    def by_hand(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["task"] == TOY, table.columns[5]] = "0.50"
        table.loc[table["task"] == RELAY, table.columns[5]] = "7.70"
        return table.sort_values("task", kind="stable")  # relay first

    change("one", by_hand)
    other = files("kept/two")
    assert study(f"one,{RELAY}") == 0
    for name in KEPT:
        table, before = texts("one", name), whole[name]
        expected = before.copy()
        expected.loc[expected["task"] == TOY, before.columns[5]] = "0.50"
        pd.testing.assert_frame_equal(table, expected, check_like=True)
        assert list(dict.fromkeys(table["task"])) == [TOY, RELAY]
    assert files("kept/two") == other


@pytest.mark.usefixtures("made")
def test_finished_cells_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = files("kept/one")
    monkeypatch.setattr(METHODS["integrated-gradients"], "attribute", lambda *given: pytest.fail("it ran"))
    assert study("one") == 0
    assert files("kept/one") == before


@pytest.mark.usefixtures("made")
def test_columns_are_those_of_today_and_those_that_rows_that_stay_have() -> None:
    def older(table: pd.DataFrame) -> pd.DataFrame:
        place = list(table.columns).index("f1_mean") + 1
        table.insert(place, "older", (table["task"] == TOY).map({True: "0.25", False: "0.75"}))
        return table.drop(columns=["auroc_mean", "code"])

    change("one", older, ("comparison",))
    assert study(f"one,{RELAY}") == 0
    table = texts("one", "comparison").set_index("task")
    columns = list(table)
    assert columns[columns.index("f1_mean") + 1] == "older"
    assert columns.index("auroc_mean") > columns.index("f1_mean")
    assert columns[-1] == "code"
    toy, relay = table[table.index == TOY], table[table.index == RELAY]
    assert set(toy["older"]) == {"0.25"}
    assert set(relay["older"]) == set(toy["auroc_mean"]) == set(toy["code"]) == {""}
    assert "" not in set(relay["code"])


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("module", "of_methods", "of_tasks"),
    [
        ("attribench.methods.integrated_gradients", ["integrated-gradients[steps=2]"], 0),
        ("attribench.tasks.relay", ["integrated-gradients[steps=2]", "gate-values"], 1),
        ("attribench.scoring.judge", ["integrated-gradients[steps=2]", "gate-values"], 1),
    ],
)
def test_rows_of_other_code_are_seen_and_told(
    module: str, of_methods: list[str], of_tasks: int,
    edited: Callable[[str], None], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = texts("one", "comparison").set_index(["task", "method"])["code"]
    models = texts("one", "tasks").set_index("task")["code"]
    edited(module)
    assert study(f"one,{RELAY}") == 0
    after = texts("one", "comparison").set_index(["task", "method"])["code"]
    changed = {row for row in before.index if after[row] != before[row]}
    assert {method for task, method in changed if method in ("gate-values", of_methods[0])} == set(of_methods)
    assert {task for task, _ in changed} == {RELAY}
    assert (texts("one", "tasks").set_index("task")["code"][RELAY] != models[RELAY]).all() == of_tasks
    told = f"not of today's code in kept/one, or not there: {TOY}: make each with --only one,TASK[,METHOD]"
    assert (told in capsys.readouterr().err) == (module != "attribench.tasks.relay")


@pytest.mark.usefixtures("made")
def test_a_dry_run_says_which_rows_are_of_other_code(
    edited: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files("kept")
    assert exit_code("study", "mine.toml", *PLACES, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept/one: 4 of 4 rows are of today's code",
        "kept/two: 1 of 1 rows are of today's code",
    ]
    edited("attribench.methods.integrated_gradients")
    assert exit_code("study", "mine.toml", *PLACES, "--dry-run", "--only", f"one,{RELAY}", "--only", "two") == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept/one: 1 of 2 rows are of today's code",
        f"  of other code, or not there: {RELAY}: {IG}",
        "kept/two: 1 of 1 rows are of today's code",
    ]
    assert files("kept") == before
    shutil.rmtree("kept/two")
    edited("attribench.scoring.judge")
    assert exit_code("study", "mine.toml", *PLACES, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept/one: 0 of 4 rows are of today's code",
        f"  of other code, or not there: {TOY}; {RELAY}: every method, its models",
        "kept/two: 0 of 1 rows are of today's code",
        f"  of other code, or not there: {TOY}: every method, its models",
    ]
    # One method made anew leaves what is said of the models as it was.
    assert study(f"one,{TOY},{IG}") == 0
    capsys.readouterr()
    assert exit_code("study", "mine.toml", *PLACES, "--dry-run", "--only", f"one,{TOY},{IG}") == 0
    assert capsys.readouterr().out.splitlines() == [
        "kept/one: 1 of 1 rows are of today's code",
        f"  of other code, or not there: {TOY}: its models",
    ]


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("only", "words"),
    [
        ("three", "expected a run of mine.toml among one, two; got 'three': write it as the study does"),
        (f"three,{TOY}", "expected a run of mine.toml among one, two; got 'three'"),
        ("", "got ''"),
        (f"two,{RELAY}", f"expected a task of run two of mine.toml among {TOY}; got '{RELAY}': write it as"),
        ("one,toy", "got 'toy'"),
        ("one,", "got ''"),
        (f"one,{TOY},{RELAY}", f"a method of run one of mine.toml among {IG}; gate-values; got '{RELAY}'"),
        (f"one,all,{IG},x", "expected RUN, RUN,TASK or RUN,TASK,METHOD; got 'one,all,"),
    ],
)
def test_what_the_study_has_not_is_refused(only: str, words: str, command: Command) -> None:
    for folder in ("kept", "work"):
        shutil.rmtree(folder)
    code, _, said = command("study", "mine.toml", *PLACES, "--only", "two", "--only", only)
    assert code == 2
    assert words in said
    assert_clear(said.rstrip("\n"))
    assert not {"kept", "work"} & {path.name for path in Path().iterdir()}


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("content", [None, "", "method,f1\na,1\n", "task\n\xff"])
def test_tables_that_cannot_be_joined_are_refused_before_anything_runs(content: str | None, command: Command) -> None:
    path = Path("kept/one/scores.csv")
    path.unlink() if content is None else path.write_bytes(content.encode("latin-1"))
    before = files("kept")
    shutil.rmtree("work")
    code, _, said = command("study", "mine.toml", *PLACES, "--only", "two", "--only", f"one,{TOY}")
    assert code == 2
    assert said.startswith(f"error: expected the kept tables of a run; {path}: ")
    assert said.rstrip().endswith("make the whole run, --only one")
    assert_clear(said.rstrip("\n"))
    assert files("kept") == before
    assert not Path("work").exists()
    assert study("one") == 0
    assert "code" in texts("one", "scores")


@pytest.mark.usefixtures("made")
def test_what_is_interrupted_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object) -> Iterator[Cell]:
        raise KeyboardInterrupt
        yield

    before = files("kept")
    monkeypatch.setattr(Execution, "cells", interrupted)
    shutil.rmtree("work")
    assert study() == 130
    assert files("kept") == before
    assert not Path("work/mine/two").exists()


def test_a_code_is_of_options_and_not_of_seeds_device_and_threads() -> None:
    def code(cell: Cell, **options: object) -> str:
        told = {"threads": 1, "device": "cpu", "seeds": [0, 3], "overrides": {}, **options}
        return Keys(Plan(tasks=[cell.task], methods=[cell.method], **told)).code(cell)  # type: ignore[arg-type]

    cell = Cell("toy", "graphmask", 0, 0, 0)
    first = code(cell)
    assert code(Cell("toy", "graphmask", 3, 3, 3)) == first
    assert code(cell, threads=2, device="cpu") == first
    others: list[tuple[Cell, dict[str, object]]] = [
        (cell, {"overrides": {"toy": {"colours": 4}}}),
        (cell, {"overrides": {"graphmask": {"steps": 4}}}),
        (cell, {"randomised_graphs": 0}),
        (Cell("toy[colours=4]", "graphmask", 0, 0, 0), {}),
        (Cell("toy-gated", "graphmask", 0, 0, 0), {}),
        (Cell("toy", "erasure", 0, 0, 0), {}),
    ]
    assert len({first, *(code(each, **options) for each, options in others)}) == len(others) + 1


def test_a_code_is_of_data_by_content_and_not_of_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(folder: str, text: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / "data.txt"
        path.write_text(text)
        monkeypatch.setattr(TASKS["srl-gnn"], "sources", lambda self: {"data.txt": path})
        options = {"srl-gnn": {"data_dir": str(tmp_path / folder)}}
        plan = Plan(tasks=["srl-gnn"], methods=["gate-values"], overrides=options, seeds=[0], device="cpu")
        return Keys(plan).code(plan.problems()[0])

    assert code("here", "a") == code("there", "a") != code("here", "b")


def test_a_table_of_a_task_without_models_is_one_to_be_joined(tmp_path: Path) -> None:
    empty = pd.DataFrame({"task": pd.Series([], dtype=str), "code": pd.Series([], dtype=str)})
    rows = pd.DataFrame({"task": ["b", "other"], "method": ["m", "m"], "kind": ["method"] * 2, "code": ["c1", "c2"]})
    write_tables(tmp_path, {"comparison": rows, "scores": rows, "tasks": empty}, ["a", "b"])
    kept = read_tables(tmp_path)
    assert kept is not None
    mine = rows[:1].assign(task="a")
    tables = joined({"comparison": mine, "scores": mine, "tasks": empty}, kept, ["a"])
    assert other_code(tables, {("a", "m"): "c1", ("a", ""): "c0", ("b", "m"): "c9"}) == ["b", "other"]
    write_tables(tmp_path, tables, ["a", "b"])
    assert (tmp_path / "tasks.csv").read_text() == "task,code\n"
    assert (tmp_path / "scores.csv").read_text().splitlines()[1:] == [
        "a,m,method,c1",
        "b,m,method,c1",
        "other,m,method,c2",
    ]


def test_a_reference_says_which_figure_no_row_has(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    rows = {"task": ["a", "b"], "method": ["m"] * 2, "kind": ["method"] * 2, "status": ["ok"] * 2, "cells": [1, 1]}
    pd.DataFrame({**rows, "newer_mean": [0.5, None]}).to_csv(tmp_path / "run" / "comparison.csv", index=False)
    pd.DataFrame({**rows, "newer": [0.5, None]}).to_csv(tmp_path / "run" / "scores.csv", index=False)
    reference = Reference(tmp_path)
    assert reference.value("run", "m", "newer_mean", "a") == 0.5
    assert reference.get("run", "m", "newer_mean", "b") is None
    for ask in (reference.value, reference.each, reference.mean):
        with pytest.raises(UserError, match=r"expected older in .*csv; no row has it: make the run anew with `study"):
            ask("run", "m", "older", "a")
