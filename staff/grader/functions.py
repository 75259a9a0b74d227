"""Questions that need no operation of their own: what does a function of the submission return for these arguments?

    got = call(student, "hw6", "brier_score", probabilities, labels)
    expect_same(got, wanted, 1e-6, "brier_score")

Arguments and results are numbers, text, None, arrays, and lists and dicts of these. A dict of arrays comes back as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from staff.grader.client import CheckFailed, StudentProcess, clean, expect

MOST_ITEMS, DEEPEST = 500, 8  # of a result; what a submission sends is not trusted


def call(
    student: StudentProcess,
    module: str,
    function: str,
    *arguments: object,
    as_tensors: bool = False,
    seed: int = 0,
    timeout_s: float | None = None,
    **keywords: object,
) -> Any:
    """What a function of the submission returns. CheckFailed if it raises, is late, or returns something else.

    Args:
        student: the submission's process.
        module: 'hw6' for hw6.py.
        function: its name.
        arguments: numbers, text, and arrays of float32, float64, int64, uint8 or bool, by position.
        as_tensors: whether the arrays arrive as tensors.
        seed: of torch's random numbers.
        timeout_s: in seconds, if it is not the assignment's own limit.
        keywords: arguments by name.
    """
    arrays: dict[str, np.ndarray] = {}
    spec = {"module": module, "function": function, "as_tensors": as_tensors, "seed": seed}
    spec["arguments"] = [_argument(value, f"argument {place}", arrays) for place, value in enumerate(arguments)]
    spec["keywords"] = {name: _argument(value, name, arrays) for name, value in keywords.items()}
    reply = student.ask("call", spec, arrays, timeout_s=timeout_s)
    return _unpack(reply.result.get("value"), reply.arrays, DEEPEST)


def _argument(value: object, name: str, arrays: dict[str, np.ndarray]) -> object:
    if not isinstance(value, np.ndarray):
        return value
    arrays[name] = value
    return {"array": name}


def _unpack(described: object, arrays: Mapping[str, np.ndarray], deepest: int) -> Any:
    """The value that `answers.pack` described; CheckFailed for anything that it would not have written."""
    kind, content = next(iter(described.items())) if isinstance(described, dict) and len(described) == 1 else ("", None)
    expect(deepest > 0, "what it returns is nested too deeply")
    if kind == "plain" and (content is None or isinstance(content, str)):
        return None if content is None else clean(content, 4000)
    if kind == "array" and isinstance(content, str) and content in arrays:
        array = arrays[content]
        return array.item() if array.ndim == 0 else array
    if kind in ("list", "dict") and isinstance(content, list):
        expect(len(content) <= MOST_ITEMS, f"what it returns has {len(content)} items, far too many")
        if kind == "list":
            return [_unpack(item, arrays, deepest - 1) for item in content]
        if all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in content):
            return {clean(key, 80): _unpack(item, arrays, deepest - 1) for key, item in content}
    raise CheckFailed("your process answered nonsense about what a function returned")


def expect_same(got: object, wanted: object, tolerance: float, what: str) -> None:
    """CheckFailed with words for the student unless `got` is `wanted`: same keys, shapes, and values to `tolerance`.

    wanted: a number, text, an array, or a dict or list of these. A number may come back as an array of one value.
    """
    if isinstance(wanted, Mapping):
        expect(isinstance(got, Mapping), f"{what} is {_kind(got)}, expected a dict with {', '.join(wanted)}")
        missing = [name for name in wanted if name not in got]
        expect(not missing, f"{what} has no {', '.join(missing)}")
        for name, value in wanted.items():
            expect_same(got[name], value, tolerance, f"{what}[{name!r}]")
    elif isinstance(wanted, (list, tuple)):
        fits = isinstance(got, list) and len(got) == len(wanted)
        expect(fits, f"{what} is {_kind(got)}, expected {len(wanted)} values")
        for place, value in enumerate(wanted):
            expect_same(got[place], value, tolerance, f"{what}[{place}]")
    elif isinstance(wanted, str) or wanted is None:
        expect(got == wanted, f"{what} is {clean(str(got), 80)!r}, expected {wanted!r}")
    else:
        _expect_numbers(got, np.asarray(wanted), tolerance, what)


def _expect_numbers(got: object, wanted: np.ndarray, tolerance: float, what: str) -> None:
    expect(got is not None, f"{what} is None, expected {_shape(wanted)}; is there a return?")
    try:
        found = np.asarray(got, dtype=np.float64)
    except (TypeError, ValueError):
        raise CheckFailed(f"{what} is {_kind(got)}, expected {_shape(wanted)}") from None
    if wanted.ndim == 0 and found.size == 1:
        found = found.reshape(())
    expect(found.shape == wanted.shape, f"{what} is {_shape(found)}, expected {_shape(wanted)}")
    expect(np.isfinite(found).all(), f"{what} holds NaN or infinite values")
    apart = np.abs(found - wanted)
    if apart.size and apart.max() > tolerance:
        worst = np.unravel_index(int(apart.argmax()), apart.shape)
        where = f" at {list(map(int, worst))}" if worst else ""
        raise CheckFailed(f"{what} is {found[worst]:.6g}{where}, expected {wanted[worst]:.6g}")


def _shape(array: np.ndarray) -> str:
    return "a number" if array.ndim == 0 else f"an array of shape {array.shape}"


def _kind(value: object) -> str:
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"of type {type(value).__name__}"
