"""The team report's comparison of architectures, from the run folders of both tasks.

    python -m toolkit.compare logs/classification logs/segmentation --output_dir comparison

Takes run folders, or folders that contain them (a dispatcher's --log_dir). Writes comparison.md (tables), pictures, and
report_template.md: the two questions of the report with these tables in place. Run again after more runs, it renews the
tables and leaves alone what the team has written around them.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.cli import OneLineParser, run_script
from toolkit.compare_checks import notes_on
from toolkit.compare_plots import draw_curves, draw_sizes
from toolkit.effects import finite, main_effects, varying
from toolkit.errors import UserError
from toolkit.mean_sd import markdown, mean_sd_n
from toolkit.runs import write_bytes


@dataclass(frozen=True)
class TaskNames:
    """What the results of one task are called."""

    metric: str  # key of the best validation metric in results.json
    label: str  # its name for people
    test: str  # key of the same metric in results["test_metrics"]


TASKS = {
    "classification": TaskNames("best_val_acc", "accuracy", "accuracy"),
    "segmentation": TaskNames("best_val_iou", "IoU", "mean_iou"),
}
# Settings that say where or how a run was made and not what was trained.
NOT_A_CHOICE = {"seed", "data_root", "mirror", "num_workers", "device", "precision", "output_dir", "overwrite"}
NOT_A_CHOICE |= {"results_path", "evaluate_test", "resume", "config", "task", "dataset", "dataset_name"}


@dataclass
class Run:
    """One finished training."""

    path: Path
    results: dict[str, Any]
    settings: dict[str, Any]  # what was chosen, model_name among it

    @property
    def task(self) -> TaskNames:
        return TASKS[self.results["task"]]

    @property
    def value(self) -> float:
        """Best validation metric, a fraction."""
        return finite(self.results[self.task.metric])

    @property
    def test_value(self) -> float:
        """The test metric, a fraction; NaN if the run did not read the test split."""
        return finite((self.results.get("test_metrics") or {}).get(self.task.test))

    @property
    def step_ms(self) -> float:
        """Median milliseconds from one training step to the next; NaN if the run did not time its steps."""
        return finite(self.results.get("step_ms"))

    @property
    def epochs(self) -> int:
        return len(self.results["history"][self.task.metric.removeprefix("best_")])

    @property
    def design(self) -> tuple[str, str, str]:
        """What was built: the name of the model, the arguments of its constructor, the digest of its file."""
        arguments = self.settings.get("model_args") or {}
        if isinstance(arguments, dict):
            arguments = ", ".join(f"{name}={value}" for name, value in arguments.items())
        return self.results["model_name"], str(arguments), str(self.results.get("models_digest") or "")


def find_runs(paths: Iterable[str]) -> list[Run]:
    """Every finished run at or below `paths`. UserError for a path that does not exist or that holds no run."""
    runs: dict[Path, Run] = {}
    for name in paths:
        root = Path(name)
        if not root.is_dir():
            raise UserError(f"{name} is not a folder; give run folders or a dispatcher's log_dir")
        found = [run for file in sorted(root.rglob("results.json")) if (run := read_run(file)) is not None]
        if not found:
            raise UserError(f"{name} holds no finished run of the mains (a results.json with task and model_name)")
        runs.update((run.path.resolve(), run) for run in found)
    return list(runs.values())


def read_run(file: Path) -> Run | None:
    """The run that wrote this results.json; None if it is none of ours or a job's copy of its run/results.json."""
    if (file.parent / "run" / "results.json").exists():
        return None
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        task = TASKS[results["task"]]
        lists = {name: column for name, column in results["history"].items() if isinstance(column, list)}
        history = {name: list(map(finite, column)) for name, column in lists.items()}
        if task.metric not in results or not history[task.metric.removeprefix("best_")]:
            return None
        results["history"] = history
        settings = {name: value for name, value in results.get("config", {}).items() if name not in NOT_A_CHOICE}
        return Run(file.parent, results, {**settings, "model_name": results["model_name"]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def check_comparable(runs: list[Run]) -> None:
    """UserError if runs of one task were made on different data: their results say nothing about each other."""
    for task in TASKS:
        places = {run.results.get("dataset"): run.path for run in runs if run.results["task"] == task}
        if len(places) > 1:
            listed = ", ".join(f"{data} ({path})" for data, path in places.items())
            raise UserError(f"the runs of {task} were made on different data: {listed}; give those of one of them")


def without_repeats(runs: list[Run]) -> list[Run]:
    """The newest run of each design, setting and seed: the same seed twice is not a second sample."""
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.results.get("environment") or {}).get("finished", "")):
        newest[json.dumps([run.results["task"], run.design, run.settings, run.results.get("seed")], default=str)] = run
    return [run for run in runs if any(run is kept for kept in newest.values())]


@dataclass
class Candidate:
    """The runs of one architecture with one choice of settings: its seeds. `tried`: how many choices there were."""

    runs: list[Run]
    tried: int = 1

    @property
    def values(self) -> list[float]:
        return [run.value for run in self.runs]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def parameters(self) -> int | None:
        return self.runs[0].results.get("parameters")


def best_of_each(runs: list[Run]) -> dict[str, Candidate]:
    """Name of each design -> its settings with the best mean on validation data; the best design last."""
    names = design_names(runs)
    by_settings: dict[str, dict[str, Candidate]] = {}
    for run in runs:
        key = json.dumps(run.settings, sort_keys=True, default=str)
        by_settings.setdefault(names[run.design], {}).setdefault(key, Candidate([])).runs.append(run)
    best = {name: max(several.values(), key=lambda one: one.mean) for name, several in by_settings.items()}
    for name, one in best.items():
        one.tried = len(by_settings[name])
    return dict(sorted(best.items(), key=lambda item: item[1].mean))


def design_names(runs: list[Run]) -> dict[tuple[str, str, str], str]:
    """'cnn', 'cnn (channels=[32, 64])'; where two files define one of them, also which: 'cnn [models 3f9a2c]'."""
    designs = {run.design for run in runs}
    names = {}
    for design in designs:
        name, arguments, digest = design
        several = sum(other[:2] == design[:2] for other in designs) > 1
        which = f" [models {digest[:6] or 'unknown'}]" if several else ""
        names[design] = name + (f" ({arguments})" if arguments else "") + which
    return names


def rounded(values: Iterable[float], digits: int) -> str:
    """The median; '-' if there is none."""
    known = [value for value in values if not math.isnan(value)]
    return f"{statistics.median(known):.{digits}f}" if known else "-"


def count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def overview_table(runs: list[Run]) -> str:
    """One row per architecture, the tasks side by side."""
    best = {task: best_of_each([run for run in runs if run.results["task"] == task]) for task in TASKS}
    names = list(dict.fromkeys(name for several in best.values() for name in several))
    heads = ["architecture"]
    heads += [f"{task}: {what}" for task in TASKS for what in (f"validation {TASKS[task].label}", "parameters")]
    rows = []
    for name in names:
        found = [best[task].get(name) for task in TASKS]
        cells = [[mean_sd_n(one.values), count(one.parameters)] if one else ["-", "-"] for one in found]
        rows.append([name, *(cell for pair in cells for cell in pair)])
    return markdown(heads, rows)


def architecture_table(runs: list[Run]) -> str:
    """One row per architecture: size, speed, the final metrics and how they were found."""
    label = runs[0].task.label
    shown = [flag for flag in varying([run.settings for run in runs]) if flag not in ("model_name", "model_args")]
    rows = []
    for name, one in best_of_each(runs).items():
        tested = [run.test_value for run in one.runs if not math.isnan(run.test_value)]
        settings = ", ".join(f"{flag}={one.runs[0].settings.get(flag)}" for flag in shown)
        row = [name, count(one.parameters), rounded((run.step_ms for run in one.runs), 2)]
        row += [rounded((finite(run.results.get("seconds")) / run.epochs for run in one.runs), 1)]
        row += [rounded((finite(run.results.get("best_epoch")) for run in one.runs), 0)]
        row += [mean_sd_n(one.values), mean_sd_n(tested)]
        rows.append([*row, f"{settings} (best of {one.tried})" if one.tried > 1 else settings or "-"])
    heads = ["architecture", "parameters", "ms per step", "s per epoch", "best epoch"]
    return markdown([*heads, f"validation {label}", f"test {label}", "settings (best of how many)"], rows)


def choices_table(runs: list[Run]) -> str:
    """Which choices mattered: the share of the differences that each explains, and its best and worst value."""
    found = main_effects([run.settings for run in runs], [run.value for run in runs])
    if not found:
        return "All runs have the same settings, so no choice can be compared."
    lines = []
    for effect in found:
        best, worst = (choose(effect.means, key=effect.means.get) for choose in (max, min))
        share = "-" if math.isnan(effect.share) else f"{100 * effect.share:.0f}%"
        ends = [f"{label}: {mean_sd_n(effect.levels[label])}" for label in (best, worst)]
        lines.append([f"`{effect.setting}`", share, *ends])
    return markdown(["choice", "share of the differences", "best", "worst"], lines)


def unfair(runs: list[Run]) -> list[str]:
    """Why the table of these runs, which are of one task, may mislead."""
    names = design_names(runs)
    return notes_on([(names[run.design], run.settings, run.design[2]) for run in runs])


def source_line(runs: list[Run]) -> str:
    """Where the numbers come from, as every number must say."""
    data = ", ".join(sorted({str(run.results.get("dataset")) for run in runs}))
    devices = ", ".join(sorted({str(run.results.get("device")) for run in runs}))
    return (
        f"{len(runs)} runs on {data}; {devices}. Mean ± sample standard deviation over n seeds; times are medians. The "
        "settings are those with the best mean on validation data, so this result is a little too good: report the "
        "test result (`--evaluate_test`) of the settings that you choose."
    )


def make_parts(runs: list[Run], folder: Path) -> tuple[dict[str, str], list[Path]]:
    """Name -> Markdown of each table, and the pictures that they show, drawn into `folder`."""
    sizes = folder / "sizes.png"
    draw_sizes({task: best_of_each([run for run in runs if run.results["task"] == task]) for task in TASKS}, sizes)
    parts = {"overview": f"{overview_table(runs)}\n\n![size and quality of each architecture]({sizes.name})"}
    pictures = [sizes]
    for task in TASKS:
        mine = [run for run in runs if run.results["task"] == task]
        if not mine:
            parts[task] = parts[f"{task}_choices"] = f"No runs of {task}_main.py were given."
            continue
        picture = folder / f"{task}_curves.png"
        draw_curves(task, best_of_each(mine), mine[0].results.get("dataset"), picture)
        pictures.append(picture)
        shown = f"![learning curves of {task}]({picture.name})"
        notes = "".join(f"\n\n**Not a fair comparison.** {note}" for note in unfair(mine))
        parts[task] = f"{architecture_table(mine)}\n\n{source_line(mine)}{notes}\n\n{shown}"
        parts[f"{task}_choices"] = choices_table(mine)
    return parts, pictures


def fill(text: str, parts: dict[str, str]) -> str:
    """Put each table between its two markers in `text`; everything else stays as it is."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end of table -->)", re.DOTALL)
        text = pattern.sub(lambda found, part=part: f"{found[1]}\n{part}\n\n{found[2]}", text)
    return text


def write_comparison(runs: list[Run], folder: Path) -> list[Path]:
    """Write tables and pictures, renew the tables of the report; return what was written."""
    check_comparable(runs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts, written = make_parts(runs, folder)
        titles = {"overview": "Overview"}
        for task in TASKS:
            titles |= {task: task.capitalize(), f"{task}_choices": f"{task.capitalize()}: which choices mattered"}
        tables = "\n".join(f"## {titles[name]}\n\n{part}\n" for name, part in parts.items())
        report = folder / "report_template.md"
        template = report if report.exists() else Path(__file__).with_name("report_template.md")
        texts = {folder / "comparison.md": f"# Comparison of architectures\n\n{tables}"}
        texts[report] = fill(template.read_text(encoding="utf-8"), parts)
        for path, text in texts.items():
            write_bytes(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write to output_dir {folder}: {error.strerror}") from None
    return [*written, *texts]


def main() -> None:
    """Read the runs, write the comparison, say where it is."""
    parser = OneLineParser(prog="python -m toolkit.compare", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders that contain them")
    parser.add_argument("--output_dir", default="comparison", help="folder for tables and pictures")
    args = parser.parse_args()
    found = find_runs(args.runs)
    odd = [run for run in found if math.isnan(run.value)]
    if len(odd) == len(found):
        raise UserError(f"no run has a finite {odd[0].task.metric}; the first: {odd[0].path}")
    runs = without_repeats([run for run in found if run not in odd])
    written = write_comparison(runs, Path(args.output_dir))
    older = len(found) - len(odd) - len(runs)
    print(f"{len(runs)} runs" + (f" ({older} older runs of the same settings and seed left out)" if older else ""))
    for run in odd:
        print(f"note: left out, its {run.task.metric} is not a finite number: {run.path}")
    for task in TASKS:
        for note in unfair([run for run in runs if run.results["task"] == task]):
            print(f"note, {task}: {note}")
    print("wrote " + ", ".join(os.fspath(path) for path in written))


if __name__ == "__main__":
    run_script(main)
