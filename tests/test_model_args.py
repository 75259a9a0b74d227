"""--model_args: designs of one model, from the command line to its constructor, its results and a grid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import segmentation_main
from dispatcher import get_experiment_list
from toolkit.compare_checks import differences, things_of
from toolkit.errors import UserError
from toolkit.experiment import build_model, models_digest

pytestmark = pytest.mark.provided
ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--dataset", "sample", "--max_steps_per_epoch", "1", "--batch_size", "64", "--device", "cpu")


class Net:
    """Stands for a student's model with arguments of its own."""

    def __init__(self, num_classes=9, channels=(8, 16)):
        self.num_classes, self.channels = num_classes, channels


def get_model(model_name, num_classes=9, **model_args):
    return {"cnn": Net}[model_name](num_classes, **model_args)


def get_model_of_an_earlier_term(model_name, num_classes=9):
    return Net(num_classes)


def test_arguments_reach_the_constructor_and_none_are_the_default():
    assert build_model(get_model, "cnn", 5, model_args={"channels": [32, 64]}).channels == [32, 64]
    assert build_model(get_model, "cnn", 5, model_args=None).channels == (8, 16)
    assert build_model(get_model_of_an_earlier_term, "cnn", 5, model_args=None).num_classes == 5


@pytest.mark.parametrize("factory", [get_model, get_model_of_an_earlier_term])
def test_an_argument_that_nobody_takes_is_named_with_the_cure(factory):
    with pytest.raises(UserError, match=r"model_args is \{\"depth\": 3\}: .*'depth'; give get_model"):
        build_model(factory, "cnn", 9, model_args={"depth": 3})


def test_a_mistake_in_the_model_keeps_its_traceback():
    def broken(model_name, **model_args):
        return len(model_args["width"])

    with pytest.raises(TypeError):
        build_model(broken, "cnn", model_args={"width": 3})


def test_the_digest_is_that_of_the_file(tmp_path):
    assert len(models_digest(get_model)) == 12
    assert models_digest(get_model) == models_digest(get_model_of_an_earlier_term)


def run(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.todo_2_3
def test_a_main_builds_reports_and_resumes_a_narrow_unet(tmp_path, monkeypatch):
    """In this process and without pictures: PyTorch's start and matplotlib would take most of the time."""
    for name in ("segmentation_train.visualize_predictions", "synthetic_data.visualize_box_samples"):
        monkeypatch.setattr(name, lambda *_, **__: None)

    def train(*words) -> dict:
        monkeypatch.setattr(sys, "argv", ["segmentation_main.py", *map(str, words)])
        segmentation_main.main()
        return json.loads((tmp_path / "run/results.json").read_text())

    flags = ("--model_name", "unet", '--model_args={"base_channels": 4}', "--output_dir", tmp_path / "run", *QUICK)
    results = train(*flags)
    assert results["config"]["model_args"] == {"base_channels": 4}
    assert results["parameters"] < 40_000  # the default has 16 channels and 120,000 parameters
    assert len(results["models_digest"]) == 12
    assert train("--resume", tmp_path / "run", "--num_epochs", "2")["parameters"] == results["parameters"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "give a JSON object like"),
        ("[1]", "give a JSON object like"),
        ('{"two words": 1}', "give a JSON object like"),
    ],
)
def test_what_holds_no_arguments_is_refused(value, message):
    done = run("classification_main.py", f"--model_args={value}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_the_ready_ablations_change_one_thing_at_a_time(task):
    path = f"configs/grid_ablation_{task}.json"
    done = run("dispatcher.py", "--script", f"{task}_main.py", "--config_path", path, "--dry_run")
    assert done.returncode == 0, done.stderr
    first, *others = [things_of(job) for job in get_experiment_list(json.loads((ROOT / path).read_text()))]
    assert [len(differences(first, other)) for other in others] == [1] * len(others)
    assert {"model_args.kernel_size", "learning_rate", "batch_size", "optimizer"} <= {
        name for job in others for name in job
    }
