"""Device, precision and seed: what is chosen, and what is refused with the allowed values."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from toolkit import devices
from toolkit.errors import UserError

pytestmark = pytest.mark.provided

CPU = torch.device("cpu")


def test_cpu_is_always_there():
    assert devices.pick_device("cpu") == CPU


def test_auto_takes_the_best_that_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert devices.pick_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "tpu:0", "cuda:x", ""])
def test_unknown_device_lists_the_allowed_ones(name):
    with pytest.raises(UserError, match=r"allowed.*auto.*cpu.*cuda.*mps"):
        devices.pick_device(name)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="torch sees"):
        devices.pick_device("cuda:99")
    if not torch.backends.mps.is_available():
        with pytest.raises(UserError, match="no Apple GPU"):
            devices.pick_device("mps")


def test_auto_precision_is_bfloat16_only_where_the_processor_has_it():
    expected = "bfloat16" if devices.cpu_has_bfloat16() else "float32"
    assert devices.resolve_precision("auto", CPU) == expected
    assert devices.resolve_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("half", "cpu", r"'half'.*auto.*float32.*bfloat16.*float16"),
        ("float16", "cpu", "allowed on cpu: float32, bfloat16"),
        ("bfloat16", "mps", "allowed on mps: float32"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(precision, device, message):
    with pytest.raises(UserError, match=message):
        devices.resolve_precision(precision, torch.device(device))


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_runs_matrix_work_in_that_precision(precision, dtype):
    with devices.autocast(CPU, precision):
        assert nn.Linear(4, 4)(torch.zeros(2, 4)).dtype == dtype


def test_models_are_placed_with_channels_last():
    model = devices.place_model(nn.Conv2d(3, 4, 3), CPU)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


class FlattensWithView(nn.Module):
    """What most tutorials write; it works on the usual layout only."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 8 * 8, 2)

    def forward(self, x):
        return self.head(self.features(x).view(x.size(0), -1))


def test_a_model_that_flattens_with_view_keeps_the_usual_layout_and_trains(capsys):
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(RuntimeError, match="view size"):
        devices.place_model(FlattensWithView(), CPU)(images)
    assert capsys.readouterr().out == ""
    model = devices.place_model(FlattensWithView().train(), CPU, (3, 8, 8))
    model(images).sum().backward()
    assert model.training
    assert "note: the model uses .view" in capsys.readouterr().out


def test_lazy_layers_have_their_shape_once_the_model_is_placed():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(9))
    assert devices.place_model(model, CPU, (3, 8, 8))[2].weight.shape == (9, 4 * 6 * 6)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_whose_forward_fails_is_left_to_fail_where_it_is_trained(capsys):
    model = devices.place_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(1, 1)), CPU, (3, 8, 8))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert capsys.readouterr().out == ""


def test_a_seed_settles_all_random_numbers():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 -- the global state is meant

    devices.seed_everything(4)
    first = draw()
    devices.seed_everything(4)
    assert draw() == first
    devices.seed_everything(5)
    assert draw() != first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UserError, match=f"seed is {seed}"):
        devices.seed_everything(seed)


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_gives_the_mode_back_even_after_an_error(training):
    model = nn.Dropout().train(training)
    inside = []

    def fail_inside():
        with devices.evaluating(model):
            inside.append((model.training, torch.is_grad_enabled()))
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert inside == [(False, False)]
    assert model.training is training
    assert torch.is_grad_enabled()


def test_description_names_the_device_and_the_threads():
    assert devices.describe(CPU).startswith("cpu: ")
    assert f"{torch.get_num_threads()} threads" in devices.describe(CPU)
