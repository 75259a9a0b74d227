"""networks.py and backbone.py: what the plain networks are made of, and what learns when something is frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labs.medmnist_experiments import backbone, cnn3d, networks, transfer
from toolkit import backbones
from toolkit.errors import UserError


def test_the_3d_network_is_what_the_course_asks_for():
    net = networks.ConvNet(3, 1, 2, cnn3d.STAGES, first_stride=2)
    layers = list(net.features)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv3d)]
    assert len(convolutions) >= 3
    assert all(isinstance(layers[i + 1], nn.BatchNorm3d) for i in convolutions)
    assert any(isinstance(layer, nn.MaxPool3d) for layer in layers)
    assert sum(isinstance(layer, nn.Linear) for layer in net.head) >= 2
    assert [layer.p for layer in net.head if isinstance(layer, nn.Dropout)] == [0.5]
    assert net(torch.zeros(2, 1, 28, 28, 28)).shape == (2, 2)


@pytest.mark.parametrize(("dimensions", "size"), [(2, 28), (3, 28)])
def test_layout_in_memory_changes_nothing(dimensions, size):
    net = networks.ConvNet(dimensions, 1, 3, ((4,), (6,)), first_stride=dimensions - 1).eval()
    samples = torch.randn(2, 1, *[size] * dimensions)
    before = net(samples)
    placed = networks.place(net, torch.device("cpu"))
    torch.testing.assert_close(placed(samples), before, atol=1e-5, rtol=1e-4)


def test_attention_looks_at_the_last_map_that_is_large_enough():
    net = networks.ConvNet(3, 1, 2, cnn3d.STAGES, first_stride=2)
    layer = networks.attention_layer(net, torch.zeros(1, 1, 28, 28, 28))
    sizes = {}
    layer.register_forward_hook(lambda _module, _inputs, output: sizes.update(size=output.shape[2:]))
    net(torch.zeros(2, 1, 28, 28, 28))
    assert tuple(sizes["size"]) == (7, 7, 7)


def small_transfer(strategy: str, weights: bool = True) -> backbone.TransferNet:
    """MobileNetV2 at 32 pixels with some weights, its parts frozen as the strategy says."""
    state = backbones.build("mobilenet_v2").state_dict() if weights else None
    net = backbone.build("mobilenet_v2", state, 2, 32, torch.rand(4, 1, 28, 28))
    net.freeze(backbone.frozen_blocks(net, strategy, 0.5))
    return net


@pytest.mark.parametrize("strategy", backbone.STRATEGIES)
def test_what_is_frozen_keeps_weights_and_statistics_and_the_rest_learns(strategy):
    net = small_transfer(strategy)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    groups = transfer.parameter_groups(net, strategy, 0.1, 0.1)
    net.train()
    loss = nn.functional.cross_entropy(net(torch.randn(8, 1, 28, 28)), torch.arange(8) % 2)
    loss.backward()
    torch.optim.SGD(groups).step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    frozen = tuple(f"features.network.{number}." for number in range(net.frozen_blocks))
    assert {name for name in changed if name.startswith(frozen)} == set()
    statistics = {name for name in before if name.endswith("running_mean") and not name.startswith(frozen)}
    assert statistics | {"head.2.weight", "head.5.bias"} <= changed
    for name, weight in net.named_parameters():
        assert (weight.grad is None) == name.startswith(frozen), name
    if strategy == "partly":
        assert 0 < net.frozen_blocks < len(net.blocks)


@pytest.mark.parametrize(("strategy", "rates"), [("frozen", [0.1]), ("partly", [0.1, 0.01]), ("scratch", [0.1])])
def test_pretrained_weights_learn_more_slowly_than_new_ones(strategy, rates):
    net = small_transfer(strategy)
    groups = transfer.parameter_groups(net, strategy, 0.1, 0.01)
    assert [group["lr"] for group in groups] == rates
    given = {id(weight) for group in groups for weight in group["params"]}
    assert given == {id(weight) for weight in net.parameters() if weight.requires_grad}
    if strategy == "partly":
        share = sum(weight.numel() for weight in groups[1]["params"])
        share /= sum(weight.numel() for weight in net.features.parameters())
        assert 0 < share <= 0.5


def test_grey_images_are_normalised_as_imagenet_was():
    net = small_transfer("frozen").eval()
    seen = []
    net.features.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    net(torch.full((1, 1, 28, 28), 0.2))
    expected = (0.6 - torch.tensor(backbone.IMAGENET_MEAN)) / torch.tensor(backbone.IMAGENET_SD)
    torch.testing.assert_close(seen[0], expected.view(1, 3, 1, 1).expand(1, 3, 28, 28))


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "densenet121", "efficientnet_b0"])
def test_convolutions_of_other_families(name):
    with torch.device("meta"):  # shapes only: VGG16 has 138 million weights
        features = backbone.convolutions(backbones.build(name), name)
        assert features(torch.zeros(2, 3, 64, 64)).dim() == 4


def test_a_backbone_without_a_chain_of_convolutions_is_refused():
    with (
        torch.device("meta"),
        pytest.raises(UserError, match="--backbone is 'vit_b_32', whose convolutions are not a chain"),
    ):
        backbone.convolutions(backbones.build("vit_b_32"), "vit_b_32")


def test_folded_weights_still_learn():
    """Converted weights have BatchNorm folded in; unfolded, training mode normalises with statistics of the images."""
    state = backbones.build("mobilenet_v2").state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.zero_()
        if key.endswith("running_var"):
            value.fill_(1 - 1e-5)  # with eps the deviation is 1: the layer only adds its bias
    images = torch.rand(16, 1, 28, 28)
    net = backbone.build("mobilenet_v2", state, 2, 32, images)
    assert not backbones.is_folded(net.features)
    plain = backbone.TransferNet(backbone.convolutions(backbones.build("mobilenet_v2", state), ""), 1280, 2, 32).eval()
    colours = images.expand(-1, 3, -1, -1)
    torch.testing.assert_close(net.eval().features(colours), plain.features(colours), atol=1e-3, rtol=1e-3)
