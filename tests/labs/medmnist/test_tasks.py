"""tasks.py: several labels and grades as yes-or-no questions, their figures, and class weights that are taken out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional as F

from labs.medmnist_experiments import common, tasks
from labs.medmnist_experiments.command_line import shared_parser
from labs.medmnist_experiments.tasks import CLASSES, GRADES, LABELS, Task
from tests.labs.medmnist.small_sets import small_set, source_of, words
from toolkit.batches import make_loader
from toolkit.errors import UserError
from toolkit.medmnist_data import Split

NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("flag", "kind", "outputs"),
    [
        ("chestmnist", LABELS, 14),
        ("retinamnist", GRADES, 4),
        ("breastmnist", CLASSES, 2),
        ("organmnist3d", CLASSES, 11),
    ],
)
def test_kinds_of_the_official_sets(flag, kind, outputs, tmp_path):
    task = Task.of(source_of(flag, tmp_path))
    assert (task.kind, task.outputs) == (kind, outputs)


def test_questions_train_with_binary_cross_entropy():
    task, scores = Task(LABELS, NAMES), torch.randn(6, 4)
    labels = torch.randint(0, 2, (6, 4))
    answers = task.prepared(nn.Identity())(scores)  # (24, 2)
    loss = task.criterion(labels, weighted=False)(answers, task.targets(labels).flatten())
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(scores, labels.float()))
    torch.testing.assert_close(F.cross_entropy(answers, labels.flatten()), loss)
    hits = (answers.argmax(dim=1) == labels.flatten()).float().mean()  # what the loop counts
    torch.testing.assert_close(hits, ((scores > 0).long() == labels).float().mean())


def test_rare_labels_weigh_as_much_as_frequent_ones():
    labels = torch.tensor([[1, 1], [0, 1], [0, 1], [0, 0]])
    criterion = Task(LABELS, NAMES[:2]).criterion(labels, weighted=True)
    torch.testing.assert_close(criterion.positive_weight, torch.tensor([3.0, 1 / 3]))
    scores = torch.randn(4, 2)
    answers = tasks.Questions(nn.Identity())(scores)
    by_hand = F.binary_cross_entropy_with_logits(scores, labels.float(), pos_weight=torch.tensor([3.0, 1 / 3]))
    torch.testing.assert_close(criterion(answers, labels.flatten()), by_hand)


def test_grades_become_steps_and_come_back():
    task = Task(GRADES, NAMES)
    assert task.targets(torch.tensor([0, 1, 3])).tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]
    yes = np.array([[0.9, 0.6, 0.2], [0.3, 0.5, 0.1]])  # the second contradicts itself
    answers = np.stack([1 - yes, yes], axis=-1).reshape(-1, 2)
    probabilities = task.probabilities(answers)
    np.testing.assert_allclose(probabilities, [[0.1, 0.3, 0.4, 0.2], [0.7, 0.0, 0.2, 0.1]], atol=1e-12)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_share_of_right_steps_is_one_minus_the_mean_error():
    """What the loop watches for grades is a figure of its own right: 1 - mean |grade said - grade| / steps."""
    labels, said = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([0, 3, 1, 3, 0])
    task = Task(GRADES, NAMES)
    share = (task.targets(labels) == task.targets(said)).float().mean()
    torch.testing.assert_close(share, 1 - (labels - said).abs().float().mean() / 3)


def test_figures_of_grades():
    labels = np.array([0, 1, 2, 3, 3, 0, 1, 2])
    said = np.array([0, 1, 3, 3, 2, 0, 0, 2])
    found = Task(GRADES, NAMES).measure(np.eye(4)[said] * 0.97 + 0.0075, labels)
    assert found["mean_absolute_error"] == pytest.approx(3 / 8)
    assert found["accuracy"] == pytest.approx(5 / 8)
    kappa = 1 - 3 / np.mean([(a - b) ** 2 for a in said for b in labels]) / len(labels)
    assert found["quadratic_kappa"] == pytest.approx(kappa)


def test_figures_of_several_labels():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (50, 4))
    labels[:, 3] = 0  # no image has it: its AUC is not defined
    probabilities = random.random((50, 4))
    found = Task(LABELS, NAMES).measure(probabilities, labels)
    each = [metrics.roc_auc_score(labels[:, k], probabilities[:, k]) for k in range(3)]
    assert found["auc"] == pytest.approx(np.mean(each))
    assert found["auc_of_each_label"] == pytest.approx({"a": each[0], "b": each[1], "c": each[2], "d": None})
    assert found["label_accuracy_of_always_no"] == pytest.approx(1 - labels.mean())
    assert "accuracy" not in found


def test_argmax_accuracy_of_several_labels_is_refused_with_the_reason():
    with pytest.raises(UserError, match="may have none or several of its 4 labels") as caught:
        Task(LABELS, NAMES).check_metric("accuracy")
    assert "--metric auc" in str(caught.value)
    assert "\n" not in str(caught.value)
    Task(LABELS, NAMES).check_metric("auc")
    Task(GRADES, NAMES).check_metric("accuracy")


def test_balanced_loss_is_the_weighted_one_of_shifted_logits():
    task, labels = Task(CLASSES, NAMES[:3]), torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = task.weights(labels)
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    logits = torch.randn(10, 3)
    shifted = F.cross_entropy(logits + weights.log(), labels, weight=weights)
    torch.testing.assert_close(task.criterion(labels, weighted=True)(logits, labels), shifted)
    torch.testing.assert_close(task.criterion(labels, weighted=False)(logits, labels), F.cross_entropy(logits, labels))


def test_classes_weigh_the_same_and_answers_stay_probabilities_of_the_data():
    """The best constant answer to the balanced loss is the share of each class; to a plainly weighted one it is 1/2."""
    task, labels = Task(CLASSES, NAMES[:2]), torch.tensor([0] * 30 + [1] * 10)

    def best_answer(criterion: nn.Module) -> np.ndarray:
        logits = nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.LBFGS([logits], max_iter=50)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = criterion(logits.expand(40, 2), labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        return logits.detach().softmax(0).numpy()

    assert best_answer(task.criterion(labels, weighted=True)) == pytest.approx([0.75, 0.25], abs=1e-3)
    assert best_answer(nn.CrossEntropyLoss(weight=task.weights(labels))) == pytest.approx([0.5, 0.5], abs=1e-3)


def test_a_class_without_images_is_named():
    with pytest.raises(UserError, match="no image of 'b'"):
        Task(CLASSES, NAMES[:2]).weights(torch.tensor([0, 0]))


@pytest.mark.parametrize("flag", ["chestmnist", "retinamnist", "breastmnist", "nodulemnist3d"])
def test_batches_of_every_kind(flag, tmp_path):
    source = source_of(flag, tmp_path)
    task, split = Task.of(source), source.read("train")
    loader = make_loader(tasks.Samples(split, task), 8, shuffle=False)
    images, targets = next(iter(loader))
    assert images.shape == (8, *split.images.shape[1:])
    assert images.dtype == torch.float32
    assert images.amin() >= -1
    assert images.amax() <= 1
    per_image = 1 if task.kind == CLASSES else task.outputs
    torch.testing.assert_close(targets, task.targets(split.labels[:8]).flatten())
    assert len(targets) == 8 * per_image


def test_no_batch_of_one_image(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMNIST_VERIFY", "0")
    small_set("breastmnist", tmp_path)
    parser = shared_parser("trial", "", flag="breastmnist", epochs=1)
    experiment = common.begin("trial", vars(parser.parse_args(words("breastmnist", tmp_path))))
    train, _val = experiment.loaders(seed=0)
    assert sorted(len(labels) for _images, labels in train)[0] > 1
    assert sum(len(labels) for _images, labels in train) == 33


def test_one_split_is_not_changed_by_its_targets():
    split = Split(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 2, 3]))
    tasks.Samples(split, Task(GRADES, NAMES))
    assert split.labels.tolist() == [0, 2, 3]
