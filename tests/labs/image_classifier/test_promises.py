"""What the lab promises about runs: an older one survives a slip, splits cannot move, folds answer together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from labs.image_classifier import evaluate, predict, prepare, train
from labs.image_classifier.models import networks
from labs.image_classifier.utils import datafolder, loaders, pictures, scores, trained
from tests.labs.image_classifier.conftest import QUICK
from toolkit import backbones
from toolkit.errors import UserError
from toolkit.runs import best_epoch_of, load_checkpoint
from toolkit.training import TrainingSession

pytestmark = pytest.mark.provided


def run_training(*arguments: object) -> None:
    train.main([str(word) for word in (*QUICK, *arguments)])


@pytest.fixture(scope="module")
def copied(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that a test may change."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(prepared.parent / "images", folder / "images")
    words = ["--group_pattern", "^p[0-9]+", "--val", "0.3"]
    prepare.main([str(folder / "images"), "--out", str(folder / "data"), *words])
    return folder / "data"


@pytest.fixture(scope="module")
def finished(copied: Path) -> Path:
    """A finished run on it."""
    run = copied.parent / "run"
    run_training("--data", copied, "--epochs", 1, "--output_dir", run)
    return run


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def gone(data: Path, split: str) -> Callable[[], None]:
    """Hide one image of a split; → what brings it back."""
    path = datafolder.read(data).of(split)[0].path
    path.rename(path.with_suffix(".hidden"))
    return lambda: path.with_suffix(".hidden").rename(path)


SLIPS = [(["--weights", "nowhere.pth"], None), (["--batch_size", "500"], None), ([], "train")]
SLIPS += [([*words, "--folds", "2"], image) for words, image in SLIPS] + [(["--evaluate_test"], "test")]


@pytest.mark.parametrize(("words", "image"), SLIPS)
def test_a_slip_with_overwrite_leaves_the_finished_run_alone(
    finished: Path, copied: Path, words: list[str], image: str | None
) -> None:
    before = contents_of(finished)
    bring_back = gone(copied, image) if image else lambda: None
    try:
        with pytest.raises(UserError):
            run_training("--data", copied, "--epochs", 1, "--output_dir", finished, "--overwrite", *words)
    finally:
        bring_back()
    assert contents_of(finished) == before


@pytest.mark.parametrize("words", [(), ("--folds", 2)])
def test_a_start_that_fails_in_its_first_epoch_gives_the_folder_back(
    copied: Path, tmp_path: Path, words: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--data", copied, "--epochs", 1, "--output_dir", tmp_path / "run", *words)
    with monkeypatch.context() as patch:
        patch.setattr(networks.ImageClassifier, "forward", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            run_training(*arguments)
    run_training(*arguments)  # no --overwrite
    assert (tmp_path / "run" / "results.json").exists()


def test_an_older_run_comes_back_if_the_new_one_fails_in_its_first_epoch(
    finished: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents_of(finished)
    with monkeypatch.context() as patch:
        patch.setattr(networks.ImageClassifier, "forward", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            run_training("--data", copied, "--epochs", 1, "--output_dir", finished, "--overwrite")
    assert contents_of(finished) == before


def test_an_evaluation_that_cannot_begin_makes_no_folder(finished: Path, copied: Path, tmp_path: Path) -> None:
    bring_back = gone(copied, "test")
    try:
        with pytest.raises(UserError, match="prepare the data again"):
            evaluate.main([str(finished), "--data", str(copied), "--output_dir", str(tmp_path / "new")])
    finally:
        bring_back()
    assert not (tmp_path / "new").exists()


def test_a_model_is_not_evaluated_on_images_that_it_was_trained_on(
    finished: Path, copied: Path, tmp_path: Path
) -> None:
    evaluate.main([str(finished), "--data", str(copied), "--bootstrap", "0", "--device", "cpu"])
    shutil.copytree(copied, tmp_path / "data")
    words = ["--group_pattern", "^p[0-9]+", "--val", "0.3", "--seed", "7", "--overwrite"]
    prepare.main([str(copied.parent / "images"), "--out", str(tmp_path / "data"), *words])
    for split in ("val", "test"):
        with pytest.raises(UserError, match=rf"\d+ of \d+ images of split {split} were used to train this model"):
            evaluate.main([str(finished), "--data", str(tmp_path / "data"), "--split", split, "--device", "cpu"])
    evaluate.main([str(finished), "--data", str(tmp_path / "data"), "--split", "train", "--bootstrap", "0"])


@pytest.mark.parametrize("words", [(), ("--folds", 2)])
def test_a_run_is_not_resumed_on_another_split(copied: Path, tmp_path: Path, words: tuple) -> None:
    shutil.copytree(copied.parent / "images", tmp_path / "images")
    prepare.main([str(tmp_path / "images"), "--out", str(tmp_path / "data"), "--val", "0.3"])
    run = tmp_path / "run"
    arguments = ("--data", tmp_path / "data", "--epochs", 1, "--scheduler", "constant", "--output_dir", run, *words)
    run_training(*arguments)
    prepare.main([str(tmp_path / "images"), "--out", str(tmp_path / "data"), "--seed", "7", "--overwrite"])
    with pytest.raises(UserError, match=r"was started with other training images: .*prepare it as it was"):
        train.main(["--resume", str(run), "--epochs", "2"])


def test_the_folds_of_a_cross_validation_answer_together(prepared: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    run_training("--data", prepared, "--epochs", 1, "--folds", 3, "--output_dir", run)
    images = [str(path) for path in sorted((prepared.parent / "images" / "left").iterdir())]

    def answers(model: Path) -> np.ndarray:
        capsys.readouterr()
        predict.main([str(model), *images, "--format", "json", "--device", "cpu"])
        return np.array([list(row["probabilities"].values()) for row in json.loads(capsys.readouterr().out)])

    each = np.stack([answers(run / f"fold-{fold}") for fold in (1, 2, 3)])
    assert each.std(axis=0).max() > 1e-4, "the folds differ"
    assert np.allclose(answers(run), each.mean(axis=0), atol=1e-6)
    evaluate.main([str(run), "--data", str(prepared), "--bootstrap", "0", "--device", "cpu"])
    assert "(mean of 3 networks) on test" in capsys.readouterr().out
    with pytest.raises(UserError, match="split val were used to train"):
        evaluate.main([str(run), "--data", str(prepared), "--split", "val", "--device", "cpu"])
    (run / "fold-2" / "best.pt").unlink()
    with pytest.raises(UserError, match=r"fold-2 is not finished; finish it with: .* --resume"):
        trained.load(run, torch.device("cpu"))
    train.main(["--resume", str(run)])
    assert len(trained.load(run, torch.device("cpu")).models) == 3
    (run / "fold-2" / "results.json").unlink()
    with pytest.raises(UserError, match=r"fold-2 is not finished; finish it with: .* --resume"):
        trained.load(run, torch.device("cpu"))


def test_weights_never_know_the_images_that_they_are_measured_on(finished: Path, copied: Path, tmp_path: Path) -> None:
    arguments = ("--epochs", 1, "--weights", finished, "--output_dir", tmp_path / "run")
    run_training("--data", copied, *arguments)
    first, second = (load_checkpoint(run / "best.pt") for run in (finished, tmp_path / "run"))
    assert first["training_images"]
    for kind in ("training", "validation"):
        assert second[f"earlier_{kind}_images"] == first[f"{kind}_images"], "so that evaluate refuses them, too"
    words = ["--group_pattern", "^p[0-9]+", "--val", "0.3", "--seed", "7"]
    prepare.main([str(copied.parent / "images"), "--out", str(tmp_path / "data"), *words])
    for more in ((), ("--folds", 2)):
        with pytest.raises(
            UserError, match=r"--weights .*run know \d+ of \d+ images of split val, so .*the same --seed"
        ):
            run_training("--data", tmp_path / "data", *arguments, "--overwrite", *more)
    assert (tmp_path / "run" / "results.json").exists()


def test_a_first_layer_for_grey_images_is_taken(tmp_path: Path) -> None:
    state = backbones.build("resnet18").state_dict()
    grey = torch.randn(64, 1, 7, 7)
    torch.save({**state, "conv1.weight": grey}, tmp_path / "w.pth")
    one, three = (networks.build_with_weights("resnet18", str(tmp_path / "w.pth"), c, 4, 64).network for c in (1, 3))
    assert torch.allclose(one.conv1.weight, grey, atol=1e-6)
    assert torch.allclose(three.conv1.weight.sum(1, True), grey, atol=1e-6), "the same answer to grey"


def test_weights_of_a_training_that_failed_are_refused(tmp_path: Path) -> None:
    state = backbones.build("resnet18").state_dict()
    state["layer1.0.bn1.weight"][3] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth have NaN or infinite values in layer1\.0\.bn1\.weight"):
        networks.build_with_weights("resnet18", str(tmp_path / "w.pth"), 3, 4, 64)


WRAPPINGS = {
    "plain": lambda state: state,
    "nine classes": lambda state: {**state, "fc.weight": torch.zeros(9, 512), "fc.bias": torch.zeros(9)},
    "no head": lambda state: {key: value for key, value in state.items() if not key.startswith("fc.")},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "lightning": lambda state: {
        "state_dict": {f"model.{k}": v for k, v in state.items()} | {"loss.weight": torch.ones(2)}
    },
    "model": lambda state: {"model": state, "epoch": 3, "optimizer": {"state": {}}},
    "nested": lambda state: {"model": {"state_dict": {f"module.backbone.{k}": v for k, v in state.items()}}},
    "old": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
    "half": lambda state: {key: value.half() for key, value in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_in_any_wrapping(tmp_path: Path, wrapping: str) -> None:
    torch.manual_seed(3)
    state = backbones.build("resnet18").state_dict()
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "w.pth")
    model = networks.build_with_weights("resnet18", str(tmp_path / "w.pth"), 3, 4, 64)
    for key in ("conv1.weight", "layer4.1.bn2.running_var"):
        assert torch.allclose(model.network.state_dict()[key], state[key], atol=1e-3)
    assert model.network.fc.out_features == 4


@pytest.mark.parametrize(
    ("name", "other"), [("resnet18", "resnet34"), ("resnet34", "resnet18"), ("resnet18", "resnet18_2223")]
)
def test_weights_of_another_network_are_refused(tmp_path: Path, name: str, other: str) -> None:
    torch.save(backbones.build(other).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth do not fit {name}; keys (missing|odd): layer"):
        networks.build_with_weights(name, str(tmp_path / "w.pth"), 3, 4, 64)


def test_the_hidden_layer_of_a_mobilenet_is_kept(tmp_path: Path) -> None:
    state = backbones.build("mobilenet_v3_small").state_dict()
    torch.save(state, tmp_path / "w.pth")
    model = networks.build_with_weights("mobilenet_v3_small", str(tmp_path / "w.pth"), 3, 4, 64)
    assert torch.equal(model.network.state_dict()["classifier.0.weight"], state["classifier.0.weight"])


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18_2223"])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_without_a_linear_head_or_of_torchvision_s_list(name: str, channels: int) -> None:
    model = networks.build(name, channels, 5, 64).eval()
    assert model(torch.zeros(2, channels, 64, 64)).shape == (2, 5)
    assert networks.attention_layer(model, 64) is not None


def test_values_for_a_finding_are_those_of_a_table_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1]] * 6 + [[0.2, 0.8]] * 4)
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 0])
    found = scores.diagnostic(probabilities, labels, 1)
    assert found == {"sensitivity": 3 / 4, "specificity": 5 / 6, "ppv": 3 / 4, "npv": 5 / 6}
    healthy = scores.diagnostic(probabilities, labels, 0)
    assert healthy["sensitivity"] == found["specificity"]
    nothing = scores.diagnostic(np.array([[0.9, 0.1]]), np.array([0]), 1)
    assert nothing == {"sensitivity": None, "specificity": 1.0, "ppv": None, "npv": 1.0}


def test_positive_names_the_finding_and_both_classes_are_drawn(finished: Path, copied: Path, capsys) -> None:
    words = [str(finished), "--data", str(copied), "--bootstrap", "20", "--device", "cpu"]
    evaluate.main(words)
    told = capsys.readouterr().out
    assert "positive is 'left':" in told
    assert "positive is 'right':" in told
    evaluate.main([*words, "--positive", "right"])
    told = capsys.readouterr().out
    assert "positive is 'left'" not in told
    metrics = json.loads((finished / "evaluation-test" / "metrics.json").read_text())
    assert set(metrics["diagnostic"]["right"]) == {"sensitivity", "specificity", "ppv", "npv"}
    low, high = metrics["interval_95"]["specificity of right"]
    assert low <= metrics["diagnostic"]["right"]["specificity"] <= high
    with pytest.raises(UserError, match="positive is 'sick'; allowed: left, right"):
        evaluate.main([*words, "--positive", "sick"])
    figure = pictures.roc_and_pr(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), ["a", "b"], "t", None)
    assert [text.get_text().split()[0] for text in figure.axes[1].get_legend().get_texts()] == ["a", "b"]


def changed(settings: loaders.AugmentationSettings, image: np.ndarray) -> np.ndarray:
    """Forty augmented versions of one image (H, W), as floats in [-1, 1]."""
    batch = torch.from_numpy(image).expand(40, 1, *image.shape).contiguous()
    return loaders.augmentation(settings, image.shape[0])(batch, torch.Generator().manual_seed(0))[:, 0].numpy()


def test_each_part_of_the_augmentation_stands_by_itself() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = ramp / 127.5 - 1
    of = loaders.AugmentationSettings
    assert np.allclose(changed(of("none"), ramp), plain, atol=1e-6)
    brighter = changed(of("none", intensity=0.2), ramp)
    assert (np.diff(brighter, axis=2) >= 0).all(), "intensity mirrors nothing"
    assert np.abs(brighter - plain).max() > 0.1
    for flip, kinds in {"left_right": [plain[:, ::-1]], "up_down": [plain[::-1]]}.items():
        found = changed(of("none", flip=flip), ramp)
        hits = [np.isclose(found, kind, atol=1e-6).all(axis=(1, 2)) for kind in (plain, *kinds)]
        assert np.logical_or(*hits).all()
        assert 10 <= hits[0].sum() <= 30
    turned = changed(of("none", rotation=20), np.full((16, 16), 99, np.uint8))
    assert np.allclose(turned, 99 / 127.5 - 1, atol=1e-5)
    moved = changed(of("none", rotation=20), ramp)
    assert np.abs(moved - plain).max() > 0.1
    assert np.abs(moved.mean(axis=0)[6:10, 6:10] - plain[6:10, 6:10]).max() < 0.2, "the middle stays"


def test_ultrasound_is_never_turned_upside_down() -> None:
    image = np.zeros((16, 16), dtype=np.uint8)
    image[:4] = 200  # the skin
    found = changed(loaders.AugmentationSettings("mirror"), image)
    assert (found[:, :2].mean(axis=(1, 2)) > found[:, -2:].mean(axis=(1, 2))).all()


def test_a_checkpoint_knows_its_images(finished: Path, copied: Path) -> None:
    content = load_checkpoint(finished / "best.pt")
    expected = sorted(record.content for record in datafolder.read(copied).of("train"))
    assert content["training_images"].split() == expected


def test_of_epochs_with_equal_accuracy_the_one_with_the_lower_loss_is_kept() -> None:
    history = {"val_loss": [2.5, 0.4, 0.3, 0.4], "val_acc": [0.7, 0.7, 0.6, 0.7]}  # first: one class for all images
    assert best_epoch_of(history, "val_acc") == 2
    assert best_epoch_of({"val_acc": [0.5, 0.7, 0.7]}, "val_acc") == 2
    assert best_epoch_of({"val_loss": [], "val_acc": []}, "val_acc") == 0
    session = SimpleNamespace(history=history, monitor="val_acc")
    assert TrainingSession.best_epoch.fget(session) == 2
