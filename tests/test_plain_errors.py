"""The plain words for errors, from the errors themselves: PyTorch and Python may change their texts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.plain_errors import in_plain_words

pytestmark = pytest.mark.provided
logits, labels, image = torch.randn(4, 9, requires_grad=True), torch.arange(4), torch.zeros(4, 3, 28, 28)
history = {"train_loss": [], "val_loss": []}


class Model(nn.Module):
    def forward(self, x):
        return self.layer(x)


class Joined(nn.Module):
    def forward(self, x):
        return F.conv2d(torch.cat([x, x]), torch.zeros(8, 6, 3, 3))


class Mixed(nn.Module):
    def forward(self, x):
        return F.linear(x.reshape(-1, 1), torch.zeros(9, 2352))


MODEL, IMAGE_LAYER = Model(), nn.ReLU()


def validate_epoch(model, val_loader):
    return optimizer, model, val_loader  # noqa: F821


def typing_error(new_loss):
    return new_los  # noqa: F821


CASES = {
    "rows of 2352 numbers, and gets rows of 784": lambda: nn.Linear(2352, 9)(torch.zeros(12, 784)),
    "a convolution was made for 28 channels, and gets 3": lambda: nn.Conv2d(28, 8, 3)(image),
    "transposed convolution was made for 8 channels, and gets 3": lambda: nn.ConvTranspose2d(8, 3, 2)(image),
    "smaller than its window": lambda: F.max_pool2d(image, 32),
    "maps of size 14 and 28": lambda: torch.cat([image[:, :, :14, :14], image], dim=1),
    "one list of tensors": lambda: torch.cat(image, image),
    "size of the batch written down": lambda: image.view(32, -1, 100),
    "max_steps=None means no limit": lambda max_steps=None: max_steps <= 3,
    "MaxPool2d stands where a tensor belongs": lambda: nn.MaxPool2d(image).flatten(1),
    "ReLU stands where a tensor belongs": lambda: nn.Conv2d(3, 8, 3)(nn.ReLU()),
    "Sigmoid stands where a tensor belongs": lambda: nn.Linear(9, 9)(nn.Sigmoid()),
    "the batch of 4 became one of 8": lambda: Joined()(image),
    "the batch of 4 became one of 9408": lambda: Mixed()(image),
    "use reshape or flatten": lambda: image.permute(0, 2, 3, 1).view(4, -1),
    "one value per channel": lambda: nn.BatchNorm1d(9)(logits[:1]),
    "criterion(logits, labels)": lambda: F.cross_entropy(labels, logits),
    "no argmax": lambda: F.cross_entropy(logits.argmax(dim=1), labels),
    "backward() finds no graph": lambda: F.cross_entropy(logits.detach(), labels).backward(),
    "a sigmoid before": lambda: F.binary_cross_entropy(logits + 3, torch.ones(4, 9)),
    "does a comma stand at the end": lambda layer=(IMAGE_LAYER,): layer(image),
    "a loss is made first": lambda: nn.CrossEntropyLoss(logits, labels)(logits, labels),
    "is .mean() missing": lambda: logits.sum(dim=1).item(),
    "names on the left": lambda: [0 for _image, _label in [{"image": 1, "mask": 2, "has_box": 3}]],
    "None is written like a number": lambda sd=None: f"{sd:.3f}",
    "a text is used like a dict": lambda row="not run": row["accuracy"],
    "is a `return` missing": lambda model=None: model.eval(),
    "classification_model.py is not in its folder": lambda: __import__("classification_model"),
    "curly quotes": lambda: compile("x = “a”", "x.py", "exec"),
    "self.layer is never set": lambda: Model()(image),
    "did you mean eval?": lambda model=MODEL: model.evaluate(),
    "history has no 'validation_loss'; it has 'train_loss', 'val_loss'": lambda known=history: known["validation_loss"],
    "validate_epoch has the arguments model, val_loader": lambda: validate_epoch(1, 2),
    "did you mean new_loss?": lambda: typing_error(1),
}


@pytest.mark.parametrize("words", CASES)
def test_usual_errors_say_what_they_mean(words):
    with pytest.raises((Exception, SyntaxError)) as excinfo:
        CASES[words]()
    frames = [entry.frame.raw for entry in excinfo.traceback if entry.path.name == "test_plain_errors.py"]
    assert words.removeprefix("history ") in in_plain_words(excinfo.value, frames[-1])


def test_an_error_of_no_known_kind_gets_no_word():
    assert in_plain_words(ValueError("a text of the student's own"), None) == ""
