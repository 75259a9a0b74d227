"""What the checks that the models' tests share say about a model that is wrong in a usual way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import helpers
from tests.checks import check_shape

pytestmark = pytest.mark.provided


class Held(nn.Module):
    """Linear layers in a container that `kind` makes, after an ordinary one."""

    def __init__(self, kind):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = kind([nn.Linear(4, 4), nn.Linear(4, 2)])

    def forward(self, x):
        for layer in (self.first, *self.layers):
            x = layer(x)
        return x


@pytest.mark.parametrize("kind", [list, tuple])
def test_layers_that_are_hidden_in_a_plain_container_are_named(kind):
    model = Held(kind)
    with pytest.raises(AssertionError, match=rf"self\.layers is a plain {kind.__name__}: .*nn\.ModuleList"):
        helpers.check_all_parameters_learn(model, model(torch.ones(3, 4)).sum())


def test_layers_that_the_model_knows_may_also_stand_in_a_list():
    model = Held(nn.ModuleList)
    model.again = list(model.layers)
    helpers.check_all_parameters_learn(model, model(torch.ones(3, 4)).sum())


def test_a_forward_without_return_is_told():
    with pytest.raises(AssertionError, match=r"expected logits as a tensor, got None; is `return` missing"):
        check_shape(None, (3, 2), "logits")
