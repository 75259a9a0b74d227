"""The two mains from end to end on the bundled sample: files, results, resuming, and every mistake a user can make."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import classification_main
import segmentation_main
from classification_dataset import create_pathmnist_dataloaders
from classification_models import CNNModel
from classification_train import validate_epoch
from toolkit import medmnist_data
from toolkit.cli import run_script
from toolkit.runs import load_checkpoint, read_json

ROOT = Path(__file__).resolve().parent.parent
MAINS = {"classification": classification_main, "segmentation": segmentation_main}
QUICK = ["--dataset", "sample", "--max_steps_per_epoch", "3", "--device", "cpu"]


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Run a main in this process → (exit code, stderr); the working directory is a new one."""
    monkeypatch.chdir(tmp_path)

    def run(task: str, *flags: object) -> tuple[int, str]:
        argv = [f"{task}_main.py", *QUICK, *map(str, flags)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            run_script(MAINS[task].main)
        return end.value.code or 0, capfd.readouterr().err

    return run


def assert_one_line(error: str, *named: str) -> None:
    """`error` is one line that begins with 'error: ' and names all of `named`."""
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    for text in named:
        assert text in error


PICTURES = {
    "classification": {"confusion.png", "predictions.png", "curves.png"},
    "segmentation": {"samples.png", "predictions.png", "curves.png"},
}


@pytest.mark.parametrize(
    ("task", "model", "metric"), [("classification", "mlp", "acc"), ("segmentation", "mlp", "iou")]
)
def test_a_run_leaves_its_folder_and_the_promised_results(run, tmp_path, task, model, metric):
    code, error = run(task, "--model_name", model, "--output_dir", "out", "--results_path", "r.json", "--seed", 3)
    assert code == 0, error
    results = read_json("r.json")
    promised = {"task", "dataset", "model_name", "seed", f"best_val_{metric}", "best_epoch", "history", "seconds"}
    assert promised <= set(results)
    assert results["dataset"] == "pathmnist-sample"
    assert results["seed"] == 3
    assert set(results["history"]) == {f"{split}_{name}" for split in ("train", "val") for name in ("loss", metric)}
    assert results["best_epoch"] == 1
    assert results[f"best_val_{metric}"] == results["history"][f"val_{metric}"][0]
    files = {path.name for path in Path("out").iterdir()}
    assert files == {"config.json", "history.csv", "steps.csv", "results.json", "best.pt", "last.pt"} | PICTURES[task]
    assert read_json("out/results.json") == results
    rows = Path("out/history.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,train_loss")
    assert len(rows) == 2
    assert torch.load("out/best.pt", weights_only=True)["model_name"] == model


@pytest.mark.parametrize("task", MAINS)
def test_resuming_continues_bit_for_bit(run, task):
    """Two epochs and a resume to four give the weights and the history of four epochs."""
    common = ["--model_name", "cnn", "--ema_decay", 0.9]
    assert run(task, *common, "--num_epochs", 4, "--output_dir", "four")[0] == 0
    assert run(task, *common, "--num_epochs", 2, "--output_dir", "two")[0] == 0
    assert read_json("two/results.json")["history"] != read_json("four/results.json")["history"]
    code, error = run(task, "--resume", "two", "--num_epochs", 4)
    assert code == 0, error
    assert read_json("two/results.json")["history"] == read_json("four/results.json")["history"]
    for name in ("last.pt", "best.pt"):
        expected, resumed = load_checkpoint(f"four/{name}"), load_checkpoint(f"two/{name}")
        key = "model" if name == "last.pt" else "state_dict"
        assert expected[key].keys() == resumed[key].keys()
        for weight, value in expected[key].items():
            assert torch.equal(value, resumed[key][weight]), weight
    header, *rows = Path("two/history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3", "4"], header


def test_the_seed_decides_the_history(run):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert run("classification", "--seed", seed, "--num_epochs", 2, "--output_dir", name)[0] == 0
    a, b, c = (read_json(f"{name}/results.json")["history"] for name in "abc")
    assert a == b
    assert a != c


def test_best_checkpoint_gives_the_reported_accuracy(run):
    """best.pt holds the averaged weights that were validated, not the ones that were being trained."""
    assert run("classification", "--model_name", "cnn", "--precision", "float32", "--output_dir", "out")[0] == 0
    model = CNNModel()
    model.load_state_dict(load_checkpoint("out/best.pt")["state_dict"])
    _train, val_loader, _classes = create_pathmnist_dataloaders(dataset="sample")
    _loss, accuracy = validate_epoch(model, val_loader, torch.nn.CrossEntropyLoss(), "cpu")
    assert accuracy == pytest.approx(read_json("out/results.json")["best_val_acc"], abs=1e-9)


@pytest.mark.parametrize("task", MAINS)
def test_the_test_split_is_read_only_when_asked_for_and_once(run, monkeypatch, task):
    if not medmnist_data.official_test(medmnist_data.locate("pathmnist", dataset="sample")).has("test"):
        assert_one_line(run(task, "--evaluate_test")[1], "holds them back")
        return
    reads = []
    read = medmnist_data.Source.read
    monkeypatch.setattr(
        medmnist_data.Source,
        "read",
        lambda self, split, **more: reads.append(self.name if split == "test" else split) or read(self, split, **more),
    )
    assert run(task, "--model_name", "mlp")[0] == 0
    assert set(reads) == {"train", "val"}
    assert run(task, "--model_name", "mlp", "--evaluate_test", "--results_path", "r.json")[0] == 0
    assert reads.count("pathmnist-official-test-tenth") == 1, "another centre's images, once"
    assert "pathmnist-sample" not in reads
    results = read_json("r.json")
    found, name = results["test_metrics"], {"classification": "accuracy", "segmentation": "mean_iou"}[task]
    assert found["gap"][name] == pytest.approx(results["val_metrics"][name] - found[name])
    low, high = found["intervals"][name]
    assert low < found[name] < high


def test_divergence_stops_with_step_rate_and_cures(run):
    flags = ["--optimizer", "sgd", "--learning_rate", "1e30", "--precision", "float32", "--output_dir", "out"]
    code, error = run("classification", *flags)
    assert code == 2
    assert_one_line(error, "step 2", "learning rate 1e+30", "likely cures")
    assert not Path("out/results.json").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--batch_size", "601"], "1 .. 600"),
        (["--device", "cuda:99"], "CUDA devices"),
        (["--device", "tpu"], "allowed: auto, cpu, cuda, mps"),
        (["--device", "cpu:1"], "there is only one"),
        (["--precision", "float16"], "allowed on cpu: float32, bfloat16"),
        (["--resume", "nowhere"], "no config.json"),
        (["--output_dir", "file/run"], "cannot write to the output folder"),
        (["--results_path", "file/r.json"], "cannot write --results_path"),
        (["--results_path", "."], "name a file"),
        (["--dataset", "full", "--mirror", "http://127.0.0.1:9"], "no pathmnist"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(run, tmp_path, flags, named):
    (tmp_path / "file").write_text("not a folder")
    code, error = run("classification", *flags)
    assert code == 2
    assert_one_line(error, named)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_an_existing_run_is_not_overwritten(run):
    assert run("classification", "--output_dir", "out")[0] == 0
    before = Path("out/results.json").read_bytes()
    code, error = run("classification", "--output_dir", "out")
    assert code == 2
    assert_one_line(error, "--resume out", "--overwrite")
    assert Path("out/results.json").read_bytes() == before
    assert run("classification", "--output_dir", "out", "--overwrite", "--seed", 1)[0] == 0
    assert read_json("out/results.json")["seed"] == 1


@pytest.mark.parametrize("flags", [["--batch_size", 601], ["--results_path", "file/r.json"], ["--num_workers", 65]])
def test_a_mistake_beside_overwrite_costs_nothing(run, tmp_path, flags):
    (tmp_path / "file").write_text("not a folder")
    assert run("classification", "--output_dir", "out")[0] == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert run("classification", "--output_dir", "out", "--overwrite", *flags)[0] == 2
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_a_weight_of_zero_for_both_losses_is_refused(run, tmp_path):
    code, error = run("segmentation", "--bce_weight", 0, "--dice_weight", 0)
    assert code == 2
    assert_one_line(error, "--bce_weight and --dice_weight are both 0")


def test_a_run_with_a_configuration_can_be_resumed_again_and_again(run):
    """Each resume takes the number of epochs from the last one, and the seconds of all starts are added up."""
    Path("c.json").write_text(json.dumps({"model_name": "linear", "num_epochs": 1}))
    assert run("classification", "--config", "c.json", "--output_dir", "out")[0] == 0
    assert run("classification", "--resume", "out", "--num_epochs", 3)[0] == 0
    code, error = run("classification", "--resume", "out")
    assert code == 0, error
    results = read_json("out/results.json")
    assert results["config"]["num_epochs"] == 3
    assert len(results["history"]["val_acc"]) == 3
    rows = Path("out/history.csv").read_text().splitlines()
    assert rows[0].endswith(",seconds")
    assert results["seconds"] == pytest.approx(sum(float(row.rpartition(",")[2]) for row in rows[1:]), abs=0.01)


def test_a_run_of_the_other_task_is_not_resumed(run):
    assert run("segmentation", "--model_name", "linear", "--output_dir", "out")[0] == 0
    code, error = run("classification", "--resume", "out")
    assert code == 2
    assert_one_line(error, "a run of segmentation", "is for classification")


def test_patience_that_ran_out_ends_a_resumed_run_too(run):
    flags = ["--patience", 1, "--num_epochs", 9, "--max_steps_per_epoch", 1, "--output_dir", "out"]
    assert run("classification", *flags)[0] == 0
    history = read_json("out/results.json")["history"]
    assert len(history["val_acc"]) < 9  # or this test says nothing
    assert run("classification", "--resume", "out", "--max_steps_per_epoch", 1)[0] == 0
    assert read_json("out/results.json")["history"] == history


def test_resume_keeps_the_settings(run):
    assert run("classification", "--output_dir", "out")[0] == 0
    code, error = run("classification", "--resume", "out", "--learning_rate", "0.5", "--num_epochs", 2)
    assert code == 2
    assert_one_line(error, "these differ: learning_rate")


def test_resume_names_a_broken_checkpoint(run):
    assert run("classification", "--output_dir", "out")[0] == 0
    Path("out/last.pt").write_bytes(Path("out/last.pt").read_bytes()[:1000])
    code, error = run("classification", "--resume", "out", "--num_epochs", 2)
    assert code == 2
    assert_one_line(error, "last.pt is not a checkpoint")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "mps", "cpu"],
)
def test_out_of_memory_is_one_line(run, monkeypatch, error):
    def fill_memory(*_args, **_options):
        raise error

    monkeypatch.setattr("classification_models.MLPModel.forward", fill_memory)
    code, line = run("classification")
    assert code == 2
    assert_one_line(line, "out of", "memory", "--batch_size")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT, which Windows has not")
def test_ctrl_c_keeps_the_last_epoch_and_says_how_to_go_on(tmp_path):
    command = [
        sys.executable,
        "classification_main.py",
        *QUICK,
        "--num_epochs",
        "500",
        "--output_dir",
        tmp_path / "out",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        history = tmp_path / "out" / "history.csv"
        deadline = time.monotonic() + 120
        while not (history.exists() and (tmp_path / "out" / "last.pt").exists()):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _output, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"--resume {tmp_path / 'out'}" in error
    assert "Traceback" not in error
    assert len(load_checkpoint(tmp_path / "out" / "last.pt")["history"]["val_acc"]) >= 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_is_one_line_and_leaves_no_half_file(run, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], check=True)
    try:
        code, error = run("classification", "--output_dir", small / "out")  # the MLP's checkpoints take 2.5 and 10 MB
        files = {path.name for path in (small / "out").iterdir()}
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert code == 2
    assert_one_line(error, "No space left on device", "--resume")
    assert "last.pt" not in files
    assert not any(name.endswith(".tmp") for name in files)


def test_results_are_valid_json_without_nan(run):
    assert run("segmentation", "--model_name", "linear", "--results_path", "r.json")[0] == 0
    json.loads(Path("r.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} in results.json"))
