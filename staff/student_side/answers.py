"""Arrays and numbers out of whatever a student's function returned."""

from __future__ import annotations

from collections.abc import Mapping
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


def pack(value: object, arrays: Arrays, name: str = "value") -> dict[str, Any]:
    """Describe any returned value as JSON; its arrays and numbers go into `arrays`, so that they cross as they are.

    Numbers, arrays and tensors, text, None, and lists, tuples and dicts of these. TypeError for anything else.
    """
    if value is None or isinstance(value, str):
        return {"plain": value}
    if isinstance(value, (list, tuple)):
        return {"list": [pack(item, arrays, f"{name}[{place}]") for place, item in enumerate(value)]}
    if isinstance(value, Mapping):
        return {"dict": [[str(key), pack(item, arrays, f"{name}[{key!r}]")] for key, item in value.items()]}
    arrays[name] = _that_may_cross(to_array(value, name))
    return {"array": name}


def _that_may_cross(array: np.ndarray) -> np.ndarray:
    """Integers as int64 and half precision as float32; the pipe takes few dtypes."""
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def unpack_argument(value: object, arrays: Arrays, as_tensors: bool) -> object:
    """An argument of a call: `{"array": name}` stands for one of the arrays, all else for itself."""
    if isinstance(value, dict) and set(value) == {"array"}:
        array = arrays[value["array"]]
        return torch.from_numpy(array) if as_tensors else array
    return value
