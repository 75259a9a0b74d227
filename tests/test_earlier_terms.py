"""Training functions of earlier terms get averages, schedules, checkpoints and resuming from outside."""

from __future__ import annotations

import types

import pytest
import torch

from classification_dataset import create_pathmnist_dataloaders
from classification_models import get_model
from classification_train import train_model
from toolkit.earlier_terms import accepting_options
from toolkit.medmnist_data import locate
from toolkit.runs import RunFolder, load_checkpoint

pytestmark = pytest.mark.provided

# What a student of an earlier term, or of any tutorial, hands in.
LOOPS = """
import torch

def train_epoch(model, train_loader, optimizer, criterion, device, max_steps=None):
    model.train()
    total, correct, seen = 0.0, 0, 0
    for step, (images, labels) in enumerate(train_loader):
        if step == max_steps:
            break
        outputs = model(images)
        loss = criterion(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        correct += (outputs.argmax(1) == labels).sum().item()
        seen += len(labels)
    return total / seen, correct / seen

def validate_epoch(model, val_loader, criterion, device):
    model.eval()
    validated.append({name: value.clone() for name, value in model.state_dict().items()})
    with torch.no_grad():
        hits = [(model(images).argmax(1) == labels).float() for images, labels in val_loader]
    return torch.tensor(0.5), torch.cat(hits).mean()

validated = []
"""
OWN_OPTIMIZER = """
def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0,
                max_steps_per_epoch=100):
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(epochs):
        results = [
            *train_epoch(model, train_loader, optimizer, criterion, "cpu", max_steps_per_epoch),
            *validate_epoch(model, val_loader, criterion, "cpu"),
        ]
        for values, value in zip(history.values(), results):
            values.append(value)
    return history
"""
ONE_LOOP = """
def train_model(model, train_loader, val_loader, epochs=25, learning_rate=0.001, weight_decay=0.0,
                max_steps_per_epoch=100):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for _ in range(3 * epochs):
        optimizer.step()
    return {name: [0.25 * (epoch + 1) for epoch in range(epochs)] for name in
            ("train_loss", "train_acc", "val_loss", "val_acc")}
"""


@pytest.fixture
def submission():
    """Make a module of these texts."""

    def make(*texts: str) -> types.ModuleType:
        module = types.ModuleType("classification_train")
        exec("import torch\n" + "".join(texts), module.__dict__)
        return module

    return make


def start(module: types.ModuleType, run: RunFolder, epochs: int = 2, **options):
    torch.manual_seed(0)
    train_loader, val_loader, _ = create_pathmnist_dataloaders(16, source=locate("pathmnist", dataset="sample"))
    options = {"device": "cpu", "ema_decay": 0.9, **options}
    train = accepting_options(module.train_model, "classification")
    model = get_model("linear")
    history = train(
        model,
        train_loader,
        val_loader,
        epochs=epochs,
        learning_rate=0.001,
        weight_decay=0.0,
        max_steps_per_epoch=5,
        run=run,
        **options,
    )
    return history, model


def test_a_function_that_takes_options_is_left_alone():
    assert accepting_options(train_model, "classification") is train_model


def test_loops_of_a_tutorial_get_averages_and_checkpoints(submission, tmp_path):
    module, run = submission(LOOPS, OWN_OPTIMIZER), RunFolder.create(tmp_path / "run", {})
    history, model = start(module, run)
    assert [len(values) for values in history.values()] == [2, 2, 2, 2]
    assert all(type(value) is float for values in history.values() for value in values)
    best, last = load_checkpoint(run.file("best.pt")), load_checkpoint(run.file("last.pt"))
    number = 1 + history["val_acc"].index(max(history["val_acc"]))
    assert best["epoch"] == number
    assert torch.equal(best["state_dict"]["classifier.weight"], module.validated[number - 1]["classifier.weight"])
    # Validation saw the average, training its own weights.
    assert not torch.equal(last["model"]["classifier.weight"], module.validated[1]["classifier.weight"])
    assert torch.equal(model.state_dict()["classifier.weight"], module.validated[1]["classifier.weight"])
    assert len(run.file("history.csv").read_text().splitlines()) == 3
    assert len(run.file("steps.csv").read_text().splitlines()) == 11


def test_resuming_does_what_is_left(submission, tmp_path):
    whole, _ = start(submission(LOOPS, OWN_OPTIMIZER), RunFolder.create(tmp_path / "whole", {}), 4)
    run = RunFolder.create(tmp_path / "run", {})
    start(submission(LOOPS, OWN_OPTIMIZER), run, 2)
    resumed, _ = start(submission(LOOPS, OWN_OPTIMIZER), run, 4)
    assert resumed == whole  # the optimizer's memory too, although the function makes a new one


def test_a_schedule_drives_the_optimizer_that_the_function_makes(submission, tmp_path):
    module, run = submission(LOOPS, OWN_OPTIMIZER), RunFolder.create(tmp_path / "run", {})
    start(module, run, scheduler="cosine")
    rates = load_checkpoint(run.file("last.pt"))["optimizer"]["param_groups"][0]["lr"]
    assert rates == pytest.approx(0, abs=1e-9)


def test_the_module_is_what_it_was_afterwards(submission, tmp_path):
    module = submission(LOOPS, OWN_OPTIMIZER)
    before = module.train_epoch, module.validate_epoch
    start(module, RunFolder.create(tmp_path / "run", {}))
    assert (module.train_epoch, module.validate_epoch) == before


def test_a_function_without_epoch_functions_keeps_its_history(submission, tmp_path, capsys):
    run = RunFolder.create(tmp_path / "run", {})
    history, _ = start(submission(ONE_LOOP), run)
    assert history["val_acc"] == [0.25, 0.5]
    assert load_checkpoint(run.file("best.pt"))["val_acc"] == 0.5
    assert len(run.file("history.csv").read_text().splitlines()) == 3
    assert "best.pt holds the weights of its last epoch" in capsys.readouterr().out


def test_flags_that_the_function_cannot_follow_are_named(submission, tmp_path, capsys):
    start(submission(LOOPS, OWN_OPTIMIZER), RunFolder.create(tmp_path / "run", {}), optimizer="sgd")
    assert "those flags stay unused" in capsys.readouterr().out
