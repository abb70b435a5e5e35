"""Configurations: what is accepted, and one line that says what was expected, what came and what to do."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field

from attribench.api import dry_run
from attribench.base.errors import UserError
from attribench.plugins.configs import as_dict, as_told, describe, make_config, merge, parse_overrides, read_config
from attribench.plugins.method import NoConfig, config


@config
class Options:
    size: int = Field(4, ge=1, le=9, description="how large")
    learning_rate: float = Field(0.5, gt=0, lt=1, description="how fast")
    kind: Literal["sum", "mean"] = Field("sum", description="how to join")
    verbose: bool = False


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_assignments_are_parsed_and_later_ones_win() -> None:
    given = ["toy.colours=8", "a.learning-rate = 0.1 ", "toy.colours=9", "a.text=x=y", "a.empty="]
    assert parse_overrides(given) == {
        "toy": {"colours": "9"},
        "a": {"learning_rate": "0.1", "text": "x=y", "empty": ""},
    }
    assert parse_overrides([]) == {}


@pytest.mark.parametrize("assignment", ["", "toy", "toy.colours", "toy=3", ".colours=3", "toy.=3", "=3", "."])
def test_other_assignments_are_refused_with_an_example(assignment: str) -> None:
    with pytest.raises(UserError) as error:
        parse_overrides([assignment])
    expected = f"expected --set PLUGIN.OPTION=VALUE, such as toy.colours=8; got {assignment!r}"
    assert one_line(error).startswith(expected)


def test_merge_prefers_later_layers_and_changes_none() -> None:
    first: dict[str, dict[str, Any]] = {"a": {"x": 1, "y": 2}}
    second: dict[str, dict[str, Any]] = {"a": {"y": 3}, "b": {"z": 4}}
    assert merge(first, second) == {"a": {"x": 1, "y": 3}, "b": {"z": 4}}
    assert merge(second, first)["a"] == {"y": 2, "x": 1}
    assert (first, second) == ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": {"z": 4}})


def test_toml_tables_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[run]\nmethods = ["all"]\n[toy]\ncolours = 8\nname = "é"\n', encoding="utf-8")
    assert read_config(path) == {"run": {"methods": ["all"]}, "toy": {"colours": 8, "name": "é"}}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ("expected a readable configuration file", "No such file", "check the path")),
        (b"[run\n", ("expected a TOML file", "line 1", "mend the file")),
        (b"[run]\nx = '\xff'\n", ("expected a TOML file", "0xff", "mend the file")),
        (b"colours = 8\n", ("expected tables such as [run] or [toy]", "got colours = 8", "move it into one")),
        (b"[[run]]\nx = 1\n", ("expected tables such as [run] or [toy]", "got run = [{'x': 1}]", "move it into one")),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | None, parts: tuple[str, ...]) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_config(path)
    message = one_line(error)
    for part in (*parts, str(path)):
        assert part in message


def test_a_folder_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a readable configuration file"):
        read_config(tmp_path)


def test_values_of_the_command_line_are_converted_and_defaults_kept() -> None:
    told = parse_overrides(["p.size=7", "p.learning_rate=1e-2", "p.verbose=true", "p.kind=mean"])
    made = make_config("p", Options, told["p"])
    assert make_config("p", Options, as_told(json.loads(json.dumps(told)))["p"]) == made  # as run.json has them
    assert as_dict(made) == {"size": 7, "learning_rate": 0.01, "kind": "mean", "verbose": True}
    assert type(made.size) is int
    assert as_dict(make_config("p", Options, {})) == as_dict(Options())
    assert as_dict(make_config("p", NoConfig, {})) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "0"}, "p.size: Input should be greater than or equal to 1; got '0': change it"),
        ({"size": 10}, "p.size: Input should be less than or equal to 9; got 10: change it"),
        ({"size": "x"}, "p.size: Input should be a valid integer, unable to parse string as an integer; got 'x'"),
        ({"size": "1.5"}, "p.size: Input should be a valid integer"),
        ({"learning_rate": 0}, "p.learning_rate: Input should be greater than 0; got 0: change it"),
        ({"learning_rate": "nan"}, "p.learning_rate: Input should be a finite number; got 'nan': change it"),
        ({"learning_rate": 1}, "p.learning_rate: Input should be less than 1; got 1: change it"),
        ({"kind": "max"}, "p.kind: Input should be 'sum' or 'mean'; got 'max': change it"),
        ({"verbose": "maybe"}, "p.verbose: Input should be a valid boolean"),
        ({"size": [1, 2]}, "p.size: Input should be a valid integer; got [1, 2]: change it"),
    ],
)
def test_values_out_of_range_are_refused_with_the_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        make_config("p", Options, as_told(options))
    assert one_line(error).startswith(message)


@config
class Kinds:
    number: int = Field(4, ge=1)
    real: float | None = None
    truth: bool = False
    numbers: tuple[int, ...] = ()
    path: Path = Path()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("number", "8", "p.number: Input should be a valid integer; got '8': change it"),
        ("number", 8.0, "p.number: Input should be a valid integer; got 8.0: change it"),
        ("number", True, "p.number: Input should be a valid integer; got True: change it"),
        ("real", "0.5", "p.real: Input should be a valid number; got '0.5': change it"),
        ("truth", 1, "p.truth: Input should be a valid boolean; got 1: change it"),
        ("truth", "true", "p.truth: Input should be a valid boolean; got 'true': change it"),
        ("numbers", ["1"], "p.numbers.0: Input should be a valid integer; got '1': change it"),
        ("path", 3, "p.path: Input "),
    ],
)
def test_values_of_files_and_of_python_are_what_they_are(option: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_config("p", Kinds, {option: value})
    assert one_line(error).startswith(message)


def test_what_a_file_cannot_say_otherwise_is_taken() -> None:
    made = make_config("p", Kinds, {"real": 1, "numbers": [1, 2], "path": "x"})
    assert as_dict(made) == {"number": 4, "real": 1.0, "truth": False, "numbers": (1, 2), "path": Path("x")}
    assert make_config("p", Kinds, {"path": Path("x"), "number": np.int64(3), "real": None}).number == 3


@pytest.mark.parametrize("table", ["run", "toy", "graphmask", "srl"])
def test_numbers_as_text_are_refused_in_every_table(tmp_path: Path, table: str) -> None:
    option = {"run": "seeds", "toy": "colours", "graphmask": "steps", "srl": "width"}[table]
    path = tmp_path / "my.toml"
    path.write_text(f'[{table}]\n{option} = "8"\n', encoding="utf-8")
    task = "srl-gnn" if table == "srl" else "toy"
    with pytest.raises(UserError, match=r"Input should be a valid (integer|number); got '8': change it"):
        dry_run(file=read_config(path), methods="graphmask", task=task, out=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("kind", "option", "message"),
    [
        (Options, "sizes", "among size, learning_rate, kind, verbose; got 'sizes'. Did you mean 'size'?"),
        (Options, "learning-rate", "among size, learning_rate, kind, verbose; got 'learning-rate'. Did you mean 'lear"),
        (Options, "zzz", "among size, learning_rate, kind, verbose; got 'zzz'."),
        (NoConfig, "size", "among none: it has no options; got 'size'."),
    ],
)
def test_unknown_options_are_refused_with_the_valid_ones(kind: type[Any], option: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_config("p", kind, {option: 1})
    assert one_line(error).startswith(f"expected an option of p {message}")


def test_describe_gives_one_line_per_option_with_default_and_range() -> None:
    assert [line.strip() for line in describe("p", Options)] == [
        "p.size=4 (>= 1, <= 9)  how large",
        "p.learning_rate=0.5 (> 0, < 1)  how fast",
        "p.kind=sum (sum, mean)  how to join",
        "p.verbose=False",
    ]
    assert describe("p", NoConfig) == []
