"""The flags of dispatcher.py."""

from __future__ import annotations

import argparse

from toolkit.cli import OneLineParser

EPILOG = """examples:
  python dispatcher.py --config_path configs/grid_quick.json
  python dispatcher.py --config_path configs/grid_quick.json --gpus 0,1 --jobs_per_gpu 2 --seeds 3
  python dispatcher.py --script segmentation_main.py --config_path configs/grid_segmentation.json --dry_run
  python dispatcher.py report logs --metric val_acc      the report again, from what is in the folder
"""


def build_parser() -> OneLineParser:
    """The parser of `python dispatcher.py`."""
    parser = OneLineParser(
        prog="dispatcher.py",
        description="Run a script once for each configuration of a grid: on every GPU of this machine, or on Slurm. "
        "Start it again to go on where it stopped.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_what_flags(parser.add_argument_group("what to run"))
    add_local_flags(parser.add_argument_group("this machine"))
    add_limit_flags(parser.add_argument_group("limits"))
    add_slurm_flags(parser.add_argument_group("Slurm"))
    return parser


def add_what_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--config_path", default="grid_search.json", help="JSON grid (default: %(default)s)")
    group.add_argument(
        "--script",
        default="classification_main.py",
        help="file or dotted module with argparse flags, --results_path among them (default: %(default)s)",
    )
    group.add_argument("--log_dir", default="logs", help="a folder for each job is made here (default: %(default)s)")
    group.add_argument(
        "--grid_search_results_path",
        default="grid_results.csv",
        help="table with one row a job (default: %(default)s)",
    )
    group.add_argument("--seeds", type=int, default=0, help="run each configuration with --seed 0 .. SEEDS-1")
    group.add_argument(
        "--search",
        choices=("grid", "random", "tpe"),
        default="grid",
        help='grid: every combination; random, tpe: draw from lists and ranges like {"low": 1e-4, "high": 0.1, "log": '
        "true} with Optuna (default: %(default)s)",
    )
    group.add_argument("--trials", type=int, default=20, help="points that a search draws (default: %(default)s)")
    group.add_argument("--search_seed", type=int, default=0, help="seed of the search (default: %(default)s)")
    group.add_argument(
        "--metric",
        default="auto",
        help="validation metric for best, report, tpe and pruning: val_acc, val_iou, val_loss, ... (default: the "
        "script's best_val_*)",
    )
    group.add_argument("--dry_run", action="store_true", help="check everything, print the commands, run nothing")


def add_local_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--gpus", default="auto", help="auto, none, or numbers like 0,1,3 (default: %(default)s)")
    group.add_argument("--jobs_per_gpu", type=int, default=1, help="jobs that share a GPU (default: %(default)s)")
    group.add_argument("--num_workers", type=int, default=1, help="jobs at a time without GPU (default: %(default)s)")


def add_limit_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--timeout_s", type=float, default=0, help="time limit of a job, seconds (default: none)")
    group.add_argument(
        "--grace_s", type=float, default=5, help="seconds between asking a job to end and killing it (default: 5)"
    )
    group.add_argument(
        "--retries", type=int, default=1, help="more tries for a job that crashed (default: %(default)s)"
    )
    group.add_argument(
        "--stop_after",
        type=int,
        default=3,
        help="give up when the first so many jobs die of the same cause, 0 never (default: %(default)s)",
    )
    group.add_argument(
        "--prune",
        choices=("none", "median", "asha"),
        default="none",
        help="stop hopeless jobs early, judged by their history.csv with Optuna (default: %(default)s)",
    )
    group.add_argument(
        "--prune_after", type=int, default=1, help="epochs that every job may run at least (default: %(default)s)"
    )


def add_slurm_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--engine", choices=("local", "slurm"), default="local", help="(default: %(default)s)")
    group.add_argument("--watch", action="store_true", help="stay until the cluster has finished; else submit and end")
    group.add_argument("--slurm_throttle", type=int, default=16, help="jobs at a time (default: %(default)s)")
    group.add_argument("--slurm_partition", help="partition")
    group.add_argument("--slurm_gres", help="resources of a job, like gpu:1")
    group.add_argument("--slurm_time", default="1:00:00", help="time limit of a job (default: %(default)s)")
    group.add_argument("--slurm_account", help="account")
    group.add_argument(
        "--slurm_extra",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other sbatch option, like qos=student or mem=8G; may be given more than once",
    )


def build_report_parser() -> OneLineParser:
    """The parser of `python dispatcher.py report`."""
    parser = OneLineParser(
        prog="dispatcher.py report",
        description="Write the table and report.html of a folder of jobs.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("log_dir", help="folder that the dispatcher filled")
    parser.add_argument("--grid_search_results_path", help="table, one row a job (default: LOG_DIR/grid_results.csv)")
    parser.add_argument("--metric", default="auto", help="validation metric (default: the script's best_val_*)")
    parser.add_argument("--top_k", type=int, default=10, help="configurations in the short list (default: %(default)s)")
    parser.add_argument("--tensorboard", metavar="DIR", help="write the runs for tensorboard too (hparams and scalars)")
    return parser
