"""What several tests of this lab share."""

from __future__ import annotations

import contextlib
import io
from types import SimpleNamespace

import pytest

from labs.medmnist_experiments import quantize


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One quick run of quantize.py: folder, and what it wrote to stderr."""
    folder, errors = tmp_path_factory.mktemp("quantized"), io.StringIO()
    words = ["--quick", "--flag", "breastmnist", "--width", "4", "--rounds", "2", "--latency_batch", "8"]
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        quantize.main([*words, "--device", "cpu", "--output_dir", str(folder)])
    return SimpleNamespace(folder=folder, stderr=errors.getvalue())
