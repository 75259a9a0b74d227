"""Checks of one value that say what was expected and what came; they need nothing of an assignment."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def check_shape(tensor: Any, expected: tuple[int, ...], what: str) -> None:
    """Fail with the expected and the actual shape."""
    assert tensor is not None, f"expected {what} as a tensor, got None; is `return` missing at the end of the function?"
    assert isinstance(tensor, torch.Tensor), f"expected {what} as a tensor, got a {type(tensor).__name__}"
    got = tuple(tensor.shape)
    assert got == expected, f"expected {what} of shape {expected}, got {got}"


def check_close(got: float, expected: float, what: str, tolerance: float) -> None:
    """Fail with both numbers if they differ by more than `tolerance`."""
    assert isinstance(got, (int, float)) or torch.as_tensor(got).numel() == 1, f"expected {what} as one number"
    assert abs(float(got) - expected) <= tolerance, f"expected {what} {expected:.6f}, got {float(got):.6f}"


def is_one_of(got: float, allowed: dict[str, float], tolerance: float) -> bool:
    """True if `got` is one of the allowed numbers."""
    return any(abs(got - value) <= tolerance for value in allowed.values())


def number(value: Any, what: str) -> float:
    """A number, NumPy number or tensor with one value as a float; fail with what it is otherwise."""
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        pytest.fail(f"expected {what} as one number, got a {type(value).__name__}{shape}", pytrace=False)
