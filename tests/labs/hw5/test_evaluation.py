"""TODO 3.3 to 6.3: the table, metrics, curves, cases, filters, Grad-CAM, the three questions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from labs.hw5_pneumonia import hw5_evaluate
from tests.labs.hw5 import helpers

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.hw5_3_3
def test_the_table():
    names = ("accuracy", "auc", "precision", "recall", "f1")
    measured = {name: (0.9 + i / 1000, 0.01) for i, name in enumerate(names)}
    single = dict.fromkeys(names, (0.8125, None))
    text = hw5_evaluate.comparison_table({"CNN": measured, "ResNet": single, "pretrained": "not run: no weights"})
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.strip().splitlines()]
    assert [cell.lower() for cell in rows[0][1:]] == list(names)
    assert [row[0] for row in rows[2:]] == ["CNN", "ResNet", "pretrained"]
    assert all(len(row) == 6 for row in rows), "every row has a cell for each of the five figures"
    assert "0.904" in rows[2][5], "F1 in the last column"
    assert "0.010" in rows[2][5], "mean and standard deviation"
    assert rows[3][1] in ("0.812", "0.813"), "one seed has no standard deviation"
    assert "not run: no weights" in rows[4], "a model that was not run says why and shows no figures"
    assert not any(character.isdigit() for cell in rows[4] for character in cell)


@pytest.mark.hw5_4_1
@pytest.mark.parametrize("threshold", [0.5, 0.37])
def test_metrics_by_counting(threshold):
    probabilities, labels = helpers.scores()
    called = probabilities >= threshold
    tp, fp = int((called & (labels == 1)).sum()), int((called & (labels == 0)).sum())
    fn, tn = int((~called & (labels == 1)).sum()), int((~called & (labels == 0)).sum())
    positive, negative = probabilities[labels == 1], probabilities[labels == 0]
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    assert hw5_evaluate.evaluate(probabilities, labels, threshold) == pytest.approx(
        {
            "accuracy": (tp + tn) / 60,
            "auc": float(pairs.mean()),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "specificity": tn / (tn + fp),
            "tn": tn,
            "fp": fp,
            "fn": fn,
            "tp": tp,
        }
    )


@pytest.mark.hw5_4_1
def test_a_probability_at_the_threshold_is_called():
    found = hw5_evaluate.evaluate(np.array([0.5, 0.2]), np.array([1, 0]), 0.5)
    assert (found["tp"], found["fn"]) == (1, 0)


@pytest.mark.hw5_4_1
def test_answer_on_metrics():
    helpers.check_answer(hw5_evaluate.evaluate, "4.1")


@pytest.mark.hw5_4_2
def test_areas_of_both_curves(tmp_path):
    labels = np.array([0, 1, 0, 1, 1])
    probabilities = {"good": np.array([0.1, 0.6, 0.2, 0.8, 0.9]), "poor": np.array([0.9, 0.6, 0.2, 0.8, 0.1])}
    path = tmp_path / "curves.png"
    areas = hw5_evaluate.plot_roc_and_pr(probabilities, labels, {"good": 0.5, "poor": 0.5}, path)
    assert areas["good"] == pytest.approx((1.0, 1.0))
    # By hand: of 6 pairs 2 are in order; ranked, the ill are 2nd, 3rd and 5th: (1/2 + 2/3 + 3/5) / 3.
    assert areas["poor"] == pytest.approx((2 / 6, (1 / 2 + 2 / 3 + 3 / 5) / 3))
    helpers.check_picture(path)


@pytest.mark.hw5_4_3
def test_cases_are_sorted_by_distance():
    probabilities = np.array([0.9, 0.1, 0.7, 0.45, 0.3, 0.99, 0.5, 0.05])
    labels = np.array([1, 0, 0, 1, 1, 1, 1, 0])
    cases = hw5_evaluate.sort_cases(probabilities, labels, 0.5)
    assert {kind: [int(i) for i in found] for kind, found in cases.items()} == {
        "TP": [5, 0, 6],
        "TN": [7, 1],
        "FP": [2],
        "FN": [4, 3],
    }


@pytest.mark.hw5_4_3
def test_answer_on_errors():
    helpers.check_answer(hw5_evaluate.sort_cases, "4.3")


@pytest.mark.hw5_5_1
def test_filters_of_the_first_layer(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3))
    weights = hw5_evaluate.plot_filters(model, tmp_path / "filters.png")
    assert torch.equal(weights, model[0].weight.detach()), "these are not the weights of the first convolution"
    assert not weights.requires_grad
    helpers.check_picture(tmp_path / "filters.png")


class Pooled(nn.Module):
    """Convolution, ReLU, mean over all places, one linear layer: its Grad-CAM is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.convolution = nn.Conv2d(1, 6, 3, stride=2)
        self.head = nn.Linear(6, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.convolution(images).relu().mean(dim=(2, 3))))


def closed_form(model: Pooled, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The gradient of the target logit at a place is w / (h * w) where the ReLU lets it pass."""
    maps = model.convolution(images)  # (B, C, h, w)
    gradient = model.head.weight[targets][:, :, None, None] * (maps > 0) / maps[0, 0].numel()
    slopes = gradient.flatten(2).mean(2)  # (B, C)
    summed = torch.einsum("bc,bchw->bhw", slopes, maps).relu().unsqueeze(1)
    summed = nn.functional.interpolate(summed, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (summed / summed.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)).detach()


@pytest.mark.hw5_5_2
def test_grad_cam_in_closed_form():
    model = Pooled().eval()
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 1, 1, 0, 1])
    maps = hw5_evaluate.grad_cam(model, model.convolution, images, targets)
    assert maps.shape == (5, 28, 28)
    assert not maps.requires_grad
    torch.testing.assert_close(maps, closed_form(model, images, targets), atol=1e-5, rtol=0)


@pytest.mark.hw5_5_2
def test_a_map_without_positive_values_stays_zero():
    model = Pooled().eval()
    with torch.no_grad():
        model.convolution.bias.fill_(3)
        model.head.weight[0] = -1
        model.head.weight[1] = 1
    images = 0.1 * torch.randn(2, 1, 28, 28)
    maps = hw5_evaluate.grad_cam(model, model.convolution, images, torch.tensor([0, 1]))
    assert not maps[0].any()
    assert maps[1].max() == pytest.approx(1)


@pytest.mark.hw5_5_2
def test_grad_cam_leaves_the_model_as_it_was():
    model = Pooled().train()
    model.requires_grad_(False)  # frozen layers have maps, too
    images, targets = torch.randn(3, 1, 28, 28), torch.tensor([1, 0, 1])
    first = hw5_evaluate.grad_cam(model, model.convolution, images, targets)
    assert model.training
    assert not model.convolution._forward_hooks, "a hook is left behind"
    assert not model.convolution._backward_hooks
    assert all(weight.grad is None for weight in model.parameters())
    assert not images.requires_grad
    assert torch.equal(first, hw5_evaluate.grad_cam(model, model.convolution, images, targets)), "dropout is off"


@pytest.mark.hw5_5_2
def test_overlays_of_right_and_wrong_images(tmp_path):
    model = Pooled().eval()
    images = torch.randn(20, 1, 28, 28)
    labels = np.arange(20) % 2
    probabilities = np.linspace(0.02, 0.98, 20)
    path = tmp_path / "maps.png"
    chosen = hw5_evaluate.plot_grad_cam(model, model.convolution, images, labels, probabilities, 0.5, path)
    assert 4 <= len(chosen) <= 6
    assert len(set(chosen)) == len(chosen)
    right = [(probabilities[i] >= 0.5) == labels[i] for i in chosen]
    assert any(right), "no image that was called right"
    assert not all(right), "no image that was called wrong"
    helpers.check_picture(path)


@pytest.mark.parametrize(
    "number", [pytest.param(f"6.{i}", marks=getattr(pytest.mark, f"hw5_6_{i}")) for i in (1, 2, 3)]
)
def test_answer_to_the_question(number):
    helpers.check_answer(hw5_evaluate.reflection, number)
