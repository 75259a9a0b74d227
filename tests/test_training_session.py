"""What surrounds the epochs: averaged weights, resuming bit for bit, early stopping, losses that are no numbers.

The loop here is the tests' own, so that these tests say something about toolkit/training.py alone.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from classification_dataset import create_pathmnist_dataloaders
from toolkit.errors import UserError
from toolkit.medmnist_data import locate
from toolkit.runs import RunFolder, load_checkpoint
from toolkit.training import AveragedWeights, DivergedError, TrainingSession, check_loss, limited

pytestmark = pytest.mark.provided

METRICS = ("train_loss", "val_acc")
STEPS_AN_EPOCH = 4


@pytest.fixture(scope="module")
def source():
    return locate("pathmnist", dataset="sample")


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {})


def small_model() -> nn.Module:
    """With BatchNorm and Dropout, so that statistics and random numbers must be restored too."""
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4 * 13 * 13, 9))


def train(
    source: Any, last_epoch: int, run: RunFolder | None = None, *, seed: int = 0, model: nn.Module | None = None, **more
) -> tuple[dict[str, list[float]], nn.Module]:
    """A whole training with augmentation, dropout and a falling learning rate, as a new process would run it."""
    torch.manual_seed(seed)
    train_loader, val_loader, _ = create_pathmnist_dataloaders(8, source=source, seed=seed, augment="strong")
    model = small_model() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    loaders = (train_loader, val_loader)
    session = TrainingSession(model, optimizer, METRICS, loaders=loaders, scheduler=scheduler, run=run, **more)
    for _epoch in session.epochs(last_epoch):
        loss = train_one_epoch(model, train_loader, optimizer, session.after_step)
        session.history["train_loss"].append(loss)
        session.history["val_acc"].append(accuracy(session.evaluation_model(), val_loader))
    session.finish()
    return session.history, model


def train_one_epoch(model: nn.Module, loader: Any, optimizer: Any, after_step: Callable[[], None]) -> float:
    model.train()
    total = 0.0
    for step, (images, labels) in limited(loader, STEPS_AN_EPOCH):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        check_loss(loss.item(), step, optimizer)
        loss.backward()
        optimizer.step()
        after_step()
        total += loss.item()
    return total / STEPS_AN_EPOCH


@torch.no_grad()
def accuracy(model: nn.Module, loader: Any) -> float:
    model.eval()
    hits = [(model(images).argmax(dim=1) == labels).float().sum().item() for images, labels in loader]
    return sum(hits) / len(loader.dataset)


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_two_epochs_and_two_resumed_equal_four(source, tmp_path, ema_decay):
    whole, whole_model = train(source, 4, ema_decay=ema_decay)
    run = RunFolder.create(tmp_path / "run", {})
    first, _ = train(source, 2, run, ema_decay=ema_decay)
    torch.rand(7)  # whatever happened in between
    resumed, model = train(source, 4, run, ema_decay=ema_decay)
    assert first == {name: values[:2] for name, values in whole.items()}
    assert resumed == whole
    assert same_weights(model, whole_model)
    assert len(set(whole["train_loss"])) == 4  # epochs that differ, or equality would say little


def test_same_seed_same_history_and_another_seed_another(source):
    first, second, other = (train(source, 2, seed=seed, ema_decay=0.9)[0] for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_resuming_starts_after_the_last_finished_epoch(source, run):
    class Stop(Exception):
        pass

    calls = []

    def third_epoch_is_interrupted(_module, _inputs):
        calls.append(1)
        if len(calls) == 2 * (STEPS_AN_EPOCH + 19) + 2:  # 149 validation images in batches of 8: 19 calls
            raise Stop

    torch.manual_seed(0)
    model = small_model()
    model.register_forward_pre_hook(third_epoch_is_interrupted)
    with pytest.raises(Stop):
        train(source, 4, run, model=model, ema_decay=0.9)
    assert len(load_checkpoint(run.file("last.pt"))["history"]["val_acc"]) == 2
    torch.manual_seed(0)
    unbroken, _ = train(source, 4, model=small_model(), ema_decay=0.9)
    assert train(source, 4, run, ema_decay=0.9)[0] == unbroken


def test_history_file_has_one_row_an_epoch_whatever_was_there(source, run):
    train(source, 2, run)
    with open(run.file("history.csv"), "a", encoding="utf-8") as file:
        file.write("3,9,9,9,9\n")  # stopped between the two files: a row whose checkpoint is missing
    history, _ = train(source, 3, run)
    with open(run.file("history.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["train_loss"]) for row in rows] == history["train_loss"]
    assert {"learning_rate", "seconds"} <= set(rows[0])


def test_resuming_another_architecture_is_one_clear_error(source, run):
    train(source, 1, run)
    other = nn.Sequential(nn.Flatten(), nn.Linear(2352, 9))
    with pytest.raises(UserError, match=r"cannot resume from .*last\.pt") as caught:
        train(source, 2, run, model=other)
    assert "\n" not in str(caught.value)


def test_averaged_weights_follow_their_formula():
    model, decay = nn.BatchNorm1d(2), 0.5
    averaged = AveragedWeights(model, decay)
    expected = model.weight.detach().double().clone()
    for step, value in enumerate((5.0, -2.0, 3.0, 8.0, 1.0, 1.0, 4.0, 0.0, 2.0, 6.0)):
        with torch.no_grad():
            model.weight.fill_(value)
            model.num_batches_tracked.fill_(step)
        averaged.update(model)
        d = min(decay, (1 + step) / (10 + step))  # reaches 0.5 at step 8
        expected = d * expected + (1 - d) * value
        assert torch.allclose(averaged.values["weight"].double(), expected, atol=1e-5)
        assert averaged.values["num_batches_tracked"] == step  # counts are copied, not averaged


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(UserError, match="ema_decay is"):
        AveragedWeights(nn.Linear(1, 1), decay)


def test_validation_sees_the_average_and_training_goes_on_with_its_own_weights():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    session = TrainingSession(model, torch.optim.SGD(model.parameters(), lr=1.0), ("val_acc",), ema_decay=0.9)
    in_training, in_validation = [], []
    for epoch in session.epochs(2):
        in_training.append(model.weight.item())
        nn.init.constant_(model.weight, 10.0 * epoch)
        session.after_step()
        in_validation.append(session.evaluation_model().weight.item())
        session.history["val_acc"].append(0.0)
    first = 0.1 * 1 + 0.9 * 10
    second = 2 / 11 * first + 9 / 11 * 20
    assert in_training == pytest.approx([1.0, 10.0])
    assert in_validation == pytest.approx([first, second])
    session.finish()
    assert model.weight.item() == pytest.approx(second)


def test_best_checkpoint_holds_the_validated_weights_of_the_best_epoch(run):
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    session = TrainingSession(model, optimizer, ("val_acc",), run=run, best_extra={"model_name": "toy"})
    for epoch, value in zip(session.epochs(4), (0.2, 0.6, 0.6, 0.4), strict=True):
        nn.init.constant_(model.weight, float(epoch))
        session.history["val_acc"].append(value)
    best = load_checkpoint(run.file("best.pt"))
    assert best["epoch"] == session.best_epoch == 2  # the first of equals
    assert best["val_acc"] == 0.6
    assert best["model_name"] == "toy"
    assert best["state_dict"]["weight"].item() == 2.0


def test_patience_ends_a_training_that_gets_no_better():
    model = nn.Linear(1, 1)
    session = TrainingSession(model, torch.optim.SGD(model.parameters(), lr=1.0), ("val_acc",), patience=2)
    results = iter([0.1, 0.5, 0.4, 0.5, 0.9])
    for _epoch in session.epochs(5):
        session.history["val_acc"].append(next(results))
    assert session.history["val_acc"] == [0.1, 0.5, 0.4, 0.5]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_names_step_rate_and_cures(loss):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.25)
    with pytest.raises(DivergedError) as caught:
        check_loss(loss, 17, optimizer)
    for part in (str(loss), "step 17", "learning rate 0.25", "smaller", "float32"):
        assert part in str(caught.value)
    check_loss(1e30, 17, optimizer)


def test_training_stops_when_the_loss_diverges(source, run):
    model = small_model()
    with torch.no_grad():
        model[-1].weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"loss is nan at step 1 with learning rate 0\.003"):
        train(source, 2, run, model=model)
    assert not run.file("last.pt").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_result_that_is_no_number_is_not_recorded_in_silence(value):
    model = nn.Linear(1, 1)
    session = TrainingSession(model, torch.optim.SGD(model.parameters(), lr=0.5), ("val_acc",))
    epochs = session.epochs(1)
    next(epochs)
    session.history["val_acc"].append(value)
    with pytest.raises(DivergedError, match=r"val_acc is (nan|inf) after epoch 1 with learning rate 0\.5"):
        next(epochs)


@pytest.mark.parametrize("count", [0, 2])
def test_a_history_without_one_value_an_epoch_is_refused(count):
    model = nn.Linear(1, 1)
    session = TrainingSession(model, torch.optim.SGD(model.parameters(), lr=0.5), ("val_acc",))
    epochs = session.epochs(1)
    next(epochs)
    session.history["val_acc"].extend([0.5] * count)
    with pytest.raises(ValueError, match=f"'val_acc'.* has {count} values after 1 epochs"):
        next(epochs)


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 5), (0, 5), (2, 2), (9, 5)])
def test_limited_counts_from_one_and_stops_in_time(max_steps, steps):
    assert list(limited("abcde", max_steps)) == list(zip(range(1, steps + 1), "abcde", strict=False))


def test_limited_draws_no_batch_too_many():
    batches = iter(range(10))
    assert len(list(limited(batches, 3))) == 3
    assert next(batches) == 3


@pytest.mark.filterwarnings("default")  # before it was mended, the Ctrl-C ended as a warning
def test_ctrl_c_while_loader_processes_end_is_not_swallowed(monkeypatch):
    from torch.utils.data import dataloader

    end = dataloader._MultiProcessingDataLoaderIter._shutdown_workers
    presses = iter([True])

    def end_while_the_user_presses_ctrl_c(iterator):
        end(iterator)
        if next(presses, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(
        dataloader._MultiProcessingDataLoaderIter, "_shutdown_workers", end_while_the_user_presses_ctrl_c
    )
    loader = dataloader.DataLoader(range(4), num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        list(limited(loader, 2))


def test_limited_refuses_what_makes_no_sense():
    with pytest.raises(UserError, match="max_steps is -1"):
        list(limited([1], -1))
    with pytest.raises(UserError, match="no batch"):
        list(limited([], None))


def test_no_epochs_are_refused():
    model = nn.Linear(1, 1)
    session = TrainingSession(model, torch.optim.SGD(model.parameters(), lr=0.5), ("val_acc",))
    with pytest.raises(UserError, match="epochs is 0"):
        next(session.epochs(0))
