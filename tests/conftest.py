"""What all tests share."""

from __future__ import annotations

import signal
import sys

import pytest

# Started in the background of a script, pytest inherits that Ctrl-C is ignored, and so would the programs it tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test starts from the same random numbers, whichever tests ran before it."""
    torch = sys.modules.get("torch")  # tests of scripts' flags do without torch, which takes seconds to import
    if torch is not None:
        torch.manual_seed(0)
