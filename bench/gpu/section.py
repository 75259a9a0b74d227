"""The process of one section: python -m bench.gpu.section MODULE NAME WORK SECONDS tiny|full. Used by plan.py alone."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from bench.gpu.plan import Bench
from toolkit.cli import run_script


def main() -> None:
    """Call the function `NAME` of `MODULE`; its rows and its output are read by the parent."""
    module, name, work, seconds, size = sys.argv[1:]
    bench = Bench(name, Path(work), float(seconds), tiny=size == "tiny")
    getattr(import_module(module), name)(bench)


if __name__ == "__main__":
    run_script(main)
