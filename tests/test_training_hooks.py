"""What the session reaches from outside: averaged weights, an optimizer that the loop makes, precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.session_tools import (
    toy_session,
)
from toolkit.errors import UserError
from toolkit.precision import LossScale, compute_in
from toolkit.schedules import average_weights

pytestmark = pytest.mark.provided


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
