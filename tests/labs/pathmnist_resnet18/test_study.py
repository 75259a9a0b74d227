"""The steps of the study: what they leave, what they read, how they resume, what they refuse."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from labs.pathmnist_resnet18.src import LAB, collect, job, pathmnist_resnet18, study
from toolkit.cli import config_to_argv
from toolkit.errors import UserError
from toolkit.runs import read_json
from toolkit.sweeps import grid, table
from toolkit.sweeps.jobs import Status

pytestmark = [pytest.mark.provided, pytest.mark.timeout(900)]  # the quick study takes minutes on a busy machine
CONFIGS = LAB / "configs"
ROOT = Path(__file__).resolve().parents[3]


def test_the_test_images_are_read_once_and_by_the_final_model_alone(quick_study) -> None:
    _folder, read = quick_study
    assert read["baseline"] == ["train", "val"]
    assert read["final"] == ["train", "val", "test"]
    assert "test" not in read["report"]


def test_no_job_of_a_sweep_may_read_the_test_images(quick_study) -> None:
    folder, _read = quick_study
    for path in (folder / "search").glob("*/results.json"):
        assert read_json(path)["config"]["evaluate_test"] is False
        assert "test" not in read_json(path)
    grids = (
        read_json(folder / "search.json") + read_json(CONFIGS / "search.json") + read_json(CONFIGS / "ablation.json")
    )
    assert all("evaluate_test" not in one for one in grids)


def test_final_is_the_best_of_the_search_on_all_images(quick_study) -> None:
    folder, _read = quick_study
    with open(folder / "search" / "grid_results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["best_val_acc"]))
    final = read_json(folder / "final" / "results.json")
    assert final["config"]["optimizer"] == best["optimizer"]
    assert final["config"]["learning_rate"] == float(best["learning_rate"])
    assert {int(row["train_images"]) for row in rows} == {120}
    assert final["train_images"] == 600


def test_results_say_which_data_and_which_versions(quick_study) -> None:
    folder, _read = quick_study
    results = read_json(folder / "results.json")
    assert results["data"]["name"] == "pathmnist-sample"
    assert results["data"]["is_sample"] is True
    assert results["data"]["images"] == {"train": 600, "val": 149, "test": 718}
    assert results["quick"] is True
    assert results["environment"]["torch"]
    assert results["final"]["seed"] == 0
    low, high = results["final"]["test"]["intervals"]["accuracy"]
    assert low <= results["final"]["test"]["metrics"]["accuracy"] <= high
    assert sum(map(sum, results["final"]["test"]["confusion_matrix"])) == 718


def test_what_is_done_is_not_done_again(quick_study, do, capsys) -> None:
    folder, _read = quick_study
    before = (folder / "final" / "results.json").stat().st_mtime_ns
    do(folder, "final")
    assert "done before" in capsys.readouterr().out
    assert (folder / "final" / "results.json").stat().st_mtime_ns == before


def test_a_run_with_other_settings_is_never_taken_for_this_one(quick_study, do) -> None:
    folder, _read = quick_study
    with pytest.raises(UserError, match=r"baseline holds a run with other settings \(seed 0 → 1\)"):
        do(folder, "baseline", "--seed", "1")


def test_an_interrupted_run_goes_on(tmp_path, capsys) -> None:
    settings = {**study.QUICK, "dataset": "sample", "device": "cpu", "num_epochs": 2, "image_size": 32}
    study.train_once(tmp_path / "run", settings)
    (tmp_path / "run" / "results.json").unlink()
    capsys.readouterr()
    study.train_once(tmp_path / "run", settings)
    assert "epoch 1/2" not in capsys.readouterr().out
    assert len(read_json(tmp_path / "run" / "results.json")["history"]["val_acc"]) == 2


def test_the_command_that_a_stopped_training_names_goes_on(tmp_path, capsys) -> None:
    """After Ctrl-C a training says `python -m MODULE --resume FOLDER`, where MODULE is whatever was started."""
    words = ["--dataset", "sample", "--device", "cpu", "--image_size", "32", "--max_steps_per_epoch", "2"]
    job.main([*words, "--num_epochs", "1", "--schedule", "constant", "--output_dir", str(tmp_path / "run")])
    pathmnist_resnet18.main(["--resume", str(tmp_path / "run"), "--num_epochs", "2"])
    assert "epoch 2/2" in capsys.readouterr().out


def test_a_missing_package_is_said_before_the_work(monkeypatch) -> None:
    monkeypatch.setitem(pathmnist_resnet18.NEEDED, "report", {"no_such_module": "no-such-package"})
    with pytest.raises(UserError, match="pip install no-such-package"):
        pathmnist_resnet18.main(["all", "--quick"])


def test_an_unfinished_sweep_is_left_out_of_the_report(tmp_path, capsys) -> None:
    (tmp_path / "search").mkdir()
    job_config = {"job-1": {"learning_rate": 0.1}}
    (tmp_path / "search" / table.INDEX).write_text(json.dumps({"jobs": job_config}))
    assert collect.search(tmp_path / "search") is None
    assert "left out of the report: 1 jobs" in capsys.readouterr().out


def test_overwrite_removes_nothing_that_is_not_its_own(tmp_path, do) -> None:
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="delete it yourself"):
        do(tmp_path, "baseline", "--overwrite")
    assert (tmp_path / "baseline" / "thesis.txt").exists()


def test_final_before_the_search_says_so(tmp_path, do) -> None:
    with pytest.raises(UserError, match="run the search first"):
        do(tmp_path / "empty", "final")


def test_the_grid_of_the_search_is_the_one_of_the_task() -> None:
    points = grid.get_experiment_list(grid.load_config(str(CONFIGS / "search.json")))
    found = {(point["optimizer"], point["learning_rate"], point["batch_size"]) for point in points}
    rates = {"adam": (1e-3, 3e-3), "sgd": (1e-2, 3e-2)}
    assert found == {(name, rate, size) for name in rates for rate in rates[name] for size in (64, 128)}
    assert len(points) == 8
    assert {(point["num_epochs"], point["train_share"]) for point in points} == {(3, 0.2)}


@pytest.mark.parametrize(("images", "share"), [(89_996, 0.2), (600, 0.43), (100, 1.0)])
def test_every_batch_of_the_search_fits_into_its_images(images: int, share: float) -> None:
    largest = max(point["batch_size"] for point in grid.get_experiment_list(read_json(CONFIGS / "search.json")))
    assert study.sufficient_share(0.2, largest, images) == share
    assert images < 2 * largest or round(share * images) >= 2 * largest


@pytest.mark.parametrize("name", ["baseline.json", "recipe_full.json"])
def test_configurations_are_flags_of_the_training_script(name: str) -> None:
    settings = study.settings_of(CONFIGS / name)
    args = job.build_parser().parse_args(config_to_argv(job.build_parser(), settings, name))
    job.check(args.loss, args.label_smoothing, args.native, args.image_size)
    if name == "baseline.json":
        assert vars(args) == vars(job.build_parser().parse_args([]))  # its defaults are the baseline
    else:
        assert read_json(CONFIGS / name)["measured"].startswith("Not measured")


def test_every_row_of_the_ablation_is_one_change() -> None:
    points = grid.get_experiment_list(grid.load_config(str(CONFIGS / "ablation.json")))
    base = points[0]
    assert all(len(set(point) - set(base)) == 1 for point in points[1:])
    for point in points:
        job.build_parser().parse_args(config_to_argv(job.build_parser(), point, "ablation"))
    changed = {name for point in points[1:] for name in set(point) - set(base)}
    assert changed == {"augment", "mixup", "class_weights", "loss", "stem", "model_name"}


def test_ablation_rows_have_mean_spread_and_gain(tmp_path, monkeypatch) -> None:
    def row(change: dict, seed: int, value: float) -> table.Row:
        config = {"num_epochs": 5, **change, "seed": seed}
        return table.Row(
            f"{change}{seed}", config, Status("done"), {"best_val_acc": value, "seconds": 2.0, "parameters": 7}
        )

    rows = [row({}, 0, 0.5), row({}, 1, 0.7), row({"mixup": 0.2}, 0, 0.9), row({"mixup": 0.2}, 1, 0.9)]
    settings = [study.Setting(one.config, [one, two]) for one, two in (rows[:2], rows[2:])]
    monkeypatch.setattr(collect, "whole_sweep", lambda folder: settings)
    found = collect.ablation(tmp_path)
    assert [one["change"] for one in found["rows"]] == [{}, {"mixup": 0.2}]
    assert [one["mean"] for one in found["rows"]] == pytest.approx([0.6, 0.9])
    assert found["rows"][0]["sd"] == pytest.approx(0.2 / 2**0.5)
    assert found["rows"][1]["gain"] == pytest.approx(0.3)
    assert found["seeds"] == 2


@pytest.mark.parametrize("words", [["pathmnist_resnet18", "all", "--help"], ["job", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    module = f"labs.pathmnist_resnet18.src.{words[0]}"
    code = (
        f"import sys, runpy\nsys.argv = {words!r}\n"
        f"try:\n    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("job", ["--loss", "focal", "--label_smoothing", "0.1"], "exclude each other"),
        ("job", ["--native", "--image_size", "32"], "image_size is 32"),
        ("job", ["--dataset", "sample", "--train_share", "0.001"], "train_share is 0.001"),
        ("pathmnist_resnet18", ["nonsense"], "invalid choice: 'nonsense'"),
        ("pathmnist_resnet18", ["report", "--results", "README.md"], "README.md is not valid JSON"),
        ("pathmnist_resnet18", ["report"], "nothing of the study is in"),
        ("pathmnist_resnet18", ["final", "--final_config", "configs/missing.json"], "cannot read configs/missing.json"),
        ("pathmnist_resnet18", ["fullsize", "--steps", "1"], "steps is 1"),
    ],
)
def test_a_mistake_is_one_line(module: str, words: list[str], said: str, tmp_path) -> None:
    if words[0] == "report":
        pytest.importorskip("labs.pathmnist_resnet18.src.report", reason="its packages: requirements-dev.txt")
    if module == "pathmnist_resnet18" and words[0] in ("final", "report"):
        words = [*words, "--dataset", "sample", "--output_dir", str(tmp_path)]
    command = [sys.executable, "-m", f"labs.pathmnist_resnet18.src.{module}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_foreign_json_is_no_study(tmp_path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"data": {"name": "x"}}))
    report = pytest.importorskip("labs.pathmnist_resnet18.src.report", reason="its packages: requirements-dev.txt")
    with pytest.raises(UserError, match=r"not a results\.json of this study"):
        report.from_file(tmp_path / "results.json", tmp_path)
