"""What surrounds the epochs: averaged weights, resuming bit for bit, early stopping, losses that are not finite.

The loop here is the tests' own, so that these tests say something about toolkit/training.py alone.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from classification_dataset import create_pathmnist_dataloaders
from tests.session_tools import (
    METRICS,
    STEPS_PER_EPOCH,
    same_weights,
    small_model,
    toy_session,
    train,
)
from toolkit.errors import UserError
from toolkit.experiment import step_facts
from toolkit.medmnist_data import locate
from toolkit.runs import RunFolder, load_checkpoint
from toolkit.step_log import read_steps
from toolkit.training import DivergedError, TrainingSession

pytestmark = pytest.mark.provided


@pytest.fixture(scope="module")
def source():
    return locate("pathmnist", dataset="sample")


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {})


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
        if len(calls) == 2 * (STEPS_PER_EPOCH + 19) + 2:  # 149 validation images in batches of 8: 19 calls
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


def test_history_file_has_one_row_per_epoch_whatever_was_there(source, run):
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


def test_best_checkpoint_holds_the_validated_weights_of_the_best_epoch(run):
    model = nn.Linear(1, 1, bias=False)
    session = toy_session(model, epochs=4, run=run, best_extra={"model_name": "toy"})
    for epoch, value in zip(session.epochs(), (0.2, 0.6, 0.6, 0.4), strict=True):
        nn.init.constant_(model.weight, float(epoch))
        session.history["val_acc"].append(value)
    best = load_checkpoint(run.file("best.pt"))
    assert best["epoch"] == session.best_epoch == 2  # the first of equals
    assert best["val_acc"] == 0.6
    assert best["model_name"] == "toy"
    assert best["state_dict"]["weight"].item() == 2.0


def test_patience_ends_a_training_that_gets_no_better():
    session = toy_session(epochs=5, patience=2)
    results = iter([0.1, 0.5, 0.4, 0.5, 0.9])
    for _epoch in session.epochs():
        session.history["val_acc"].append(next(results))
    assert session.history["val_acc"] == [0.1, 0.5, 0.4, 0.5]


def test_training_stops_when_the_loss_diverges(source, run):
    model = small_model()
    with torch.no_grad():
        model[-1].weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"loss is nan at step 1 with learning rate 0\.003; .*--precision float32"):
        train(source, 2, run, model=model)
    assert not run.file("last.pt").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_result_that_is_not_finite_is_named(value):
    session = toy_session()
    epochs = session.epochs()
    next(epochs)
    session.history["val_acc"].append(value)
    with pytest.raises(DivergedError, match=r"val_acc is (nan|inf) after epoch 1 with learning rate 0\.5"):
        next(epochs)


@pytest.mark.parametrize("count", [0, 2])
def test_a_history_without_one_value_per_epoch_is_refused(count):
    session = toy_session()
    epochs = session.epochs()
    next(epochs)
    session.history["val_acc"].extend([0.5] * count)
    with pytest.raises(UserError, match=f"'val_acc'.* has {count} values after 1 epochs"):
        next(epochs)


def test_a_number_in_the_place_of_a_list_is_refused():
    session = toy_session()
    epochs = session.epochs()
    next(epochs)
    session.history["val_acc"] = 0.5
    with pytest.raises(UserError, match=r"'val_acc'.* has no list of values after 1 epochs; append"):
        next(epochs)


@pytest.mark.parametrize(
    "value",
    [
        0.25,
        np.float32(0.25),
        np.array(0.25),
        np.array([0.25]),
        torch.tensor(0.25),
        torch.tensor([0.25]),
        torch.tensor(0.25, requires_grad=True),
    ],
    ids=repr,
)
def test_whatever_is_a_number_becomes_a_float(value, run):
    session = toy_session(run=run)
    for _epoch in session.epochs():
        session.history["val_acc"].append(value)
    assert session.history == {"val_acc": [0.25]}
    assert type(session.history["val_acc"][0]) is float
    assert load_checkpoint(run.file("best.pt"))["val_acc"] == 0.25
    assert load_checkpoint(run.file("last.pt"))["history"] == {"val_acc": [0.25]}


@pytest.mark.parametrize("value", [None, "0.25", [0.1, 0.2], torch.zeros(3), (0.5, 0.5), {}], ids=repr)
def test_what_is_no_number_names_the_function(value):
    session = toy_session()
    epochs = session.epochs()
    next(epochs)
    session.history["val_acc"].append(value)
    with pytest.raises(UserError, match="validate_epoch must return two numbers"):
        next(epochs)


def test_a_loss_far_above_guessing_is_said(source, capsys):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2352, 9))
    with torch.no_grad():
        model[1].weight.mul_(100)
    train(source, 1, model=model)
    said = capsys.readouterr().out
    assert "the loss at step 1 is" in said
    assert "ln 9 = 2.20" in said
    assert "the learning rate 0.003 is probably too large" in said


def test_a_usual_start_says_nothing(source, capsys):
    train(source, 1)
    assert "note:" not in capsys.readouterr().out


def test_steps_csv_has_the_loss_of_each_of_the_first_steps(source, run):
    history, _ = train(source, 2, run)
    steps = read_steps(run)
    assert steps["step"] == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    assert sum(steps["loss"][STEPS_PER_EPOCH:]) / STEPS_PER_EPOCH == pytest.approx(history["train_loss"][1], rel=1e-6)
    assert all(value > 0 for value in steps["milliseconds"])
    facts = step_facts(run)
    assert facts["steps"] == 2 * STEPS_PER_EPOCH
    assert facts["step_ms"] == pytest.approx(np.median(steps["milliseconds"]), abs=1e-3)
    train(source, 3, run)
    assert read_steps(run)["step"] == list(range(1, 3 * STEPS_PER_EPOCH + 1))


@pytest.mark.filterwarnings("default")  # without the session's handler the Ctrl-C ends as a warning
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT, which Windows does not have")
def test_ctrl_c_while_loader_processes_end_is_not_swallowed():
    class EndsWhileCtrlCIsPressed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    session = toy_session()
    epochs = session.epochs()
    next(epochs)
    EndsWhileCtrlCIsPressed()
    session.history["val_acc"].append(0.5)
    with pytest.raises(KeyboardInterrupt):
        next(epochs)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
        ({"max_steps_per_epoch": -1}, "max_steps_per_epoch is -1"),
        ({"loaders": ([], [1])}, "no batch"),
    ],
    ids=lambda value: str(value),
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(UserError, match=named):
        TrainingSession(nn.Linear(1, 1), nn.MSELoss(), ("val_acc",), **settings)


def test_lazy_layers_get_their_shape_before_the_optimizer_is_made(source):
    torch.manual_seed(0)
    loaders = create_pathmnist_dataloaders(8, source=source)[:2]
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(9))
    session = TrainingSession(model, nn.CrossEntropyLoss(), METRICS, loaders, device="cpu", ema_decay=0.9)
    assert sum(weight.numel() for group in session.optimizer.param_groups for weight in group["params"]) == 2352 * 9 + 9
