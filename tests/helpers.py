"""What the tests of the graded TODOs share: checks that say what was expected and what came, and small data.

Nothing here uses a graded module, so that the tests of one TODO never need another one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from synthetic_data import SegmentationDataGenerator, box_collate_fn
from tests.checks import check_close, check_shape, is_one_of, number  # noqa: F401 -- the tests call helpers.number

IMAGE_SHAPE = (3, 28, 28)
NUM_CLASSES = 9
CPU = torch.device("cpu")
COUNT = 26  # images of the two small loaders: seven batches of four, the last one smaller


def random_images(count: int, channels: int = IMAGE_SHAPE[0], scale: float = 1.0) -> torch.Tensor:
    """Images float32 (count, channels, 28, 28), uniform in [-scale, scale]; always the same ones."""
    generator = torch.Generator().manual_seed(count)
    return (torch.rand(count, channels, 28, 28, generator=generator) * 2 - 1) * scale


def colored_images(num_classes: int = NUM_CLASSES, per_class: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are easy to tell apart: each class has a colour and a corner, plus noise; and their labels."""
    labels = torch.arange(num_classes).repeat(per_class)
    generator = torch.Generator().manual_seed(1)
    colors = torch.rand(num_classes, IMAGE_SHAPE[0], 1, 1, generator=generator) * 2 - 1
    images = 0.3 * random_images(len(labels)) + 0.7 * colors[labels]
    return images, labels


def boxed_images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Dim noise with one box each: images (count, C, 28, 28) normalised as in the course, masks (count, 1, 28, 28)."""
    boxes = SegmentationDataGenerator(generator=torch.Generator().manual_seed(2))
    pairs = [boxes.add_box_to_image(image.abs() * 0.6, boxes.generate_box()) for image in random_images(count)]
    images, masks = (torch.stack(column) for column in zip(*pairs, strict=True))
    return images * 2 - 1, masks


@torch.no_grad()
def evaluate(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The model's output in evaluation mode."""
    model.eval()
    return model(images)


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """The model's parameters. A lazy layer has its own after the first images."""
    with torch.no_grad():
        evaluate(model, random_images(2))
    return list(model.parameters())


def made(model_class: Callable[..., nn.Module]) -> nn.Module:
    """A new model that answers to its images from the start.

    A last layer may start at zero, or with the bias of a rare answer. Both are right, and training moves them. So
    weights that are all the same become random, and biases that are all the same become 0.
    """
    model = model_class()
    weights_of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (parameter == parameter.flatten()[0]).all():
                if parameter.dim() >= 2:
                    parameter.normal_(std=0.05)
                elif name.endswith("bias"):
                    parameter.zero_()
    return model


def settled(model: nn.Module) -> nn.Module:
    """The model with BatchNorm's statistics of random images. With those it starts with, a deep one fades to grey."""
    for norm in model.train().modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # the average of all passes: nothing is left of the start
    with torch.no_grad():
        for _ in range(20):  # for statistics that the student's own code keeps
            model(random_images(16))
    return model


def affine_defect(function: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """How far `function` is from a linear map plus a constant: 0 if f(a) + f(b) = f(a + b) + f(0), relative to f."""
    a, b = random_images(16, scale=2.0), random_images(17, scale=2.0)[:16]
    zero = function(torch.zeros_like(a))
    scale = (function(a) - zero).abs().mean().item()
    assert scale > 0, "expected an output that depends on the image, got the same for every image"
    return (function(a) + function(b) - function(a + b) - zero).abs().mean().item() / scale


def check_depends_on_every_channel(model: nn.Module, share_of_pixels: float) -> None:
    """Fail unless the output changes with each colour channel and with at least this share of the pixels."""
    images = random_images(32).requires_grad_()
    model.eval()
    output = model(images)
    assert output.requires_grad, (
        "expected an output that gradients flow through, got one without (detach? no_grad? rounded or compared?)"
    )
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    backward(model, (output * weights).sum())
    assert images.grad is not None, "expected an output that depends on the image, got one that does not"
    for name, chosen in (("below", images < 0), ("above", images > 0)):
        assert images.grad[chosen].any(), (
            f"expected an output that depends on pixel values {name} 0, got one that does not; is the image cut off?"
        )
    felt = images.grad.abs().amax(dim=0) > 0  # (C, 28, 28)
    for channel, name in zip(felt, ("red", "green", "blue") if len(felt) > 1 else ("grey",), strict=True):
        share = channel.float().mean().item()
        assert share >= share_of_pixels, (
            f"expected at least {share_of_pixels:.0%} of the {name} pixels to matter for the output, got {share:.0%}"
        )


def check_images_are_independent(model: nn.Module) -> None:
    """Fail if, in evaluation mode, an image is judged at random, or differently when others are in the batch."""
    images = random_images(5)
    together = evaluate(settled(model), images)
    assert torch.equal(together, evaluate(model, images)), (
        "in evaluation mode the same images get another output each time; is dropout always on, or does forward "
        "call train() or make a layer? (use nn.Dropout, or F.dropout(x, p, training=self.training); layers belong into "
        "__init__)"
    )
    alone = torch.cat([evaluate(model, image[None]) for image in images])
    assert not torch.allclose(together[0], together[1], atol=1e-7), (
        "expected different outputs for different images, got the same; does the output reach back to the input?"
    )
    difference = (together - alone).abs().max().item()
    assert difference < 1e-4, (
        "expected the same output for an image alone and in a batch of 5, got a difference of "
        f"{difference:.4f} (does a reshape mix the images, or a BatchNorm without running statistics?)"
    )


def check_nothing_follows_the_last_layer(model: nn.Module, zero: float = 0.0) -> None:
    """Fail if many outputs are exactly `zero` in training mode: what a dropout or a ReLU after the last layer makes."""
    share = (model.train()(random_images(16)) == zero).float().mean().item()
    assert share < 0.05, (
        f"{share:.0%} of the outputs are exactly {zero:g} in training mode; does dropout or ReLU follow the last layer?"
    )


def backward(model: nn.Module, loss: torch.Tensor) -> None:
    """loss.backward(); if an in-place operation of the model's forward forbids it, fail with the likely line."""
    try:
        loss.backward()
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        lines, first = inspect.getsourcelines(type(model).forward)
        changes = re.compile(r"[-+*/]=|\w_\(|inplace=True|\] = ")
        found = [f"line {first + number}: {line.strip()}" for number, line in enumerate(lines) if changes.search(line)]
        where = f" ({'; '.join(found)})" if found else ""
        pytest.fail(
            f"forward changes a tensor in place that backward() still needs{where}; write y = y + x instead of y += x",
            pytrace=False,
        )


def check_all_parameters_learn(model: nn.Module, loss: torch.Tensor) -> None:
    """Fail with the names of parameters that get no gradient."""
    parameters = dict(model.named_parameters())
    known = set(map(id, parameters.values()))
    for name, held in (pair for module in model.modules() for pair in vars(module).items()):
        layers = [one for one in held if isinstance(one, nn.Module)] if isinstance(held, (list, tuple)) else []
        assert known.issuperset(id(weight) for layer in layers for weight in layer.parameters()), (
            f"self.{name} is a plain {type(held).__name__}: its layers are not trained; make it nn.ModuleList([...])"
        )
    assert parameters, "expected a model with parameters, got one without"
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    assert not frozen, f"expected every parameter to be trained, but requires_grad is False for: {', '.join(frozen)}"
    backward(model, loss)
    idle = [name for name, parameter in parameters.items() if parameter.grad is None]
    assert not idle, f"expected a gradient for every parameter, got none for: {', '.join(idle)} (unused in forward?)"


def check_can_be_learnt_by_heart(
    model: nn.Module,
    data: tuple[torch.Tensor, torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    score: tuple[str, Callable[[torch.Tensor, torch.Tensor], float]],
    goal: float,
    learning_rate: float = 0.002,
) -> None:
    """Train on one batch over and over with Adam; fail unless the score reaches `goal` within 200 steps.

    A sound model needs 20 to 80 steps, and stops there.
    """
    images, targets = data
    (score_name, score_of), best = score, 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step in range(1, 201):
        model.train()
        optimizer.zero_grad()
        backward(model, loss(model(images), targets))
        optimizer.step()
        if step % 20 == 0:
            best = max(best, score_of(evaluate(model, images), targets))
            if best >= goal:
                return
    pytest.fail(
        f"expected {score_name} of at least {goal} after 200 steps on one batch of {len(images)} images, got {best:.2f}"
    )


def label_loader(count: int = COUNT, batch_size: int = 4) -> DataLoader:
    """Batches (images (B, 3, 6, 6), labels (B,)) of three classes, the last one smaller."""
    generator = torch.Generator().manual_seed(38)  # small_classifier gets a part of each batch right
    images = torch.randn(count, 3, 6, 6, generator=generator) + torch.randn(count, 3, 1, 1, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def mask_loader(count: int = COUNT, batch_size: int = 4) -> DataLoader:
    """Batches as create_box_dataloaders gives them, with images of 12 x 12 pixels; the last one is smaller."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 3, 12, 12, generator=generator)
    # Masks that the first colour channel tells, so that a small model has an IoU between 0 and 1.
    masks = (images[:, :1] + 0.3 * torch.randn(count, 1, 12, 12, generator=generator) > 0.2).float()
    items = [
        {"image": image, "mask": mask, "pathmnist_label": torch.tensor(0), "has_box": torch.tensor(True)}
        for image, mask in zip(images, masks, strict=True)
    ]
    return DataLoader(items, batch_size=batch_size, collate_fn=box_collate_fn)  # type: ignore[arg-type]


def small_classifier() -> nn.Module:
    """A model of the tests' own for label_loader: BatchNorm shows a wrong mode, and it is quick.

    It looks at single pixels, so a loop that flips or turns its training images itself gets the same results.
    """
    torch.manual_seed(6)
    pixels = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(*pixels, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def small_segmenter() -> nn.Module:
    """A model of the tests' own for mask_loader, of single pixels. Its masks are partly right: 0 or 1 fit mistakes."""
    torch.manual_seed(7)
    layers = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid())
    with torch.no_grad():
        layers[0].weight[0, 0, 0, 0] += 1  # the first channel sees the red value of its own pixel
        layers[3].weight[0, 0] += 1
    return nn.Sequential(*layers)


def largest_difference(model: nn.Module, other: nn.Module) -> float:
    """The largest difference between the trainable parameters of two models of one architecture."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((a.detach().cpu() - b.detach().cpu()).abs().max().item() for a, b in pairs)


def cross_entropy_oracle(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean of -log softmax(logits)[label], written out."""
    log_sum = logits.double().exp().sum(dim=1).log()
    return (log_sum - logits.double()[torch.arange(len(labels)), labels]).mean().item()


def iou_oracle(probabilities: torch.Tensor, masks: torch.Tensor) -> list[float]:
    """The IoU of each image at threshold 0.5, written out with sets of pixels."""
    scores = []
    for probability, mask in zip(probabilities.flatten(1), masks.flatten(1), strict=True):
        predicted = {i for i, value in enumerate(probability.tolist()) if value > 0.5}
        true = {i for i, value in enumerate(mask.tolist()) if value > 0.5}
        scores.append(len(predicted & true) / len(predicted | true) if predicted | true else 1.0)
    return scores
