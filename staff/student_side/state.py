"""What one request leaves behind in the process, put back before the next one.

A check must not fail because of what an earlier one ran. So every request starts from the same state. A change that
would have spoilt later checks is reported and fails the check that made it. A change without harm (threads, filters of
warnings, the working directory, ...) is put back without a word.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class State:
    """Settings of the process. harmful, harmless: name -> value of PyTorch's, empty before PyTorch is loaded."""

    harmful: dict[str, Any]
    harmless: dict[str, Any]
    environment: dict[str, str]
    folder: str
    filters: list
    errors: dict


def _harmful() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def _harmless() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
    }


def note() -> State:
    """The present state."""
    return State(_harmful(), _harmless(), dict(os.environ), os.getcwd(), list(warnings.filters), np.geterr())


def restore(before: State) -> list[str]:
    """Put the state back; names of the changes that would have spoilt later checks: gradients, dtype, autocast."""
    if not before.harmful:  # this request has only just loaded PyTorch
        return []
    changed = [name for name, value in _harmful().items() if value != before.harmful[name]]
    _restore_torch(before)
    for name, value in before.environment.items():  # what was added stays: the code that set it may read it again
        os.environ[name] = value
    with contextlib.suppress(OSError):
        os.chdir(before.folder)
    warnings.filters[:] = before.filters
    np.seterr(**before.errors)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 -- the generator that a student's code may use
    return changed


def _restore_torch(before: State) -> None:
    """Only what changed: use_deterministic_algorithms imports PyTorch's compiler, which takes seconds."""
    torch = sys.modules["torch"]
    put_back = {
        "gradients": torch.set_grad_enabled,
        "dtype": torch.set_default_dtype,
        "autocast": lambda enabled: torch.set_autocast_enabled("cpu", enabled),
        "deterministic": torch.use_deterministic_algorithms,
        "anomaly": torch.set_anomaly_enabled,
        "threads": torch.set_num_threads,
    }
    now = {**_harmful(), **_harmless()}
    for name, value in {**before.harmful, **before.harmless}.items():
        if now[name] != value:
            put_back[name](value)
    torch.manual_seed(0)
