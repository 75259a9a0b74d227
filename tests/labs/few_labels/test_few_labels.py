"""The lab on few labels: its draws, its batches, its losses by hand, and one quick run from end to end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from labs.few_labels import __main__ as few_labels
from labs.few_labels import recipe, report
from toolkit import backbones
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, Split, locate, official_test
from toolkit.runs import read_json

pytestmark = pytest.mark.provided


@pytest.fixture(scope="module")
def train():
    return locate("pathmnist", dataset="sample").read("train", unlabelled=True)


def test_draws_are_nested_follow_the_classes_and_differ_by_seed(train):
    labels = train.labels[train.labels >= 0].numpy()
    whole = np.bincount(labels) / len(labels)
    drawn = {count: recipe.draw(labels, count, seed=3) for count in (45, 90, 225, 600)}
    assert set(drawn[45]) < set(drawn[90]) < set(drawn[225])
    assert sorted(drawn[600]) == list(range(600))
    for count, rows in drawn.items():
        assert np.abs(np.bincount(labels[rows], minlength=9) - count * whole).max() <= 1, count
    assert set(recipe.draw(labels, 45, seed=4)) != set(drawn[45])


def test_a_batch_has_labelled_images_then_two_views_of_the_same_unlabelled_ones(train):
    known = train.labels >= 0
    labelled = type(train)(train.images[known], train.labels[known])
    plain = recipe.Augmentation(flips=False)
    data = recipe.MixedBatches(labelled, train.images[~known], 2, plain, seed=0)
    data.weak = plain
    images, targets = data.__getitems__([5, 7, 9]).stacked
    assert targets.tolist() == [*train.labels[[5, 7, 9]].tolist(), *[recipe.WEAK] * 6, *[recipe.STRONG] * 6]
    assert torch.equal(images[3:9], images[9:]), "not the same images in both views"
    assert len({tuple(image.flatten().tolist()) for image in images[3:9]}) > 1


LOGITS = torch.tensor([[2.0, 0, 0], [9.0, 0, 0], [1.0, 0, 0], [0, 3.0, 0], [0, 0, 5.0]])
TARGETS = torch.tensor([1, recipe.WEAK, recipe.WEAK, recipe.STRONG, recipe.STRONG])


@pytest.mark.parametrize(("loss", "follows"), [(recipe.FixMatch, 3), (recipe.PseudoLabel, 1)])
def test_the_losses_are_their_formulas(loss, follows):
    """Of the two weak views one is sure (class 0); its other view is row 3, its own row 1. The second is not sure."""
    logits = LOGITS.clone().requires_grad_()
    value = loss(threshold=0.9)(logits, TARGETS)
    labelled = math.log(math.exp(2) + 2) - 0
    consistency = F.cross_entropy(LOGITS[[follows]], torch.tensor([0])).item() / 2  # a mean over both
    assert value.item() == pytest.approx(labelled + consistency, rel=1e-5)
    value.backward()
    moved = {row for row in range(5) if logits.grad[row].abs().sum() > 0}
    assert moved == {0, follows}, "the guess must not learn, nor an image that the network is not sure of"


def test_without_unlabelled_images_it_is_cross_entropy():
    logits, labels = torch.randn(6, 9), torch.arange(6)
    assert recipe.FixMatch()(logits, labels).item() == pytest.approx(F.cross_entropy(logits, labels).item())


class Certain(torch.nn.Module):
    """Answers by the brightness of an image: dark → class 0, light → class 1, with p = 0.8."""

    def __init__(self):
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(4.0).log())

    def forward(self, images):
        light = (images.mean(dim=(1, 2, 3)) > 0).float()
        return self.sharpness * torch.stack([1 - light, light, light * 0 - 9], dim=1)


def test_mixmatch_mixes_labels_as_it_mixes_images():
    """Black images of class 0, white unlabelled ones: the mean of a mixed image tells its share of white."""
    labelled = Split(torch.zeros(4, 3, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    loss = recipe.MixMatch()
    plain = recipe.Augmentation(flips=False)
    white = torch.full((8, 3, 28, 28), 255, dtype=torch.uint8)
    data = recipe.MixMatchBatches(labelled, white, 2, plain, 0, model=Certain(), loss=loss)
    data.weak = plain
    images, targets = data.__getitems__([0, 1, 2, 3]).stacked
    assert (targets == recipe.MIXED).all()
    assert (len(images), loss.count) == (4 + 2 * 8, 4)
    share_of_white = (images.mean(dim=(1, 2, 3)) + 1) / 2
    sharpened = 0.8**2 / (0.8**2 + 0.2**2)  # 0.941; the network is 0.8 sure, and sharper by the temperature
    expected = torch.stack([1 - share_of_white * sharpened, share_of_white * sharpened], dim=1)
    assert torch.allclose(loss.labels[:, :2], expected, atol=1e-4)
    assert torch.allclose(loss.labels.sum(dim=1), torch.ones(20))
    assert (share_of_white[:4] <= 0.5).all(), "an image is nearer to itself than to its partner"
    assert (share_of_white[4:] >= 0.5).all()
    assert share_of_white.unique().numel() > 4


def test_the_loss_of_mixmatch_is_its_formula():
    loss = recipe.MixMatch(weight=3.0)
    loss.labels, loss.count = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]]), 1
    logits = LOGITS[:2]
    value = loss(logits, torch.tensor([recipe.MIXED, recipe.MIXED]))
    first = -(0.7 * logits[0].log_softmax(0)[0] + 0.3 * logits[0].log_softmax(0)[1])
    second = (logits[1].softmax(0) - loss.labels[1]).square().sum() / 3
    assert value.item() == pytest.approx((first + 3 * second).item(), rel=1e-5)
    labels = torch.tensor([0, 2])
    assert loss(logits, labels).item() == pytest.approx(F.cross_entropy(logits, labels).item()), "validation images"


def test_a_row_of_members_is_the_mean_of_their_answers(tmp_path):
    """With ImageNet weights from a file (random ones here, which is all the same to the code)."""
    torch.save(backbones.build("squeezenet1_1").state_dict(), tmp_path / "weights.pth")
    words = ["--quick", "--methods", "combined", "--labels", "45", "--device", "cpu", "--precision", "float32"]
    words += ["--backbone", "squeezenet1_1", "--weights", str(tmp_path / "weights.pth")]
    seen, answers = {}, few_labels.Trained.answers

    def note(self, point, seed, split):
        seen[point.method, len(split)] = found = answers(self, point, seed, split)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_labels.Trained, "answers", note)
        few_labels.main([*words, "--output_dir", str(tmp_path / "out")])
    mean = (seen["fixmatch", 718] + seen["imagenet", 718]) / 2
    assert np.allclose(seen["combined", 718], mean)
    assert np.abs(seen["fixmatch", 718] - seen["imagenet", 718]).max() > 1e-3
    assert set(read_json(tmp_path / "out" / "results.json")["test"]) == {"combined-45"}


def test_without_weights_the_other_rows_are_trained_and_it_is_said(monkeypatch, capsys):
    source = locate("pathmnist", dataset="sample")
    monkeypatch.setattr(few_labels.backbones, "find_weights", lambda *_: None)
    assert few_labels.find_methods(["labels", "imagenet", "combined"], source, "resnet18", None) == (["labels"], None)
    assert capsys.readouterr().out == "not run, no weights: imagenet, combined\n"
    with pytest.raises(UserError, match="--methods combined need ImageNet weights; give a file with --weights"):
        few_labels.find_methods(["combined"], source, "resnet18", None)


def test_a_network_without_weights_to_download_is_said_and_an_unknown_one_refused(capsys):
    source = locate("pathmnist", dataset="sample")
    assert few_labels.find_methods(["labels", "imagenet"], source, "resnet18_2223", None) == (["labels"], None)
    assert "resnet18_2223: torchvision offers none; --weights PATH takes a file" in capsys.readouterr().out
    with pytest.raises(UserError, match="--backbone is 'resnet19'; allowed: resnet18, "):
        few_labels.find_methods(["imagenet"], source, "resnet19", None)


def test_other_weights_train_again(tmp_path, capsys):
    words = ["--quick", "--methods", "imagenet", "--labels", "45", "--backbone", "squeezenet1_1", "--device", "cpu"]
    for name in ("a.pth", "b.pth"):
        torch.save(backbones.build("squeezenet1_1").state_dict(), tmp_path / name)
        few_labels.main([*words, "--weights", str(tmp_path / name), "--output_dir", str(tmp_path / "out")])
    assert "imagenet-45, seed 0: trained again, because weights changed" in capsys.readouterr().out


def test_mirror_images_are_averaged():
    class Corner(torch.nn.Module):
        def forward(self, images):
            return images[:, 0, 0, :2] * 5  # sees the upper left corner only

    images = torch.rand(3, 3, 28, 28)
    mirrored = recipe.answers(Corner(), images.flip(2, 3), 4)
    assert np.allclose(recipe.answers(Corner(), images, 4), mirrored, atol=1e-6)
    assert not np.allclose(recipe.answers(Corner(), images, 1), recipe.answers(Corner(), images.flip(2, 3), 1))


def test_a_quick_run_reads_the_test_images_once_and_last(tmp_path, monkeypatch):
    reads, read = [], Source.read
    monkeypatch.setattr(Source, "read", lambda self, *a, **k: reads.append((self.name, a[0])) or read(self, *a, **k))
    words = [
        "--quick",
        "--methods",
        "labels",
        "fixmatch",
        "--labels",
        "45",
        "--device",
        "cpu",
        "--precision",
        "float32",
    ]
    few_labels.main([*words, "--output_dir", str(tmp_path)])
    assert reads[-1] == ("pathmnist-official-test-tenth", "test")
    assert [split for _name, split in reads].count("test") == 1
    results, table = read_json(tmp_path / "results.json"), (tmp_path / "table.md").read_text(encoding="utf-8")
    assert set(results["test"]) == {"labels-45", "fixmatch-45"}
    run = read_json(tmp_path / "runs" / "labels-45-seed0" / "results.json")
    assert run["validation"] == read_json(tmp_path / "choices.json")["validation"]["labels-45"][0]
    assert read_json(tmp_path / "choices.json")["chosen"] == results["chosen"]
    assert "QUICK RUN" in table
    assert report.NOT_THE_SAME in table
    assert "| 45 | 45 | 1751 |" in table, "labels, validation images, unlabelled images"
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_more_labels_than_there_are_is_a_mistake():
    assert official_test(locate("pathmnist", dataset="sample")).has("test")
    with pytest.raises(UserError, match=r"--labels is 601; allowed: 9 \.\. 600"):
        few_labels.main(["--labels", "601"])


def test_the_picture_leaves_no_method_out(monkeypatch, tmp_path):
    """Also with one that a student has added."""
    own = {f"own {number}": recipe.Method(f"my method {number}") for number in range(4)}
    monkeypatch.setattr(report, "METHODS", recipe.METHODS | own)
    drawn = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: drawn.append(figure))
    points = {few_labels.Point(name, 45): [{"balanced_accuracy": 0.8}] for name in report.METHODS}
    report.draw(points, tmp_path / "curve.png", quick=False)
    names = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert {method.title for method in report.METHODS.values()} < set(names)
