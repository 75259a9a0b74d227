"""Copies of the sources, so that they do not change while the tests run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from staff.tests.release.tools import copy_sources


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """A copy that no test changes."""
    return copy_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture
def own_sources(sources, tmp_path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(sources, tmp_path / "own"))
