"""Training: one loop for every kind of labels, balance, cache, folds, resuming, weights to start from, sweeps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from torchvision.models import get_model

from labs.image_classifier import evaluate, predict, prepare, train
from labs.image_classifier.models import networks
from labs.image_classifier.utils import cache, datafolder, loaders
from labs.image_classifier.utils.reading import Preprocessing
from tests.labs.image_classifier.conftest import QUICK, ROOT, make_images
from toolkit.errors import UserError
from toolkit.runs import load_checkpoint
from toolkit.stored_images import StoredImages, write_images, written_once

pytestmark = pytest.mark.provided


def run_training(*arguments: object) -> None:
    train.main([str(word) for word in (*QUICK, *arguments)])


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_logits_of_several_labels_make_the_loop_s_cross_entropy_the_binary_one() -> None:
    model = networks.build("mobilenet_v3_small", 1, 3, 28, multi_label=True).eval()
    images, labels = torch.rand(4, 1, 28, 28), torch.randint(0, 2, (4, 3))
    logits, scores = model(images), model.scores(images)
    assert logits.shape == (12, 2)
    expected = F.binary_cross_entropy_with_logits(scores, labels.float())
    assert F.cross_entropy(logits, labels.flatten()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(logits.argmax(dim=1).view(4, 3), (scores > 0).long())
    assert torch.allclose(logits.softmax(dim=1)[:, 1].view(4, 3), model.probabilities(images), atol=1e-6)


def test_weights_of_classes_and_labels() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    oracle = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert np.allclose(loaders.class_weights(labels, 3), oracle)
    table = np.array([[1, 0], [0, 0], [0, 0], [0, 1]])
    weights = loaders.label_weights(table)
    present = (table * weights[:, 1].numpy()).sum(axis=0)
    absent = ((1 - table) * weights[:, 0].numpy()).sum(axis=0)
    assert np.allclose(present, absent)
    logits, flat = torch.randn(8, 2), torch.from_numpy(table.flatten())
    each = F.cross_entropy(logits, flat, reduction="none") * weights.repeat(4, 1)[torch.arange(8), flat]
    assert loaders.WeightedLabels(weights)(logits, flat).item() == pytest.approx(each.mean().item(), rel=1e-6)


def test_oversampling_draws_every_class_equally_often() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    dataset = loaders.LabelledImages(np.zeros((100, 4, 4, 1), np.uint8), labels, np.arange(100))
    loader = loaders.training_loader(dataset, 10, seed=0, oversample=True)
    share = np.mean([torch.cat([y for _, y in loader]).float().mean().item() for _ in range(20)])
    assert abs(share - 0.5) < 0.05  # 2,000 draws: standard deviation 0.011


def test_the_last_batch_never_has_one_image() -> None:
    dataset = loaders.LabelledImages(np.zeros((9, 4, 4, 1), np.uint8), np.zeros(9, np.int64), np.arange(9))
    assert [len(y) for _, y in loaders.training_loader(dataset, 4, seed=0)] == [4, 4]


def test_normalisation_is_that_of_the_training_rows(prepared: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)
    rows = np.arange(0, 50, 3)
    mean, sd = loaders.statistics(pixels, rows, chunk_bytes=4 * 90)
    values = pixels[rows].astype(np.float64) / 127.5 - 1
    assert np.allclose(mean, values.mean(axis=(0, 1, 2)), atol=1e-6)
    assert np.allclose(sd, values.std(axis=(0, 1, 2)), atol=1e-6)


def test_the_cache_on_disk_decodes_once_and_notices_changes(prepared: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(prepared.parent / "images", tmp_path / "images")
    paths = sorted((tmp_path / "images").rglob("*.png"))
    preprocessing = Preprocessing(28, 1)
    memory = cache.decoded(paths, preprocessing, tmp_path, "memory")
    assert np.array_equal(cache.decoded(paths, preprocessing, tmp_path, "disk")[:], memory)
    monkeypatch.setattr(Preprocessing, "load", lambda *_: pytest.fail("decoded a second time"))
    mapped = cache.decoded(paths, preprocessing, tmp_path, "disk")
    assert isinstance(mapped, StoredImages)
    assert np.array_equal(mapped[:], memory)
    monkeypatch.undo()
    shutil.copy(paths[1], paths[0])
    changed = cache.decoded(paths, preprocessing, tmp_path, "disk")
    assert np.array_equal(changed[0], memory[1])


def test_stored_images_are_drawn_as_those_in_memory(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 20, 1), np.uint8)
    stored = written_once(tmp_path / "x.npy", pixels.shape, write_images(lambda: iter(pixels), pixels.shape), "")
    rows, labels = np.arange(1, 30, 3), np.arange(30) % 2
    sets = [loaders.LabelledImages(source, labels, rows) for source in (stored, pixels)]
    (images, answers), (expected, expected_answers) = (one.__getitems__([0, 4, 2]).stacked for one in sets)
    assert torch.equal(images, expected)
    assert torch.equal(answers, expected_answers)
    assert all(map(torch.equal, loaders.statistics(stored, rows), loaders.statistics(pixels, rows)))


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-label data folder: `left`, `right`, or nothing."""
    folder = tmp_path_factory.mktemp("findings")
    make_images(folder, 16)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    lines = [f"{path},{path.parts[0] if number % 4 else ''}" for number, path in enumerate(files)]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    prepare.main([str(folder / "list.csv"), "--out", str(folder / "data"), "--multi_label", "--val", "0.25"])
    return folder / "data"


def test_several_labels_from_training_to_prediction(findings: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    run_training("--data", findings, "--epochs", 1, "--class_weights", "--output_dir", run)
    assert 0 <= results_of(run)["val_metrics"]["exact_match"] <= 1
    evaluate.main([str(run), "--data", str(findings), "--bootstrap", "5", "--device", "cpu"])
    figures = json.loads((run / "evaluation-test" / "metrics.json").read_text())
    assert set(figures["per_class"]) == {"left", "right"}
    capsys.readouterr()
    images = findings.parent / "left"
    pytest.importorskip("captum", reason="captum is not installed (requirements-dev.txt)")
    predict.main([str(run), str(images), "--format", "json", "--device", "cpu", "--gradcam", str(tmp_path / "maps")])
    for answer in json.loads(capsys.readouterr().out):
        named = [name for name, value in answer["probabilities"].items() if value >= 0.5]
        assert answer["label"] == "|".join(named)
    assert len(list((tmp_path / "maps").iterdir())) == len(list(images.iterdir()))


def test_folds_keep_patients_together_resume_and_report_mean_and_sd(prepared: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    arguments = ("--data", prepared, "--epochs", 1, "--folds", 3, "--oversample")
    run_training(*arguments, "--output_dir", run)
    results = results_of(run)
    accuracies = [fold["accuracy"] for fold in results["each_fold"]]
    assert results["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert results["sd"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    first = (run / "fold-1" / "best.pt").stat().st_mtime_ns
    (run / "fold-3" / "results.json").unlink()
    (run / "results.json").unlink()
    capsys.readouterr()
    train.main(["--resume", str(run)])
    assert results_of(run)["mean"] == results["mean"]
    assert (run / "fold-1" / "best.pt").stat().st_mtime_ns == first, "a finished fold was trained again"
    run_training(*arguments, "--seed", 5, "--output_dir", run, "--overwrite")
    assert (run / "fold-1" / "best.pt").stat().st_mtime_ns != first, "--overwrite kept a fold of the earlier run"
    assert json.loads((run / "fold-1" / "config.json").read_text())["seed"] == 5


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(prepared: Path, tmp_path: Path) -> None:
    arguments = ("--data", prepared, "--scheduler", "constant", "--patience", 5)
    run_training(*arguments, "--epochs", 2, "--output_dir", tmp_path / "whole")
    run_training(*arguments, "--epochs", 1, "--output_dir", tmp_path / "parts")
    train.main(["--resume", str(tmp_path / "parts"), "--epochs", "2"])
    assert results_of(tmp_path / "parts")["history"] == results_of(tmp_path / "whole")["history"]


def test_training_reads_no_test_image_unless_told(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared.parent, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "data")
    prepare.main([str(tmp_path / "copy" / "images"), "--out", str(tmp_path / "copy" / "data")])
    data = datafolder.read(tmp_path / "copy" / "data")
    for record in data.of("test"):
        record.path.unlink()
    run_training("--data", data.path, "--epochs", 1, "--output_dir", tmp_path / "run")
    with pytest.raises(UserError, match="No such file"):
        run_training("--data", data.path, "--epochs", 1, "--output_dir", tmp_path / "other", "--evaluate_test")


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0", "mobilenet_v2"])
@pytest.mark.parametrize("size", [28, 64])
def test_families_take_small_and_usual_images(name: str, size: int) -> None:
    model = networks.build(name, 1, 3, size).eval()
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 3)


def test_a_grey_first_layer_sees_what_the_coloured_one_saw(tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = get_model("resnet18", weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    model = networks.build_with_weights("resnet18", str(tmp_path / "w.pth"), 1, 2, 64).eval()
    original.fc = model.network.fc
    images = torch.rand(2, 1, 64, 64)
    assert torch.allclose(model(images), original(images.expand(-1, 3, -1, -1)), atol=1e-4)


def test_training_goes_on_from_a_run_of_this_lab_and_refuses_another_network(trained_run: Path, prepared: Path) -> None:
    model = networks.build_with_weights("mobilenet_v3_small", str(trained_run), 1, 5, 28)
    state = load_checkpoint(trained_run / "best.pt")["state_dict"]
    assert torch.equal(model.state_dict()["network.features.0.0.weight"], state["network.features.0.0.weight"])
    assert model.network.classifier[-1].out_features == 5
    with pytest.raises(UserError, match="does not fit resnet18"):
        networks.build_with_weights("resnet18", str(trained_run), 1, 2, 28)
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*nowhere\.pth"):
        networks.build_with_weights("resnet18", "nowhere.pth", 1, 2, 28)


def test_weights_that_cannot_be_downloaded_name_the_cure(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(networks, "SAVED", tmp_path)
    with pytest.raises(UserError, match=r"the download failed .*put the file at .*resnet18\.pth") as caught:
        networks.build_with_weights("resnet18", "imagenet", 1, 2, 28)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "folds is 1; allowed: 0"),
        (["--folds", "2", "--evaluate_test"], "exclude each other"),
        (["--folds", "30"], "folds is 30, but there are only|has no training image in fold"),
        (["--batch_size", "500"], "batch_size is 500, but the set has"),
        (["--data", ""], "--data is missing"),
        (["--data", "nowhere"], "nowhere has no metadata.csv; make it with"),
    ],
)
def test_wrong_flags_are_refused(prepared: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_training("--data", prepared, "--output_dir", tmp_path / "run", *arguments)


def test_evaluation_on_other_classes_is_refused(trained_run: Path, findings: Path) -> None:
    shutil.rmtree(findings.parent / "other", ignore_errors=True)
    make_images(findings.parent / "other", 8)
    (findings.parent / "other" / "left").rename(findings.parent / "other" / "up")
    out = findings.parent / "other_data"
    prepare.main([str(findings.parent / "other"), "--out", str(out), "--overwrite"])
    with pytest.raises(UserError, match=r"the model knows left, right, but .* has right, up"):
        evaluate.main([str(trained_run), "--data", str(out)])


@pytest.mark.timeout(600)  # three processes that import torch, one after the other, on a machine that may be busy
def test_a_sweep_runs_it_in_its_module_form(prepared: Path, tmp_path: Path) -> None:
    grid = {"data": str(prepared), "model": "mobilenet_v3_small", "image_size": 28, "epochs": 1, "batch_size": 8}
    grid |= {"learning_rate": [0.01], "cache": "disk", "device": "cpu"}
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    words = ["dispatcher.py", "--script", "labs.image_classifier.train", "--config_path", str(tmp_path / "grid.json")]
    words += ["--log_dir", str(tmp_path / "logs"), "--grid_search_results_path", str(tmp_path / "results.csv")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "results.csv").read_text().splitlines()
    assert len(table) == 2
    assert "best_val_acc" in table[0]
    assert len(list((prepared / "cache").glob("*.npy"))) == 1
