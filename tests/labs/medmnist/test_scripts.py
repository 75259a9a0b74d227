"""The experiments as they are run, on small files in the official layout, several labels and grades included."""

from __future__ import annotations

import json

import pytest
import torch
from medmnist import Evaluator

from labs.medmnist_experiments import augmentation, cnn3d, common, gradcam, transfer
from tests.labs.medmnist.small_sets import small_set, words
from toolkit import backbones
from toolkit.medmnist_data import Source, Split

pytest.importorskip("captum", reason="captum is not installed (requirements-dev.txt)")


@pytest.fixture(autouse=True)
def _own_files(monkeypatch):
    monkeypatch.setenv("MEDMNIST_VERIFY", "0")


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The splits in the order in which they were read."""
    noted: list[str] = []
    read = Source.read

    def noting(self, split, *more):
        noted.append(split)
        return read(self, split, *more)

    monkeypatch.setattr(Source, "read", noting)
    return noted


def EvaluatorIn(folder):
    """medmnist.Evaluator, which looks for the labels in the home directory, looking in `folder`."""

    class Here(Evaluator):
        def __init__(self, flag, split, size=None):
            super().__init__(flag, split, size, root=str(folder))

    return Here


def results(folder) -> dict:
    return json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))


def files(folder) -> set[str]:
    return {path.name for path in (folder / "out").iterdir()}


def test_3d_reads_the_test_split_once_and_last(tmp_path, reads):
    small_set("nodulemnist3d", tmp_path)
    cnn3d.main(words("nodulemnist3d", tmp_path, "--seeds", 2))
    assert reads.count("test") == 1
    assert "val" not in reads[reads.index("test") :]
    found = results(tmp_path)
    assert (found["dataset"], found["seeds"], len(found["test"])) == ("nodulemnist3d-unverified", [0, 1], 2)
    assert files(tmp_path) >= {"curves.png", "volumes.png", "augmented.png", "attention.png", "confusion.png"}
    assert found["published"] == []


def test_answers_over_mirror_images_do_not_see_which_side_is_which(tmp_path):
    small_set("nodulemnist3d", tmp_path)
    for views, is_blind in ((8, True), (1, False)):
        line = words("nodulemnist3d", tmp_path, "--views", views)
        flags = vars(cnn3d.build_parser().parse_args(line))
        experiment = common.begin("cnn3d", flags)
        model, val = cnn3d.build(experiment, dropout=0.5), experiment.source.read("val")
        mirrored = Split(val.images.flip(3), val.labels)
        pair = [cnn3d.answers(experiment, model, split, flags["views"]) for split in (val, mirrored)]
        assert abs(pair[0] - pair[1]).max() < 1e-5 if is_blind else abs(pair[0] - pair[1]).max() > 1e-5
        assert abs(pair[0].sum(axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize("flag", ["chestmnist", "retinamnist", "pathmnist"])
def test_augmentation_of_several_labels_grades_and_colour(flag, tmp_path, reads):
    small_set(flag, tmp_path)
    augmentation.main(words(flag, tmp_path, "--rows", "all"))
    assert reads.count("test") == 1
    found = results(tmp_path)
    assert [row["title"] for row in found["rows"]] == ["no augmentation", "all together"]  # a gain needs its base
    assert len(found["rows"][1]["values"]["gain in auc"]) == 1
    figures = found["test"]["all"][0]
    (predictions,) = (tmp_path / "out" / "predictions" / "all").glob("*.csv")
    theirs = EvaluatorIn(tmp_path).parse_and_evaluate(str(predictions))  # writes the file again, under its own name
    assert pytest.approx(figures["auc"], abs=1e-6) == theirs.AUC
    assert pytest.approx(figures.get("accuracy", figures.get("label_accuracy")), abs=1e-6) == theirs.ACC
    assert [path.name for path in predictions.parent.iterdir()] == [predictions.name], "not MedMNIST's own name"
    if flag == "chestmnist":
        assert len(figures["auc_of_each_label"]) == 14
        assert "accuracy" not in figures
    if flag == "retinamnist":
        assert {"mean_absolute_error", "quadratic_kappa", "accuracy"} <= set(figures)


def test_accuracy_of_several_labels_is_refused_before_anything_is_trained(tmp_path, reads):
    small_set("chestmnist", tmp_path)
    with pytest.raises(ValueError, match="none or several of its 14 labels"):
        augmentation.main(words("chestmnist", tmp_path, "--metric", "accuracy"))
    assert reads == []


def test_parts_that_help_on_validation_images_are_put_together(tmp_path):
    figures = {"none": [0.80, 0.90], "flips": [0.83, 0.88], "shift": [0.81, 0.91], "rotation": [0.70, 0.99]}
    runs = {name: [{"validation": {"auc": value}} for value in values] for name, values in figures.items()}
    assert augmentation.chosen(runs, "auc") == "flips+shift"
    assert augmentation.chosen({"none": runs["shift"], "flips": runs["none"]}, "auc") == "none"
    assert augmentation.rows_to_train(["chosen"]) == ["none", *augmentation.PARTS]
    assert augmentation.rows_to_train(["all", "flips", "chosen"]) == ["none", "all", "flips"]
    both = augmentation.named("rotation+shift")
    assert (both.rotation, both.shift, both.mirror, both.erasing) == (15.0, 0.1, False, 0.0)
    small_set("breastmnist", tmp_path)
    augmentation.main(words("breastmnist", tmp_path, "--rows", "rotation", "shift", "chosen"))
    found = results(tmp_path)
    helpful = augmentation.chosen(found["runs"], "auc")
    assert set(found["runs"]) == {"none", "rotation", "shift", helpful}
    assert len(found["rows"]) == len(found["runs"])


def test_rows_differ_in_augmentation_alone(tmp_path):
    small_set("breastmnist", tmp_path)
    augmentation.main(words("breastmnist", tmp_path, "--rows", "flips", "without-flips"))
    configs = [json.loads(path.read_text()) for path in sorted((tmp_path / "out" / "runs").glob("*/config.json"))]
    assert {config.pop("row") for config in configs} == {"none", "flips", "without-flips"}
    assert all(config == configs[0] for config in configs)
    strengths = augmentation.named("without-flips")
    assert (strengths.mirror, strengths.rotation, strengths.erasing) == (False, 15.0, 0.25)
    assert augmentation.named("rotation").rotation == 15.0
    assert augmentation.named("rotation").mirror is False
    assert augmentation.named("all").mirror is True


def test_transfer_with_and_without_weights(tmp_path, monkeypatch, capsys):
    small_set("breastmnist", tmp_path)
    torch.save(backbones.build("mobilenet_v2").state_dict(), tmp_path / "weights.pth")
    shared = ("--backbone", "mobilenet_v2", "--image_size", 32)
    transfer.main(words("breastmnist", tmp_path, *shared, "--weights", tmp_path / "weights.pth"))
    found = results(tmp_path)
    assert [row["title"] for row in found["rows"]] == list(transfer.TITLES.values())
    assert all(row["values"]["auc"] for row in found["rows"])
    assert "comparison.png" in files(tmp_path)
    learned = {name: runs[0]["parameters_that_learn"] for name, runs in found["runs"].items()}
    assert learned["frozen"] < learned["partly"] < learned["scratch"]

    def no_weights(name, path, say=print):
        say(f"no ImageNet weights for {name}: the download failed")

    monkeypatch.setattr(backbones, "find_weights", no_weights)
    transfer.main(words("breastmnist", tmp_path, *shared, "--overwrite", "--output_dir", tmp_path / "second"))
    rows = json.loads((tmp_path / "second" / "results.json").read_text())["rows"]
    assert [bool(row["values"]) for row in rows] == [False, False, True]
    assert rows[0]["title"].endswith("not run, no weights")


def test_convergence_counts_epochs_to_a_loss_that_all_reach():
    def run(losses):
        return {"history": {"val_loss": losses}, "seconds_an_epoch": 2.0}

    runs = {"fast": [run([0.5, 0.3, 0.2])], "slow": [run([0.9, 0.7, 0.6]), run([0.9, 0.5, 0.4]), run([0.9, 0.8, 0.7])]}
    speeds, target = transfer.convergence(runs)
    assert target == pytest.approx((0.6 + 0.4 + 0.7) / 3)
    assert speeds["fast"] == [{"epochs": 1, "seconds": 2.0}]
    assert [speed["epochs"] for speed in speeds["slow"]] == [None, 2, None]


@pytest.mark.parametrize(("flag", "script"), [("retinamnist", augmentation), ("adrenalmnist3d", cnn3d)])
def test_gradcam_explains_networks_that_are_there_or_trains_them(flag, script, tmp_path, reads):
    small_set(flag, tmp_path)
    models = tmp_path / "models"
    settings = ["--quick", "--samples", 8, "--model_dir", models]
    line = words(flag, tmp_path, *settings)
    gradcam.main(line)
    assert "test" not in reads
    assert (models / "runs").is_dir()
    found = results(tmp_path)
    assert files(tmp_path) >= {"heatmaps.png", "sanity.png", "deletion.png", "table.md"}
    assert next(iter(found["randomisation"][0])) == "as trained"
    assert (found["chance_of_pointing"] is not None) == (flag == "adrenalmnist3d")
    trained = {path: path.stat().st_mtime_ns for path in models.rglob("results.json")}
    gradcam.main(line)
    assert {path: path.stat().st_mtime_ns for path in models.rglob("results.json")} == trained
