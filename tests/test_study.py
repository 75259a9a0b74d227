"""toolkit/study.py: finished seeds are read, settings must agree, test data come once, tables are honest."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit import mean_sd, study
from toolkit.bootstrap import bootstrap_intervals
from toolkit.errors import UserError
from toolkit.runs import RunFolder, writable_folder
from toolkit.study import Study, TableRow

pytestmark = pytest.mark.provided


def open_study(folder: Path, seeds: int = 2, epochs: int = 1, **options) -> Study:
    return Study(folder, {"epochs": epochs}, range(seeds), {"dataset": "drawn"}, **options)


def noting(calls: list[int]):
    """A training that only notes its seed."""

    def train(seed: int, run: RunFolder) -> dict:
        calls.append(seed)
        assert run.config["seed"] == seed
        return {"validation": {"auc": 0.5 + seed / 10}}

    return train


def test_finished_seeds_are_read_and_new_ones_trained(tmp_path, capsys):
    calls: list[int] = []
    open_study(tmp_path, seeds=2).train("row", noting(calls))
    assert "not trained again" not in capsys.readouterr().out
    found = open_study(tmp_path, seeds=3).train("row", noting(calls))
    assert calls == [0, 1, 2]
    assert [run["validation"]["auc"] for run in found] == [0.5, 0.6, 0.7]
    assert {run["dataset"] for run in found} == {"drawn"}
    assert all(run["environment"]["python"] for run in found)
    printed = capsys.readouterr().out
    assert "row, seed 1: validation auc 0.6000 (read, not trained again)\n" in printed
    assert "row, seed 2: validation auc 0.7000 (0 s)\n" in printed


def test_random_generators_are_seeded_before_each_training(tmp_path):
    drawn: dict[int, float] = {}
    open_study(tmp_path, seeds=2).train("row", lambda seed, _run: {"x": drawn.setdefault(seed, torch.rand(1).item())})
    again = open_study(tmp_path, seeds=2, overwrite=True).train("row", lambda _seed, _run: {"x": torch.rand(1).item()})
    assert [run["x"] for run in again] == [drawn[0], drawn[1]]
    assert drawn[0] != drawn[1]


def test_a_stopped_seed_is_trained_again_and_the_command_is_said(tmp_path, capsys, monkeypatch):
    def stopped(_seed, _run):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["somewhere.py", "--flag", "x", "--overwrite"])
    with pytest.raises(KeyboardInterrupt):
        open_study(tmp_path).train("row", stopped)
    said = capsys.readouterr().err
    assert "the same command continues: python " in said
    assert said.rstrip().endswith("--flag x"), "--overwrite would throw away what is finished"
    calls: list[int] = []
    open_study(tmp_path).train("row", noting(calls))
    assert calls == [0, 1]


def test_other_settings_are_refused_replaced_or_overwritten(tmp_path, capsys):
    calls: list[int] = []
    open_study(tmp_path, seeds=1).train("row", noting(calls))
    with pytest.raises(UserError, match=r"trained with other settings \(epochs differ\)"):
        open_study(tmp_path, seeds=1, epochs=2).train("row", noting(calls))
    assert calls == [0]
    open_study(tmp_path, seeds=1, epochs=2, replace_changed=True).train("row", noting(calls))
    assert "trained again, because epochs changed" in capsys.readouterr().out
    assert calls == [0, 0]
    again = open_study(tmp_path, seeds=1, epochs=2, overwrite=True)
    again.train("row", noting(calls))
    again.train("row", noting(calls))  # a later part of the same script reads what was replaced
    assert calls == [0, 0, 0]


def test_test_data_come_once_and_after_the_choices(tmp_path):
    opened = open_study(tmp_path)
    with pytest.raises(RuntimeError, match="stays closed"):
        opened.open_test({}, lambda: "test images")

    def read() -> dict:
        return json.loads((tmp_path / "choices.json").read_text())  # they are written when the images are read

    assert opened.open_test({"threshold": 0.4}, read) == {"threshold": 0.4}
    with pytest.raises(RuntimeError, match="read once"):
        opened.open_test({"threshold": 0.5}, read)
    assert read() == {"threshold": 0.4}


def test_a_sealed_source_gives_everything_but_the_test_split():
    class Source:
        name = "drawn"

        def read(self, split: str) -> str:
            return f"{split} images"

    sealed = study.SealedSource(Source())
    assert (sealed.name, sealed.read("train"), sealed.read("val")) == ("drawn", "train images", "val images")
    with pytest.raises(RuntimeError, match="read once, by open_test"):
        sealed.read("test")
    assert sealed.unsealed.read("test") == "test images"


def test_mean_and_spread_by_hand():
    assert mean_sd.mean_and_sd([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))  # sample deviation: the root of 2 / (2 - 1)
    assert mean_sd.mean_and_sd([5.0]) == (5.0, None)
    assert mean_sd.mean_sd([0.8, 0.9], 3) == "0.850 ± 0.071"
    assert mean_sd.mean_sd_n([0.8]) == "0.8000 (n=1)"
    assert mean_sd.mean_sd_n([]) == "-"
    found = study.summary([{"auc": 0.8, "f1": 0.5}, {"auc": 0.9, "f1": 0.5}], ["auc", "f1"])
    assert found["mean"] == pytest.approx({"auc": 0.85, "f1": 0.5})
    assert found["sd"] == pytest.approx({"auc": 0.0707107, "f1": 0.0})


def test_the_table_has_mean_spread_and_published_figures_without_a_spread():
    rows = [TableRow("ours", {"auc": [0.8, 0.9], "accuracy": []}), TableRow("theirs", {"auc": [0.839]}, published=True)]
    text = study.table(rows, ("auc", "accuracy"))
    assert "| ours | test | 0.8500 ± 0.0707 (n=2) | - |" in text
    assert "| theirs | test | 0.8390 | - |" in text
    first = next(csv.DictReader(io.StringIO(study.table_csv(rows, ("auc", "accuracy")))))
    expected = {"row": "ours", "measured_on": "test", "n": "2", "auc": "0.850000", "auc_sd": "0.070711"}
    assert first == {**expected, "accuracy": "", "accuracy_sd": ""}


def accuracy_of(right: np.ndarray):
    return lambda rows: {"accuracy": float(right[rows].mean()), "undefined": None}


def test_intervals_hold_the_metric_and_shrink_with_more_images():
    right = np.arange(200) % 5 > 0  # 80 %
    widths = []
    for repeats in (1, 9):
        measure = accuracy_of(np.tile(right, repeats))
        found = bootstrap_intervals(measure, np.arange(200 * repeats), 400, seed=0)
        assert list(found) == ["accuracy"]
        low, high = found["accuracy"]
        assert low < 0.8 < high
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 200) ** 0.5, rel=0.15)  # the normal approximation
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.3)  # the root of nine


def test_intervals_draw_whole_units_and_each_stratum_on_its_own():
    right = np.repeat([True, False], 50)
    images, patients = np.arange(100), np.repeat(np.arange(10), 10)
    widths = [
        np.ptp(bootstrap_intervals(accuracy_of(right), units, 300, 0)["accuracy"]) for units in (images, patients)
    ]
    assert widths[1] > 2 * widths[0], "ten images of one patient count as one"
    inside = bootstrap_intervals(accuracy_of(right), images, 50, 0, strata=right)["accuracy"]
    assert inside == [0.5, 0.5], "each sample has as many right as wrong answers"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"--output_dir: the folder .*file/inside cannot be written: Not a directory"):
        writable_folder(tmp_path / "file" / "inside")
    assert writable_folder(tmp_path / "new" / "folder").is_dir()
    assert list((tmp_path / "new" / "folder").iterdir()) == []
