"""TODO 4.1 to 6.3: metrics, curves, cases, filters, Grad-CAM, the three questions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from labs.hw5_pneumonia import hw5_evaluate
from tests import checks
from tests.labs.hw5 import helpers

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.hw5_4_1
@pytest.mark.parametrize("threshold", [0.5, 0.37])
def test_metrics_by_counting(threshold):
    probabilities, labels = helpers.scores()
    right = counted(probabilities, labels, probabilities >= threshold)
    above = counted(probabilities, labels, probabilities > threshold)
    at_half = counted(probabilities, labels, probabilities >= 0.5)
    called = probabilities >= threshold
    auc_of_calls = (right["recall"] + right["specificity"]) / 2  # what roc_auc_score makes of 0 and 1
    mistakes = {
        "an image at the threshold is called pneumonia, so >= and not >": above,
        "the auc is that of the calls, hand the probabilities to it": {"auc": auc_of_calls},
        "specificity and recall are swapped": {"recall": right["specificity"], "specificity": right["recall"]},
        "precision and recall are swapped": {"recall": right["precision"], "precision": right["recall"]},
        "specificity is that of the ill (recall), the normal class is asked for": {"specificity": right["recall"]},
        "specificity is tn / (tn + fp)": {"specificity": right["tn"] / (right["tn"] + right["fn"])},
        "false positives and false negatives are swapped": {"fp": right["fn"], "fn": right["fp"]},
        "tn and tp are swapped, ravel() gives tn, fp, fn, tp": {"tn": right["tp"], "tp": right["tn"]},
        "in percent, return fractions": {"accuracy": 100 * right["accuracy"]},
        "the threshold is not used, 0.5 is": at_half if threshold != 0.5 else {},
        "the rates are of the wrong class, pneumonia is positive": counted(1 - probabilities, 1 - labels, ~called),
    }
    mistakes = {cause: wrong for cause, wrong in mistakes.items() if wrong}
    helpers.check_numbers(hw5_evaluate.evaluate(probabilities, labels, threshold), right, "the metrics", mistakes)


def counted(probabilities, labels, called) -> dict[str, float]:
    """The metrics by counting, for the images that are called pneumonia."""
    tp, fp = int((called & (labels == 1)).sum()), int((called & (labels == 0)).sum())
    fn, tn = int((~called & (labels == 1)).sum()), int((~called & (labels == 0)).sum())
    positive, negative = probabilities[labels == 1], probabilities[labels == 0]
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return {
        "accuracy": 1 - (fp + fn) / len(labels),
        "auc": float(pairs.mean()),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "specificity": tn / (tn + fp),
        **{"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }


@pytest.mark.hw5_4_1
def test_a_probability_at_the_threshold_is_called():
    found = hw5_evaluate.evaluate(np.array([0.5, 0.2]), np.array([1, 0]), 0.5)
    mistakes = {"an image at the threshold is called pneumonia, so >= and not >": {"tp": 0, "fn": 1}}
    helpers.check_numbers(found, {"tp": 1, "fn": 0}, "an ill image at 0.5, threshold 0.5", mistakes)


@pytest.mark.hw5_4_2
def test_areas_of_both_curves(tmp_path):
    labels = np.array([0, 1, 0, 1, 1])
    probabilities = {"good": np.array([0.1, 0.6, 0.2, 0.8, 0.9]), "poor": np.array([0.9, 0.6, 0.2, 0.8, 0.1])}
    path = tmp_path / "curves.png"
    areas = hw5_evaluate.plot_roc_and_pr(probabilities, labels, {"good": 0.5, "poor": 0.5}, path)
    helpers.check_keys(areas, ("good", "poor"), "the areas of each model")
    # By hand: of 6 pairs 2 are in order; ranked, the ill are 2nd, 3rd and 5th: (1/2 + 2/3 + 3/5) / 3.
    auc, average = 2 / 6, (1 / 2 + 2 / 3 + 3 / 5) / 3
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities["poor"])
    mistakes = {
        "average precision comes first, the AUC of the ROC is first": (average, auc),
        "average precision is the trapezoid area here, take average_precision_score": (
            auc,
            metrics.auc(recall, precision),
        ),
        "both are the AUC of the ROC": (auc, auc),
        "these are areas of the calls, hand the probabilities to the functions": (
            metrics.roc_auc_score(labels, probabilities["poor"] >= 0.5),
            metrics.average_precision_score(labels, probabilities["poor"] >= 0.5),
        ),
    }
    helpers.check_values(areas["poor"], (auc, average), "AUC and average precision of the poor model", mistakes)
    helpers.check_values(areas["good"], (1.0, 1.0), "AUC and average precision of the perfect model")
    helpers.check_picture(path)


@pytest.mark.hw5_4_3
def test_cases_are_sorted_by_distance():
    probabilities = np.array([0.9, 0.1, 0.7, 0.45, 0.3, 0.99, 0.5, 0.05]) / 2
    labels = np.array([1, 0, 0, 1, 1, 1, 1, 0])
    cases = hw5_evaluate.sort_cases(probabilities, labels, 0.25)
    right = {"TP": [5, 0, 6], "TN": [7, 1], "FP": [2], "FN": [4, 3]}
    mistakes = {
        "the threshold is not used, 0.5 is": {"TP": [], "FP": []},
        "the nearest to the threshold come first, the farthest are asked for": {"TP": [6, 0, 5], "FN": [3, 4]},
        "they are in the order of the images, the farthest from the threshold come first": {"TP": [0, 5, 6]},
        "they are sorted by probability, not by distance to the threshold": {"TP": [5, 0, 6], "TN": [1, 7]},
        "an image at the threshold is called pneumonia, so >= and not >": {"TP": [5, 0], "FN": [4, 3, 6]},
        "false positives and false negatives are swapped": {"FP": right["FN"], "FN": right["FP"]},
    }
    helpers.check_keys(cases, right, "the cases")
    found = {kind: torch.as_tensor(np.asarray(cases[kind])).flatten().tolist() for kind in right}
    causes = (text for text, wrong in mistakes.items() if all(found[kind] == wrong[kind] for kind in wrong))
    assert found == right, (
        f"the cases: {next(causes, 'images are missing, too many or in another order')}; "
        + "; ".join(
            f"{kind}: expected {right[kind]}, got {found[kind]}" for kind in right if found[kind] != right[kind]
        )
    )


@pytest.mark.hw5_5_1
def test_filters_of_the_first_layer(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3))
    weights = hw5_evaluate.plot_filters(model, tmp_path / "filters.png")
    checks.check_shape(weights, (10, 1, 3, 3), "the weights of the first convolution")
    assert not weights.requires_grad, "the weights still require a gradient; detach them"
    helpers.check_values(weights, model[0].weight, "the weights of the first convolution", {}, 0)
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


def parts_of_the_sum(model: Pooled, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients and maps (B, C, h, w): the gradient of the target logit is w / (h * w) where the ReLU lets it pass."""
    maps = model.convolution(images)
    return model.head.weight[targets][:, :, None, None] * (maps > 0) / maps[0, 0].numel(), maps


def enlarged(low: torch.Tensor, mode: str = "bilinear", align_corners: bool | None = None) -> torch.Tensor:
    """(B, h, w) → (B, 28, 28)."""
    large = nn.functional.interpolate(low.unsqueeze(1), (28, 28), mode=mode, align_corners=align_corners)
    return large.squeeze(1)


def highest_is_one(maps: torch.Tensor) -> torch.Tensor:
    """Each map divided by its largest value."""
    return maps / maps.flatten(1).max(dim=1).values[:, None, None].clamp(min=1e-30)


@torch.no_grad()
def usual_mistakes(model: Pooled, images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the maps become with the usual mistakes."""
    gradient, maps = parts_of_the_sum(model, images, targets)
    other_gradient, _ = parts_of_the_sum(model, images, 1 - targets)
    called, _ = parts_of_the_sum(model, images, model(images).argmax(1))
    raw, place_by_place = weighted_sum(gradient, maps), (gradient * maps).sum(1)
    low, high = (edge(enlarged(raw), dim=(1, 2), keepdim=True) for edge in (torch.amin, torch.amax))
    right = enlarged(raw.relu())
    return {
        "the ReLU is missing, only what speaks for the class counts": highest_is_one(enlarged(raw)),
        "the ReLU comes after enlarging, it belongs before": highest_is_one(enlarged(raw).relu()),
        "the absolute value is taken instead of the ReLU": highest_is_one(enlarged(raw.abs())),
        "the maps are not divided by their largest value": right,
        "all maps are divided by the largest value of the batch, each has its own": right / right.max(),
        "the maps are stretched from 0 to 1, the ReLU and a division by the largest are asked for": (
            enlarged(raw) - low
        )
        / (high - low),
        "the gradients are multiplied place by place, average them over height and width first": highest_is_one(
            enlarged(place_by_place.relu())
        ),
        "the activations are added up without the gradients": highest_is_one(enlarged(maps.sum(1).relu())),
        "this is the other class's map; take the logit of `targets`": highest_is_one(
            enlarged(weighted_sum(other_gradient, maps).relu())
        ),
        "this is the map of the class that the model calls; take the logit of `targets`": highest_is_one(
            enlarged(weighted_sum(called, maps).relu())
        ),
        "the maps are enlarged to the nearest place, not bilinearly": highest_is_one(enlarged(raw.relu(), "nearest")),
    }


def weighted_sum(gradient: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """(B, h, w): the maps with the mean gradient of each channel as its weight."""
    return torch.einsum("bc,bchw->bhw", gradient.flatten(2).mean(2), maps)


@torch.no_grad()
def closed_form(model: Pooled, images: torch.Tensor, targets: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The right maps: with or without aligned corners, whichever is nearer to `like`; both are bilinear."""
    low = weighted_sum(*parts_of_the_sum(model, images, targets)).relu()
    right = [highest_is_one(enlarged(low, align_corners=aligned)) for aligned in (False, True)]
    return min(right, key=lambda maps: (maps - like.detach()).abs().mean().nan_to_num(torch.inf))


def maps_of(model: Pooled, images: torch.Tensor, targets: torch.Tensor, state: str = "") -> torch.Tensor:
    """The student's maps; fail with what the model is like if there is no graph. `state`: what is special about it."""
    try:
        return hw5_evaluate.grad_cam(model, model.convolution, images, targets)
    except RuntimeError as error:
        if "require grad" not in str(error) and "does not have a grad_fn" not in str(error):
            raise
        advice = "let a copy of the images require a gradient, outside torch.no_grad()"
        pytest.fail(f"no gradient reaches the activations{state}; {advice} ({str(error)[:60]})", pytrace=False)


@pytest.mark.hw5_5_2
def test_grad_cam_in_closed_form():
    model = Pooled().eval()
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 1, 1, 0, 1])
    maps = maps_of(model, images, targets)
    checks.check_shape(maps, (5, 28, 28), "the maps of 5 images")
    assert not maps.requires_grad, "the maps still hang on the graph of the model; detach them"
    mistakes = usual_mistakes(model, images, targets)
    helpers.check_values(maps, closed_form(model, images, targets, maps), "the maps", mistakes)


@pytest.mark.hw5_5_2
def test_a_map_without_positive_values_stays_zero():
    model = Pooled().eval()
    with torch.no_grad():
        model.convolution.bias.fill_(3)
        model.head.weight[0] = -1
        model.head.weight[1] = 1
    images = 0.1 * torch.randn(2, 1, 28, 28)
    maps = maps_of(model, images, torch.tensor([0, 1]))
    assert not maps.isnan().any(), "a map is NaN where no place speaks for the class: 0 is divided by 0; leave it 0"
    largest = [maps[i].abs().max().item() for i in (0, 1)]
    assert largest[0] == 0, (
        f"where no place speaks for the class the map is 0 everywhere, got values up to {largest[0]:.3g}"
    )
    assert largest[1] == pytest.approx(1), f"expected each map divided by its own largest value, got {largest[1]:.3g}"


@pytest.mark.hw5_5_2
def test_grad_cam_leaves_the_model_as_it_was():
    model = Pooled().train()
    images, targets = torch.randn(3, 1, 28, 28), torch.tensor([1, 0, 1])
    first = maps_of(model, images, targets)
    assert model.training, "the model came in training mode and is left in evaluation mode; put back what it was"
    layer = model.convolution
    hooks = len(layer._forward_hooks) + len(layer._backward_hooks)
    assert not hooks, "a hook is left on the layer; remove it at the end, also after an error"
    assert all(weight.grad is None for weight in model.parameters()), (
        "gradients are left in the model's weights, as backward() does; torch.autograd.grad leaves none"
    )
    assert not images.requires_grad, "the images that were handed in require a gradient now; detach a copy first"
    again = maps_of(model, images, targets)
    assert torch.equal(first, again), "the same images got other maps the second time; is dropout on (model.eval())?"


@pytest.mark.hw5_5_2
def test_a_frozen_model_has_maps():
    model = Pooled().eval()
    model.requires_grad_(False)
    images, targets = torch.randn(3, 1, 28, 28), torch.tensor([1, 0, 1])
    maps = maps_of(model, images, targets, " of a frozen model, whose parameters have requires_grad=False")
    checks.check_shape(maps, (3, 28, 28), "the maps of a frozen model")
    helpers.check_values(maps, closed_form(model, images, targets, maps), "the maps of a frozen model")


@pytest.mark.hw5_5_2
def test_overlays_of_right_and_wrong_images(tmp_path):
    model = Pooled().eval()
    images = torch.randn(20, 1, 28, 28)
    labels = np.arange(20) % 2
    probabilities = np.linspace(0.02, 0.98, 20)
    path = tmp_path / "maps.png"
    chosen = hw5_evaluate.plot_grad_cam(model, model.convolution, images, labels, probabilities, 0.5, path)
    assert chosen is not None, "expected the indices of the images that are drawn, got None; is the `return` missing?"
    assert 4 <= len(chosen) <= 6, f"expected up to three right and three wrong images, 4 to 6 in all, got {len(chosen)}"
    assert len(set(chosen)) == len(chosen), f"expected each image once, got the indices {list(chosen)}"
    right = [(probabilities[i] >= 0.5) == labels[i] for i in chosen]
    assert any(right), f"none of the images {list(chosen)} was called right; take TP and TN, too"
    assert not all(right), f"none of the images {list(chosen)} was called wrong; take FP and FN, too"
    helpers.check_picture(path)


@pytest.mark.hw5_5_2
def test_maps_are_of_the_class_that_the_threshold_calls(tmp_path, monkeypatch):
    model, shown = Pooled().eval(), []

    def spy(model, layer, images, targets):
        shown.extend(zip(images.mean(dim=(1, 2, 3)).tolist(), targets.tolist(), strict=True))
        return torch.linspace(0, 1, 28).expand(len(images), 28, 28)

    monkeypatch.setattr(hw5_evaluate, "grad_cam", spy)
    probabilities, labels, path = np.linspace(0.02, 0.98, 20), np.arange(20) % 2, tmp_path / "maps.png"
    levels = torch.linspace(-0.9, 0.9, 20)
    images = levels.view(20, 1, 1, 1).repeat(1, 1, 28, 28)
    for threshold in (0.2, 0.8):
        chosen = hw5_evaluate.plot_grad_cam(model, model.convolution, images, labels, probabilities, threshold, path)
        right = sum(int((probabilities[i] >= threshold) == labels[i]) for i in chosen)
        assert 1 <= right <= 3, f"threshold={threshold}: {right} images were called right, expected up to three"
        assert 1 <= len(chosen) - right <= 3, (
            f"threshold={threshold}: {len(chosen) - right} images were called wrong, expected up to three"
        )
        for level, target in shown:
            index = int((levels - level).abs().argmin())
            called = int(probabilities[index] >= threshold)
            assert target == called, (
                f"the map of image {index} is that of class {target}; called is class {called}: its probability is "
                f"{probabilities[index]:.2f}, the threshold {threshold}, its label {labels[index]}"
            )
        shown.clear()


@helpers.answers("4.1", "4.3", "5.1", "5.2", "6.1", "6.2", "6.3")
def test_answer(number):
    helpers.check_answer(hw5_evaluate, number)
