"""results.json of the study: everything that the report says, taken from what the steps left. Nothing is typed in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from labs.pathmnist_resnet18.src import LAB
from labs.pathmnist_resnet18.src.study import FINAL_CHOICE, METRIC, Setting, Study, finished_settings
from toolkit.compare import NOT_A_CHOICE
from toolkit.errors import UserError
from toolkit.mean_sd import mean_and_sd
from toolkit.medmnist_data import Source, official_test
from toolkit.runs import environment, read_json
from toolkit.sweeps import table

KEPT = (
    "dataset best_val_acc best_epoch history seconds steps step_ms parameters train_images steps_per_epoch "
    "normalization classes validation test peak_memory_bytes device precision seed config"
).split()


def collect(study: Study) -> dict[str, Any]:
    """What is there; a step that was not run, or not to its end, is null."""
    return {
        "study": "pathmnist_resnet18",
        "quick": study.quick,
        "data": data_facts(study.source),
        "goals": read_json(LAB / "configs" / "goals.json"),
        "recipe": read_json(LAB / "configs" / "recipe_full.json"),
        "baseline": training(study.folder / "baseline"),
        "search": search(study.folder / "search"),
        "final": training(study.folder / "final"),
        "final_config": final_config(study.folder),
        "ablation": ablation(study.folder / "ablation"),
        "environment": environment(),
    }


def data_facts(source: Source) -> dict[str, Any]:
    """Which data, how much of it, and whether it is the bundled sample."""
    test = official_test(source)
    counts = {split: source.count(split) for split in ("train", "val")}
    return {
        "name": source.name,
        "is_sample": source.is_sample,
        "origin": source.origin,
        "stored_size": source.size,
        "images": {**counts, **({"test": test.count("test")} if test.has("test") else {})},
        "test_name": test.name,
        "classes": list(source.class_names),
        "train_counts": [int(n) for n in source.read("train").labels.bincount(minlength=source.num_classes)],
    }


def training(folder: Path) -> dict[str, Any] | None:
    """The results of one run folder without what repeats itself."""
    if not (folder / "results.json").exists():
        return None
    found = read_json(folder / "results.json")
    return {key: found[key] for key in KEPT if key in found}


def final_config(folder: Path) -> str | None:
    """The file that the final model's settings were taken from; None for the search's choice."""
    path = folder / FINAL_CHOICE
    return read_json(path)["final_config"] if path.exists() else None


def whole_sweep(folder: Path) -> list[Setting] | None:
    """The settings of a sweep; None, and a line that says why, if it is not finished."""
    if not (folder / table.INDEX).exists():
        return None
    try:
        return finished_settings(folder)
    except UserError as error:
        print(f"left out of the report: {error}")
        return None


def search(folder: Path) -> dict[str, Any] | None:
    """The configurations, best first, with the flags that differ between them."""
    settings = whole_sweep(folder)
    if settings is None:
        return None
    rows = [row for one in settings for row in one.rows]
    made = [row_of(one) for one in sorted(settings, key=lambda one: -one.mean)]  # equal ones stay in the grid's order
    return {
        "flags": table.varying(rows),
        "rows": made,
        "num_epochs": rows[0].config["num_epochs"],
        "train_share": rows[0].config["train_share"],
        "train_images": rows[0].metrics["train_images"],
        "steps_per_epoch": sorted({row.metrics["steps_per_epoch"] for row in rows}),
        "seconds": sum(row["seconds"] for row in made),
    }


def ablation(folder: Path) -> dict[str, Any] | None:
    """One row for each change in the order of the grid: mean and spread over seeds, and the gain over the first row."""
    settings = whole_sweep(folder)
    if settings is None:
        return None
    first = choices_of(settings[0].config)
    made = []
    for one in settings:
        changed = {key: value for key, value in choices_of(one.config).items() if first.get(key) != value}
        made.append({"change": changed, **row_of(one), "gain": one.mean - settings[0].mean})
    return {"rows": made, "seeds": made[0]["n"], "settings": first}


def choices_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that say what was trained, and not where or with which seed."""
    return {key: value for key, value in config.items() if key not in NOT_A_CHOICE}


def row_of(setting: Setting) -> dict[str, Any]:
    """One configuration of a sweep: its flags, its validation accuracy over seeds, its size and time."""
    values = [row.metrics[METRIC] for row in setting.rows]
    mean, sd = mean_and_sd(values)
    return {
        "settings": choices_of(setting.config),
        "values": values,
        "n": len(values),
        "mean": mean,
        "sd": sd,
        "parameters": setting.rows[0].metrics.get("parameters"),
        "seconds": fmean(row.metrics["seconds"] for row in setting.rows),
    }
