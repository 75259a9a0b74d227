"""The grader's own arithmetic against torch and against a second way; and what its drawn problems ask for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from staff.grader import fresh_data, oracle
from staff.student_side.plain_models import build_optimizer, build_plain

ROOT = Path(__file__).resolve().parents[3]


def random_masks(seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.02, 0.98, (5, 1, 28, 28)).astype(np.float32), fresh_data.rectangles(rng, 5)


@pytest.mark.parametrize("smooth", [0.5, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["mean over images", "whole batch"])
def test_dice_gradient_is_autograds(smooth, kind):
    pred, target = random_masks()
    p, t = torch.tensor(pred, dtype=torch.float64, requires_grad=True), torch.tensor(target, dtype=torch.float64)
    axes = (1, 2, 3) if kind == "mean over images" else (0, 1, 2, 3)
    loss = (1 - (2 * (p * t).sum(axes) + smooth) / (p.sum(axes) + t.sum(axes) + smooth)).mean()
    loss.backward()
    assert oracle.dice_losses(pred, target, smooth)[kind] == pytest.approx(loss.item(), abs=1e-9)
    assert np.allclose(oracle.dice_gradients(pred, target, smooth)[kind], p.grad.numpy(), atol=1e-10)


def test_smoothing_term_is_found_and_only_for_dice():
    pred, target = random_masks(1)
    for value in oracle.dice_losses(pred, target, 7.0).values():
        assert oracle.smooth_of(value, pred, target) is not None
    jaccard = 1 - (pred * target).sum() / (pred + target - pred * target).sum()
    assert oracle.smooth_of(float(jaccard), pred, target) is None


def test_iou_of_known_masks():
    masks = np.zeros((3, 1, 4, 4), np.float32)
    pred = masks.copy()
    masks[0, 0, :2], pred[0, 0, 1:3] = 1, 1  # 4 of 12 pixels in common
    masks[1, 0, 0] = 1  # missed
    assert oracle.iou(pred, masks) == [pytest.approx(4 / 12), 0.0, 1.0]  # two empty masks agree


def test_epoch_is_plain_torch():
    """Weights after an epoch with momentum, the ragged last batch included, by a second implementation."""
    layers = [["flatten"], ["linear", 2352, 5], ["relu"], ["linear", 5, 9]]
    state = oracle.new_state(layers, 3)
    rng = np.random.default_rng(0)
    images, labels = fresh_data.noise(rng, 20), fresh_data.labels(rng, 20)
    settings = {"lr": 0.1, "momentum": 0.9}
    epoch = oracle.run_epoch(
        layers, state, images, labels, batch_size=8, criterion=("cross_entropy",), optimizer=("sgd", settings)
    )
    weights = {name: torch.tensor(array, requires_grad=True) for name, array in state.items()}
    speed = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for start in (0, 8, 16):
        x = torch.tensor(images[start : start + 8]).flatten(1)
        hidden = (x @ weights["1.weight"].T + weights["1.bias"]).relu()
        logits = hidden @ weights["3.weight"].T + weights["3.bias"]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[start : start + 8]))
        slopes = torch.autograd.grad(loss, list(weights.values()))
        with torch.no_grad():
            for (name, weight), slope in zip(weights.items(), slopes, strict=True):
                speed[name] = 0.9 * speed[name] + slope
                weight -= 0.1 * speed[name]
    for name, weight in weights.items():
        assert np.allclose(epoch.state[name], weight.detach().numpy(), atol=1e-6)
    assert [len(metric) for metric in epoch.metrics] == [8, 8, 4]


def nearest(task, count: int, fresh: int):
    """(answers of the 7 nearest training images for fresh ones, right answers)."""
    images, answers = task.draw(count)
    queries, right = task.draw(fresh)
    distances = torch.cdist(torch.tensor(queries).flatten(1), torch.tensor(images).flatten(1))
    return torch.tensor(answers)[distances.topk(7, largest=False).indices], right


@pytest.mark.parametrize(("task", "bound"), [(fresh_data.ProductTask, 0.65), (fresh_data.AnywhereTask, 0.45)])
def test_looking_up_neighbours_does_not_pass(task, bound):
    """The thresholds are 0.80 and 0.60: see the attack nearest_neighbours."""
    found, right = nearest(task(np.random.default_rng(0)), 4096, 400)
    assert (torch.mode(found, dim=1).values.numpy() == right).mean() < bound


@pytest.mark.parametrize(("linear", "bound"), [(False, 0.57), (True, 0.77)])
def test_looking_up_masks_does_not_pass(linear, bound):
    """The thresholds are 0.65 and 0.85."""
    found, right = nearest(fresh_data.FieldTask(np.random.default_rng(0), linear, distracting=True), 1024, 100)
    assert np.mean(oracle.iou(found.mean(dim=1).numpy(), right)) < bound


def test_linear_problem_is_linear():
    """Least squares on the images solves it, so a linear model can."""
    task = fresh_data.LinearTask(np.random.default_rng(0))
    images, labels = task.draw(1500)
    x = np.c_[images.reshape(1500, -1), np.ones(1500)].astype(np.float64)
    solution = np.linalg.lstsq(x[:1200] @ x[:1200].T + 10 * np.eye(1200), np.eye(9)[labels[:1200]], rcond=None)[0]
    guessed = (x[1200:] @ x[:1200].T @ solution).argmax(axis=1)
    assert (guessed == labels[1200:]).mean() > 0.8  # the check asks for 0.75


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sgd", {"lr": 0.1}), ("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}), ("adam", {"lr": 0.01})],
)
def test_optimizers_without_the_compiler_take_torchs_own_steps(name: str, settings: dict) -> None:
    layers = [["flatten"], ["linear", 48, 6], ["relu"], ["linear", 6, 2]]
    ours, theirs = build_plain(layers), build_plain(layers)
    theirs.load_state_dict(ours.state_dict())
    optimizers = [build_optimizer(name, ours, settings)]
    optimizers.append({"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](theirs.parameters(), **settings))
    for seed in range(4):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
            optimizer.step()
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, expected)
    assert isinstance(optimizers[0], type(optimizers[1]))


def test_a_step_of_the_grader_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from staff.student_side.plain_models import build_optimizer\n"
        "model = torch.nn.Linear(2, 2); optimizer = build_optimizer('sgd', model, {'lr': 1.0})\n"
        "optimizer.zero_grad(); model(torch.ones(1, 2)).sum().backward(); optimizer.step()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
