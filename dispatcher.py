"""Run a script once for each configuration of a grid, on every GPU of this machine or on a Slurm cluster.

    python dispatcher.py --config_path configs/grid_quick.json --num_workers 2
    python dispatcher.py report logs

Every job has a folder under --log_dir; jobs that are done are not run again, so the same command resumes after any
interruption. The work is done in toolkit/sweeps/.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from toolkit.cli import OneLineParser, from_flags, not_empty, run_script
from toolkit.errors import UserError
from toolkit.sweeps import jobs, table
from toolkit.sweeps.command import Settings, dry_run, run_sweep, write_reports
from toolkit.sweeps.grid import get_experiment_list
from toolkit.sweeps.local import LocalEngine, find_devices
from toolkit.sweeps.script import check_points, find_script, probe
from toolkit.sweeps.search import Search
from toolkit.sweeps.sweep import Rules, Sweep
from toolkit.tensorboard_logs import Logbook

__all__ = ["get_experiment_list", "launch_experiment", "main"]
EXIT_NOBODY_READS = 141
DIRECTION_HELP = "is more of --metric better (max) or less (min)? auto: by its name (default: %(default)s)"
EPILOG = """examples:
  python dispatcher.py --config_path configs/grid_quick.json
  python dispatcher.py --config_path configs/grid_quick.json --gpus 0,1 --jobs_per_gpu 2 --seeds 3
  python dispatcher.py --script segmentation_main.py --config_path configs/grid_segmentation.json --dry_run
  python dispatcher.py report logs --metric val_acc      the report again, from what is in the folder
"""


def launch_experiment(args: argparse.Namespace, experiment_config: dict[str, Any]) -> dict[str, Any]:
    """Run one configuration here and now; return its flags and the metrics of its results.

    `args` are the dispatcher's flags (script, log_dir, timeout_s, gpus; missing ones have their defaults). The returned
    dict also has 'status', 'seconds', 'log_dir' (the job's folder) and, if it failed, 'cause'. A job that is already
    done is not run again. Raises UserError if the script's own parser refuses the configuration.
    """
    script = find_script(getattr(args, "script", "classification_main.py"))
    with probe(script) as child:
        argv = check_points(child, [experiment_config])[0]
    log_dir = os.path.abspath(getattr(args, "log_dir", "logs"))
    job = jobs.Job.build(script.name, experiment_config, argv)
    devices, _ = find_devices(getattr(args, "gpus", "auto"), 1, 1)
    rules = Rules(timeout_s=getattr(args, "timeout_s", 0), retries=0, stop_after=0)
    sweep = Sweep(script, log_dir, LocalEngine(devices[:1]), rules, script.code)
    sweep.add([job])
    sweep.run()
    row = table.read_row(log_dir, job.name, experiment_config)
    outcome = {"status": row.status.state, "seconds": row.status.seconds, "log_dir": sweep.folder(job)}
    if row.status.cause:
        outcome["cause"] = row.status.reason
    return {**experiment_config, **row.metrics, **outcome}


def build_parser() -> OneLineParser:
    """The parser of `python dispatcher.py`."""
    parser = OneLineParser(
        prog="dispatcher.py",
        description="Run a script once for each configuration of a grid: on every GPU of this machine, or on Slurm. "
        "Start it again to resume where it stopped.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_what_flags(parser.add_argument_group("what to run"))
    add_search_flags(parser.add_argument_group("search and metric"))
    add_machine_flags(parser.add_argument_group("this machine and limits"))
    add_slurm_flags(parser.add_argument_group("Slurm"))
    return parser


def add_what_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--config_path", default="grid_search.json", help="JSON grid (default: %(default)s)")
    group.add_argument(
        "--script",
        default="classification_main.py",
        help="file or dotted module with argparse flags, --results_path among them (default: %(default)s)",
    )
    group.add_argument(
        "--log_dir", type=not_empty, default="logs", help="a folder for each job is made here (default: %(default)s)"
    )
    group.add_argument("--grid_search_results_path", default="grid_results.csv", help="table (default: %(default)s)")
    group.add_argument("--seeds", type=int, default=0, help="run each configuration with --seed 0 .. SEEDS-1")
    group.add_argument("--dry_run", action="store_true", help="check everything, print the commands, run nothing")
    group.add_argument("--yes", action="store_true", help="more than 10,000 jobs are meant")


def add_search_flags(group: argparse._ArgumentGroup) -> None:
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
        help="metric for best, report, tpe and pruning: val_acc, val_iou, val_loss, ... (default: the script's "
        "best_val_*)",
    )
    group.add_argument("--direction", choices=("auto", "min", "max"), default="auto", help=DIRECTION_HELP)
    group.add_argument(
        "--prune",
        choices=("none", "median", "asha"),
        default="none",
        help="stop hopeless jobs early, judged by their history.csv with Optuna (default: %(default)s)",
    )
    group.add_argument("--prune_after", type=int, default=1, help="epochs that every job may run (default: 1)")


def add_machine_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--gpus", default="auto", help="auto, none, or numbers like 0,1,3 (default: %(default)s)")
    group.add_argument("--jobs_per_gpu", type=int, default=1, help="jobs that share a GPU (default: %(default)s)")
    group.add_argument("--num_workers", type=int, default=1, help="jobs at a time without GPU (default: %(default)s)")
    group.add_argument("--timeout_s", type=float, default=0, help="time limit of a job, seconds (default: none)")
    group.add_argument("--grace_s", type=float, default=5, help="seconds from SIGTERM to SIGKILL (default: 5)")
    group.add_argument("--retries", type=int, default=1, help="more tries for a job that crashed (default: 1)")
    group.add_argument(
        "--stop_after",
        type=int,
        default=3,
        help="give up when the first N jobs die of the same cause, 0 never (default: %(default)s)",
    )


def add_slurm_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--engine", choices=("local", "slurm"), default="local", help="(default: %(default)s)")
    group.add_argument("--watch", action="store_true", help="stay until the cluster has finished; else submit and end")
    group.add_argument("--slurm_throttle", type=int, default=16, help="jobs at a time (default: %(default)s)")
    group.add_argument("--slurm_partition", help="partition")
    group.add_argument("--slurm_gres", help="resources of a job, like gpu:1")
    group.add_argument("--slurm_time", default="1:00:00", help="time limit of a job, 0: none (default: %(default)s)")
    group.add_argument("--slurm_account", help="account")
    group.add_argument(
        "--slurm_extra",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other sbatch option, like qos=student or mem=8G; may be given more than once",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse numbers that make no sense, by name."""
    least = {"seeds": 0, "trials": 1, "retries": 0, "stop_after": 0, "timeout_s": 0, "grace_s": 0, "slurm_throttle": 1}
    for name, bound in {**least, "prune_after": 1}.items():
        if not getattr(args, name) >= bound:
            raise UserError(f"{name} is {getattr(args, name)}; it must be at least {bound}")
    if args.engine == "slurm" and not args.watch and (args.prune != "none" or args.search == "tpe"):
        raise UserError(
            "with --engine slurm, --prune and --search tpe need --watch: the dispatcher decides as jobs run"
        )


def sweep_command(argv: list[str]) -> int:
    """`python dispatcher.py`."""
    args = build_parser().parse_args(argv)
    check_arguments(args)
    settings = from_flags(Settings, vars(args))
    return dry_run(settings) if args.dry_run else run_sweep(settings)


def report_command(argv: list[str]) -> int:
    """`python dispatcher.py report LOG_DIR`."""
    parser = OneLineParser(
        prog="dispatcher.py report",
        description="Write the table and report.html of a folder of jobs.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("log_dir", help="folder that the dispatcher filled")
    parser.add_argument("--grid_search_results_path", help="table (default: LOG_DIR/grid_results.csv)")
    parser.add_argument("--metric", default="auto", help="validation metric (default: the script's best_val_*)")
    parser.add_argument("--direction", choices=("auto", "min", "max"), default="auto", help=DIRECTION_HELP)
    parser.add_argument("--top_k", type=int, default=10, help="configurations on the terminal (default: %(default)s)")
    parser.add_argument("--tensorboard", metavar="DIR", help="write the runs for tensorboard too (hparams and scalars)")
    args = parser.parse_args(argv)
    csv_path = args.grid_search_results_path or os.path.join(args.log_dir, "grid_results.csv")
    write_reports(args.log_dir, csv_path, Search(metric=args.metric, direction=args.direction), args.top_k)
    if args.tensorboard:
        known = Logbook([args.log_dir], args.tensorboard).look()
        print(f"{known} runs for TensorBoard: tensorboard --logdir {args.tensorboard}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, run the sweep or write its report, return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return report_command(argv[1:]) if argv[:1] == ["report"] else sweep_command(argv)
    except BrokenPipeError:  # `| head` has seen enough; the interpreter's own flush at its end must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NOBODY_READS


if __name__ == "__main__":
    run_script(main, after_full_disk="give the same command again")
