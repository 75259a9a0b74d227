"""common.py: settings that must agree, the sealed test split, published figures, which weights are kept."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from labs.medmnist_experiments import augmentation, common
from labs.medmnist_experiments.command_line import shared_parser
from labs.medmnist_experiments.published import published_rows
from tests.labs.medmnist.small_sets import small_set, words
from toolkit.errors import UserError
from toolkit.runs import RunFolder, save_checkpoint
from toolkit.study import TableRow, table


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment on a small breastmnist, and how to begin it again with other flags."""
    monkeypatch.setenv("MEDMNIST_VERIFY", "0")
    small_set("breastmnist", tmp_path)

    def begin(*more: object, free: tuple[str, ...] = ()) -> common.Experiment:
        parser = shared_parser("trial", "A trial.", flag="breastmnist", epochs=3)
        parser.add_argument("--weights")
        flags = vars(parser.parse_args(words("breastmnist", tmp_path, *more)))
        return common.begin("trial", flags, dimensions=2, free=free)

    return begin


def facts(_seed, _run):
    """A training that does nothing."""
    return {"validation": {"auc": 0.5}}


def test_a_run_says_what_it_was_made_of(experiment):
    found = experiment("--seeds", 2).study.train("row", facts)
    assert [run["seed"] for run in found] == [0, 1]
    assert {run["dataset"] for run in found} == {"breastmnist-unverified"}
    assert {run["experiment"] for run in found} == {"trial"}
    assert all(run["environment"]["torch"] for run in found)


def test_other_settings_are_refused_unless_free_or_overwritten(experiment):
    experiment("--epochs", 1).study.train("row", facts)
    with pytest.raises(UserError, match=r"trained with other settings \(epochs differ\)"):
        experiment("--epochs", 2).study.train("row", facts)
    experiment("--epochs", 2, "--overwrite").study.train("row", facts)
    experiment("--epochs", 2, "--weights", "x", free=("weights",)).study.train("row", facts)


def test_the_test_split_is_sealed_until_the_choices_are_written(experiment):
    opened = experiment()
    with pytest.raises(RuntimeError, match="read once, by open_test"):
        opened.source.read("test")
    assert len(opened.open_test({"epoch": 7})) == 11
    assert json.loads((opened.folder / "choices.json").read_text()) == {"epoch": 7}
    with pytest.raises(RuntimeError, match="read once"):
        opened.open_test({"epoch": 8})


def test_quick_is_one_seed_and_a_few_steps(experiment):
    quick = experiment("--seeds", 5, "--epochs", 90, "--quick")
    assert (list(quick.seeds), quick.epochs, quick.max_steps) == ([0], 2, 3)
    whole = experiment("--seeds", 5, "--epochs", 90)
    assert (list(whole.seeds), whole.epochs, whole.max_steps) == ([0, 1, 2, 3, 4], 90, None)


def test_published_figures_have_no_spread():
    rows = [TableRow("ours", {"auc": [0.8, 0.9], "accuracy": []}), *published_rows("adrenalmnist3d")]
    text = table(rows, ("auc", "accuracy"))
    assert "| ours | test | 0.8500 ± 0.0707 (n=2) | - |" in text
    assert "| published: ResNet-18 + ACS | test | 0.8390 | 0.7540 |" in text
    assert "| published: auto-sklearn | test | 0.8280 | 0.8020 |" in text


def test_the_best_published_figure_stands_with_the_like_for_like_one(tmp_path):
    """A row above ResNet-18 must not read as if the benchmark were beaten."""
    flags = vars(shared_parser("t", "", flag="retinamnist", epochs=1).parse_args(["--output_dir", str(tmp_path)]))
    opened = common.begin("t", flags)
    text = table(common.published_here(opened), ("auc", "accuracy"))
    assert "ResNet-18 (28) | test | 0.7170 | 0.5240 |" in text
    assert "Google AutoML Vision, best at 28 | test | 0.7500 | 0.5310 |" in text
    best = {metric: value for metric, (_name, value) in common.references(opened).items()}
    assert best == {"auc": 0.750, "accuracy": 0.531}
    for flag, highest in {"pneumoniamnist": (0.991, 0.946), "breastmnist": (0.919, 0.863)}.items():
        values = [row.values for row in published_rows(flag)]
        assert (max(v["auc"][0] for v in values), max(v["accuracy"][0] for v in values)) == highest


def test_published_figures_stand_only_beside_the_official_images(experiment):
    assert published_rows("breastmnist")
    assert common.published_here(experiment()) == []  # a file of one's own


def test_results_say_what_they_are(experiment, capsys):
    opened = experiment()
    results = common.report(opened, [TableRow("row", {"auc": [0.7]})], ("auc",), {"more": 1})
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
        (("--output_dir", "/dev/null/x"), "--output_dir: the folder /dev/null/x cannot be written"),
    ],
)
def test_mistakes_are_named(experiment, more, message):
    with pytest.raises(UserError, match=message):
        experiment(*more)


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
    ("losses", "averaged", "expected"),
    [
        ([0.5, 0.4, 0.3], True, 3.0),
        ([0.5, 0.4, 0.3], False, 2.0),
        ([0.5, 0.4, 0.41], True, 1.0),  # the best accuracy was in epoch 2
    ],
)
def test_the_kept_weights_have_the_lower_loss(tmp_path, losses, averaged, expected):
    def weights(value: float) -> dict[str, torch.Tensor]:
        return {"weight": torch.full((1, 1), value), "bias": torch.zeros(1)}

    save_checkpoint(tmp_path / "best.pt", {"epoch": 2, "state_dict": weights(1.0)})
    last = {"model": weights(2.0), "averaged": [7, weights(3.0)] if averaged else None, "history": {"val_loss": losses}}
    save_checkpoint(tmp_path / "last.pt", last)
    model = torch.nn.Linear(1, 1)
    assert common.restore(model, RunFolder(tmp_path)) is model
    assert model.weight.item() == expected
