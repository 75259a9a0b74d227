"""Everything that the course claims about one GPU, measured in one run of at most eight minutes, offline.

    python -m bench.gpu                          # on a machine with an NVIDIA GPU
    python -m bench.gpu --only training loading  # some sections alone
    python -m bench.gpu --tiny                   # the same script on a processor, under a minute: does it all run?

It prints one Markdown table for docs/MEASURED.md. The table is also written to --out (to $OUT/gpu.md where the
environment variable OUT is set), with the rows as JSON and everything that the commands printed next to it, again after
each section: a run that is killed loses only the section that it was in. Each section runs in its own process with
a time limit; one that fails gives a row "failed: reason", and the next one starts.

No data set is needed: images are the bundled sample, repeated to the size of the full PathMNIST where size matters.
Scores of such a set mean nothing and are not shown.

What has to travel to a machine without a network that has torch and torchvision: the repository, and wheels of the
packages of requirements.txt that the machine lacks. Everything else that the sections import is in requirements.txt; of
requirements-dev.txt nothing is needed. If medmnist alone is missing (it needs only packages that requirements.txt names
already, and scikit-image and pandas), one small wheel travels:

    python -m pip download --no-deps --only-binary=:all: --dest .whl medmnist==3.0.2
    python -m pip install --no-index --no-deps --target /tmp/site .whl/*.whl    # there
    PYTHONPATH=/tmp/site python -m bench.gpu                                    # there
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from bench.gpu import plan
from bench.gpu.rows import Report
from toolkit.cli import OneLineParser, in_range, run_script


def build_parser() -> OneLineParser:
    """The flags of this benchmark."""
    names = [section.name for section in plan.SECTIONS]
    parser = OneLineParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SECTION", help=", ".join(names))
    parser.add_argument("--limit_s", type=in_range(float, 1), default=480.0, help="seconds for all sections together")
    parser.add_argument("--out", default="runs/bench-gpu/gpu.md", help="the table; $OUT/gpu.md where OUT is set")
    parser.add_argument("--tiny", action="store_true", help="a few steps each, on any device; numbers mean nothing")
    return parser


def main() -> int:
    """Run the sections and print the table; 0 if no row failed, else 1."""
    args = build_parser().parse_args()
    out = Path(os.environ["OUT"]) / "gpu.md" if os.environ.get("OUT") else Path(args.out)
    sections = [section for section in plan.SECTIONS if section.name in args.only]
    report = Report(out, command=f"python -m bench.gpu {' '.join(sys.argv[1:])}".strip(), tiny=args.tiny)
    # Output folders of the commands, the made data sets and the compiler's cache: all of it goes when the run ends.
    with tempfile.TemporaryDirectory(prefix="bench-gpu-", ignore_cleanup_errors=True) as work:
        plan.run_all(sections, Path(work), report, limit_s=args.limit_s, tiny=args.tiny)
    print(f"\n{report.markdown()}\nwritten: {', '.join(str(path) for path in report.files())}")
    return 1 if report.failures() else 0


if __name__ == "__main__":
    run_script(main)
