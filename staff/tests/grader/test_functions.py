"""Functions of a submission that are asked without an operation of their own: what goes in, and what comes out."""

from __future__ import annotations

import numpy as np
import pytest

from staff.grader.client import CheckFailed, StudentError
from staff.grader.functions import _unpack, call, expect_same
from staff.tests.local_student import LocalStudent

SOURCE = """
import numpy as np
import torch

def back(*values, **named):
    return [list(values), named]

def several(x):
    return {"mean": torch.tensor(x).mean(), "of": (np.float32(1), 2, True), "rows": x[:1], "text": "a", "none": None}

def kinds(x):
    return [type(x).__name__, torch.rand(1)]

def object_of_its_own():
    return {"a": object()}
"""


@pytest.fixture
def student(tmp_path):
    return LocalStudent(tmp_path, {"mine.py": SOURCE})


def test_arguments_and_results_are_numbers_texts_arrays_lists_and_dicts(student):
    x = np.arange(6.0).reshape(2, 3)
    values, named = call(student, "mine", "back", x, 3, "text", scale=0.5, more=x[0])
    assert np.array_equal(values[0], x)
    assert (values[1:], named["scale"]) == ([3, "text"], 0.5)
    assert np.array_equal(named["more"], x[0])
    found = call(student, "mine", "several", x)
    wanted = {"mean": 2.5, "of": [1.0, 2, True], "rows": x[:1], "text": "a", "none": None}
    expect_same(found, wanted, 0, "several")


def test_tensors_and_random_numbers_are_as_asked_for(student):
    x = np.zeros(2)
    assert call(student, "mine", "kinds", x)[0] == "ndarray"
    first, again, other = (call(student, "mine", "kinds", x, as_tensors=True, seed=seed) for seed in (1, 1, 2))
    assert first[0] == "Tensor"
    assert first[1] == again[1] != other[1]


def test_what_cannot_cross_is_the_students_error(student):
    with pytest.raises(StudentError, match=r"value\['a'\] is object, expected a tensor or a number"):
        call(student, "mine", "object_of_its_own")


@pytest.mark.parametrize(
    ("got", "wanted", "says"),
    [
        (0.31, 0.25, "f is 0.31, expected 0.25"),
        (float("nan"), 0.25, "f holds NaN"),
        (None, 0.25, "f is None, expected a number"),
        ("much", 0.25, "f is of type str, expected a number"),
        ({"a": 1}, {"a": 1, "b": 2}, "f has no b"),
        ({"a": np.array([1.0, 3.0])}, {"a": np.array([1.0, 2.0])}, r"f\['a'\] is 3 at \[1\], expected 2"),
        (np.zeros((2, 1)), np.zeros(2), r"f is an array of shape \(2, 1\), expected an array of shape \(2,\)"),
        ([1, 2, 3], [1, 2], "f is a list of 3, expected 2 values"),
        ("b", "a", "f is 'b', expected 'a'"),
    ],
)
def test_a_wrong_result_is_named(got, wanted, says):
    with pytest.raises(CheckFailed, match=says):
        expect_same(got, wanted, 0.05, "f")


@pytest.mark.parametrize(
    "described",
    [None, 3, {}, {"array": "no"}, {"plain": 3}, {"list": 3}, {"dict": [["a"]]}, {"list": [{"plain": None}] * 501}],
)
def test_a_forged_result_costs_the_check(described):
    with pytest.raises(CheckFailed):
        _unpack(described, {}, 8)
    deep = {"plain": None}
    for _ in range(9):
        deep = {"list": [deep]}
    with pytest.raises(CheckFailed, match="too deeply"):
        _unpack(deep, {}, 8)
