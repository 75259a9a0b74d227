"""The pictures: what they show is right, and every word is inside the picture and over no other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba

from toolkit import plots
from toolkit.medmnist_catalog import official_entry

pytestmark = pytest.mark.provided
NAMES = official_entry("pathmnist", 28).class_names  # the longest has 36 letters


def boxes_of(texts: list) -> list:
    """Bounding boxes in pixels of the texts that say something."""
    return [text.get_window_extent() for text in texts if text.get_text().strip()]


def assert_readable(figure, groups: list[list]) -> None:
    """Nothing sticks out of the picture, and within a group no text touches another."""
    figure.canvas.draw()
    width, height = figure.bbox.width, figure.bbox.height
    for group in groups:
        boxes = boxes_of(group)
        assert boxes
        for box in boxes:
            assert box.x0 >= 0, box
            assert box.y0 >= 0, box
            assert box.x1 <= width, box
            assert box.y1 <= height, box
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other), (one, other)


def outline(axes, color: str) -> set:
    """The line segments of one colour in `axes`, each as a sorted pair of points."""
    wanted = plots.TRUE_COLOR if color == "true" else plots.PREDICTED_COLOR

    collections = [c for c in axes.collections if isinstance(c, LineCollection)]
    chosen = [c for c in collections if np.allclose(c.get_color()[0], to_rgba(wanted))]
    return {tuple(sorted(map(tuple, segment.tolist()))) for c in chosen for segment in c.get_segments()}


def test_outlines_run_along_the_pixels_that_are_scored():
    """A box in a corner has an outline on all four sides; a prediction counts above 0.5 and not by interpolation."""
    true, predicted = torch.zeros(1, 1, 28, 28), torch.full((1, 1, 28, 28), 0.5)
    true[:, :, :4, :3] = 1  # rows 0-3, columns 0-2
    predicted[:, :, 10, 20] = 0.51
    figure = plots.mask_predictions(torch.zeros(1, 3, 28, 28), true, predicted, torch.tensor([0.0]), "title")
    last = figure.axes[3]
    horizontal = {((x - 0.5, y), (x + 0.5, y)) for x in range(3) for y in (-0.5, 3.5)}
    vertical = {((x, y - 0.5), (x, y + 0.5)) for y in range(4) for x in (-0.5, 2.5)}
    assert outline(last, "true") == horizontal | vertical
    corners = [(19.5, 9.5), (20.5, 9.5), (19.5, 10.5), (20.5, 10.5)]
    assert {point for segment in outline(last, "predicted") for point in segment} == set(corners)
    assert last.get_title() == "IoU 0.000"


def test_mistakes_come_first_the_surest_before_the_others():
    labels = np.arange(20) % 9
    probabilities = np.full((20, 9), 0.01)
    probabilities[np.arange(20), labels] = 0.9
    for image, confidence in ((7, 0.95), (3, 0.99)):  # two mistakes
        probabilities[image] = 0.001
        probabilities[image, (labels[image] + 1) % 9] = confidence
    images = torch.linspace(-1, 1, 20)[:, None, None, None].expand(20, 3, 28, 28)
    figure = plots.class_predictions(images, probabilities, labels, NAMES, "title")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == f"{NAMES[4]} (99%)\ntrue: {NAMES[3]}"
    assert titles[1] == f"{NAMES[8]} (95%)\ntrue: {NAMES[7]}"
    shown = figure.axes[0].images[0].get_array()
    assert float(shown[0, 0, 0]) == pytest.approx(3 / 19, abs=1e-6)  # it is the image of that mistake
    assert "2 of 20 images are wrong" in figure.get_suptitle()


def test_long_class_names_are_in_full_and_do_not_touch():
    probabilities = np.full((12, 9), 0.01)
    probabilities[:, 8] = 1.0  # "100%" next to the longest name, in all panels
    figure = plots.class_predictions(torch.zeros(12, 3, 28, 28), probabilities, np.full(12, 8), NAMES, "title")
    assert all(NAMES[8] in axes.get_title() for axes in figure.axes)
    assert_readable(figure, [[axes.title for axes in figure.axes]])


def test_confusion_matrix_has_counts_and_names_in_their_places():
    counts = np.diag(np.arange(1, 10))
    counts[2, 5] = 7
    figure = plots.confusion(counts, NAMES, "title")
    axes = figure.axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        *(((n, n), str(n + 1)) for n in range(9)),
        ((5, 2), "7"),  # predicted class 5 to the right, true class 2 downwards
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    assert "n = 52" in axes.get_title()
    assert_readable(figure, [axes.get_yticklabels(), [axes.xaxis.label, axes.yaxis.label, axes.title]])
    assert_readable(figure, [[label] for label in axes.get_xticklabels()])  # slanted: their boxes overlap, they do not


@pytest.mark.parametrize(("metric", "label"), [("acc", "accuracy"), ("iou", "IoU")])
def test_curves_are_those_of_the_history(metric, label):
    history = {"train_loss": [2.0, 1.0], "val_loss": [2.5, 1.5]}
    history |= {f"train_{metric}": [0.2, 0.5], f"val_{metric}": [0.1, 0.4]}
    figure = plots.learning_curves(history, metric, "title")
    assert [axes.get_ylabel().split()[0] for axes in figure.axes] == ["loss", label]
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[1].lines}
    assert drawn == {"train": [0.2, 0.5], "val": [0.1, 0.4]}
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2]


def test_curves_stay_readable_where_the_first_epoch_is_huge_and_quick_pictures_say_so(tmp_path):
    history = {
        "train_loss": [40.0, 0.7, 0.5],
        "val_loss": [9.0, 0.6, 0.4],
        "train_acc": [0.5] * 3,
        "val_acc": [0.5] * 3,
    }
    loss_axes, _ = plots.learning_curves(history, "acc", "title").axes
    assert loss_axes.get_ylim()[1] == pytest.approx(1.3 * 0.7)
    assert "epoch 1 lies above: 40" in loss_axes.get_title()
    ordinary = plots.learning_curves(
        {**history, "train_loss": [1.0, 0.7, 0.5], "val_loss": [0.9, 0.6, 0.4]}, "acc", "t"
    )
    assert ordinary.axes[0].get_ylim()[1] > 1.0
    with plots.stamped("quick"):
        stamped = plots.save_figure(plots.new_figure(2, 2), tmp_path / "a.png")
    assert [text.get_text() for text in stamped.texts] == ["quick"]
    assert not plots.save_figure(plots.new_figure(2, 2), tmp_path / "b.png").texts
