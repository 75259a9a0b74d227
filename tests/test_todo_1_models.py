"""TODO 1.0, 1.1, 1.2: the linear model, the MLP and the CNN of Part 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from classification_dataset import create_pathmnist_dataloaders
from classification_models import CNNModel, LinearModel, MLPModel, count_parameters, get_model
from tests import helpers

pytestmark = pytest.mark.filterwarnings("default")  # a warning in a student's code is not a failure

OTHER_CLASSES = 5 if helpers.NUM_CLASSES == 2 else 2  # a model that ignores its argument is seen

LINEAR = pytest.param(LinearModel, marks=pytest.mark.todo_1_0, id="linear")
MLP = pytest.param(MLPModel, marks=pytest.mark.todo_1_1, id="mlp")
CNN = pytest.param(CNNModel, marks=pytest.mark.todo_1_2, id="cnn")
every_model = pytest.mark.parametrize("model_class", [LINEAR, MLP, CNN])


@every_model
def test_one_logit_for_each_class(model_class):
    for num_classes in (helpers.NUM_CLASSES, OTHER_CLASSES):
        model = model_class(num_classes=num_classes)
        for batch_size in (1, 2, 5):
            logits = helpers.evaluate(model, helpers.random_images(batch_size))
            what = "logits" if num_classes == helpers.NUM_CLASSES else f"logits for num_classes={num_classes}"
            helpers.check_shape(logits, (batch_size, num_classes), what)
            assert logits.dtype == torch.float32, f"expected float32 logits, got {logits.dtype}"
            assert logits.isfinite().all(), "expected finite logits, got NaN or infinity"


@every_model
def test_all_classes_unless_told_otherwise(model_class):
    helpers.check_shape(helpers.evaluate(model_class(), helpers.random_images(4)), (4, helpers.NUM_CLASSES), "logits")


@every_model
def test_returns_logits_and_not_probabilities(model_class):
    logits = []
    for seed in range(3):  # one model may happen to have positive logits alone; three cannot
        torch.manual_seed(seed)
        logits.append(helpers.evaluate(helpers.made(model_class), helpers.random_images(8, scale=3.0)))
    logits = torch.cat(logits)
    sums = logits.sum(dim=1)
    assert not torch.allclose(sums, torch.ones_like(sums), atol=1e-3), (
        "expected logits, got probabilities: each row sums to 1; leave the softmax to the loss"
    )
    assert not (logits <= 0).all(), (
        "expected logits of both signs, got none above 0; is there a log_softmax at the end?"
    )
    assert not (logits >= 0).all(), (
        "expected logits of both signs, got none below 0; is there a ReLU, sigmoid or softmax at the end?"
    )


@every_model
def test_nothing_follows_the_last_layer(model_class):
    helpers.check_nothing_follows_the_last_layer(helpers.made(model_class))


@every_model
def test_judges_every_image_for_itself(model_class):
    helpers.check_images_are_independent(helpers.made(model_class))


@pytest.mark.parametrize(
    ("model_class", "share_of_pixels"),
    [
        pytest.param(*LINEAR.values, 1.0, marks=LINEAR.marks, id="linear"),
        pytest.param(*MLP.values, 1.0, marks=MLP.marks, id="mlp"),
        # Pooling an odd width drops the last column, so not every pixel need matter.
        pytest.param(*CNN.values, 0.6, marks=CNN.marks, id="cnn"),
    ],
)
def test_sees_all_channels_and_pixels(model_class, share_of_pixels):
    helpers.check_depends_on_every_channel(helpers.made(model_class), share_of_pixels)


@every_model
def test_every_parameter_gets_a_gradient(model_class):
    model = model_class().train()
    images, labels = helpers.colored_images()
    helpers.check_all_parameters_learn(model, F.cross_entropy(model(images), labels))


@every_model
def test_can_learn_two_images_of_each_class_by_heart(model_class):
    def accuracy(logits, labels):
        return (logits.argmax(dim=1) == labels).float().mean().item()

    model = model_class()
    helpers.check_can_be_learnt_by_heart(
        model, helpers.colored_images(), F.cross_entropy, ("an accuracy", accuracy), goal=0.9
    )


@every_model
def test_takes_a_batch_of_the_loader(model_class):
    model = model_class()
    _train_loader, val_loader, _num_classes = create_pathmnist_dataloaders(batch_size=4, dataset="sample")
    images, _labels = next(iter(val_loader))
    helpers.check_shape(helpers.evaluate(model, images), (4, helpers.NUM_CLASSES), "logits")


@pytest.mark.todo_1_0
def test_the_linear_model_is_linear():
    model = helpers.made(LinearModel)
    defect = helpers.affine_defect(lambda images: helpers.evaluate(model, images))
    assert defect < 1e-4, f"expected one linear map, f(a) + f(b) = f(a + b) + f(0); got a deviation of {defect:.1%}"


@pytest.mark.todo_1_0
def test_the_linear_model_has_one_weight_for_each_pixel_and_class():
    got, weights = sum(one.numel() for one in helpers.weights_of(LinearModel(4))), 3 * 28 * 28 * 4
    assert got in (weights, weights + 4), (
        f"expected {weights} weights, one for each of 3 x 28 x 28 values and 4 classes (and 4 biases), got {got}; one "
        "nn.Linear on the flattened image has them"
    )


@pytest.mark.parametrize("model_class", [MLP, CNN])
def test_the_other_models_are_not_linear(model_class):
    model = helpers.made(model_class)
    defect = helpers.affine_defect(lambda images: helpers.evaluate(model, images))
    assert defect > 1e-3, "expected a nonlinear function, got a linear one; what stands between the layers?"


@pytest.mark.todo_1_1
def test_the_mlp_has_a_hidden_layer():
    matrices = [one for one in helpers.weights_of(MLPModel()) if one.dim() >= 2]  # as a convolution of all pixels: 4
    assert len(matrices) >= 2, f"expected at least 2 weight matrices (hidden layer and output), got {len(matrices)}"


@pytest.mark.todo_1_1
def test_the_mlp_has_no_convolutions():
    sides = {parameter.shape[-1] for parameter in helpers.weights_of(MLPModel()) if parameter.dim() == 4}
    found = [f"{side} x {side}" for side in sorted(sides) if 1 < side < 28]
    assert not found, (
        f"expected dense layers (nn.Linear) on the flattened image, got convolutions of {', '.join(found)}"
    )


class FirstInput(TorchFunctionMode):
    """While it is active, `images` is the input of the first convolution that runs, as it lies when it gets there."""

    images: torch.Tensor | None = None

    def __torch_function__(self, function, types, arguments=(), named=None):
        is_convolution = getattr(function, "__name__", "") == "conv2d"
        if is_convolution and self.images is None and arguments:
            self.images = arguments[0].detach()
        return function(*arguments, **(named or {}))


@pytest.mark.todo_1_2
def test_the_first_convolution_gets_the_pixels_where_they_lie():
    images = helpers.random_images(2)
    with FirstInput() as first:
        helpers.evaluate(CNNModel(), images)
    if first.images is None or first.images.numel() != images.numel():
        return  # padded, cut into patches or made of other layers: nothing is asked
    same_values = torch.equal(first.images.flatten().sort().values, images.flatten().sort().values)
    colours = [pixels.sum(dim=1).flatten().sort().values for pixels in (first.images, images)]
    assert not same_values or torch.allclose(*colours, atol=1e-5), (
        "the pixels are mixed up before the first convolution; images arrive as (B, 3, 28, 28), as nn.Conv2d takes "
        "them: no reshape"
    )


@pytest.mark.todo_1_2
def test_the_cnn_has_convolutions():
    model = CNNModel()
    kernels = [parameter for parameter in model.parameters() if parameter.dim() == 4 and parameter.shape[-1] > 1]
    assert kernels, "expected convolutions with kernels larger than 1 x 1, got none"


@pytest.mark.parametrize(
    ("model_name", "model_class"),
    [
        pytest.param("linear", *LINEAR.values, marks=LINEAR.marks),
        pytest.param("mlp", *MLP.values, marks=MLP.marks),
        pytest.param("cnn", *CNN.values, marks=CNN.marks),
    ],
)
def test_get_model_knows_the_name(model_name, model_class):
    model = get_model(model_name, num_classes=helpers.NUM_CLASSES + 1)
    assert isinstance(model, model_class), f"expected a {model_class.__name__}, got a {type(model).__name__}"
    helpers.check_shape(helpers.evaluate(model, helpers.random_images(2)), (2, helpers.NUM_CLASSES + 1), "logits")


@pytest.mark.provided
def test_get_model_lists_the_names_that_it_knows():
    with pytest.raises(ValueError, match=r"'resnet'.*linear.*mlp.*cnn"):
        get_model("resnet")


@pytest.mark.provided
def test_count_parameters_counts_what_is_trained():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))  # 12 + 3 weights and biases, 3 + 3 of the BatchNorm
    assert count_parameters(model) == 21
    model[0].bias.requires_grad_(False)
    assert count_parameters(model) == 18
