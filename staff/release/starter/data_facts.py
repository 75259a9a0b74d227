"""What the documents of a release say of its data set: its images, its classes, what models reach on it."""

from __future__ import annotations

import math
import re
import textwrap
from fractions import Fraction
from typing import Any

from staff.grader.assignment import Gate, gates_of
from staff.release.starter.recipe import Recipe, bundled_record
from staff.release.starter.sample import image_counts
from toolkit.expectations import EXTRA_CREDIT, HAND_IN, LONG, QUICK, Expectation
from toolkit.medmnist_catalog import medmnist_info

NOT_MEASURED = "not measured"
LICENCES = {"CC BY 4.0": "by", "CC BY-NC 4.0": "by-nc"}  # -> part of the address
# Gates of grading -> what the course expects. On another data set than the reference these are all that was measured.
QUICK_GATES = {
    "acc_mlp": ("classification", "mlp"),
    "acc_cnn": ("classification", "cnn"),
    "iou_mlp": ("segmentation", "mlp"),
    "iou_cnn": ("segmentation", "cnn"),
    "iou_unet": ("segmentation", "unet"),
}
LONG_GATES = {"acc_final": "classification", "iou_final": "segmentation"}


def gates(recipe: Recipe) -> dict[str, Gate]:
    """Name -> gate on the bundled file of the data set; empty until it was calibrated."""
    kind = "sample" if recipe.dataset.is_reference else bundled_record(recipe)["name"]
    return gates_of(recipe.points.get("gate", {})).get(kind, {})


def expected(recipe: Recipe) -> dict[str, dict[Any, Expectation]]:
    """The tables of toolkit/expectations.py, with what holds for the data set."""
    if recipe.dataset.is_reference:
        return {"QUICK": QUICK, "LONG": LONG, "HAND_IN": HAND_IN, "EXTRA_CREDIT": EXTRA_CREDIT}
    values = {name: gate.value for name, gate in gates(recipe).items()}
    return {
        "QUICK": {key: Expectation(values[gate]) for gate, key in QUICK_GATES.items() if gate in values},
        "LONG": {task: Expectation(values[gate]) for gate, task in LONG_GATES.items() if gate in values},
        "HAND_IN": {"segmentation": Expectation(values["iou_final"])} if "iou_final" in values else {},
        "EXTRA_CREDIT": {"classification": Expectation(values["acc_extra"])} if "acc_extra" in values else {},
    }


def expectations_module(recipe: Recipe) -> str:
    """toolkit/expectations.py for the data set."""
    text = recipe.read_text("toolkit/expectations.py")
    if recipe.dataset.is_reference:
        return text
    source = "Source: what grading asks for on the bundled images, one epoch of 100 steps of 32"
    text = re.sub(r"Source: .*\n", f"{source}\n", text)
    for name, values in expected(recipe).items():
        rows = ", ".join(f"{key!r}: {value!r}" for key, value in values.items()).replace("'", '"')
        text = re.sub(rf"^{name} = \{{(.*?)\}}", f"{name} = {{{rows}}}", text, flags=re.MULTILINE | re.DOTALL)
    return text


def facts(recipe: Recipe) -> dict[str, str]:
    """Everything that a template may name about the images."""
    dataset = recipe.dataset
    channels, num_classes = dataset.layout.channels, dataset.layout.num_classes
    return {
        **recipe.prose,
        "dataset": dataset.name,
        "flag": dataset.flag,
        "count": dataset.count,
        "Count": dataset.count.title(),
        "num_classes": str(num_classes),
        "ln_classes": f"{math.log(num_classes):.3f}",
        "channels": str(channels),
        "channels_in_words": "3 colours" if channels == 3 else "1 grey value for each pixel",
        "colour": "colour" if channels == 3 else "grey",
        **_bundled_facts(recipe),
        **_results(recipe),
    }


def _bundled_facts(recipe: Recipe) -> dict[str, str]:
    """What data/bundled/README.md says."""
    record, name = bundled_record(recipe), recipe.dataset.name
    licence = medmnist_info()[recipe.dataset.flag]["license"]
    counts = image_counts(recipe.root / "data" / "bundled" / record["file"])
    kinds = {"": "with labels", "unlabelled_": "without labels (they serve Part 2)"}
    kinds = {prefix: head for prefix, head in kinds.items() if f"{prefix}train_images" in counts}
    rows = [["", *kinds.values()]]
    for split, what in (("train", "training"), ("val", "validation")):
        rows.append([what, *(str(counts[f"{prefix}{split}_images"]) for prefix in kinds)])
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    return {
        "data_file": record["file"],
        "data_kind": f"all of {name} but its test images" if record["official"] else f"a sample of {name}",
        "data_rows": "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]),
        "data_shows": record["shows"],
        "drawn_from": record.get("drawn_from", "the official training and validation splits"),
        "val_images": str(counts["val_images"]),
        "cite": textwrap.fill(f"- {record['cite']}", 125, subsequent_indent="  "),
        "licence": licence,
        "licence_address": f"https://creativecommons.org/licenses/{LICENCES[licence]}/4.0/",
    }


def _results(recipe: Recipe) -> dict[str, str]:
    """expect_TASK_MODEL, what the course expects, and measured_TASK_MODEL, what was reached on the bundled file."""
    tables, measured = expected(recipe), recipe.settings["measured"].get(recipe.dataset.flag, {})
    found = {}
    for task, model in QUICK_GATES.values():
        found[f"expect_{task}_{model}"] = percent(tables["QUICK"].get((task, model)))
    for task in LONG_GATES.values():
        found[f"expect_{task}_long"] = percent(tables["LONG"].get(task))
    keys = [key.removeprefix("expect_") for key in found]
    found |= {f"measured_{key}": measured.get(key, NOT_MEASURED) for key in keys}
    hand_in = tables["HAND_IN"].get("segmentation")
    return found | {"expect_segmentation_hand_in": percent(hand_in) if hand_in else "a high"}


def extra_credit(recipe: Recipe, points: str, weights: str) -> dict[str, str]:
    """The places of the handout that promise extra credit; empty where the data set has no threshold for it.

    Args:
        points: what it is worth.
        weights: name of the file that decides it.
    """
    goal = expected(recipe)["EXTRA_CREDIT"].get("classification")
    row = f"| Extra credit, see Part 1 | each student alone | {points} |"
    long = (
        f"| **extra credit** ({points} points) | your best, as `{weights}` | {percent(goal)} | cannot be shown there |"
    )
    decided = "\n  and also decides your extra credit"
    texts = {"extra_credit_row": row, "extra_credit_goal": long, "extra_credit_decided": decided}
    return texts if goal else dict.fromkeys(texts, "")


def checkpoint_worth(recipe: Recipe, task: str) -> str:
    """'1.2 of the 5 points of TODO 1.6': what grading gives for the weights that are handed in."""
    test = {
        "classification": "test_1_results.py::test_checkpoint",
        "segmentation": "test_2_results.py::test_checkpoint",
    }[task]
    gate = {"classification": "acc_final", "segmentation": "iou_final"}[task]
    if gate not in gates(recipe):
        return "nothing until the staff has measured what can be reached"
    for record in recipe.points["todo"]:
        checks = {check["test"]: check.get("weight", 1.0) for check in record["check"]}
        if test in checks:
            worth = record["points"] * checks[test] / sum(checks.values())
            return f"{worth:.1f} of the {float(Fraction(str(record['points']))):g} points of TODO {record['id']}"
    raise LookupError(test)


def percent(expectation: Expectation | None) -> str:
    """'about 32%', 'more than 54%'."""
    if expectation is None:
        return NOT_MEASURED
    return f"{'about' if expectation.about else 'more than'} {expectation.value:.0%}"
