"""What Homework 5 provides: thresholds, the lock on the test images, weights from a file, a whole quick run."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from labs.hw5_pneumonia import choices, figures, hw5_dl, hw5_evaluate, page, parts, recipes
from labs.hw5_pneumonia import run as lab
from tests.labs.hw5 import helpers
from toolkit import backbones
from toolkit.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.provided


def test_the_threshold_lies_between_classes_that_can_be_separated():
    probabilities = np.concatenate([np.linspace(0, 0.3, 40), np.linspace(0.8, 1, 60)])
    labels = np.repeat([0, 1], [40, 60])
    assert 0.3 < choices.choose_threshold(probabilities, labels) < 0.8


def test_the_threshold_is_near_youdens_of_a_large_sample():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 4000)
    # Two normal densities of the same width cross halfway, where Youden's index is highest.
    probabilities = 0.5 + 0.1 * (2 * labels - 1) + 0.1 * generator.standard_normal(4000)
    assert choices.choose_threshold(probabilities, labels) == pytest.approx(0.5, abs=0.03)


def test_a_threshold_finds_the_wanted_share_of_the_ill():
    probabilities = np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.75, 0.2])
    labels = np.array([1, 1, 1, 1, 1, 0, 0])
    assert choices.threshold_for_sensitivity(probabilities, labels, 0.8) == 0.6, (
        "four of five, and no lower than needed"
    )
    assert choices.threshold_for_sensitivity(probabilities, labels, 0.81) == 0.1
    with pytest.raises(UserError, match="no validation image shows pneumonia"):
        choices.threshold_for_sensitivity(probabilities, np.zeros(7), 0.9)


def test_the_page_shows_answers_in_comments_and_docstrings_and_no_questions():
    source = (
        'def f():\n    """Do.\n\n    ANSWER 1.2: why?\n    """\n    # ANSWER 1.3: because\n    # of that\n    x = 1\n'
    )
    source += '"""ANSWER 2.3: in\ntwo lines.\n\nMore."""\n# no answer\n'
    assert page.answers_in(source) == {"1.3": "because of that", "2.3": "in two lines."}


def test_pictures_are_of_the_model_that_is_best_on_validation_images():
    def rows(*auc):
        return [{"validation": {"auc": value}} for value in auc]

    assert parts.best_model({"first": rows(0.97, 0.90), "second": rows(0.95, 0.96), "third": rows(0.5)}) == "second"


def test_a_radiologist_never_mirrors_and_frames_as_another_hospital_would():
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[..., 9:19, 9:14], image[..., 9:19, 14:19] = 120, 240  # a square, its right half brighter

    def seen(function):
        """Share of images whose brightest part is right of the middle of the square; area of the square, 1 as it is."""
        changed = function(image.expand(400, -1, -1, -1), torch.Generator().manual_seed(0))[:, 0]
        low, high = changed.amin((1, 2), keepdim=True), changed.amax((1, 2), keepdim=True)
        square, bright = changed > low + 0.25 * (high - low), changed > high - 0.1
        middle, right = ((part.sum(1) * torch.arange(28)).sum(1) / part.sum((1, 2)) for part in (square, bright))
        return (right > middle).float().mean().item(), square.sum((1, 2)) / 100

    share, area = seen(recipes.as_a_radiologist_would)
    assert share > 0.95
    assert area.min() < 0.6
    assert area.max() > 1.5
    share_of_the_handout, area_of_the_handout = seen(hw5_dl.augment_bytes)
    assert share_of_the_handout < 0.6, "this test would not see a mirror image"
    assert area_of_the_handout.min() > 0.8


def test_a_map_that_is_zero_everywhere_is_said(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, _path: drawn.append(figure))
    maps = torch.stack([torch.zeros(28, 28), torch.ones(28, 28)])
    figures.overlays(torch.zeros(2, 1, 28, 28), maps, ["a", "b"], "title", tmp_path / "x.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert [title.startswith("0 everywhere") for title in titles].count(True) == 1


def test_no_threshold_for_a_single_class():
    with pytest.raises(UserError, match="all of one class"):
        choices.choose_threshold(np.linspace(0, 1, 9), np.ones(9, np.int64))


def test_a_missing_class_is_named():
    with pytest.raises(UserError, match="the train split has no image of: normal"):
        choices.check_classes(torch.ones(5, dtype=torch.int64), "train", helpers.CLASS_NAMES)


def test_fewer_images_leave_validation_alone():
    source = choices.FewerImages(helpers.SmallSource(), 20)
    assert len(source.read("train")) == 20
    assert len(source.read("val")) == 19
    assert source.class_names == helpers.CLASS_NAMES


HISTORY = {"train_loss": [0.7, 0.5], "train_acc": [0.5, 0.8], "val_loss": [0.6, 0.4], "val_acc": [0.6, 0.9]}


def test_a_history_of_tensors_and_numpy_numbers_becomes_floats():
    given = {name: [torch.tensor(values[0]), np.float32(values[1])] for name, values in HISTORY.items()}
    found = recipes.checked(given)
    assert all(type(value) is float for values in found.values() for value in values)
    assert found["val_loss"] == pytest.approx([0.6, 0.4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "must return a dict with the lists train_loss, train_acc, val_loss, val_acc"),
        ({"val_acc": 0.9}, "must return a dict with the lists"),
        ({"val_acc": [0.9]}, "need one value per epoch"),
        ({"train_loss": [0.7, float("nan")]}, "the loss became NaN or infinite"),
    ],
    ids=["nothing", "a number", "an epoch is missing", "NaN"],
)
def test_a_history_that_cannot_be_drawn_is_reported(change, message):
    with pytest.raises(UserError, match=message):
        recipes.checked(None if change is None else {**HISTORY, **change})


def test_the_code_that_trains_has_a_digest_and_comments_do_not_count(tmp_path):
    texts = ["x = 1\n", "x = 1  # ANSWER 1.2: because\n", "x = 2\n"]
    digests = []
    for text in texts:
        (tmp_path / "code.py").write_text(text)
        digests.append(parts.digest_of(tmp_path / "code.py"))
    assert digests[0] == digests[1] != digests[2]


OLD_TRAIN = """
def train(model, train_loader, val_loader, epochs=30, learning_rate=1e-3, patience=8, *, class_weights=None,
          ema_decay=0.0, weight_decay=0.0, precision="float32", report=None):
    return {name: [float(patience)] * epochs for name in ("train_loss", "train_acc", "val_loss", "val_acc")}


def fine_tune(model, train_loader, val_loader, head_epochs=2, epochs=10, learning_rate=1e-3, **options):
    first = train(model, train_loader, val_loader, head_epochs, learning_rate, **options)
    second = train(model, train_loader, val_loader, epochs, learning_rate / 10, **options)
    return {name: first[name] + second[name] for name in first}
"""


def test_submissions_with_the_longer_signature_still_train(monkeypatch):
    old: dict = {}
    exec(OLD_TRAIN, old)
    monkeypatch.setattr(hw5_dl, "train", old["train"])
    monkeypatch.setattr(hw5_dl, "fine_tune", old["fine_tune"])
    settings = recipes.Settings(epochs=3, resnet_epochs=2, head_epochs=1, backbone="resnet18", image_size=32)
    weights = backbones.build("resnet18").state_dict()
    weights["bn1.running_mean"] += 1  # or it looks like a network whose BatchNorm is folded
    known = recipes.make_recipes(settings, weights)
    for name, epochs in (("cnn", 3), ("resnet18", 2), ("scratch", 3), ("pretrained", 3)):
        history = known[name].fit(known[name].build(), {"train": [], "val": []}, name)
        assert history["val_loss"] == [5.0 if name != "cnn" else 8.0] * epochs


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = backbones.build("resnet18").state_dict()
    torch.save(weights, tmp_path / "good.pth")
    assert set(backbones.find_weights("resnet18", str(tmp_path / "good.pth"))) == set(weights)
    weights["odd.key"] = weights.pop("fc.bias")
    weights["conv1.weight"] = weights["conv1.weight"][:, :1]
    torch.save(weights, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"missing: fc\.bias; odd: odd\.key; of another shape: conv1\.weight"):
        backbones.build("resnet18", backbones.find_weights("resnet18", str(tmp_path / "bad.pth")))


def test_weights_that_come_without_a_classifier_fit_the_network_they_are_for():
    whole = backbones.build("resnet18_2223").state_dict()
    without = {key: value for key, value in whole.items() if not key.startswith("fc.") and "num_batches" not in key}
    loaded = backbones.build("resnet18_2223", without).state_dict()
    assert all(torch.equal(loaded[key], whole[key]) for key in without)
    assert not torch.equal(loaded["fc.weight"], whole["fc.weight"])
    plain = backbones.build("resnet18").state_dict()
    with pytest.raises(UserError, match=r"missing: fc\.bias"):
        backbones.build("resnet18", {key: value for key, value in plain.items() if key != "fc.bias"})


@pytest.mark.parametrize("content", [None, "text", [1, 2], {1: 2}], ids=["missing", "text", "list", "odd names"])
def test_files_that_hold_no_weights(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("hello")
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"--weights .*give a state dict"):
        backbones.find_weights("resnet18", str(path))


def test_unknown_backbones_are_refused():
    with pytest.raises(UserError, match="'nonsense'; allowed: resnet18"):
        backbones.build("nonsense")


def folded() -> nn.Module:
    """A network whose BatchNorm layers are folded: scale 1, mean 0, and the bias of the convolution as beta."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)
    )
    for layer in (network[1], network[4]):
        layer.running_var.fill_(1 - layer.eps)
        nn.init.normal_(layer.bias)
    return network


def test_folded_batchnorm_comes_back_without_changing_the_function():
    network, images = folded().eval(), torch.randn(64, 1, 12, 12)
    assert backbones.is_folded(network)
    before = network(images)
    backbones.unfold_batchnorm(network, images)
    assert not backbones.is_folded(network)
    torch.testing.assert_close(network(images), before, atol=1e-4, rtol=1e-3)
    # Now training mode, which normalises with the batch's own statistics, gives nearly the same; before it did not.
    torch.testing.assert_close(network.train()(images), before, atol=1e-2, rtol=1e-2)


def test_the_last_map_is_where_grad_cam_can_see():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8, 2))
    assert backbones.last_map(network, torch.zeros(1, 1, 10, 10)) == "1"  # 8 x 8; the pooled map has 2 x 2
    with pytest.raises(UserError, match="no layer"):
        backbones.last_map(nn.Flatten(), torch.zeros(1, 1, 10, 10))


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess:
    """A run that finds no network: every address goes to a proxy that does not exist."""
    closed = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = {
        **os.environ,
        **closed,
        "NO_PROXY": "",
        "no_proxy": "",
        "TORCH_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "labs.hw5_pneumonia.hw5_dl", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.timeout(420)
def test_a_quick_run_without_network_leaves_everything(tmp_path):
    folder = tmp_path / "outputs"
    arguments = ["--quick", "--train_images", "256", "--models", "cnn", "pretrained", "--output_dir", str(folder)]
    result = run(*arguments, home=tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert "no ImageNet weights for resnet18: the download failed" in result.stdout
    table = (folder / "3_table.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if "pretrained" in line)
    assert "not run: no weights" in row
    assert "0." not in row
    for path in folder.glob("*.png"):
        helpers.check_picture(path)
    names = {path.name for path in folder.iterdir()}
    assert {"1_samples.png", "2_curves_cnn.png", "4_roc_pr.png", "5_grad_cam.png", "3_table.csv"} <= names
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Quick run: these numbers mean nothing" in report
    assert report.count("data:image/png;base64,") == len(list(folder.glob("*.png")))
    assert "not run: no weights" in report
    for number, answer in page.answers_in(Path(hw5_evaluate.__file__).read_text(encoding="utf-8")).items():
        assert f"<b>{number}</b> {html.escape(answer)}" in report
    results = json.loads((folder / "results.json").read_text())
    assert list(results["operating_points"]) == ["0.5", "Youden", "sensitivity 98%"]
    choices_made = json.loads((folder / "choices.json").read_text())
    assert results["models"]["CNN"]["thresholds"] == [row["threshold"] for row in choices_made["CNN"]]
    assert results["interpretability"]["mean_change_with_random_weights"] > 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir", "FILE/outputs"], "--output_dir: the folder"),
        (["--train_images", "100"], "--train_images is 100; allowed: 0 (all) or at least one batch, 128"),
        (["--weights", "FILE"], "torch cannot read it as tensors alone"),
    ],
)
def test_mistakes_are_told_before_the_training(tmp_path, arguments, message):
    (tmp_path / "file").write_text("x")
    given = [
        "--output_dir",
        str(tmp_path / "outputs"),
        *(part.replace("FILE", str(tmp_path / "file")) for part in arguments),
    ]
    with pytest.raises(UserError, match=re.escape(message)):  # toolkit.cli makes one line and exit code 2 of it
        lab.main(given)


def test_pretrained_without_weights_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "find_weights", lambda *_: None)
    with pytest.raises(UserError, match="no ImageNet weights for resnet18; give a file with --weights PATH"):
        lab.main(["--models", "pretrained", "--output_dir", str(tmp_path)])
    assert not (tmp_path / "runs").exists()


def test_a_quick_run_replaces_no_real_one(tmp_path):
    (tmp_path / "results.json").write_text('{"config": {"quick": false}}')
    with pytest.raises(UserError, match="holds a real run"):
        lab.main(["--quick", "--output_dir", str(tmp_path)])
