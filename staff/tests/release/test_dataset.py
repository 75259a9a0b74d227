"""Another data set than the reference's: its starter, its tests, its grade."""

from __future__ import annotations

import json
import re
import runpy

import pytest

from staff.grader import dataset as datasets
from staff.release.starter import behaviour, contents, data_facts, recipe, release
from staff.release.starter.build import build
from staff.release.starter.markers import read_graded
from staff.tests.release.tools import built, command
from toolkit.errors import UserError

SETS = ["breastmnist", "retinamnist"]  # grey with two classes, colour with five; both are bundled


@pytest.mark.parametrize("flag", SETS)
def test_a_starter_speaks_of_its_own_data_alone(sources, flag):
    loaded, files = recipe.load("project2", sources, flag), built(sources, flag).files
    assert contents.proves_data_set(loaded, files).problems == []
    assert contents.proves_hidden_data(loaded, files).problems == []
    assert [name for name in files if name.endswith(".npz")] == [f"data/bundled/{flag}.npz"]
    [record] = json.loads(files["data/bundled/manifest.json"])["files"]
    assert (record["name"], record["official"]) == (f"{flag}-sample", False)
    handout = files["README.md"].decode()
    assert f"on {loaded.dataset.name}, " in handout
    assert "{{" not in handout
    assert "extra credit" not in handout.lower()  # nothing is promised that no threshold decides


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("classification_dataset.py", "images of 28 x 28 pixels in nine classes", "images of stained tissue"),
        ("toolkit/inspect.py", '"""Look inside a model', '"""Look inside a model for Path' + "MNIST"),
        ("tests/helpers.py", "NUM_CLASSES = 9", "NUMBER = {'num_classes': 'nine'}"),
        ("synthetic_data.py", "(B, 3, 28, 28)", "(B, C, 28, 28) for pathmnist"),
    ],
)
def test_a_fact_of_the_reference_that_is_left_is_found(sources, name, old, new):
    """The reference's words in a file that ships, put there after it was adapted."""
    loaded = recipe.load("project2", sources, "retinamnist")
    files = dict(built(sources, "retinamnist").files)
    adapted = loaded.dataset.adapted(old)
    assert adapted in files[name].decode()
    files[name] = files[name].decode().replace(adapted, new).encode()
    assert [problem.split(":")[0] for problem in contents.proves_data_set(loaded, files).problems][:1] == [name]


def test_every_set_of_medmnist_can_be_named_and_needs_a_bundled_file(sources):
    usable = [flag for flag in datasets.medmnist_info() if not flag.endswith("3d") and flag != "chestmnist"]
    assert len(usable) == 11
    for flag in usable:
        text = datasets.find(flag).adapted("num_classes: int = 9, PathMNIST of (3, 28, 28), in nine")
        assert (text == "num_classes: int = 9, PathMNIST of (3, 28, 28), in nine") == (flag == "pathmnist")
    for flag in ("chestmnist", "organmnist3d", "cifar10"):
        with pytest.raises(UserError, match=f"dataset is '{flag}'; allowed: pathmnist, dermamnist"):
            recipe.load("project2", sources, flag)
    with pytest.raises(UserError, match=r"no file of bloodmnist; .* python -m staff\.make_sample bloodmnist"):
        build(recipe.load("project2", sources, "bloodmnist"))
    with pytest.raises(UserError, match="the checks of hw5 draw their own data"):
        recipe.load("hw5", sources, "retinamnist")


def test_what_was_calibrated_becomes_what_is_expected(sources, tmp_path):
    loaded = recipe.load("project2", sources, "retinamnist")
    assert data_facts.expected(loaded) == {"QUICK": {}, "LONG": {}, "HAND_IN": {}, "EXTRA_CREDIT": {}}
    for name, value in {"acc_cnn": 0.4, "iou_final": 0.93, "acc_extra": 0.6}.items():
        loaded.points["gate"][name]["retinamnist"] = {"value": value}
    (tmp_path / "expectations.py").write_text(data_facts.expectations_module(loaded))
    module = runpy.run_path(str(tmp_path / "expectations.py"), run_name="__main__")
    assert {key: one.value for key, one in module["QUICK"].items()} == {("classification", "cnn"): 0.4}
    assert module["HAND_IN"]["segmentation"].value == module["LONG"]["segmentation"].value == 0.93
    handout = build(loaded).files["README.md"].decode()
    assert re.search(r"extra credit.*more than 60%", handout)
    assert "a model with more than 93% validation IoU" in handout


def test_public_tests_pass_on_the_solution_for_another_set(sources, tmp_path):
    """Those where channels, classes and the loaders matter; `check_starter` runs all of them."""
    loaded = recipe.load("project2", sources, "breastmnist")
    solution = {item.name: item.original.encode() for item in read_graded(loaded)}
    release.write_release(tmp_path / "starter", built(sources, "breastmnist").files | solution)
    chosen = "todo_1_3 or one_logit or all_classes or takes_a_batch or get_model or channels or the_linear_model"
    records, output = behaviour.outcomes_of(tmp_path / "starter", "-k", chosen)
    assert len(records) > 25, output
    assert [f"{one['test']}: {one['message']}" for one in records if one["outcome"] != "passed"] == []


PASSED = [
    "test_1_models.py::test_shapes[cnn]",
    "test_1_models.py::test_num_classes[mlp]",
    "test_1_models.py::test_linear_is_affine",
    "test_1_models.py::test_linear_learns",
    "test_2_models.py::test_shapes[unet]",
    "test_2_models.py::test_channels[cnn]",
]
UNCALIBRATED = ["test_1_results.py::test_gate[cnn]", "test_1_results.py::test_checkpoint"]


def test_the_reference_is_graded_on_another_set(tmp_path):
    """Grey images of two classes; the whole of the reference has 50 of 50 there (docs/adopting.md)."""
    solution, out = tmp_path / "solution", tmp_path / "results.json"
    made = command("staff.make_starter", "--solution", "--dataset", "breastmnist", "--out", solution)
    assert made.returncode == 0, made.stderr
    checks = ["--check", *PASSED, *UNCALIBRATED]
    run = command("staff.grade", solution, "--dataset", "breastmnist", "--out", out, *checks)
    assert run.returncode == 0, run.stderr
    results = json.loads(out.read_text())
    found = {check["test"]: check for todo in results["todos"] for check in todo["checks"]}
    assert [(test, found[test]["status"]) for test in PASSED] == [(test, "passed") for test in PASSED], run.stdout
    for test in UNCALIBRATED:
        assert (found[test]["status"], found[test]["counts"]) == ("skipped", False)
        assert found[test]["message"].startswith("uncalibrated: not counted")
    assert results["data"]["kind"] == "breastmnist"
