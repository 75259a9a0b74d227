"""The grid: products, conditional grids, repeats, and every way in which a grid file can be wrong."""

from __future__ import annotations

import json

import pytest

from dispatcher import get_experiment_list
from tests.sweeps import tools
from toolkit.errors import UserError
from toolkit.sweeps import grid
from toolkit.sweeps.jobs import Job
from toolkit.sweeps.script import find_script, probe

pytestmark = pytest.mark.provided


def test_product_in_the_order_of_the_keys():
    assert get_experiment_list({"a": [1, 2], "b": "x", "c": [True, None]}) == [
        {"a": 1, "b": "x", "c": True},
        {"a": 1, "b": "x", "c": None},
        {"a": 2, "b": "x", "c": True},
        {"a": 2, "b": "x", "c": None},
    ]


def test_conditional_grid_is_the_sum_of_its_products():
    config = [{"optimizer": "adam", "lr": [1, 2]}, {"optimizer": "sgd", "lr": [3], "momentum": [0, 0.9]}]
    points = get_experiment_list(config)
    assert [point["lr"] for point in points] == [1, 2, 3, 3]
    assert grid.count_experiments(config) == len(points) == 4
    assert all("momentum" not in point for point in points[:2])


def test_seeds_repeat_each_point():
    points = grid.add_seeds([{"lr": 1}, {"lr": 2}], 3)
    assert [(point["lr"], point["seed"]) for point in points] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    with pytest.raises(UserError, match="own 'seed'"):
        grid.add_seeds([{"seed": 1}], 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"lr": [0.1,\n 0.2,]}', "line 2, column"),
        ("", "line 1, column 1"),
        ("{}", "grid is empty"),
        ("[]", "grid is empty"),
        ('{"_note": "x"}', "grid is empty"),
        ('{"learning_rate": []}', "learning_rate is an empty list"),
        ("3", "one JSON object"),
        ('{"learning_rate": 0.1, "learning_rate": 0.2}', "learning_rate is given twice"),
        ('{"learning_rate": NaN}', "NaN is no JSON number"),
        ('{"learning_rate": 1e400}', "1e400 is no JSON number"),
        ('{"learning_rate": {"low": 0.1, "high": 1}}', "--search random|tpe"),
        ('{"lerning_rate": 0.1}', "did you mean learning_rate?"),
        ('{"learning_rate": "big"}', "invalid float value: 'big'"),
        ('{"learning_rate": true}', "invalid float value: 'true'"),
        ('{"model_name": ["mlp", "resnet"]}', "invalid choice: 'resnet'"),
        ('{"augment": 3}', "takes no value; allowed: true, false, null"),
        ('{"learning_rate": [[0.1, 0.2]]}', "takes one value"),
        ('{"key": 1.5}', "invalid int value: '1.5'"),
        ('{"results_path": "x"}', "set by the dispatcher"),
    ],
)
def test_bad_grids_end_in_one_line_before_anything_starts(tmp_path, text, message):
    run = tools.sweep(tmp_path, text)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) == 1
    assert message in run.stderr
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--script", "missing.py"], "neither a file nor a module"),
        (["--config_path", "missing.json"], "does not exist"),
        (["--log_dir", "/dev/null/logs"], "cannot be written"),
        (["--grid_search_results_path", "/dev/null/a.csv"], "cannot be written"),
        (["--grid_search_results_path", "."], "is a folder; give a file in it"),
        (["--log_dir", ""], "give a path"),
        (["--slurm_throttle", "0"], "slurm_throttle is 0"),
        (["--gpus", "one"], "allowed: auto, none, or different numbers"),
        (["--seeds", "-1"], "seeds is -1"),
        (["--num_workers", "0"], "at least 1"),
        (["--metric", "val_accc"], "the results have: best_val_acc"),
    ],
)
def test_bad_flags_end_in_one_line(tmp_path, flags, message):
    run = tools.sweep(tmp_path, {"learning_rate": 0.1}, *flags)
    assert run.returncode == 2
    assert message in run.stderr
    assert run.stderr.startswith("error: ")


def words(config: dict) -> list[str]:
    script = find_script(tools.TOY)
    with probe(script):
        return script.to_argv(config)


def test_values_that_json_and_argparse_see_differently():
    assert words({"augment": True, "title": None, "amp": False}) == ["--no-amp", "--augment"]
    assert words({"augment": False, "amp": True}) == ["--amp"]
    assert words({"key": 1e5, "learning_rate": 1}) == ["--key", "100000", "--learning_rate", "1.0"]
    assert words({"sizes": [1, 2]}) == ["--sizes", "1", "2"]
    assert words({"title": "--it's"}) == ["--title=--it's"]
    assert words({"learning_rate": -0.5}) == ["--learning_rate", "-0.5"]


def test_equal_configurations_are_one_job_with_one_name():
    names = {
        Job.build("toy.py", config, words(config)).name
        for config in (
            {"learning_rate": 1, "key": 2, "augment": False},
            {"key": 2, "learning_rate": 1.0, "title": None},
            {"key": 2.0, "learning_rate": 1e0},
        )
    }
    assert len(names) == 1
    other = Job.build("other.py", {"key": 2}, ["--key", "2"]).name
    assert other != Job.build("toy.py", {"key": 2}, ["--key", "2"]).name


def test_strange_values_arrive_unchanged_and_make_safe_folders(tmp_path):
    titles = ["two words \"and\" 'quotes' $HOME `x` \\", "ümläut 图", "../../up", "", "-5 things", "a" * 300, "CON"]
    run = tools.sweep(tmp_path, {"title": titles, "sizes": [[1, 2]]}, "--num_workers", "2")
    assert run.returncode == 0, run.stderr
    seen = sorted(json.loads(p.read_text())["title"] for p in (tmp_path / "logs").glob("*/results.json"))
    assert seen == sorted(titles)
    assert not list(tmp_path.glob("up*"))
    rows = tools.table(tmp_path)
    assert {row["sizes_seen"] for row in rows} == {"[1, 2]"}
    assert all(len(row["job"]) <= 100 and row["job"].isascii() for row in rows)


def test_dry_run_prints_the_commands_and_runs_nothing(tmp_path):
    run = tools.sweep(tmp_path, {"learning_rate": [0.1, 0.2], "title": "a b"}, "--dry_run")
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    assert all("--title 'a b'" in line for line in lines)
    assert not (tmp_path / "logs").exists()
