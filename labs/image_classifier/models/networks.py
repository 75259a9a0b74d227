"""torchvision's classifiers with the first layer, the stem and the head that these images and classes need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from labs.image_classifier.models import NAMES
from toolkit import backbones
from toolkit.devices import evaluating
from toolkit.errors import UserError, check_choice
from toolkit.runs import load_checkpoint

SMALL_IMAGE = 64  # pixels; below, a first layer that halves the size leaves nothing for the last stages
MAP_SIZE = 4  # places along a side that make a map of attention worth looking at
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")  # keys around a state dict
SAVED = Path(__file__).resolve().parent / "weights"  # state dicts called MODEL.pth are used before any download


class ImageClassifier(nn.Module):
    """A network with the normalisation that belongs to it: mean and sd of the training images are part of its state.

    forward: float32 images (B, C, H, W) in [-1, 1] → logits (B, num_classes). For multi-label data each of the L labels
    is its own question with two answers, so logits are (B * L, 2) = (0, z): cross-entropy on them is the binary
    one, argmax is z > 0, and the one training loop serves without knowing.
    """

    def __init__(self, network: nn.Module, channels: int, multi_label: bool) -> None:
        super().__init__()
        self.network, self.multi_label = network, multi_label
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("sd", torch.ones(1, channels, 1, 1))

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) in [-1, 1] → one score a class, (B, num_classes)."""
        return self.network((images - self.mean) / self.sd)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        scores = self.scores(images)  # (B, K)
        if not self.multi_label:
            return scores
        return torch.stack([torch.zeros_like(scores), scores], dim=-1).flatten(0, 1)  # (B * L, 2)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) → (B, num_classes): rows that sum to 1, or one probability a label."""
        scores = self.scores(images).float()
        return scores.sigmoid() if self.multi_label else scores.softmax(dim=1)

    def set_normalization(self, mean: torch.Tensor, sd: torch.Tensor) -> None:
        """Mean and sd (C,) of the training images on the [-1, 1] scale; a channel that is constant gets sd 1."""
        self.mean.copy_(mean.view(1, -1, 1, 1))
        self.sd.copy_(torch.where(sd > 1e-4, sd, 1.0).view(1, -1, 1, 1))


def build(name: str, channels: int, num_classes: int, image_size: int, multi_label: bool = False) -> ImageClassifier:
    """The network `name` with random weights. Raises UserError for an unknown name."""
    check_choice("model", name, NAMES)
    return _adapted(backbones.build(name), channels, num_classes, image_size, multi_label)


def _adapted(
    network: nn.Module, channels: int, num_classes: int, image_size: int, multi_label: bool
) -> ImageClassifier:
    """Fit first layer and head. The weights stay: a grey first layer is the sum over the three colours."""
    first, old = backbones.first_convolution(network)
    stride = (1, 1) if image_size < SMALL_IMAGE else old.stride
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, stride, old.padding, bias=old.bias is not None)
    new.load_state_dict(old.state_dict() if channels == 3 else {**old.state_dict(), "weight": old.weight.sum(1, True)})
    backbones.replace_module(network, first, new)
    backbones.new_head(network, num_classes)
    return ImageClassifier(network, channels, multi_label)


def build_with_weights(
    name: str, weights: str, channels: int, num_classes: int, image_size: int, multi_label: bool = False
) -> ImageClassifier:
    """The network `name` with a new head.

    weights: 'none', 'imagenet', a run of this lab, or a file with a state dict of torchvision's layout (see
    `trunk_of`). Raises UserError for weights of another network, and where ImageNet's cannot be had.
    """
    check_choice("model", name, NAMES)
    if weights == "none":
        return build(name, channels, num_classes, image_size, multi_label)
    content = _content(name, weights)
    if _is_own(content):
        model = build(name, channels, num_classes, image_size, multi_label)
        _load_own(model, content["state_dict"], name, weights)
        return model
    network = backbones.build(name)
    network.load_state_dict(trunk_of(network, content, f"--weights {weights}", name), strict=False)
    return _adapted(network, channels, num_classes, image_size, multi_label)


def _content(name: str, weights: str) -> dict[str, Any]:
    """What the checkpoint holds; ImageNet's weights from SAVED or by download."""
    path = SAVED / f"{name}.pth" if weights == "imagenet" else Path(weights)
    if path.is_dir():
        path = path / "best.pt"
    if weights != "imagenet" or path.is_file():
        return load_checkpoint(path)
    said: list[str] = []
    state = backbones.find_weights(name, None, said.append)
    if state is None:
        raise UserError(f"{said[0]}; put the file at {path}, or train with --weights none")
    return state


def _is_own(content: dict[str, Any]) -> bool:
    return isinstance(content.get("state_dict"), dict) and {"mean", "sd"} <= set(content["state_dict"])


def trunk_of(network: nn.Module, content: dict[str, Any], origin: str, name: str) -> dict[str, torch.Tensor]:
    """The weights for everything but the head, whatever they are wrapped in.

    Checkpoints nest the state dict ({"model": ...}, {"state_dict": ...}) and put prefixes before its keys (`module.`,
    `model.`, `backbone.`). The head may have any number of classes, or be missing: it is replaced in any case.
    Raises UserError that names missing, odd and misshapen keys.
    """
    while (inner := next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)) is not None:
        content = inner
    head = backbones.head_of(network)[0] + "."
    root = head.partition(".")[0] + "."  # of MobileNet's classifier only the last layer is the head
    expected = {key: value for key, value in network.state_dict().items() if not key.startswith(head)}
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    first = next(iter(expected))
    prefixes = [key[: -len(first)] for key in tensors if key.endswith(first)] or [""]
    prefix = max(prefixes, key=lambda start: sum(start + key in tensors for key in expected))
    found = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    found = {
        key: value
        for key, value in found.items()
        if not key.startswith(root) or (key in expected and value.shape == expected[key].shape)
    }
    _spread_grey(expected, found)
    if odd := [key for key, value in found.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(
            f"{origin} have NaN or infinite values in {odd[0]}; take a checkpoint of before its training failed"
        )
    # Checkpoints of before 2018 count no batches; those of feature extractors have nothing of the classifier.
    optional = {key for key in expected if key.endswith("num_batches_tracked") or key.startswith(root)}
    backbones.check_keys(name, expected, found, origin, optional=optional)
    return found


def _spread_grey(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """A first layer for grey images becomes one for colour with the same answer to grey (`_adapted` sums it again)."""
    key, wanted = next((key, value) for key, value in expected.items() if value.dim() == 4)
    if key in found and found[key].shape == (len(wanted), 1, *wanted.shape[2:]):
        found[key] = found[key].float().expand_as(wanted) / wanted.shape[1]


def _load_own(model: ImageClassifier, state: dict[str, torch.Tensor], name: str, weights: str) -> None:
    """Take everything but the head and the normalisation from a checkpoint of this lab."""
    head = backbones.head_of(model)[0]
    own = {key: value for key, value in model.state_dict().items() if key.startswith("network.")}
    own = {key: value for key, value in own.items() if not key.startswith(head + ".")}
    odd = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
    if odd:
        raise UserError(f"--weights {weights} does not fit {name} with these images: {odd[0]} is missing or differs")
    model.load_state_dict({key: state[key] for key in own}, strict=False)


def attention_layer(model: ImageClassifier, image_size: int) -> nn.Module:
    """Where Grad-CAM looks: the last stage with at least MAP_SIZE x MAP_SIZE places; of small images the first stage.

    On 28 x 28 pixels the very last stage of some networks has a single place, and its map would be one colour.
    """
    network = model.network
    stages = (
        list(network.features) if hasattr(network, "features") else [getattr(network, f"layer{n}") for n in range(1, 5)]
    )
    sizes: dict[nn.Module, int] = {}
    hooks = [stage.register_forward_hook(lambda s, _, out: sizes.update({s: min(out.shape[2:])})) for stage in stages]
    try:
        with evaluating(model):
            model.scores(torch.zeros(1, model.mean.shape[1], image_size, image_size, device=model.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    large = [stage for stage in stages if sizes[stage] >= MAP_SIZE]
    return large[-1] if large else stages[0]
