"""What a sweep says is true: numbers that are none, directions, seeds that are no seeds, causes, and flags."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import dispatcher
from tests.sweeps import tools
from toolkit.errors import UserError
from toolkit.sweeps import grid, table
from toolkit.sweeps import script as scripts
from toolkit.sweeps.jobs import Status
from toolkit.sweeps.table import Row

pytestmark = pytest.mark.provided

HEAD = """
import argparse, json, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--results_path")
parser.add_argument("--key", type=int, default=0)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--rate", type=float, default=0.5)
args = parser.parse_args()
"""


def script(folder, body: str, head: str = HEAD, name: str = "target.py") -> str:
    (folder / name).write_text(head + textwrap.dedent(body))
    return str(folder / name)


def report_again(folder, *flags) -> subprocess.CompletedProcess:
    words = [sys.executable, "dispatcher.py", "report", str(folder / "logs"), *flags]
    return subprocess.run(words, cwd=tools.ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e400", "-1e200"])
@pytest.mark.parametrize("seeds", ["1", "2"])
def test_a_metric_that_is_not_finite_counts_as_missing_and_is_named(tmp_path, value, seeds):
    body = f"""
        values = [0.5, 0.7, float("{value}"), float("{value}")]
        json.dump({{"best_val_acc": values[args.key]}}, open(args.results_path, "w"))
        """
    run = tools.sweep(tmp_path, {"key": [0, 1, 2]}, "--seeds", seeds, script=script(tmp_path, body))
    assert run.returncode == 0, run.stderr
    assert "best_val_acc is not a finite number and counts as missing in: key=2" in run.stdout
    assert run.stdout.splitlines()[-2].split()[0] == "0.5"  # the last of the best
    page = (tmp_path / "logs/report.html").read_text()
    assert "not a finite number" in page


def test_cells_of_a_history_that_hold_no_number_are_gaps(tmp_path):
    body = """
        history = {"epoch": [1, "x", None, float("inf")], "val_acc": [0.1, 0.2, float("nan"), float("inf")]}
        json.dump({"best_val_acc": 0.5, "history": history}, open(args.results_path, "w"))
        """
    run = tools.sweep(tmp_path, {"key": [0, 1]}, script=script(tmp_path, body))
    assert run.returncode == 0, run.stderr
    assert "NaN" not in (tmp_path / "logs/report.html").read_text().partition('type="application/json">')[2]


@pytest.mark.parametrize(
    "name",
    "val_loss best_val_loss hausdorff hd95 ece brier brier_score nll perplexity rmse val_mae word_error_rate wer "
    "test_error seconds hausdorff_95 val_bce cross_entropy fid HausdorffDistance valLoss log_loss mean_distances "
    "negative_log_likelihood neg_log_likelihood false_positive_rate miss_rate step_ms runtime wasserstein".split(),
)
def test_less_is_better_of_losses_errors_and_distances(name):
    assert table.is_better_when_low(name)
    assert not table.is_better_when_low(name, "max")


@pytest.mark.parametrize(
    "name",
    "val_acc best_val_iou dice auc f1 precision recall sensitivity pixel_accuracy ssim psnr r2 auprc log_likelihood "
    "neg_mean_squared_error neg_log_loss negative_predictive_value true_positive_rate".split(),
)
def test_more_is_better_of_scores(name):
    assert not table.is_better_when_low(name)
    assert table.is_better_when_low(name, "min")


@pytest.mark.parametrize(("key", "flags", "is_low"), [("val_loss", [], True), ("score", ["--direction", "min"], True),
                                                      ("val_loss", ["--direction", "max"], False)])  # fmt: skip
def test_tpe_searches_in_the_direction_of_the_metric_in_use(tmp_path, key, flags, is_low):
    pytest.importorskip("optuna", reason="the search needs Optuna: pip install optuna")
    body = f"""json.dump({{"{key}": args.rate}}, open(args.results_path, "w"))"""
    space = {"rate": {"low": 0.0, "high": 1.0}}
    run = tools.sweep(tmp_path, space, "--search", "tpe", "--trials", "24", *flags, script=script(tmp_path, body))
    assert run.returncode == 0, run.stderr
    drawn = [float(row["rate"]) for row in tools.table(tmp_path)]
    late = sorted(drawn[-10:])[5]
    assert (late < 0.3) if is_low else (late > 0.7), drawn
    best = run.stdout.split("best by ")[1].splitlines()[1].split()[0]
    assert float(best) == pytest.approx(min(drawn) if is_low else max(drawn), rel=1e-3)


def test_whole_bounds_of_a_float_flag_are_a_range_of_floats(tmp_path):
    pytest.importorskip("optuna", reason="the search needs Optuna: pip install optuna")
    body = """json.dump({"val_acc": args.rate}, open(args.results_path, "w"))"""
    space = {"rate": {"low": 0, "high": 1}, "key": {"low": 0, "high": 3}}
    run = tools.sweep(tmp_path, space, "--search", "random", "--trials", "6", script=script(tmp_path, body))
    assert run.returncode == 0, run.stderr
    assert len({row["rate"] for row in tools.table(tmp_path)}) == 6
    assert {row["key"] for row in tools.table(tmp_path)} <= {"0", "1", "2", "3"}


def row(seed: int, value: float, script: str = "a.py", code: str = "c1", data: str = "sample", state="done") -> Row:
    metrics = {"best_val_acc": value, "dataset": data} if state == "done" else {}
    return Row(
        f"{seed}{script}{code}{data}", {"key": 1, "seed": seed}, Status(state, script=script, code=code), metrics
    )


def test_the_table_of_another_folder_is_not_replaced(tmp_path):
    path, own = str(tmp_path / "grid_results.csv"), str(tmp_path / "second" / "grid_results.csv")
    first = [row(0, 0.5), row(1, 0.5)]
    assert table.place_of_csv(path, str(tmp_path / "first"), first) == path
    table.write_csv(path, first[:1])
    assert table.place_of_csv(path, str(tmp_path / "first"), first) == path  # the same sweep, resumed
    assert table.place_of_csv(path, str(tmp_path / "second"), [row(7, 0.5)]) == own
    table.write_csv(path, [row(0, 0.5, state="queued")])  # planned by a sweep that was stopped: nothing to lose
    assert table.place_of_csv(path, str(tmp_path / "second"), [row(7, 0.5)]) == path


@pytest.mark.parametrize("other", [{"script": "b.py"}, {"code": "c2"}, {"data": "full"}])
def test_only_runs_of_one_script_one_code_and_one_data_set_are_seeds_of_each_other(other):
    rows = [row(0, 0.9), row(1, 0.9), row(0, 0.5, **other), row(2, 0.0, state="failed")]
    groups = table.group_by_seed(rows, "best_val_acc")
    assert [group.describe() for group in groups] == ["0.9 ± 0 (n=2, missing: seed 2)", "0.5 (n=1)"]
    (name,) = table.differing_origins(groups)
    assert name == {"data": "dataset", "script": "script", "code": "code"}[next(iter(other))]


def test_two_scripts_in_one_folder_are_told_apart_and_the_report_names_where_its_numbers_come_from(tmp_path):
    body = """
        results = {"best_val_acc": VALUE, "dataset": "boxes", "device": "cpu", "precision": "float32"}
        json.dump(results, open(args.results_path, "w"))
        """
    for name, value in (("a.py", "0.9"), ("b.py", "0.5")):
        path = script(tmp_path, body.replace("VALUE", value), name=name)
        run = tools.sweep(tmp_path, {"key": 1}, "--seeds", "2", script=path)
        assert run.returncode == 0, run.stderr
    lines = run.stdout.partition("best by")[2].splitlines()[1:3]
    assert [line.split()[0] for line in lines] == ["0.9", "0.5"]
    assert "a.py" in lines[0]
    assert "b.py" in lines[1]
    page = (tmp_path / "logs/report.html").read_text()
    assert all(word in page for word in ("boxes", "cpu", "float32"))


def test_the_memory_message_of_one_attempt_is_not_the_cause_of_the_next(tmp_path):
    body = """
        path = args.results_path + ".tries"
        tries = len(open(path).read()) if os.path.exists(path) else 0
        open(path, "a").write("x")
        sys.exit("RuntimeError: CUDA out of memory" if tries == 0 else "Bus error (core dumped)")
        """
    run = tools.sweep(tmp_path, {"key": 1}, "--retries", "0", script=script(tmp_path, body))
    again = tools.sweep(tmp_path, {"key": 1}, "--retries", "0", script=script(tmp_path, body))
    assert "out of memory" in run.stdout
    assert "out of memory" not in again.stdout
    (status,) = tools.statuses(tmp_path).values()
    assert (status["cause"], status["detail"]) == ("exit code", "exit code 1: Bus error (core dumped)")


FLAGS = """
import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("--results-path", required=True)
parser.add_argument("--output-dir", required=True)
parser.add_argument("--rate", "--learning-rate", "-r", type=float)
parser.add_argument("--shifts", type=float, nargs="+")
parser.add_argument("--aug", action=argparse.BooleanOptionalAction, default=True)
parser.add_argument("--no_flip", action=argparse.BooleanOptionalAction)
args = parser.parse_args()
json.dump({"best_val_acc": 1, "seen": json.dumps(vars(args))}, open(args.results_path, "w"))
"""


@pytest.mark.parametrize(
    ("config", "seen"),
    [
        ({"rate": -1e-05}, {"rate": -1e-05}),
        ({"learning_rate": -1.5e-07}, {"rate": -1.5e-07}),
        ({"r": 1e-05}, {"rate": 1e-05}),
        ({"shifts": [[-1e-05, 2, -3e20]]}, {"shifts": [-1e-05, 2.0, -3e20]}),
        ({"aug": False}, {"aug": False}),
        ({"no_aug": True}, {"aug": False}),
        ({"no_aug": False}, {"aug": True}),
        ({"no_flip": True}, {"no_flip": True}),
        ({"no_flip": False}, {"no_flip": False}),
    ],
)
def test_flags_arrive_as_the_grid_has_them(tmp_path, config, seen):
    run = tools.sweep(tmp_path, config, script=script(tmp_path, "", FLAGS))
    assert run.returncode == 0, run.stderr + run.stdout
    (path,) = tmp_path.glob("logs/*/results.json")
    known = json.loads(json.loads(path.read_text())["seen"])
    assert {name: known[name] for name in seen} == seen


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rate": 0.1, "learning_rate": 0.2}, "learning_rate and rate are two names of one flag"),
        ({"aug": True, "no_aug": True}, "aug and no_aug are two names of one flag"),
        ({"rate": "a\0b"}, "NUL"),
        ({"results_path": "x"}, "set by the dispatcher"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(tmp_path, config, message):
    run = tools.sweep(tmp_path, config, script=script(tmp_path, "", FLAGS))
    assert run.returncode == 2
    assert message in run.stderr
    assert not (tmp_path / "logs").exists()


def test_two_names_of_one_flag_make_one_job(tmp_path):
    name = script(tmp_path, "", FLAGS)
    for config in ({"rate": 0.1}, {"learning_rate": 0.1}, {"r": 0.1}):
        run = tools.sweep(tmp_path, config, script=name)
    assert "1 done (1 before)" in run.stdout


def test_a_script_without_argparse_is_not_run(tmp_path):
    name = script(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')", head="import os\n")
    run = tools.sweep(tmp_path, {"key": 1}, "--dry_run", script=name)
    assert run.returncode == 2
    assert "without calling argparse's parse_args" in run.stderr
    assert not (tmp_path / "ran").exists()


def test_a_huge_grid_is_named_at_once_and_needs_a_yes(tmp_path):
    config = {name: list(range(1000)) for name in ("key", "seed")}
    began = time.monotonic()
    run = tools.sweep(tmp_path, config, "--dry_run")
    assert run.returncode == 2
    assert "1,000,000 jobs; if you mean it, add --yes" in run.stderr
    assert time.monotonic() - began < 20
    assert grid.count_experiments(config) == 10**6
    assert tools.sweep(tmp_path, {"key": list(range(10_001))}, "--dry_run", "--yes").returncode == 0


def test_jobs_whose_results_hold_no_number_are_not_called_unfinished(tmp_path):
    body = """json.dump({"note": "well"}, open(args.results_path, "w"))"""
    run = tools.sweep(tmp_path, {"key": [1, 2]}, script=script(tmp_path, body))
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "logs/report.html").read_text()
    assert "No job is done yet" not in page
    assert "results hold no number" in page


def test_a_value_may_be_an_object_for_a_flag_that_reads_json():
    assert grid.get_experiment_list({"model_args": [{"depth": 1}, {"depth": 2}]}) == [
        {"model_args": {"depth": 1}},
        {"model_args": {"depth": 2}},
    ]
    flag = scripts.Flag("--model_args", "store", None, "loads", 0)
    assert scripts.write_flag("model_args", flag, {"depth": 1}) == ['--model_args={"depth": 1}']
    with pytest.raises(UserError, match="range"):
        grid.get_experiment_list({"rate": {"low": 0, "high": 1}})


def test_launch_experiment_needs_no_main_thread(tmp_path):
    found: list[dict] = []
    args = argparse.Namespace(script=tools.TOY, log_dir=str(tmp_path), gpus="none")
    thread = threading.Thread(target=lambda: found.append(dispatcher.launch_experiment(args, {"key": 3})))
    thread.start()
    thread.join(60)
    assert found[0]["status"] == "done"
