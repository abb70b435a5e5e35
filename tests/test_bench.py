"""``bench`` runs, and writes a row for every figure that it promises."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from command_helpers import exit_code

from attribench.bench import Bench, many_cells


def test_bench_prints_and_writes_every_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "seconds", _once)
    arguments = ["bench", "--methods", "integrated-gradients,graphmask,gate-values", "--graphs", "10", "--out"]
    assert exit_code(*arguments, str(tmp_path)) == 0
    rows = pd.read_csv(tmp_path / "bench.csv")
    told = ["method", "ours_is", "ours", "other_is", "other", "ratio", "better", "peak_mib"]
    assert list(rows) == [*told, "task", "device", "threads"]
    assert rows.groupby("method").size().to_dict() == {"graphmask": 3, "integrated-gradients": 4}
    rival = rows[rows["other_is"].str.contains("PyG CaptumExplainer")]
    assert list(rival["better"]) == ["higher"]
    growth = rows["other_is"].str.endswith("10 times")
    assert (rows["peak_mib"].notna() == growth).all()
    ratios = rows["ours"] / rows["other"]
    upside_down = rows["better"] == "higher"
    assert list(rows["ratio"]) == pytest.approx(list(ratios.where(~upside_down, 1 / ratios)), rel=1e-2)


@pytest.mark.usefixtures("tmp_path")
def test_bench_says_what_a_run_spends_beside_its_work() -> None:
    rows = many_cells("toy", ["integrated-gradients", "erasure"], 4, torch.device("cpu"))
    whole, tables = rows
    assert whole.ours_is == "a run of 4 small cells, of all processes"
    assert whole.ratio == whole.ours / whole.other > 1
    assert tables.other == whole.ours
    assert 0 < tables.ratio < 1


def _once(self: Bench, *actions: object, repeats: int = 3) -> list[float]:
    """Run every action once, and say that each took one second longer than the one before."""
    for action in actions:
        assert callable(action)
        action()
    return [float(i + 1) for i, _ in enumerate(actions)]
