"""The study in one command: baseline, search, final model, ablation, report, notebook.

python -m labs.pathmnist_resnet18.src.pathmnist_resnet18 all --quick
"""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from labs.pathmnist_resnet18.src import LAB
from toolkit.cli import OneLineParser, add_data_flags, from_flags, in_range, not_empty, run_script
from toolkit.errors import UserError

if TYPE_CHECKING:
    from labs.pathmnist_resnet18.src.study import Study

MODULE = "labs.pathmnist_resnet18.src.pathmnist_resnet18"
STEPS = {
    "baseline": "train the baseline on the whole training set",
    "search": "optimizers, learning rates and batch sizes on a fifth of the training set, through dispatcher.py",
    "final": "train the best configuration of the search on the whole training set, and read the test set once",
    "ablation": "one change to the baseline at a time, judged on validation images, through dispatcher.py",
    "report": "results.json, figures and the report as HTML, PDF and Word file, from what has been run",
    "notebook": "execute the notebook on the results and export it as HTML",
    "all": "everything above, in this order",
}
# Packages of requirements-dev.txt: name to import, name to install.
NEEDED = {
    "report": {"jinja2": "jinja2", "markdown": "markdown", "weasyprint": "weasyprint", "docx": "python-docx"},
    "notebook": {name: name for name in ("nbformat", "nbclient", "nbconvert", "ipykernel")},
}


def build_parser() -> OneLineParser:
    """The subcommands and their flags; nothing heavy is imported for --help."""
    parser = OneLineParser(prog=f"python -m {MODULE}", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in STEPS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(final_config=None, ablation_seeds=2)
        add_study_flags(command)
        if name in ("final", "all"):
            command.add_argument("--final_config", metavar="FILE", help="settings of the final model, not the search's")
        if name in ("ablation", "all"):
            command.add_argument("--ablation_seeds", type=in_range(int, 1, 20), default=2, help="trainings of each row")
        if name == "report":
            command.add_argument("--results", metavar="FILE", help="write the pages from this file, collect nothing")
    command = commands.add_parser("fullsize", help="memory and time of an epoch on a set as large as the full one")
    add_fullsize_flags(command)
    return parser


def add_study_flags(parser: OneLineParser) -> None:
    """What all steps have."""
    parser.add_argument("--quick", action="store_true", help="two steps a training, few rows: does everything run?")
    parser.add_argument("--seed", type=in_range(int, 0, 2**32 - 1), default=0, help="of baseline, search and final")
    add_data_flags(parser)
    parser.add_argument("--image_size", type=in_range(int, 32, 256), default=64, help="side that the network sees")
    parser.add_argument(
        "--native", action="store_true", help="of --image_size 64, 128 or 224: MedMNIST+, not enlarged 28 pixels"
    )
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="of both"
    )
    group.add_argument("--jobs", type=in_range(int, 1, 64), default=1, help="jobs of the dispatcher at a time, on CPU")
    group.add_argument("--gpus", default="auto", help="of the dispatcher: auto, none, or numbers like 0,1")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output_dir", type=not_empty, help="runs and results.json (default: runs/pathmnist_resnet18, quick: -quick)"
    )
    group.add_argument("--overwrite", action="store_true", help="start these steps again; what they left is removed")
    group.add_argument(
        "--pages_dir",
        type=not_empty,
        help="gets figures/, reports/ and notebooks/ (default: this lab's folder; with --quick or --output_dir, there)",
    )


def add_fullsize_flags(parser: OneLineParser) -> None:
    """Of the measurement on a set that repeats the sample."""
    parser.add_argument("--steps", type=in_range(int, 0), default=20, help="training steps to time; 0: a whole epoch")
    parser.add_argument("--folder", type=not_empty, help="where the set is made and kept (default: a temporary one)")
    parser.add_argument(
        "--size", type=int, choices=(28, 64, 128, 224), default=28, help="side of the stored images, as in MedMNIST+"
    )
    parser.add_argument("--images", type=in_range(int, 0), default=0, help="for training; 0: 89,996, as the full set")
    parser.add_argument("--model_name", choices=("resnet18", "resnet34", "resnet50", "densenet121"), default="resnet18")
    parser.add_argument("--batch_size", type=in_range(int, 2), default=128, help="images per step")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--results_path", type=not_empty, help="write the figures here, as JSON")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the images, two steps: does it run?")


def default_folders(output_dir: str | None, pages_dir: str | None, quick: bool) -> tuple[Path, Path]:
    """The study's folder and that of its pages."""
    folder = Path(output_dir or f"runs/pathmnist_resnet18{'-quick' if quick else ''}")
    return folder, Path(pages_dir or (folder if quick or output_dir else LAB))


def check_packages(names: list[str]) -> None:
    """Raise UserError now, not after half an hour, if a step needs a package that is not installed."""
    for name in names:
        missing = [package for package in NEEDED.get(name, {}) if find_spec(package) is None]
        if missing:
            packages = " ".join(NEEDED[name][package] for package in missing)
            raise UserError(f"the step {name} needs packages that are not installed: pip install {packages}")


def run_step(work: Study, name: str) -> None:
    """One step of the study, by its name, and how long it took."""
    print(f"\n== {name}: {work.source.name}", flush=True)
    started = time.perf_counter()
    if name in ("report", "notebook"):
        from labs.pathmnist_resnet18.src import publish  # packages of requirements-dev.txt that trainings do not need

        getattr(publish, name)(work)
    else:
        getattr(work, name)()
    print(f"== {name}: {time.perf_counter() - started:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Parse, then the steps of the command in order."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--resume"]:  # what a training says after Ctrl-C: it does not know that it is part of a study
        from labs.pathmnist_resnet18.src import job

        job.main(argv)
        return
    args = build_parser().parse_args(argv)
    if args.command == "fullsize":
        from labs.pathmnist_resnet18.src import fullsize

        fullsize.run(from_flags(fullsize.Settings, vars(args)), args.folder, args.results_path)
        return
    folder, pages = default_folders(args.output_dir, args.pages_dir, args.quick)
    names = [name for name in STEPS if name != "all"] if args.command == "all" else [args.command]
    check_packages(names)
    if args.command == "report" and args.results:
        from labs.pathmnist_resnet18.src import report

        report.from_file(args.results, pages)
        return

    from labs.pathmnist_resnet18.src import study

    work = study.open_study(vars(args), folder, pages)
    if args.overwrite:
        work.forget(names)
    try:
        for name in names:
            run_step(work, name)
    except KeyboardInterrupt:
        sys.stderr.write("\nthe study's own command continues from here, too\n")
        raise


if __name__ == "__main__":
    run_script(main)
