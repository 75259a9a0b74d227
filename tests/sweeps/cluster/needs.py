"""Tests that need Debian packages: install them in CI, elsewhere skip with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

IN_CI = os.environ.get("COURSE_CI") == "1"


def need(program: str, *packages: str) -> str:
    """The path of `program`. If it is missing: installed with apt-get in CI (COURSE_CI=1), else the test is skipped."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found:
        return found
    if not IN_CI:
        pytest.skip(
            f"{program} is not installed (apt-get install {' '.join(packages)}); COURSE_CI=1 makes this a failure"
        )
    install(packages)
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    assert found, f"{program} is still missing after installing {packages}"
    return found


def install(packages: tuple[str, ...]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]


def need_module(name: str) -> None:
    """Skip without the Python package `name`; in CI that is a failure."""
    try:
        __import__(name)
    except ImportError:
        if IN_CI:
            raise
        pytest.skip(f"{name} is not installed (pip install -r requirements-dev.txt)")
