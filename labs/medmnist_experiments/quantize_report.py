"""What quantization gave: metrics of every variant, the table of sizes and speed, the bars, files for predict_onnx."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image

from labs.medmnist_experiments import common
from labs.medmnist_experiments.common import Experiment
from labs.medmnist_experiments.int8_onnx import PACKAGES
from labs.medmnist_experiments.tasks import Task
from labs.medmnist_experiments.variants import ONNX, TORCH, Variant
from toolkit.augment import normalize
from toolkit.devices import describe
from toolkit.mean_sd import markdown
from toolkit.medmnist_data import Split
from toolkit.plots import new_figure, save_figure
from toolkit.runs import environment, writable_folder, write_bytes
from toolkit.study import TableRow

METRICS = ("auc", "accuracy", "points_lost", "agreement")
# What int8 must reach on a 2D CNN, held against float32 in the same runtime with the same number of threads.
FASTER, SMALLER = 1.7, 3.4  # times
MOST_LOST = {"static": 0.5, "qat": 0.2}  # percentage points of accuracy, mean over seeds
EXAMPLES = 8  # validation images as files, to try predict_onnx.py with
COLORS = {ONNX: "#0072b2", TORCH: "#d55e00"}  # Okabe and Ito
Measured = dict[str, dict[str, list[float]]]  # title → metric → a value for each seed


@dataclass(frozen=True)
class Timing:
    """How speed was measured: images per batch, threads of each runtime, batches of each variant."""

    batch: int
    threads: int
    rounds: int


def evaluate(made: Mapping[int, Sequence[Variant]], split: Split, task: Task) -> Measured:
    """AUC and accuracy of every variant; points_lost and agreement are against float32 of that runtime and seed.

    points_lost: percentage points of accuracy, negative for a gain. agreement: share of images with the same answer.
    """
    images, labels = normalize(split.images).contiguous().numpy(), split.labels.numpy()
    found: Measured = {}
    for variants in made.values():
        references: dict[str, np.ndarray] = {}
        for variant in variants:
            probabilities = variant.predict(images)
            reference = references.setdefault(variant.runtime, probabilities)  # float32 comes first
            values = task.measure(probabilities, labels)
            values["points_lost"] = 100 * (task.measure(reference, labels)["accuracy"] - values["accuracy"])
            values["agreement"] = float((probabilities.argmax(axis=1) == reference.argmax(axis=1)).mean())
            lists = found.setdefault(variant.title, {metric: [] for metric in METRICS})
            for metric in METRICS:
                lists[metric].append(values[metric])
    return found


def choose(on_validation: Measured) -> str:
    """The int8 variant of ONNX Runtime with the best mean accuracy on validation data; static if both are equal."""
    candidates = [f"{ONNX}, {kind}" for kind in ("static", "qat")]
    return max(candidates, key=lambda title: statistics.fmean(on_validation[title]["accuracy"]))


def model_facts(experiment: Experiment, kind: str, seed: int) -> dict[str, Any]:
    """What a file says about itself: how an image becomes its input, and what its outputs are called."""
    source = experiment.source
    versions = {key: environment()[key] for key in ("python", "torch")}
    return {
        "format": 1,
        "quantization": kind,
        "class_names": list(source.class_names),
        "channels": source.channels,
        "size": source.size,
        "dimensions": 3 if source.flag.endswith("3d") else 2,
        "mean": 0.5,  # of pixels in [0, 1], and their deviation: input = (pixel - mean) / deviation
        "deviation": 0.5,
        "dataset": source.name,
        "seed": seed,
        "versions": versions,
    }


def write_examples(experiment: Experiment, val: Split, variants: Sequence[Variant], chosen: str) -> None:
    """model.onnx, the chosen variant of seed 0, and some validation images: PNG files, or .npy files for volumes."""
    path = next(variant.path for variant in variants if variant.title == chosen)
    shutil.copyfile(path, experiment.folder / "model.onnx")
    folder = writable_folder(experiment.folder / "examples")
    for number, index in enumerate(np.linspace(0, len(val) - 1, EXAMPLES).astype(int)):
        name = experiment.source.class_names[int(val.labels[index])]
        path = folder / f"{number}_{''.join(letter if letter.isalnum() else '-' for letter in name)[:40]}"
        pixels = val.images[index].numpy()  # (C, H, W) or (1, D, H, W)
        if pixels.ndim == 4:
            np.save(path.with_suffix(".npy"), pixels[0])
        else:
            pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            Image.fromarray(np.ascontiguousarray(pixels)).save(path.with_suffix(".png"))


def report(
    experiment: Experiment,
    variants: Sequence[Variant],
    on_test: Measured,
    speed: Mapping[str, Mapping[str, Any]],
    timing: Timing,
    facts: Mapping[str, Any],
) -> None:
    """Both tables, the picture, results.json; says what reaches the bars and what is slower than float32."""
    table = sizes_and_speed(variants, speed)
    text = speed_table(experiment, table, timing)
    write_bytes(experiment.folder / "speed.md", text.encode())
    draw(experiment, table, on_test, timing.batch)
    no_verdict = experiment.settings.quick or experiment.source.flag.endswith("3d")  # a few steps prove nothing
    verdicts = [] if no_verdict else bars(table, on_test)
    rows = [TableRow(title, values) for title, values in on_test.items()]
    versions = {name: metadata.version(name) for name in (*PACKAGES, "torchao")}
    facts = {**facts, "test": on_test, "speed": table, "bars": verdicts, "packages": versions}
    common.report(experiment, rows, METRICS, facts)
    print(f"\n{text}\n")
    for verdict in verdicts:
        met = "met" if verdict["met"] else "NOT met"
        print(f"{verdict['variant']}: {verdict['what']} {verdict['value']:.2f} (bar {verdict['bar']}: {met})")
    for kind, operators in facts["float32_operators"].items():
        if kind != "float32":
            print(
                f"{ONNX}, {kind}: images and logits are float32, and so is {', '.join(operators) or 'nothing inside'}"
            )
    mean, largest = (max(steps[name] for steps in facts["qat_int8_steps_moved"]) for name in ("mean", "largest"))
    print(f"qat moved weights by {mean:.3f} int8 steps on average, at most {largest:.2f}")
    print(f"chosen on validation data: {facts['chosen']} → {experiment.folder / 'model.onnx'}")
    for title, found in table.items():
        if found["times_faster"] is not None and found["times_faster"] < 1:
            slower = f"{1 / found['times_faster']:.1f} times slower than float32"
            sys.stderr.write(f"warning: {title} is {slower} here; use it only where the file's size counts\n")


def sizes_and_speed(variants: Sequence[Variant], speed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """title → bytes, times_smaller, times_faster, median_ms, ...; None for a speed that could not be measured."""
    found, reference = {}, {}
    for variant in variants:
        size = variant.path.stat().st_size
        smaller = reference.setdefault(variant.runtime, size) / size
        timed = speed.get(variant.title) or dict.fromkeys(("median_ms", "quartiles_ms", "times_faster"))
        about = {"kind": variant.kind, "runtime": variant.runtime, "file": variant.path.name, "note": variant.note}
        found[variant.title] = {**about, "bytes": size, "times_smaller": smaller, **timed}
    return found


def speed_table(experiment: Experiment, table: Mapping[str, Mapping[str, Any]], timing: Timing) -> str:
    """Markdown: one line per variant."""
    lines = []
    for title, found in table.items():
        line = [title, f"{found['bytes'] / 1000:.0f}", f"{found['times_smaller']:.2f}"]
        if found["median_ms"] is None:
            line += ["-", "-", "-"]
        else:
            low, high = found["quartiles_ms"]
            line += [f"{found['median_ms']:.2f}", f"{low:.2f} .. {high:.2f}", f"{found['times_faster']:.2f}"]
        lines.append([*line, found["note"] or "-"])
    heads = ["", "file, kB", "times smaller", "ms per batch (median)", "quartiles", "times faster", "note"]
    how = f"batches of {timing.batch}, {timing.threads} thread(s), {timing.rounds} rounds side by side"
    quick = common.QUICK_NOTE if experiment.settings.quick else ""
    return (
        f"{markdown(heads, lines)}\n\n{common.data_line(experiment.source)}, seed 0; {how}; {describe_cpu()}.{quick}\n"
    )


def describe_cpu() -> str:
    """The processor; the variants run there wherever they were trained."""
    return describe(torch.device("cpu")).split(",")[0]


def bars(table: Mapping[str, Mapping[str, Any]], on_test: Measured) -> list[dict[str, Any]]:
    """What int8 should reach, for static and QAT in each runtime: variant, what, value, bar, met."""
    found = []
    for title, measured in table.items():
        if measured["kind"] not in MOST_LOST:
            continue
        lost = statistics.fmean(on_test[title]["points_lost"])
        most = MOST_LOST[measured["kind"]]
        several = [
            ("times faster", measured["times_faster"], FASTER),
            ("times smaller", measured["times_smaller"], SMALLER),
        ]
        for what, value, least in several:
            if value is not None:
                found.append({"variant": title, "what": what, "value": value, "bar": least, "met": value >= least})
        found.append({"variant": title, "what": "points lost", "value": lost, "bar": most, "met": lost <= most})
    return found


def draw(experiment: Experiment, table: Mapping[str, Mapping[str, Any]], on_test: Measured, batch: int) -> None:
    """Size, time and lost accuracy of every variant, side by side."""
    figure = new_figure(11.5, 4.4)
    figure.suptitle(f"float32 and int8 on {experiment.source.name}, n = {len(experiment.seeds)} seeds")
    titles = list(table)[::-1]
    colors = [COLORS[table[title]["runtime"]] for title in titles]
    size, speed, lost = figure.subplots(1, 3, sharey=True)
    size.barh(titles, [table[title]["bytes"] / 1000 for title in titles], color=colors)
    size.set(xlabel="size of the file, kB")
    times = [table[title]["median_ms"] or 0 for title in titles]
    spread = [table[title]["quartiles_ms"] or (0, 0) for title in titles]
    errors = np.abs(np.array(spread).T - np.array(times))
    speed.barh(titles, times, xerr=errors, color=colors)
    speed.set(xlabel=f"ms for {batch} images (median, quartiles)")
    for height, title in enumerate(titles):
        points = on_test[title]["points_lost"]
        lost.plot(points, [height] * len(points), "o", color="0.6", markersize=4)
        lost.plot(statistics.fmean(points), height, "D", color=colors[height])
    lost.axvline(0, color="0.3", linewidth=0.8)
    lost.set(xlabel="points of test accuracy lost\n(seeds, and their mean as a diamond)")
    for axes in (size, speed, lost):
        axes.grid(alpha=0.3, axis="x")
    save_figure(figure, experiment.folder / "quantization.png")
