"""What all tests share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test starts from the same random numbers, whichever tests ran before it."""
    torch = sys.modules.get("torch")  # tests of scripts' flags do without torch, which takes seconds to import
    if torch is not None:
        torch.manual_seed(0)
