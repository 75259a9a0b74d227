"""What a student sees who has done nothing yet: the real starter, its real tests, the table."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from staff.release.starter import release
from staff.tests.release.tools import built
from tests.todos import TODOS


def test_an_unfilled_starter_has_nothing_started_and_nothing_failing(sources, tmp_path):
    folder = tmp_path / "starter"
    release.write_release(folder, built(sources).files)
    result = subprocess.run(
        [sys.executable, "-m", "tests"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 1, result.stderr
    row = re.compile(r"^(\d+\.\d+) +.*? +(passing|failing|not started) +(\d+)/\d+ +.*\n +(.*)$", re.MULTILINE)
    rows = row.findall(result.stdout)
    assert len(rows) == len(TODOS)
    for number, state, points, line in rows:
        assert (state, points) == ("not started", "0"), line
        assert line.startswith(f"TODO {number}: ")
