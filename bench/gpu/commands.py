"""Sections that run the course's own commands, as a user types them, and read what these leave behind."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.gpu.plan import ROOT, Bench, end_tree, environment, last_line
from toolkit.medmnist_data import VERIFY_VARIABLE
from toolkit.runs import read_json

MODELS = (("classification", "cnn"), ("segmentation", "unet"))
METRICS = {"classification": ("acc", "accuracy"), "segmentation": ("iou", "IoU")}


class CommandError(Exception):
    """A command failed or took too long; the text is its last line."""


@contextlib.contextmanager
def attempt(bench: Bench, what: str) -> Iterator[None]:
    """Turn an error into the row "failed: reason", so that the rest of the section runs."""
    try:
        yield
    except Exception as error:
        message = str(error) if isinstance(error, CommandError) else f"{type(error).__name__}: {error}"
        bench.fail(what, message)


def python(bench: Bench, *words: object, limit_s: float = math.inf, allowed: tuple[int, ...] = (0,)) -> float:
    """Run `python WORDS` in the repository → seconds. Raises CommandError for an exit code that is not allowed."""
    command = [sys.executable, *map(str, words)]
    started = time.monotonic()
    output = bench.work / f"{bench.name}.command"
    limit_s = min(limit_s, bench.left_s())
    # The made set is not an official file, which its reader must be told.
    settings = {**environment(bench.tiny), VERIFY_VARIABLE: "0"}
    with open(output, "wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=file, stderr=subprocess.STDOUT)
        try:
            code: int | None = process.wait(timeout=max(limit_s, 0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_tree(process)
    text = output.read_text(encoding="utf-8", errors="replace")
    seconds = time.monotonic() - started
    print(f"$ {' '.join(command[1:])}    ({seconds:.1f} s)\n{text}")
    if code is None:
        raise CommandError(f"stopped after {limit_s:.0f} s: {' '.join(map(str, words[:3]))}")
    if code not in allowed:
        raise CommandError(f"exit code {code}: {last_line(text)}")
    return seconds


def train(bench: Bench, task: str, name: str, *flags: object, limit_s: float = math.inf) -> tuple[Path, dict[str, Any]]:
    """Run a main on the sample → its run folder and results."""
    folder = bench.work / f"{bench.name}-{name}"
    words = [f"{task}_main.py", "--dataset", "sample", "--output_dir", folder, *flags]
    if bench.tiny:
        words += ["--max_steps_per_epoch", 2]
    python(bench, *words, limit_s=limit_s)
    return folder, read_json(folder / "results.json")


def score(task: str, results: dict[str, Any]) -> str:
    """'validation accuracy 0.6779 in 3.1 s, 4.21 ms per step'."""
    key, word = METRICS[task]
    text = f"validation {word} {results[f'best_val_{key}']:.4f} in {results['seconds']:.1f} s"
    return text + (f", {results['step_ms']:.2f} ms per step" if "step_ms" in results else "")


def machine_of(results: dict[str, Any]) -> str:
    """'cuda: NVIDIA H100, bfloat16': what the run says it ran on."""
    return f"{results.get('device', 'device not said')}, {results.get('precision', 'precision not said')}"


def tests(bench: Bench) -> None:
    """The tests that need CUDA: those marked `cuda`, found by their text so that nothing else is imported."""
    places = [path for folder in ("tests", "staff/tests") for path in sorted((ROOT / folder).rglob("test_*.py"))]
    files = [path.relative_to(ROOT) for path in places if "mark.cuda" in path.read_text(encoding="utf-8")]
    report = bench.work / "tests.xml"
    words = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
    python(bench, *words, allowed=(0, 1))
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    broken = [case.get("name") for case in suite.iter("testcase") if {"failure", "error"} & {e.tag for e in case}]
    what, result = "tests marked cuda", f"{total - skipped - len(broken)} passed, {skipped} skipped"
    if broken:
        bench.fail(what, f"{', '.join(broken)}; {result}")
    else:
        bench.add(what, result, "python -m pytest -m cuda")


def mains(bench: Bench) -> None:
    """The quick schedule of both mains, and what the automatic precision costs or gives."""
    cases = [(*case, precision) for precision in ("auto", "float32") for case in MODELS]
    for task, model, precision in cases[:1] if bench.tiny else cases:
        what = f"{model}, 100 steps of 32, --precision {precision}"
        with attempt(bench, what):
            flags = ("--model_name", model, "--precision", precision)
            _folder, results = train(bench, task, f"{model}-{precision}", *flags)
            bench.add(what, score(task, results), f"sample, seed 0, n = 1; {machine_of(results)}")


def long(bench: Bench) -> None:
    """Both long schedules. One that does not fit into its time is cut, and the row says where."""
    shares = {"segmentation": 0.4} if bench.tiny else {"segmentation": 0.4, "classification": 1.0}
    for task, share in shares.items():  # of the time that is left
        config = f"configs/{task}_long.json"
        what = f"long schedule, {config}"
        with attempt(bench, what):
            tiny = ("--num_epochs", 1) if bench.tiny else ()
            limit_s = share * bench.left_s() - 2
            try:
                _folder, results = train(bench, task, task, "--config", config, *tiny, limit_s=limit_s)
            except CommandError as error:
                bench.add(what, cut_short(bench.work / f"long-{task}", task, config, str(error)))
                continue
            bench.add(what, score(task, results), f"sample, seed 0, n = 1; {machine_of(results)}")


def cut_short(folder: Path, task: str, config: str, reason: str) -> str:
    """How far a run came that was stopped; CommandError with its reason if it finished no epoch."""
    rows = history(folder)
    if not rows or "stopped" not in reason:
        raise CommandError(reason)
    key, word = METRICS[task]
    best = max(float(row[f"val_{key}"]) for row in rows)
    epochs = read_json(ROOT / config)["num_epochs"]
    return f"cut after {len(rows)} of {epochs} epochs ({reason}): validation {word} so far {best:.4f}"


def history(folder: Path) -> list[dict[str, str]]:
    """The rows of history.csv; none if there is no such file."""
    path = folder / "history.csv"
    return rows_of(path) if path.exists() else []


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def watched_memory(bench: Bench) -> Iterator[list[float]]:
    """Look at the card's memory five times a second; the list holds GB, or nothing without nvidia-smi."""
    tool, found = shutil.which("nvidia-smi"), []
    if tool is None:
        yield found
        return
    path = bench.work / f"{bench.name}.memory"
    query = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "200"]
    with open(path, "wb") as file:
        watcher = subprocess.Popen(query, stdout=file, stderr=subprocess.DEVNULL)
        try:
            yield found
        finally:
            watcher.kill()
            watcher.wait()
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            found += [float(line) * 2**20 / 1e9 for line in lines if line.strip().isdecimal()]


def epoch(bench: Bench) -> None:
    """Once over a set as large as the full PathMNIST, validation on its 10,004 images included."""
    study = ("-m", "labs.pathmnist_resnet18.src.job", "--model_name", "resnet18", "--patience", 0)
    native = () if bench.tiny else ("--native",)  # a tiny run has no time for a set of 64 pixels
    epochs, steps, batch_size = (2, 2, 32) if bench.tiny else (3, 0, 256)
    schedule = ("--num_epochs", epochs, "--max_steps_per_epoch", steps, "--batch_size", batch_size)
    for number, (what, words) in enumerate(
        (
            ("CNN, 28 px", ("classification_main.py", "--model_name", "cnn")),
            ("ResNet-18, 64 px", (*study, *native)),
        )
    ):
        folder = bench.work / f"epoch-{number}"
        with attempt(bench, what):
            with watched_memory(bench) as gigabytes:
                data = ("--dataset", "full", "--data_root", bench.data)
                python(bench, *words, *data, *schedule, "--output_dir", folder)
            results = read_json(folder / "results.json")
            text = epoch_times(folder, results)
            text += f", at most {max(gigabytes):.2f} GB of the card in use" if gigabytes else ""
            bench.add(what, text, f"batches of {batch_size}, one pass and validation; {machine_of(results)}")


def epoch_times(folder: Path, results: dict[str, Any]) -> str:
    """'9.8 s per epoch (the first 12.1), 20.00 ms per step': the median without the first, which starts the device."""
    first, *rest = (float(row["seconds"]) for row in history(folder))
    text = f"{statistics.median(rest):.1f} s per epoch (the first {first:.1f})"
    return text + (f", {results['step_ms']:.2f} ms per step" if "step_ms" in results else "")


def resume(bench: Bench) -> None:
    """One epoch and a resumed second one against two in one go, and a run of the GPU that a processor continues."""
    what = "one epoch, resumed to two, against two at once"
    with attempt(bench, what):
        flags = ("--model_name", "cnn", "--seed", 1)
        _folder, whole = train(bench, "classification", "whole", *flags, "--num_epochs", 2)
        folder, first = train(bench, "classification", "parts", *flags)
        python(bench, "classification_main.py", "--resume", folder, "--num_epochs", 2)
        resumed = read_json(folder / "results.json")
        losses = [run["history"]["train_loss"] for run in (whole, first, resumed)]
        text = f"training loss of epoch 2: {losses[2][1]:.5f} against {losses[0][1]:.5f}"
        text += f"; epoch 1 of both runs differs by {abs(losses[0][0] - losses[1][0]):.1e}"
        bench.add(what, text, f"same seed, 100 steps per epoch; {machine_of(resumed)}")
        if bench.tiny:
            return
        python(bench, "classification_main.py", "--resume", folder, "--num_epochs", 3, "--device", "cpu")
        moved = read_json(folder / "results.json")
        text = f"validation accuracy per epoch {', '.join(f'{value:.3f}' for value in moved['history']['val_acc'])}"
        bench.add("a third epoch with --device cpu", text, machine_of(moved))


def dispatcher(bench: Bench) -> None:
    """Four jobs of 100 steps with --gpus auto: one at a time, and sharing the card."""
    grid = bench.work / "grid.json"
    steps, rates, models = (2, [0.001], ["mlp"]) if bench.tiny else (100, [0.0003, 0.001], ["mlp", "cnn"])
    config = {"dataset": "sample", "model_name": models, "learning_rate": rates, "max_steps_per_epoch": steps}
    grid.write_text(json.dumps(config), encoding="utf-8")
    for per_gpu in (4,) if bench.tiny else (4, 1):
        what = f"{len(models) * len(rates)} jobs of {steps} steps, --gpus auto --jobs_per_gpu {per_gpu}"
        with attempt(bench, what):
            logs, table = bench.work / f"logs-{per_gpu}", bench.work / f"grid-{per_gpu}.csv"
            flags = ("--config_path", grid, "--log_dir", logs, "--grid_search_results_path", table)
            seconds = python(bench, "dispatcher.py", *flags, "--gpus", "auto", "--jobs_per_gpu", per_gpu)
            jobs = rows_of(table)
            places = {read_json(path).get("device", "device not said") for path in logs.rglob("results.json")}
            result = f"{len(jobs)} rows of results in {seconds:.1f} s"
            bench.add(what, result, f"on {', '.join(sorted(places))}")


def image_classifier(bench: Bench) -> None:
    """The four commands of the image classifier lab, and whether GPU and processor predict the same."""
    lab, data, run = "labs.image_classifier", bench.work / "breast", bench.work / "breast-run"
    size, epochs, steps = (28, 1, 2) if bench.tiny else (224, 5, 0)
    what = f"prepare, train ResNet-18 at {size} px, evaluate, predict"
    with attempt(bench, what):
        started = time.monotonic()
        python(bench, "-m", f"{lab}.prepare", "breastmnist", "--out", data)
        words = ("--image_size", size, "--epochs", epochs, "--max_steps_per_epoch", steps, "--output_dir", run)
        python(bench, "-m", f"{lab}.train", "--data", data, *words)
        results = read_json(run / "results.json")
        python(bench, "-m", f"{lab}.evaluate", run, "--data", data, "--split", "test", "--bootstrap", 0)
        devices = ("auto",) if bench.tiny else ("auto", "cpu")
        answers = {device: predictions(bench, run, data, device) for device in devices}
        seconds = time.monotonic() - started
        bench.add(what, f"{score('classification', results)}; all commands {seconds:.0f} s", machine_of(results))
        pairs = list(zip(answers["auto"], answers[devices[-1]], strict=True))
        largest = max(abs(one - other) for one, other in pairs)
        text = f"confidences of {len(pairs)} test images differ by at most {largest:.1e}"
        bench.add("predictions of --device auto and cpu", text, "float32, the same checkpoint")


def predictions(bench: Bench, run: Path, data: Path, device: str) -> list[float]:
    """Confidence of every test image."""
    output = bench.work / f"answers-{device}.csv"
    flags = ("--format", "csv", "--output", output, "--device", device)
    python(bench, "-m", "labs.image_classifier.predict", run, data / "images" / "test", *flags)
    return [float(row["confidence"]) for row in rows_of(output)]


def vgg16(bench: Bench) -> None:
    """VGG16 of the transfer experiment. Its ImageNet weights (528 MB) are not part of the course: from scratch only."""
    what = "transfer experiment, VGG16 from scratch (random weights: no ImageNet weights at hand)"
    size, seeds = ("--quick --image_size 32".split(), 1) if bench.tiny else ([], 3)
    folder = bench.work / "vgg16-run"
    with attempt(bench, what):
        words = ("--backbone", "vgg16", "--strategies", "scratch", "--seeds", seeds, "--output_dir", folder)
        seconds = python(bench, "-m", "labs.medmnist_experiments.transfer", *words, *size)
        results = read_json(folder / "results.json")
        values = next(row["values"] for row in results["rows"] if row["values"])
        text = ", ".join(f"test {name} {mean_and_sd(found)}" for name, found in list(values.items())[:2])
        bench.add(what, f"{text}; {seconds:.0f} s", f"BreastMNIST, {seeds} seeds; {machine_of(results)}")


def mean_and_sd(values: list[float]) -> str:
    """'0.812 ± 0.010', without the deviation for a single value."""
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean
