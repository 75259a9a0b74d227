"""Arrays and numbers out of whatever a student's function returned."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from staff.student_side.protocol import MAX_PAYLOAD_BYTES

Arrays = dict[str, np.ndarray]
Answer = tuple[Any, Arrays]


def to_array(value: object, what: str = "output") -> np.ndarray:
    """A plain array of whatever the student's code returned; TypeError names what it was."""
    if isinstance(value, torch.Tensor):
        if value.numel() * value.element_size() > MAX_PAYLOAD_BYTES:
            raise ValueError(f"{what} has shape {tuple(value.shape)}, which is far too large")
        return np.array(value.detach().cpu().numpy())
    if isinstance(value, (bool, int, float, np.ndarray, np.number)):
        return np.array(value)
    raise TypeError(f"{what} is {type(value).__name__}, expected a tensor or a number")


def to_numbers(value: object, length: int, what: str) -> np.ndarray:
    """float64 of `length` numbers out of a returned tuple."""
    if not isinstance(value, (tuple, list)) or len(value) != length:
        raise TypeError(f"{what} returned {type(value).__name__}, expected a tuple of {length} numbers")
    if any(isinstance(item, str) for item in value):
        raise TypeError(f"{what} holds text, expected numbers")
    numbers = [item.detach() if isinstance(item, torch.Tensor) else item for item in value]
    return np.array([float(number) for number in numbers], dtype=np.float64)
