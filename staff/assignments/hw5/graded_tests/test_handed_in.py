"""Figures that a submission must leave, and its written answers, which a person reads; here: are they there?"""

from __future__ import annotations

import pytest

from staff.grader import other_work
from staff.grader.client import expect

OUTPUTS = "labs/hw5_pneumonia/outputs"
FIGURES = (
    "1_samples.png",
    "1_distribution.png",
    "1_augmentation.png",
    "2_curves_cnn.png",
    "4_confusion_cnn.png",
    "4_roc_pr.png",
    "4_cases.png",
    "5_filters.png",
    "5_grad_cam.png",
)
GRADED = ("labs/hw5_pneumonia/hw5_dl.py", "labs/hw5_pneumonia/hw5_evaluate.py")
ANSWERS = ("1.2", "1.3", "2.3", "3.1", "3.2", "3.3", "4.1", "4.3", "5.1", "5.2", "6.1", "6.2", "6.3")
MIN_WORDS = 15


@pytest.mark.parametrize("name", FIGURES)
def test_figure(place, name):
    path = place.tree / OUTPUTS / name
    expect(path.is_file(), f"{OUTPUTS}/{name} was not handed in; a full run writes it")
    fault = other_work.fault_of_figure(path.read_bytes())
    expect(not fault, f"{OUTPUTS}/{name} {fault}")


@pytest.mark.parametrize("number", ANSWERS)
def test_answer(place, number):
    texts = [path.read_text("utf-8", "replace") for path in map(place.tree.joinpath, GRADED) if path.is_file()]
    answer = next((found[number] for found in map(other_work.answers_in, texts) if number in found), "")
    expect(answer, f'no comment and no line of a docstring starts with "ANSWER {number}:"')
    words = len(answer.split())
    expect(words >= MIN_WORDS, f"the answer {number} has {words} words, expected a few sentences")
