"""Random and TPE search, and early stopping, with the real Optuna."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys

import pytest

from tests.sweeps import tools

pytestmark = pytest.mark.provided
pytest.importorskip("optuna", reason="the search needs Optuna: pip install optuna")

SPACE = {"learning_rate": {"low": 0.0001, "high": 1, "log": True}, "model_name": ["mlp", "cnn"], "key": 1}


def rates(folder) -> list[float]:
    return [float(row["learning_rate"]) for row in tools.table(folder)]


def test_random_search_draws_from_ranges_and_is_repeatable(tmp_path):
    flags = ("--search", "random", "--trials", "12", "--num_workers", "2")
    assert tools.sweep(tmp_path, SPACE, *flags).returncode == 0
    first = rates(tmp_path)
    assert len(set(first)) == 12
    assert all(0.0001 <= rate <= 1 for rate in first)
    assert statistics.median(first) < 0.2  # uniform in the logarithm; uniform in the rate would give 0.5
    again = tools.sweep(tmp_path, SPACE, *flags)
    assert "12 done (12 before)" in again.stdout
    assert rates(tmp_path) == first


def test_tpe_learns_what_is_good_and_goes_on_after_a_restart(tmp_path):
    flags = ("--search", "tpe", "--num_workers", "2", "--seeds", "2", "--metric", "val_acc")
    run = tools.sweep(tmp_path, SPACE, *flags, "--trials", "16")
    assert run.returncode == 0, run.stderr
    found = rates(tmp_path)
    assert len(found) == 32
    assert {row["seed"] for row in tools.table(tmp_path)} == {"0", "1"}
    chance = random.Random(0)
    drawn = [10 ** chance.uniform(-4, 0) for _ in range(16)]
    assert statistics.median(found[-12:]) > statistics.median(drawn)  # the metric rises with the rate
    again = tools.sweep(tmp_path, SPACE, *flags, "--trials", "16")
    assert "32 done (32 before)" in again.stdout
    more = tools.sweep(tmp_path, SPACE, *flags, "--trials", "18")
    assert "36 done (32 before)" in more.stdout


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rate": {"low": 1}}, "needs low and high"),
        ({"learning_rate": {"low": 2, "high": 1}}, "learning_rate is"),
        ({"learning_rate": {"low": "a", "high": 1}}, "must be numbers"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "learning_rate is"),
        ({"learning_rate": 0.1}, "only fixed values"),
        ({"model_name": ["mlp", "resnet"]}, "invalid choice: 'resnet'"),
        ([{"key": [1, 2]}, {"key": [3]}], "one object"),
    ],
)
@pytest.mark.parametrize("search", ["random", "tpe"])
def test_bad_spaces_are_one_line(tmp_path, space, message, search):
    run = tools.sweep(tmp_path, space, "--search", search, "--trials", "30")
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["median", "asha"])
def test_hopeless_jobs_are_stopped_and_stay_stopped(tmp_path, kind):
    grid = {"learning_rate": [0.9, 0.8, 0.7, 0.01, 0.02], "epochs": 8}
    flags = ("--prune", kind, "--metric", "val_acc", "--num_workers", "2")
    run = tools.sweep(tmp_path, grid, *flags)
    assert run.returncode == 0, run.stdout
    state = {row["learning_rate"]: (row["status"], row["cause"].split(":")[0]) for row in tools.table(tmp_path)}
    assert state["0.9"] == ("done", "")
    assert state["0.01"] == state["0.02"] == ("stopped", "pruned")
    assert len(list(tmp_path.glob("logs/*/history.csv"))) == 5  # the curves of the stopped ones say why
    again = tools.sweep(tmp_path, grid, *flags)
    assert again.returncode == 0
    assert max(status["attempt"] for status in tools.statuses(tmp_path).values()) == 1


def test_a_metric_that_no_epoch_reports_is_said_to_prune_nothing(tmp_path):
    grid = {"learning_rate": [0.9, 0.01], "epochs": 2}
    run = tools.sweep(tmp_path, grid, "--prune", "median", "--metric", "seconds")
    (said,) = [line for line in run.stdout.splitlines() if "--prune" in line]
    assert "stops nothing: it needs seconds in history.csv of " in said
    assert "val_acc" in said.partition("which has")[2]


def test_without_optuna_the_command_that_installs_it_is_named(tmp_path):
    hide = "import sys; sys.modules['optuna'] = None; sys.argv[0] = 'dispatcher.py'; import runpy;"
    command = tools.command(tmp_path, SPACE, "--search", "random")
    code = f"{hide} sys.path.insert(0, '.'); runpy.run_path('dispatcher.py', run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code, *command[2:]], capture_output=True, text=True, cwd=tools.ROOT)
    assert run.returncode == 2
    assert "pip install optuna" in run.stderr
