"""The metrics that the mains report: against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import nn

from segmentation_train import evaluate_segmentation_model
from toolkit import metrics
from toolkit.expectations import QUICK, Expectation
from toolkit.metrics import classification_metrics, confusion_matrix, predict

pytestmark = pytest.mark.provided


def random_case(classes: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that know something of their labels; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    logits = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 9])
def test_figures_are_those_of_scikit_learn(classes):
    probabilities, labels = random_case(classes, 120)
    predicted = probabilities.argmax(axis=1)
    scores = probabilities / probabilities.sum(axis=1, keepdims=True)
    one_hot = np.eye(classes)[labels]
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn_metrics.f1_score(labels, predicted, average="macro"),
        "macro_auc": sklearn_metrics.roc_auc_score(one_hot, scores, average="macro"),
        "macro_average_precision": sklearn_metrics.average_precision_score(one_hot, scores, average="macro"),
    }
    assert classification_metrics(probabilities, labels) == pytest.approx(expected, abs=1e-6)
    assert expected["accuracy"] != pytest.approx(expected["macro_f1"], abs=1e-6)  # values that can be told apart


def test_a_class_that_does_not_occur_is_left_out_and_a_single_one_has_no_auc():
    probabilities, labels = random_case(3, 60)
    without = labels < 2
    metrics_found = classification_metrics(probabilities[without], labels[without])
    auc = [sklearn_metrics.roc_auc_score(labels[without] == c, probabilities[without][:, c]) for c in (0, 1)]
    assert metrics_found["macro_auc"] == pytest.approx(np.mean(auc), abs=1e-6)
    only = labels == 1
    metrics_found = classification_metrics(probabilities[only], labels[only])
    assert (metrics_found["macro_auc"], metrics_found["macro_average_precision"]) == (None, None)


def test_a_final_report_says_each_class_its_interval_and_the_gap():
    probabilities, labels = random_case(3, 90)
    report = metrics.final_report(
        probabilities, labels, "abc", {"accuracy": 0.9, "balanced_accuracy": 1, "macro_auc": 1}
    )
    predicted = probabilities.argmax(axis=1)
    right = (predicted == labels).mean()
    assert report["gap"]["accuracy"] == pytest.approx(0.9 - right)
    assert report["recall_of_each_class"]["b"] == pytest.approx((predicted[labels == 1] == 1).mean())
    assert len(set(report["recall_of_each_class"].values())) == 3, "classes that can be told apart"
    low, high = report["intervals"]["accuracy"]
    error = np.sqrt(right * (1 - right) / 90)  # of a share; the bootstrap's interval is about 2 x 1.96 of it
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)
    text = metrics.describe_final(report, "here")
    assert f"accuracy {right:.4f} (95 % interval {low:.3f} to {high:.3f})" in text
    assert f"{100 * (0.9 - right):+.1f} points" in text


@pytest.mark.parametrize("count", [90, 4])
def test_the_metrics_of_the_bootstrap_are_the_same_ones(count):
    probabilities, labels = random_case(3, 90)
    probabilities, labels = np.round(probabilities[:count], 1), labels[:count]  # rounded: with ties
    expected = classification_metrics(probabilities, labels)
    found = metrics._headline(probabilities, labels)
    assert found == pytest.approx({name: expected[name] for name in metrics.HEADLINE})


def test_boxes_are_reported_by_tissue():
    """A model that finds the left half: IoU 1 on tissue 0, 1/2 on tissue 1, whose boxes are the whole image."""
    masks = torch.ones(4, 1, 4, 4)
    masks[:2, ..., 2:] = 0
    batch = {"image": torch.zeros(4, 3, 4, 4), "mask": masks, "pathmnist_label": torch.tensor([0, 0, 1, 1])}

    class LeftHalf(nn.Module):
        def forward(self, images):
            return torch.cat([torch.ones(len(images), 1, 4, 2), torch.zeros(len(images), 1, 4, 2)], dim=-1)

    report = metrics.final_box_report(LeftHalf(), [batch], torch.device("cpu"), ("a", "b", "c"), 0.9)
    assert report["mean_iou_of_each_class"] == {"a": 1.0, "b": 0.5}
    assert report["gap"] == {"mean_iou": pytest.approx(0.15)}
    assert "a 1.00, b 0.50" in metrics.describe_final({"mean_iou": 0.75, **report}, "here")


def test_confusion_matrix_has_the_true_class_in_its_rows():
    probabilities = np.eye(3)[[1, 1, 2, 0]]
    assert confusion_matrix(probabilities, np.array([0, 1, 1, 0])).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("labels_shape", [(-1,), (-1, 1)])
def test_predictions_come_in_order_and_leave_the_model_as_it_was(labels_shape):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = torch.randn(5, 1, 2, 2), torch.tensor([2, 0, 1, 1, 0])
    loader = [(images[:2], labels[:2].view(labels_shape)), (images[2:], labels[2:].view(labels_shape))]
    probabilities, found = predict(model, loader, torch.device("cpu"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.tolist() == labels.tolist()
    expected = torch.softmax(model.eval()(images), dim=1).detach().numpy()
    assert probabilities == pytest.approx(expected, abs=1e-6)


class KnownMasks(nn.Module):
    """Predicts row `image[0, 0, 0]` of a table of masks."""

    def __init__(self, masks: torch.Tensor) -> None:
        super().__init__()
        self.masks = nn.Parameter(masks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.masks[images[:, 0, 0, 0].long()]


def test_evaluation_of_segmentation_counts_every_image_once():
    """IoUs of exactly 0, 0.5, 0.9, 0.95 and 1 by hand: each edge belongs to the bin above it, 1 to the last."""
    true = torch.zeros(5, 1, 10, 10)
    true[:, :, :, :] = 1
    predicted = true.clone()
    for image, pixels in enumerate((0, 50, 90, 95, 100)):
        predicted[image].view(-1)[pixels:] = 0
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 10, 10)
    has_box = torch.tensor([True, True, False, True, True])
    batches = [
        {"image": images[part], "mask": true[part], "has_box": has_box[part]} for part in (slice(0, 4), slice(4, 5))
    ]
    result = evaluate_segmentation_model(KnownMasks(predicted), batches, "by hand")
    iou = np.array([0, 0.5, 0.9, 0.95, 1])
    assert result["mean_iou"] == pytest.approx(iou.mean(), abs=1e-6)  # over images, not over batches
    assert result["std_iou"] == pytest.approx(iou.std(), abs=1e-6)
    assert (result["samples_with_boxes"], result["total_samples"], result["box_ratio"]) == (4, 5, 0.8)
    assert {name: count for name, count in result["iou_distribution"].items() if count} == {
        "0.00-0.50": 1,
        "0.50-0.70": 1,
        "0.90-0.95": 1,
        "0.95-0.99": 1,
        "0.99-1.00": 1,
    }


def test_expectations_are_those_of_the_course():
    metrics_found = {f"{task} {model}": str(expectation) for (task, model), expectation in QUICK.items()}
    assert metrics_found == {
        "classification mlp": "about 32%",
        "classification cnn": "> 54%",
        "segmentation mlp": "about 43%",
        "segmentation cnn": "> 94%",
        "segmentation unet": "> 96%",
    }
    assert not Expectation(0.54).is_met(0.54), "more than is demanded"
    assert Expectation(0.32, about=True).is_met(0.32)
