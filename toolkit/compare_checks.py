"""What makes a comparison of runs unfair: mixed schedules, and runs that differ in several things at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]
MOST_NOTES = 3


def notes_on(runs: Sequence[tuple[str, Settings, str]]) -> list[str]:
    """Sentences for the report about runs of one task; none if every comparison is fair.

    runs: for each run the name of its design, its settings and the digest of the file that defines its model.
    """
    groups: dict[str, tuple[str, Settings]] = {}
    for name, settings, digest in runs:
        things = things_of(settings, digest)
        groups.setdefault(json.dumps(things, sort_keys=True, default=str), (name, things))
    return [note for note in (mixed_schedules(list(groups.values())), *lonely(list(groups.values()))) if note]


def things_of(settings: Settings, digest: str = "") -> dict[str, Any]:
    """What one can change in a run, each argument of the model by itself."""
    arguments = settings.get("model_args") or {}
    things = {name: value for name, value in settings.items() if name != "model_args"}
    if isinstance(arguments, Mapping):
        things |= {f"model_args.{name}": value for name, value in arguments.items()}
    return {**things, "code of the models": digest} if digest else things


def mixed_schedules(groups: Sequence[tuple[str, Settings]]) -> str:
    """A warning if some runs were trained for longer than others."""
    schedules: dict[str, list[str]] = {}
    for name, things in groups:
        if things.get("num_epochs") is not None:
            steps = things.get("max_steps_per_epoch") or "all"
            text = f"{things['num_epochs']} x {steps} steps"
            schedules.setdefault(text, []).append(name)
    if len(schedules) < 2:
        return ""
    listed = "; ".join(f"{text}: {', '.join(dict.fromkeys(names))}" for text, names in schedules.items())
    return f"Schedules are mixed ({listed}). Longer training wins by itself: compare rows that had the same."


def differences(one: Settings, other: Settings) -> list[str]:
    """The things in which two runs differ. Another model has other arguments; that is still one thing."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    if "model_name" in names:
        names = [name for name in names if not name.startswith("model_args.")]
    return names


def lonely(groups: Sequence[tuple[str, Settings]]) -> list[str]:
    """A note for each run that differs from every other one in more than one thing: it shows the effect of none."""
    notes: dict[frozenset[int], str] = {}
    for number, (name, things) in enumerate(groups):
        others = [(differences(things, other), i) for i, (_name, other) in enumerate(groups) if i != number]
        fewest, nearest = min(others, key=lambda item: len(item[0]), default=([], 0))
        if len(fewest) > 1:
            values = ", ".join(f"{thing}={things.get(thing)}" for thing in fewest)
            notes[frozenset((number, nearest))] = (
                f"{name} with {values} differs from its nearest neighbour, {groups[nearest][0]}, in {len(fewest)} "
                "things at once: no comparison says which mattered. Run one in which only one of them is changed."
            )
    if len(notes) <= MOST_NOTES:
        return list(notes.values())
    return [f"{len(notes)} such pairs (a random search?), one of them: {next(iter(notes.values()))}"]
