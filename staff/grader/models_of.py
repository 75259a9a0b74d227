"""Checks of models that both parts share: what they see, and that evaluation depends on the image alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from staff.grader import fresh_data
from staff.grader.client import NothingToCheckError, expect
from staff.grader.code_features import libraries_used
from staff.grader.model import Model
from staff.grader.sandbox import Place

CORNER = 8  # pixels
CORNERS = [(y, x) for y in (0, fresh_data.SIDE - CORNER) for x in (0, fresh_data.SIDE - CORNER)]
STATISTICS = ("running_mean", "running_var")
READY_MADE = ("torchvision.models", "torch.hub", "timm", "segmentation_models_pytorch", "monai")
SETTLED = 20  # passes in training mode that bring statistics of the student's own near those of the images
PASSES = 40  # in training mode: at a momentum of 0.01 statistics go a third of the way, at 0.1 all of it


def stirred(model: Model, rng: np.random.Generator, loss: str) -> Model:
    """The model after a few steps on noise: weights that start at zero, or nearly so, say nothing before.

    BatchNorm's statistics are those of other such images: with the ones that it starts with, or those of images that it
    was trained on, what lies far away fades in a deep network.

    loss: cross_entropy or mask.
    """
    images = fresh_data.noise(rng, 32, model.channels)
    targets = (
        fresh_data.labels(rng, 32, model.num_classes) if loss == "cross_entropy" else fresh_data.rectangles(rng, 32)
    )
    model.fit(images, targets, fresh_data.batches(rng, 32, 6, 8), loss, learning_rate=5e-3, seed=0)
    others = fresh_data.noise(rng, 64, model.channels)
    model.student.ask("settle", {"object": model.number, "passes": SETTLED}, {"images": others})
    return model


def check_own_network(place: Place, module: str, name: str, others: Iterable[str]) -> None:
    """Model `name` is the student's own: no ready-made network of a library.

    Read off the source, so it stops who did not know the rule. A library's network that is hidden from this passes.
    """
    path = place.tree / f"{module}.py"
    if not path.is_file():
        raise NothingToCheckError(f"{module}.py was not handed in")
    source = path.read_text(encoding="utf-8", errors="replace")
    used = libraries_used(source, READY_MADE, set(others) - {name})
    expect(not used, f"{name} is yours to write; {module}.py uses {used[0]}" if used else "")


def check_evaluation(model: Model, rng: np.random.Generator, channels: int | None = None) -> None:
    """In evaluation mode an image gets the same answer every time and in any company: no dropout, no batch statistics.

    And BatchNorm's running statistics have to follow what it sees in training, or evaluation does not fit training.
    """
    images = fresh_data.noise(rng, 8, model.channels)
    once, again = (model(images, channels, seed=seed) for seed in (1, 2))
    scale = max(float(once.std()), 1e-6)
    apart = float(np.abs(once - again).max())
    expect(
        apart <= 1e-3 * scale,
        "in evaluation mode the same image gets different outputs: dropout stays on. Use nn.Dropout, or "
        "F.dropout(x, p, training=self.training)",
    )
    check_company(model, rng, channels)
    check_sees_all(model, rng, channels)
    zero = 0.0 if channels else 0.5
    share = float((model(fresh_data.noise(rng, 16, model.channels), channels, training=True) == zero).mean())
    expect(
        share < 0.05,
        f"in training mode {share:.0%} of the outputs are exactly {zero:g}: does dropout follow the last layer?",
    )
    _check_statistics_follow(model, rng, channels)  # last, because it moves them away from usual images


def check_company(model: Model, rng: np.random.Generator, channels: int | None = None) -> None:
    """In evaluation mode an image gets the same output whatever else is in its batch."""
    images = fresh_data.noise(rng, 8, model.channels)
    once = model(images, channels)
    others = model(np.concatenate([images[:1], 3 * fresh_data.noise(rng, 7, model.channels) + 1]), channels)
    expect(
        np.abs(once[0] - others[0]).max() <= 1e-2 * max(float(once.std()), 1e-6) + 1e-5,
        "in evaluation mode the output for an image depends on the other images of its batch: normalisation must use "
        "its running statistics there, or each image's own",
    )


def check_sees_all(model: Model, rng: np.random.Generator, channels: int | None = None) -> None:
    """Red, green and blue are told apart; each corner matters, and small changes of dark and of bright values do."""
    images = fresh_data.noise(rng, 8, model.channels)
    apart = np.abs(model(np.roll(images, -1, axis=1), channels) - model(images, channels)).max()
    told = model.channels == 1 or apart > 1e-6
    expect(told, "the model cannot tell the colour channels apart: are they averaged or summed?")
    for place in CORNERS:
        apart = np.abs(model(with_change_at(images, place, CORNER), channels) - model(images, channels)).max()
        expect(apart > 1e-6, "what lies in a corner of the image has no influence: where is the rest of it lost?")
    for name, chosen in (("below", images < 0), ("above", images > 0)):
        apart = np.abs(model(np.where(chosen, 0.9 * images, images), channels) - model(images, channels)).max()
        expect(apart > 1e-6, f"small changes of pixels {name} 0 have no influence: is the image rounded or cut off?")


def check_mask_lies_there(model: Model, rng: np.random.Generator) -> None:
    """A changed corner of the image moves the mask there, and not another's: two that change places are a mistake.

    One may move another corner more: layers that see the whole image move what they have learned to. The changed values
    change their signs alone, so that averages over the whole image stay.
    """
    images = fresh_data.noise(rng, 16, model.channels)
    before, most = model(images), {}
    for y, x in CORNERS:
        moved = np.abs(model(with_change_at(images, (y, x), CORNER, -1.0)) - before).mean(axis=(0, 1))
        sums = {(v, u): float(moved[v : v + CORNER, u : u + CORNER].mean()) for v, u in CORNERS}
        largest = max(sums, key=lambda corner, sums=sums: sums[corner])
        most[y, x] = largest if sums[y, x] < 0.25 * sums[largest] else (y, x)
    astray = [corner for corner, where in most.items() if where != corner]
    swapped = [corner for corner in astray if most[most[corner]] == corner]
    expect(
        not swapped and len(astray) < len(CORNERS),
        "a change in one corner of the image moves the mask in another: are its axes swapped, flipped or reshaped?",
    )


def with_change_at(images: np.ndarray, place: tuple[int, int], size: int, factor: float = -8.0) -> np.ndarray:
    """The images with the square of `size` pixels at `place` (y, x) multiplied."""
    changed = images.copy()
    y, x = place
    changed[:, :, y : y + size, x : x + size] *= factor
    return changed


def _check_statistics_follow(model: Model, rng: np.random.Generator, channels: int | None) -> None:
    """After many batches in training mode, evaluation mode is close to it; nothing is asked without BatchNorm."""
    images = 2 * fresh_data.noise(rng, 16, model.channels) + 1
    company = 0.5 * fresh_data.noise(rng, 16, model.channels) - 1
    company[0] = images[0]
    train = [model(batch, channels, training=True, seed=1)[0] for batch in (images, company)]
    if np.abs(train[0] - train[1]).max() < 1e-5:  # nothing in training mode depends on the batch
        return
    frozen = model.state()[1]
    before = np.abs(model(images, channels) - model(images, channels, training=True, seed=1)).mean()
    trained = model(images, channels, training=True, seed=1, passes=PASSES)
    noise = np.abs(trained - model(images, channels, training=True, seed=2)).mean()  # of dropout
    after = np.abs(model(images, channels) - trained).mean()
    moved = model.state()[1]
    still = [name for name, value in frozen.items() if name.endswith(STATISTICS) and (moved[name] == value).all()]
    expect(
        after <= 0.8 * before + noise and not still,
        "BatchNorm's running statistics do not follow the training images, so evaluation does not fit training; is its "
        "momentum 0, or track_running_stats off?",
    )


def effects_of_values(model: Model, rng: np.random.Generator, channels: int | None = None) -> np.ndarray:
    """How the outputs for an image change with single values of it: one in every row and column, in all channels.

    Returns (rows, channels of the image, outputs).
    """
    base = fresh_data.noise(rng, 1, model.channels)
    side, columns = fresh_data.SIDE, rng.permutation(fresh_data.SIDE)
    changed = np.repeat(base, side * model.channels, axis=0)
    for number, copy in enumerate(changed):
        row = number // model.channels
        copy[number % model.channels, row, columns[row]] += 1.0
    moved = model(changed, channels) - model(base, channels)
    return moved.reshape(side, model.channels, -1)


def without_effect(moved: np.ndarray) -> str:
    """'3 of 84 pixel values tried', or '' if all have an effect, which rounding is not."""
    most = np.abs(moved).max(axis=2)
    without = int((most <= 1e-5 * most.max()).sum())
    return f"{without} of {most.size} pixel values tried" if without else ""


def seen_from(model: Model, images: np.ndarray, place: tuple[int, int], size: int = 4) -> np.ndarray:
    """Which output pixels (H, W) of a mask model change when the square of `size` pixels at `place` (y, x) changes."""
    apart = np.abs(model(with_change_at(images, place, size)) - model(images)).max(axis=(0, 1))
    return apart > 1e-6


def reach(model: Model, rng: np.random.Generator) -> int:
    """How many pixels away from a changed square in the middle the mask changes, at most."""
    start, size = fresh_data.SIDE // 2 - 2, 4
    changed = np.argwhere(seen_from(model, fresh_data.noise(rng, 4, model.channels), (start, start), size))
    expect(len(changed) > 0, "the mask does not change when the middle of the image does")
    return int(np.maximum(start - changed, changed - (start + size - 1)).max())
