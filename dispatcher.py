"""Run a script once for each configuration of a grid, on every GPU of this machine or on a Slurm cluster.

    python dispatcher.py --config_path configs/grid_quick.json --num_workers 2

Every job has a folder under --log_dir; jobs that are done are not run again, so the same command goes on after any
interruption. The work is done in toolkit/sweeps/.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
from typing import Any

from toolkit.sweeps.grid import get_experiment_list

__all__ = ["get_experiment_list", "launch_experiment", "main"]


def launch_experiment(args: argparse.Namespace, experiment_config: dict[str, Any]) -> dict[str, Any]:
    """Run one configuration here and now; return its flags and the metrics of its results.

    `args` are the dispatcher's flags (script, log_dir, timeout_s; missing ones have their defaults). The returned dict
    also has 'status', 'seconds', 'log_dir' (the job's folder) and, if it failed, 'cause'. A job that is already
    done is not run again. Raises UserError if the script's own parser refuses the configuration.
    """
    from toolkit.sweeps import claims, jobs, run_job, script, table

    target = script.find_script(getattr(args, "script", "classification_main.py"))
    with script.probe(target) as child:
        argv = script.check_points(child, [experiment_config])[0]
    job = jobs.Job.build(target.name, experiment_config, argv)
    folder = os.path.join(os.path.abspath(getattr(args, "log_dir", "logs")), job.name)
    task = run_job.Task(
        folder=folder,
        command=target.command(argv + target.own_argv(folder)),
        attempt=max(claims.newest_claim(folder), jobs.read_status(folder).attempt) + 1,
        config={"script": target.name, "config": job.config, "argv": argv},
        timeout_s=getattr(args, "timeout_s", 0),
    )
    if not jobs.read_status(folder).is_settled:
        run_job.run_one_job(task, queue.SimpleQueue())
    status = jobs.read_status(folder)
    outcome = {"status": status.state, "seconds": status.seconds, "log_dir": folder}
    if status.cause:
        outcome["cause"] = status.reason
    metrics = table.scalars(jobs.read_results(folder)[0] or {}, experiment_config) if status.state == "done" else {}
    return {**experiment_config, **metrics, **outcome}


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, run the sweep, return the exit code."""
    from toolkit.sweeps.command import run_command

    return run_command(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    from toolkit.cli import run_script

    run_script(main)
