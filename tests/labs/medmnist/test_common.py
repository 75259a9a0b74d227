"""common.py and tables.py: seeds that go on, settings that must agree, test data read once, honest tables."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest

from labs.medmnist_experiments import augmentation, common, tables
from tests.labs.medmnist.small_sets import small_set, words
from toolkit.errors import UserError


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment on a small breastmnist, and how to begin it again with other flags."""
    monkeypatch.setenv("MEDMNIST_VERIFY", "0")
    small_set("breastmnist", tmp_path)

    def begin(*more: object, free: tuple[str, ...] = ()) -> common.Experiment:
        parser = common.build_parser("trial", "A trial.", flag="breastmnist", epochs=3)
        return common.begin("trial", parser.parse_args(words("breastmnist", tmp_path, *more)), dimensions=2, free=free)

    return begin


def count_calls(calls: list[int]):
    """A training that does nothing but note its seed."""

    def train(seed, run):
        calls.append(seed)
        assert run.config["seed"] == seed
        return {"validation": {"auc": 0.5 + seed / 10}}

    return train


def test_finished_seeds_are_read_and_new_ones_trained(experiment):
    calls: list[int] = []
    common.run_seeds(experiment("--seeds", 2), "row", count_calls(calls))
    found = common.run_seeds(experiment("--seeds", 3), "row", count_calls(calls))
    assert calls == [0, 1, 2]
    assert [run["validation"]["auc"] for run in found] == [0.5, 0.6, 0.7]
    assert {run["dataset"] for run in found} == {"breastmnist-unverified"}
    assert all(run["environment"]["torch"] for run in found)


def test_a_stopped_seed_is_trained_again_and_says_how_to_go_on(experiment, capsys):
    def stopped(seed, run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        common.run_seeds(experiment(), "row", stopped)
    assert "the same command goes on" in capsys.readouterr().err
    calls: list[int] = []
    common.run_seeds(experiment(), "row", count_calls(calls))
    assert calls == [0]


def test_other_settings_are_refused_unless_free_or_overwritten(experiment):
    calls: list[int] = []
    common.run_seeds(experiment("--epochs", 1), "row", count_calls(calls))
    with pytest.raises(UserError, match=r"trained with other settings \(epochs differ\)"):
        common.run_seeds(experiment("--epochs", 2), "row", count_calls(calls))
    common.run_seeds(experiment("--epochs", 2, free=("epochs",)), "row", count_calls(calls))
    assert calls == [0]
    anew = experiment("--epochs", 2, "--overwrite")
    common.run_seeds(anew, "row", count_calls(calls))
    common.run_seeds(anew, "row", count_calls(calls))  # a later part of the same script reads what was made anew
    assert calls == [0, 0]


def test_test_data_come_once_and_after_the_choices(experiment):
    opened = experiment()
    assert len(opened.open_test({"epoch": 7})) == 11
    assert json.loads((opened.folder / "choices.json").read_text()) == {"epoch": 7}
    with pytest.raises(RuntimeError, match="read once"):
        opened.open_test({"epoch": 8})
    assert json.loads((opened.folder / "choices.json").read_text()) == {"epoch": 7}


def test_quick_is_one_seed_and_a_few_steps(experiment):
    quick = experiment("--seeds", 5, "--epochs", 90, "--quick")
    assert (list(quick.seeds), quick.epochs, quick.max_steps) == ([0], 2, 3)
    whole = experiment("--seeds", 5, "--epochs", 90)
    assert (list(whole.seeds), whole.epochs, whole.max_steps) == ([0, 1, 2, 3, 4], 90, None)


def test_table_has_mean_spread_and_published_figures_without_a_spread():
    rows = [common.Row("ours", {"auc": [0.8, 0.9], "accuracy": []}), *common.published_rows("adrenalmnist3d")]
    text = tables.table(rows, ("auc", "accuracy"))
    assert "| ours | test | 0.8500 ± 0.0707 (n=2) | - |" in text
    assert "| published: ResNet-18 + ACS | test | 0.8390 | 0.7540 |" in text  # as the course's issue quotes them
    assert "| published: auto-sklearn | test | 0.8280 | 0.8020 |" in text
    first = next(csv.DictReader(io.StringIO(tables.table_csv(rows, ("auc", "accuracy")))))
    assert first == {
        "row": "ours",
        "measured_on": "test",
        "n": "2",
        "auc": "0.850000",
        "auc_sd": "0.070711",
        "accuracy": "",
        "accuracy_sd": "",
    }


def test_published_figures_stand_only_beside_the_official_images(experiment):
    assert common.published_rows("breastmnist")
    assert common.published_here(experiment()) == []  # a file of one's own


def test_results_say_what_they_are(experiment, capsys):
    opened = experiment()
    results = common.report(opened, [common.Row("row", {"auc": [0.7]})], ("auc",), {"more": 1})
    assert results["data"] == "breastmnist-unverified (a file of your own, file)"
    assert json.loads((opened.folder / "results.json").read_text())["rows"][0]["values"] == {"auc": [0.7]}
    assert "a file of your own" in (opened.folder / "table.md").read_text(encoding="utf-8")
    assert "0.7000 (n=1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--flag", "nodulemnist3d"), "trial takes images"),
        (("--flag", "mnist"), "flag is 'mnist'; allowed: pathmnist"),
        (("--batch_size", 34), r"--batch_size is 34; allowed: 2 \.\. 33"),
        (("--size", 29), "size of breastmnist is 29; allowed: 28, 64"),
        (("--device", "tpu"), "device is 'tpu'"),
        (("--output_dir", "/dev/null/x"), "cannot write to --output_dir"),
    ],
)
def test_mistakes_are_named(experiment, more, message):
    with pytest.raises(UserError, match=message):
        experiment(*more)


@pytest.mark.parametrize("script", ["cnn3d", "augmentation", "transfer", "gradcam"])
def test_help_imports_nothing_heavy(script):
    code = (
        f"import sys; from labs.medmnist_experiments import {script}\n"
        f"{script}.build_parser().format_help(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_a_mistake_is_one_line_and_exit_code_2():
    words_ = [sys.executable, "-m", "labs.medmnist_experiments.augmentation", "--flag", "adrenalmnist3d"]
    done = subprocess.run(words_, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --flag is 'adrenalmnist3d'; augmentation takes images")
    assert done.stderr.count("\n") == 1


def test_epochs_follow_the_size_of_the_set():
    args = augmentation.build_parser().parse_args(["--quick"])
    assert args.epochs is None
    with pytest.raises(SystemExit):
        augmentation.build_parser().parse_args(["--epochs", "0"])


@pytest.mark.parametrize(
    ("keep", "losses", "averaged", "expected"),
    [
        ("best", [0.5, 0.4, 0.3], True, 1.0),
        ("last", [0.5, 0.4, 0.9], True, 3.0),
        ("last", [0.5, 0.4, 0.9], False, 2.0),
        ("lower_loss", [0.5, 0.4, 0.3], True, 3.0),
        ("lower_loss", [0.5, 0.4, 0.41], True, 1.0),  # the best accuracy was in epoch 2
    ],
)
def test_which_weights_are_kept(tmp_path, keep, losses, averaged, expected):
    import torch

    from toolkit.runs import RunFolder, save_checkpoint

    def weights(value: float) -> dict[str, torch.Tensor]:
        return {"weight": torch.full((1, 1), value), "bias": torch.zeros(1)}

    save_checkpoint(tmp_path / "best.pt", {"epoch": 2, "state_dict": weights(1.0)})
    last = {"model": weights(2.0), "averaged": [7, weights(3.0)] if averaged else None, "history": {"val_loss": losses}}
    save_checkpoint(tmp_path / "last.pt", last)
    model = torch.nn.Linear(1, 1)
    assert common.restore(model, RunFolder(tmp_path), keep) is model
    assert model.weight.item() == expected


def test_what_is_kept_has_three_names(tmp_path):
    from toolkit.runs import RunFolder

    with pytest.raises(UserError, match="keep is 'first'; allowed: best, last, lower_loss"):
        common.restore(None, RunFolder(tmp_path), "first")
