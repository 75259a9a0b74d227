"""What surrounds the epochs: averaged weights, resuming bit for bit, early stopping, losses that are not finite.

The loop here is the tests' own, so that these tests say something about toolkit/training.py alone.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
import time
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from classification_dataset import create_pathmnist_dataloaders
from toolkit.errors import UserError
from toolkit.experiment import step_facts
from toolkit.medmnist_data import locate
from toolkit.precision import LossScale, compute_in
from toolkit.runs import RunFolder, load_checkpoint
from toolkit.schedules import average_weights
from toolkit.step_log import read_steps
from toolkit.training import DivergedError, TrainingSession

pytestmark = pytest.mark.provided

METRICS = ("train_loss", "val_acc")
STEPS_PER_EPOCH = 4


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
    source: Any, epochs: int, run: RunFolder | None = None, *, seed: int = 0, model: nn.Module | None = None, **more
) -> tuple[dict[str, list[float]], nn.Module]:
    """A whole training with augmentation, dropout and a falling learning rate, as a new process would run it."""
    torch.manual_seed(seed)
    train_loader, val_loader, _ = create_pathmnist_dataloaders(8, source=source, seed=seed, augment="strong")
    model = small_model() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    criterion = nn.CrossEntropyLoss()
    options = {"optimizer": optimizer, "scheduler": schedule, "device": "cpu", "run": run, **more}
    session = TrainingSession(model, criterion, METRICS, (train_loader, val_loader), epochs, **options)
    for _epoch in session.epochs():
        loss = train_one_epoch(model, train_loader, session.optimizer, criterion)
        session.history["train_loss"].append(loss)
        session.history["val_acc"].append(accuracy(session.evaluation_model(), val_loader))
    return session.history, model


def train_one_epoch(model: nn.Module, loader: Any, optimizer: Any, criterion: nn.Module) -> float:
    """A loop that knows nothing of sessions."""
    model.train()
    total = 0.0
    for images, labels in islice(loader, STEPS_PER_EPOCH):
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / STEPS_PER_EPOCH


def toy_session(model: nn.Module | None = None, epochs: int = 1, lr: float = 0.5, **options: Any) -> TrainingSession:
    """A session over a model of one weight, for tests that do its training by hand."""
    model = nn.Linear(1, 1, bias=False) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    options = {"optimizer": optimizer, "device": "cpu", **options}
    return TrainingSession(model, nn.MSELoss(), ("val_acc",), (), epochs, **options)


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


def test_averaged_weights_follow_their_formula():
    model, decay = nn.BatchNorm1d(2), 0.5
    averaged = average_weights(model, decay)
    expected = None
    for step, value in enumerate((5.0, -2.0, 3.0, 8.0, 1.0, 1.0, 4.0, 0.0, 2.0, 6.0)):
        with torch.no_grad():
            model.weight.fill_(value)
            model.num_batches_tracked.fill_(step)
        averaged.update_parameters(model)
        d = min(decay, (1 + step) / (10 + step))  # reaches 0.5 at step 8
        expected = value if expected is None else d * expected + (1 - d) * value
        assert averaged.module.weight.tolist() == pytest.approx([expected] * 2, abs=1e-5)
        assert averaged.module.num_batches_tracked == step  # counts are copied, not averaged


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(UserError, match="ema_decay is"):
        average_weights(nn.Linear(1, 1), decay)


def step_to(optimizer: torch.optim.Optimizer, value: float) -> None:
    """One step of SGD with learning rate 1 that leaves the only weight at `value`."""
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = weight.detach() - value
    optimizer.step()


def test_validation_sees_the_average_and_training_keeps_its_own_weights():
    model = nn.Linear(1, 1, bias=False)
    session = toy_session(model, epochs=2, lr=1.0, ema_decay=0.9)
    in_training, in_validation = [], []
    for epoch in session.epochs():
        in_training.append(model.weight.item())
        step_to(session.optimizer, 10.0 * epoch)
        in_validation.append(session.evaluation_model().weight.item())
        session.history["val_acc"].append(0.0)
    second = 2 / 11 * 10 + 9 / 11 * 20
    assert in_training[1] == pytest.approx(10)
    assert in_validation == pytest.approx([10, second])
    assert model.weight.item() == pytest.approx(second)


def test_an_optimizer_that_the_loop_makes_by_itself_is_followed():
    """Averages, schedule and step log work with a train_model that makes its own optimizer."""
    model = nn.Linear(1, 1, bias=False)
    session = toy_session(model, ema_decay=0.9, scheduler="cosine", epochs=4)
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    for epoch in session.epochs():
        if epoch == 1:
            own = torch.optim.SGD(model.parameters(), lr=1.0)
        rate = own.param_groups[0]["lr"]
        step_to(own, model.weight.item() - rate * 3.0)
        other.step()  # of another model: none of this session's business
        session.history["val_acc"].append(0.0)
    assert session.optimizer is own
    assert session.log.step == 4
    assert own.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert session.evaluation_model().weight.item() == pytest.approx(model.weight.item())


def test_hooks_are_gone_when_the_training_is_over():
    model = nn.Linear(1, 1)
    session = toy_session(model, precision="bfloat16")
    criterion = session.criterion
    for _epoch in session.epochs():
        assert model._forward_pre_hooks
        assert criterion._forward_hooks
        session.history["val_acc"].append(0.0)
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert not criterion._forward_hooks
    assert not session.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_computes_in_bfloat16_and_answers_in_float32(broken):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    seen = []

    def look(_module, _inputs, output):
        seen.append(output.dtype)
        if broken:
            raise RuntimeError("a mistake in forward")

    model[0].register_forward_hook(look)
    with compute_in("bfloat16", model, torch.device("cpu")):
        if broken:
            with pytest.raises(RuntimeError, match="a mistake"):
                model(torch.ones(2, 8))
        else:
            assert model(torch.ones(2, 8)).dtype == torch.float32
        assert seen == [torch.bfloat16]
        assert not torch.is_autocast_enabled("cpu")  # whatever follows the forward pass is in float32
        assert nn.Linear(8, 8)(torch.ones(2, 8)).dtype == torch.float32


def test_small_gradients_survive_float16_and_too_large_ones_cost_a_step():
    """The gradient of a mean over many values: 1e-9 is 0 in float16, whose smallest number is 6e-8."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    images = torch.rand(8, 4) + 0.5
    (1e-9 * model(images)).sum().backward()
    wanted = model[0].weight.grad.clone()
    assert wanted.abs().min() > 0
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with compute_in("float16", model, torch.device("cpu")):
        (1e-9 * model(images)).sum().backward()
        assert not model[0].weight.grad.any()  # without the scale
        model.zero_grad()
        scale = LossScale(model)
        (1e-9 * model(images)).sum().backward()
        assert torch.allclose(model[0].weight.grad, wanted, rtol=0.02)
        model.zero_grad()
        before = model[0].weight.detach().clone()
        (1e3 * model(images)).sum().backward()
        scale.before_step(optimizer)
        optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert scale.value == 2**15


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
