"""The comparison of architectures: figures against hand-made run folders, and runs that cannot be compared."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit import compare
from toolkit.compare_checks import notes_on
from toolkit.compare_plots import label_sizes
from toolkit.errors import UserError
from toolkit.plots import new_figure

pytestmark = pytest.mark.provided
ROOT = Path(__file__).resolve().parents[1]


def make_run(path: Path, value: float, model: str = "cnn", task: str = "classification", **more) -> Path:
    """A run folder as the mains leave it, with the best validation metric `value` in its second epoch."""
    metric = compare.TASKS[task].metric
    column = metric.removeprefix("best_")
    results = {
        "task": task,
        "dataset": more.pop("dataset", "pathmnist-sample"),
        "model_name": model,
        "seed": more.pop("seed", 0),
        metric: value,
        "best_epoch": 2,
        "history": {"train_loss": [1, 0.9, 0.8], column: [value / 2, value, value * 0.9]},
        "seconds": 6.0,
        "parameters": {"mlp": 636809, "cnn": 1000}[model],
        "device": "cpu",
        "environment": {"finished": more.pop("finished", "2026-01-01T00:00:00+00:00")},
        **{name: more.pop(name) for name in ("step_ms", "test_metrics") if name in more},
        **{name: more.pop(name) for name in ("models_digest",) if name in more},
        "config": {"learning_rate": more.pop("learning_rate", 0.001), "seed": 0, "results_path": str(path)},
    }
    if "model_args" in more:
        results["config"]["model_args"] = more.pop("model_args")
    assert not more
    path.mkdir(parents=True)
    (path / "results.json").write_text(json.dumps(results))
    return path


def run_compare(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "toolkit.compare", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def compare_here(monkeypatch, *words) -> None:
    """The same in this process, which has torch and matplotlib in it already."""
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, words)])
    compare.main()


def rows_of(markdown: str, first_cell: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] == first_cell]


@pytest.fixture
def both_tasks(tmp_path) -> Path:
    """Two learning rates of a CNN with three seeds, one MLP, one CNN for segmentation."""
    for seed, value in enumerate((0.90, 0.92, 0.97)):  # mean 0.93, sd sqrt((9 + 1 + 16)e-4 / 2) = 0.0361
        test = {"test_metrics": {"accuracy": value - 0.05}}
        make_run(tmp_path / f"runs/a{seed}", value, seed=seed, learning_rate=0.01, step_ms=20.0 + seed, **test)
    make_run(tmp_path / "runs/b", 0.91)
    make_run(tmp_path / "runs/c", 0.35, "mlp")
    make_run(tmp_path / "runs/d/run", 0.95, task="segmentation")
    (tmp_path / "runs/d/results.json").write_bytes((tmp_path / "runs/d/run/results.json").read_bytes())  # a job's copy
    (tmp_path / "runs/d/history.csv").write_text("epoch\n")
    return tmp_path


def test_tables_hold_mean_and_spread_of_the_best_settings(both_tasks, monkeypatch, capsys):
    compare_here(monkeypatch, both_tasks / "runs", "--output_dir", both_tasks / "out")
    assert capsys.readouterr().out.startswith("6 runs\n")
    text = (both_tasks / "out/comparison.md").read_text()
    overview, classification, segmentation = rows_of(text, "cnn")
    assert overview == ["cnn", "0.9300 ± 0.0361 (n=3)", "1,000", "0.9500 (n=1)", "1,000"]
    assert classification == [
        *["cnn", "1,000", "21.00", "2.0", "2", "0.9300 ± 0.0361 (n=3)", "0.8800 ± 0.0361 (n=3)"],
        "learning_rate=0.01 (best of 2)",
    ]
    assert segmentation[2:6] == ["-", "2.0", "2", "0.9500 (n=1)"]
    (first, _) = rows_of(text, "mlp")
    assert first == ["mlp", "0.3500 (n=1)", "636,809", "-", "-"]
    (choice,) = rows_of(text, "`model_name`")
    assert choice[2:] == ["cnn: 0.9250 ± 0.0311 (n=4)", "mlp: 0.3500 (n=1)"]
    for name in ("classification_curves.png", "segmentation_curves.png", "sizes.png"):
        assert (both_tasks / "out" / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in text


def test_the_report_keeps_the_words_of_the_team_and_renews_its_tables(both_tasks, monkeypatch):
    out = both_tasks / "out"
    compare_here(monkeypatch, both_tasks / "runs", "--output_dir", out)
    report = out / "report_template.md"
    text = report.read_text()
    assert "## 1. How do the architectures compare across both tasks?" in text
    assert "## 2. Which design choices mattered?" in text
    assert len(re.findall(r"<!-- table \w+ -->\n\n(?:\||No runs|All runs)", text)) == 5
    report.write_text(text.replace("Team: (names)", "Team: Ada, Emmy"))
    make_run(both_tasks / "runs/e", 0.45, "mlp", seed=1)
    compare_here(monkeypatch, both_tasks / "runs", "--output_dir", out)
    renewed = report.read_text()
    assert "Team: Ada, Emmy" in renewed
    assert rows_of(renewed, "mlp")[0][1] == "0.4000 ± 0.0707 (n=2)"
    assert renewed.count("## 2.") == 1


def test_the_same_seed_twice_is_one_sample_and_the_newest_counts(both_tasks, monkeypatch, capsys):
    make_run(both_tasks / "runs/c2", 0.45, "mlp", finished="2026-02-01T00:00:00+00:00")
    compare_here(monkeypatch, both_tasks / "runs", "--output_dir", both_tasks / "out")
    assert "6 runs (1 older runs of the same settings and seed left out)" in capsys.readouterr().out
    assert rows_of((both_tasks / "out/comparison.md").read_text(), "mlp")[0][1] == "0.4500 (n=1)"


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({"model_args": {"width": 8}}, {"model_args": {"width": 16}}, {"cnn (width=8)", "cnn (width=16)"}),
        ({"model_args": {"width": 8}}, {}, {"cnn (width=8)", "cnn"}),
        ({"models_digest": "aaaaaaaa"}, {"models_digest": "bbbbbbbb"}, {"cnn [models aaaaaa]", "cnn [models bbbbbb]"}),
        ({"models_digest": "aaaaaaaa"}, {}, {"cnn [models aaaaaa]", "cnn [models unknown]"}),
    ],
)
def test_two_designs_of_one_name_are_neither_repeats_nor_seeds_of_each_other(tmp_path, monkeypatch, one, other, names):
    for seed in (0, 1):
        make_run(tmp_path / f"runs/a{seed}", 0.9, seed=seed, **one)
        make_run(tmp_path / f"runs/b{seed}", 0.5, seed=seed, **other)
    runs = compare.without_repeats(compare.find_runs([str(tmp_path / "runs")]))
    assert len(runs) == 4
    assert {name: best.mean for name, best in compare.best_of_each(runs).items()} == dict.fromkeys(names, 0.9) | {
        name: 0.5 for name in names if name == compare.design_names(runs)[runs[-1].design]
    }
    compare_here(monkeypatch, tmp_path / "runs", "--output_dir", tmp_path / "out")
    text = (tmp_path / "out/comparison.md").read_text()
    assert all(len(rows_of(text, name)) == 2 for name in names)


@pytest.mark.parametrize("sizes", [(1000, 636809), (10_000, 12_000), (70, 71), (5_000_000,), (1, 10**8)])
def test_labels_of_the_sizes_do_not_overlap(sizes):
    drawing = new_figure(4.6, 3.9)
    axes = drawing.subplots()
    axes.margins(x=0.2)
    axes.plot(sizes, [0.5] * len(sizes), "o")
    label_sizes(axes)
    drawing.canvas.draw()
    boxes = sorted((label.get_window_extent() for label in axes.get_xticklabels(which="both")), key=lambda box: box.x0)
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_runs_on_different_data_are_not_compared(tmp_path):
    make_run(tmp_path / "runs/a", 0.9)
    make_run(tmp_path / "runs/b", 0.5, "mlp", dataset="pathmnist")
    done = run_compare(tmp_path / "runs", "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert re.fullmatch(r"error: the runs of classification were made on different data: .*pathmnist.*\n", done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{}, {"learning_rate": 0.01}, {"batch_size": 8}], []),  # one thing at a time
        ([{"model_name": "mlp", "model_args": {"width": 9}}, {"model_args": {"kernel_size": 5}}], []),  # another model
        ([{"learning_rate": rate, "batch_size": size} for rate in (1, 2) for size in (8, 16)], []),  # a full grid
        ([{}, {"learning_rate": 0.01, "batch_size": 8}], ["in 2 things at once"]),
        ([{}, {"model_args": {"depth": 3, "kernel_size": 5}}], ["in 2 things at once"]),
        ([{"learning_rate": 2.0**i, "batch_size": i} for i in range(1, 9)], ["such pairs (a random search?)"]),
        ([{}, {"num_epochs": 30}], ["1 x 100 steps: cnn; 30 x 100 steps: cnn"]),
    ],
)
def test_an_unfair_comparison_is_said(changes, words):
    usual = {"model_name": "cnn", "learning_rate": 1, "batch_size": 32, "num_epochs": 1, "max_steps_per_epoch": 100}
    notes = notes_on([(change.get("model_name", "cnn"), {**usual, **change}, "d1") for change in changes])
    assert len(notes) == len(words), notes
    assert all(word in note for word, note in zip(words, notes, strict=True)), notes


def test_unfair_runs_are_named_in_the_report_and_on_the_terminal(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "runs/a", 0.5)
    make_run(tmp_path / "runs/b", 0.6, learning_rate=0.1, model_args={"depth": 2})
    compare_here(monkeypatch, tmp_path / "runs", "--output_dir", tmp_path / "out")
    assert "note, classification: cnn (depth=2) with learning_rate=0.1, model_args.depth=2" in capsys.readouterr().out
    assert "**Not a fair comparison.** cnn (depth=2)" in (tmp_path / "out/report_template.md").read_text()


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        compare.find_runs([str(tmp_path / "missing")])
    (tmp_path / "results.json").write_text('{"task": "classification", "best_val_acc": 0.')
    with pytest.raises(UserError, match="holds no finished run"):
        compare.find_runs([str(tmp_path)])
    make_run(tmp_path / "a", 0.5)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cannot write to output_dir"):
        compare.write_comparison(compare.find_runs([str(tmp_path)]), blocked / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e200, None])
def test_a_metric_that_is_not_finite_is_named_and_changes_no_mean(monkeypatch, tmp_path, capsys, value):
    for seed in (0, 1):
        make_run(tmp_path / f"good{seed}", 0.5, seed=seed, step_ms=float("inf"))
    path = make_run(tmp_path / "odd", 0.5, seed=2)
    results = json.loads((path / "results.json").read_text())
    history = {"val_acc": [0.1, None, float("-inf")], "train_acc": [0.1, "x", float("inf")]}
    (path / "results.json").write_text(json.dumps({**results, "best_val_acc": value, "history": history}))
    (tmp_path / "gaps" / "one").mkdir(parents=True)
    (tmp_path / "gaps" / "one" / "results.json").write_text(json.dumps({**results, "seed": 3, "history": history}))
    compare_here(monkeypatch, tmp_path, "--output_dir", tmp_path / "out")
    said = capsys.readouterr().out
    assert f"note: left out, its best_val_acc is not a finite number: {path}" in said
    assert "0.5000 ± 0.0000 (n=3)" in (tmp_path / "out" / "comparison.md").read_text()
    with pytest.raises(UserError, match="no run has a finite best_val_acc"):
        compare_here(monkeypatch, path, "--output_dir", tmp_path / "out")
