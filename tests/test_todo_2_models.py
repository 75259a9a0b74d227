"""TODO 2.0, 2.1, 2.2, 2.3: the linear model, the MLP, the CNN and the U-Net of Part 2."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from segmentation_models import (
    LinearSegmentation,
    MLPSegmentation,
    SimpleCNN,
    TinyUNet,
    count_parameters,
    get_segmentation_model,
)
from synthetic_data import create_box_dataloaders
from tests import helpers

pytestmark = pytest.mark.filterwarnings("default")  # a warning in a student's code is not a failure

LINEAR = pytest.param(LinearSegmentation, marks=pytest.mark.todo_2_0, id="linear")
MLP = pytest.param(MLPSegmentation, marks=pytest.mark.todo_2_1, id="mlp")
CNN = pytest.param(SimpleCNN, marks=pytest.mark.todo_2_2, id="cnn")
UNET = pytest.param(TinyUNet, marks=pytest.mark.todo_2_3, id="unet")
every_model = pytest.mark.parametrize("model_class", [LINEAR, MLP, CNN, UNET])


CORNERS = list(itertools.product((slice(0, 10), slice(18, 28)), repeat=2))


def maps_with_one_size_cut(model: nn.Module, size: int | None = None) -> list[tuple[int, bool]]:
    """Run two images through `model` while every operation whose maps are `size` pixels high gives their mean.

    Operations of torch and not layers, so that F.conv2d on a bare nn.Parameter counts like nn.Conv2d.

    Returns, for the maps inside the model in the order in which they are made and then for the output, their height
    and whether they still differ between the two images.
    """
    images = helpers.random_images(2, scale=2.0)
    with Cut(size) as cut:
        output = helpers.evaluate(model, images)
    return [*cut.maps, (output.shape[2], differ(output))]


def differ(maps_of_two: torch.Tensor) -> bool:
    return (maps_of_two[0] - maps_of_two[1]).abs().max().item() > 1e-6


class Cut(TorchFunctionMode):
    """While it is active, maps of two images that are `size` pixels high are the same, their mean; `maps` notes all."""

    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.size, self.maps = size, []

    def __torch_function__(self, function, types, arguments=(), named=None):
        output = function(*arguments, **(named or {}))
        if not isinstance(output, torch.Tensor) or output.dim() != 4 or len(output) != 2:
            return output
        output = output.mean(dim=0, keepdim=True).expand_as(output).clone() if output.shape[2] == self.size else output
        self.maps.append((output.shape[2], differ(output)))
        return output


def inner_sizes(model: nn.Module) -> list[int]:
    """Heights of the maps inside `model` that are smaller than the image and larger than a single pixel."""
    return sorted({height for height, _ in maps_with_one_size_cut(model) if 1 < height < 28})


def gets_past(model: nn.Module, size: int) -> bool:
    """True if the output depends on the image even when all maps of this size are cut out."""
    return maps_with_one_size_cut(model, size)[-1][1]


@every_model
def test_one_mask_for_each_image(model_class):
    model = model_class()
    for batch_size in (1, 2, 5):
        mask = helpers.evaluate(model, helpers.random_images(batch_size))
        helpers.check_shape(mask, (batch_size, 1, 28, 28), "probabilities")
        assert mask.dtype == torch.float32, f"expected float32 probabilities, got {mask.dtype}"
        assert set(mask.unique().tolist()) != {0, 1}, "the mask is rounded to 0 and 1; return the probabilities"


@every_model
def test_channels_can_be_chosen(model_class):
    mask = helpers.evaluate(model_class(in_channels=1, out_channels=2), helpers.random_images(3, channels=1))
    helpers.check_shape(mask, (3, 2, 28, 28), "probabilities for in_channels=1, out_channels=2")


@every_model
def test_returns_probabilities_and_not_logits(model_class):
    # Images far outside the usual range push logits out of [0, 1], but no probability.
    # Ten models, because one that starts with all probabilities above 0.5 may be right, and only ten of them are not.
    images = helpers.random_images(4, scale=100.0)
    outputs = torch.cat([helpers.evaluate(helpers.made(model_class), images) for _ in range(10)])
    low, high = torch.aminmax(outputs)
    assert 0 <= low <= high <= 1, (
        f"expected probabilities in [0, 1], got values from {low:.2f} to {high:.2f}; is a sigmoid missing at the end?"
    )
    cause = "a ReLU before the sigmoid?" if low >= 0.5 else "a softmax instead of the sigmoid?"
    if low == high == 1:
        cause = "a softmax over the only channel gives 1 everywhere; use a sigmoid"
    sums = outputs.flatten(start_dim=1).sum(dim=1)
    assert not torch.allclose(sums, torch.ones_like(sums), atol=1e-3), (
        "the probabilities of all pixels add up to 1: a softmax over the pixels; use a sigmoid, for each pixel its own"
    )
    assert low < 0.5 < high, f"expected probabilities on both sides of 0.5, got {low:.2f} to {high:.2f}; {cause}"
    model = helpers.made(model_class).eval()
    model(1000 * images).sum().backward()
    finite = all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    assert finite, "for large logits the gradient is not finite (nan): use torch.sigmoid, not 1 / (1 + exp(-x))"


@every_model
def test_judges_every_image_for_itself(model_class):
    helpers.check_images_are_independent(helpers.made(model_class))


@every_model
def test_nothing_follows_the_last_layer_but_the_sigmoid(model_class):
    helpers.check_nothing_follows_the_last_layer(helpers.made(model_class), zero=0.5)


@pytest.mark.parametrize("model_class", [CNN, UNET])
def test_the_mask_lies_where_the_image_does(model_class):
    """A changed corner of the image changes the mask there, and not another's: two that change places are a mistake.

    One may change another corner more: layers that see the whole image change what they have learned to.
    """
    model, images = helpers.settled(helpers.made(model_class)), helpers.random_images(16)
    most = {}  # number of a corner -> the corner of the mask that it changes most
    for number, place in enumerate(CORNERS):
        changed = images.clone()
        changed[(..., *place)] *= -1  # what a layer averages over the whole image stays
        moved = (helpers.evaluate(model, changed) - helpers.evaluate(model, images)).abs().mean(dim=(0, 1))
        here = torch.stack([moved[corner].mean() for corner in CORNERS])
        most[number] = number if here[number] > 0.25 * here.max() else int(here.argmax())
    astray = [number for number, where in most.items() if where != number]
    swapped = len(astray) == len(CORNERS) or any(most[most[number]] == number for number in astray)
    assert not swapped, (
        "a change in one corner of the image changes the mask in another; is the output transposed or flipped?"
    )


@pytest.mark.parametrize("model_class", [LINEAR, MLP])
def test_each_pixel_of_the_mask_sees_the_whole_image(model_class):
    model, images = helpers.made(model_class), helpers.random_images(8)
    for place in CORNERS:
        changed = images.clone()
        changed[(..., *place)] *= -1
        moved = (helpers.evaluate(model, changed) - helpers.evaluate(model, images)).abs().amax(dim=(0, 1))
        share = (moved > 1e-7).float().mean().item()
        assert share > 0.9, (
            f"a changed corner of the image changes {share:.0%} of the mask, expected all; is the image flattened "
            "before nn.Linear, or does each row or channel go through on its own?"
        )


@every_model
def test_sees_all_channels_and_pixels(model_class):
    helpers.check_depends_on_every_channel(helpers.made(model_class), share_of_pixels=0.99)


@every_model
def test_every_parameter_gets_a_gradient(model_class):
    model = model_class().train()
    images, masks = helpers.boxed_images(4)
    helpers.check_all_parameters_learn(model, F.binary_cross_entropy(model(images), masks))


@pytest.mark.parametrize(
    ("model_class", "learning_rate"),
    [
        pytest.param(*LINEAR.values, 0.002, marks=LINEAR.marks, id="linear"),
        pytest.param(*MLP.values, 0.002, marks=MLP.marks, id="mlp"),
        # Without BatchNorm these two stay at the empty mask for 40 to 60 steps at 0.002.
        pytest.param(*CNN.values, 0.005, marks=CNN.marks, id="cnn"),
        pytest.param(*UNET.values, 0.005, marks=UNET.marks, id="unet"),
    ],
)
def test_can_learn_eight_boxes_by_heart(model_class, learning_rate):
    def iou(probabilities, masks):
        scores = helpers.iou_oracle(probabilities, masks)
        return sum(scores) / len(scores)

    model = model_class()
    helpers.check_can_be_learnt_by_heart(
        model, helpers.boxed_images(8), F.binary_cross_entropy, ("an IoU", iou), 0.6, learning_rate
    )


@every_model
def test_takes_a_batch_of_the_loader(model_class):
    model = model_class()
    _train_loader, val_loader, _test_loader, _num_classes = create_box_dataloaders(batch_size=4, dataset="sample")
    mask = helpers.evaluate(model, next(iter(val_loader))["image"])
    helpers.check_shape(mask, (4, 1, 28, 28), "probabilities")


@pytest.mark.todo_2_0
def test_the_linear_model_is_linear_before_its_sigmoid():
    model = helpers.made(LinearSegmentation)
    defect = helpers.affine_defect(lambda images: helpers.evaluate(model, images * 0.1).double().logit())
    assert defect < 1e-3, f"expected one linear map before the sigmoid, got a deviation of {defect:.1%}"


@pytest.mark.todo_2_0
def test_the_linear_model_can_connect_every_pixel_with_every_mask_pixel():
    got, weights = sum(one.numel() for one in helpers.weights_of(LinearSegmentation())), 3 * 28 * 28 * 28 * 28
    assert got in (weights, weights + 28 * 28), (
        f"expected one weight for each of 3 x 28 x 28 values and 28 x 28 mask pixels, {weights} (and 784 biases), got "
        f"{got}; one nn.Linear on the flattened image has them"
    )


@pytest.mark.parametrize("model_class", [MLP, CNN, UNET])
def test_the_other_models_are_not_linear(model_class):
    model = helpers.made(model_class)
    defect = helpers.affine_defect(lambda images: helpers.evaluate(model, images).double().logit())
    assert defect > 1e-2, "expected a nonlinear function before the sigmoid, got a linear one"


@pytest.mark.parametrize("model_class", [CNN, UNET])
def test_has_a_narrow_middle(model_class):
    sizes = inner_sizes(helpers.made(model_class))
    assert sizes, "expected maps smaller than 28 x 28 inside the model (an encoder), got none"


@pytest.mark.todo_2_2
def test_the_cnn_has_no_skip_connections():
    model = helpers.settled(helpers.made(SimpleCNN))
    sizes = inner_sizes(model)
    closed = [size for size in sizes if not gets_past(model, size)]
    assert closed, (
        f"expected all information to pass the middle; with the maps of {sizes} pixels cut out one after the other, "
        "the mask still depends on the image: a skip connection?"
    )


@pytest.mark.todo_2_3
def test_the_unet_has_skip_connections():
    model = helpers.settled(helpers.made(TinyUNet))
    sizes = inner_sizes(model)
    for size in sizes:
        assert gets_past(model, size), (
            f"expected the encoder's larger maps to reach the decoder directly; with the maps of {size} x {size} cut "
            "out, the mask no longer depends on the image: no skip connection past them"
        )
    for size, larger in itertools.pairwise(sizes):  # with the middle cut out, what does the decoder see at `larger`?
        maps = maps_with_one_size_cut(model, size)
        last_cut = max(index for index, (height, _) in enumerate(maps) if height == size)
        assert any(differs for height, differs in maps[last_cut:] if height == larger), (
            f"expected the encoder's maps of {larger} x {larger} to reach the decoder; with {size} x {size} cut "
            f"out, the decoder's maps of {larger} x {larger} no longer depend on the image: a skip is missing there"
        )


@pytest.mark.todo_2_3
def test_base_channels_make_the_unet_wider():
    narrow, wide = (sum(p.numel() for p in helpers.weights_of(TinyUNet(base_channels=number))) for number in (4, 8))
    assert wide > 2 * narrow, (
        f"expected about 4 times the parameters for base_channels=8 as for 4, got {wide} and {narrow}"
    )


@pytest.mark.parametrize(
    ("model_name", "model_class"),
    [
        pytest.param("linear", *LINEAR.values, marks=LINEAR.marks),
        pytest.param("mlp", *MLP.values, marks=MLP.marks),
        pytest.param("cnn", *CNN.values, marks=CNN.marks),
        pytest.param("unet", *UNET.values, marks=UNET.marks),
    ],
)
def test_get_segmentation_model_knows_the_name(model_name, model_class):
    model = get_segmentation_model(model_name)
    assert isinstance(model, model_class), f"expected a {model_class.__name__}, got a {type(model).__name__}"


@pytest.mark.provided
def test_get_segmentation_model_lists_the_names_that_it_knows():
    with pytest.raises(ValueError, match=r"'vnet'.*linear.*mlp.*cnn.*unet"):
        get_segmentation_model("vnet")


@pytest.mark.provided
def test_count_parameters_counts_what_is_trained():
    model = nn.Conv2d(3, 2, kernel_size=3)
    assert count_parameters(model) == 3 * 2 * 9 + 2
    model.weight.requires_grad_(False)
    assert count_parameters(model) == 2
