"""Two of the three judges of a submission: the public tests of its student, and the mains. The third is the grader.

Both run as the student would: in a copy of the starter with the submission's modules over it. A judge works in a forked
process of its own that has torch loaded already, so that nothing leaks from one to the next, an endless loop or a crash
ends that process alone, and torch's seconds of import are paid once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import resource
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROCESSOR_S = 90  # for the tests of one submission or one run of a main; honest ones need 15 at most
WALL_S = 3600.0  # a process that only waits ends too; wall clock says little on a busy machine
POLL_S = 0.01
# The quick schedule of the mains. Enough for every right solution of the bank to be far better than its start.
EPOCHS, SEED = 2, 41
STEPS = {"linear": 25, "mlp": 25, "cnn": 15, "unet": 12}  # an epoch
SCORED = 128  # validation images that the judge looks at itself
BETTER = 0.05  # what validation must gain over an untrained model
AGREES = (
    0.05  # how far the reported result may be from that of best.pt: means of batch means, rounding of half precision
)
RESULT_KEYS = ("task", "dataset", "model_name", "seed", "best_epoch", "history", "seconds")
PARTS = {"1": ("classification", "acc"), "2": ("segmentation", "iou")}
# The model whose training says most about a TODO, in the mains of its part.
MODEL_OF_TODO = {
    "1.0": "linear",
    "1.1": "mlp",
    "1.2": "cnn",
    "2.0": "linear",
    "2.1": "mlp",
    "2.2": "cnn",
    "2.3": "unet",
}
QUICK_MODELS = {"1": "mlp", "2": "mlp"}


def write_starter(folder: Path, assignment: str) -> str:
    """The student's files without the graded ones, written to `folder`; returns their digest.

    toolkit/ and the data are left out: those of this repository are the same.
    """
    from staff.release.starter import build, recipe

    found = build.build(recipe.load(assignment, ROOT))
    graded = set(recipe.load(assignment, ROOT).graded)
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name, content in sorted(found.files.items()):
        if name in graded or name.endswith((".md", ".npz")):
            continue
        digest.update(name.encode() + b"\0" + content)
        if not name.startswith(("toolkit/", "data/", "configs/")):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return digest.hexdigest()


def in_child(work: Callable[[], Any], log: Path, processor_s: int = PROCESSOR_S) -> tuple[Any, str]:
    """Run `work` in a forked process: (its JSON-able result, "") or (None, how the process ended)."""
    answer = log.with_suffix(".json")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _redirect(log)
            resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s + 1))
            answer.write_text(json.dumps(work()), encoding="utf-8")
            code = 0
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    ended = _wait(child)
    if ended in (None, -signal.SIGXCPU):
        return None, f"no end within {processor_s} s of processor time; an endless loop?"
    if ended == 0 and answer.exists():
        return json.loads(answer.read_text(encoding="utf-8")), ""
    words = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return None, f"the process ended with status {ended}: {words[-1] if words else 'no output'}"[:300]


def _redirect(log: Path) -> None:
    """Output of this process goes to `log`."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False)


def _wait(child: int) -> int | None:
    """Exit status of a child (negative: the signal), or None once it had to be killed."""
    deadline, done = time.monotonic() + WALL_S, 0
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(POLL_S)
        return None
    finally:
        if not done:  # no end in time, or this process is told to end
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@contextlib.contextmanager
def submission_tree(starter: Path, files: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """A copy of the starter with the submission's modules, which this process and its children import from."""
    tree = folder / "tree"
    shutil.copytree(starter, tree)
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    yield tree
    shutil.rmtree(tree)


def _enter(tree: Path) -> None:
    """Make the forked process one that was started in `tree`: it has read none of the modules that are there."""
    os.chdir(tree)
    for name in list(sys.modules):
        if name.partition(".")[0] == "tests" or (tree / f"{name}.py").exists():
            del sys.modules[name]
    sys.path[:] = [str(tree), *(place for place in sys.path if place not in ("", str(ROOT)))]
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def public_tests(tree: Path, todos: tuple[str, ...], first_failure: bool = False) -> dict[str, list[str]]:
    """TODO -> first lines of its failing tests, as `python -m tests` shows them; in a forked child."""
    events = tree.parent / "events.jsonl"
    events.unlink(missing_ok=True)
    events.touch()
    rows = [row for row in runpy.run_path(str(tree / "tests" / "todos.py"))["TODOS"] if row.number in todos]

    def work() -> int:
        _enter(tree)
        import pytest

        os.environ["COURSE_CHECK_EVENTS"] = str(events)
        os.environ.pop("PYTEST_ADDOPTS", None)
        files = sorted({row.file for row in rows})
        options = "-q --tb=no --no-header --continue-on-collection-errors -p no:cacheprovider -p tests.check_plugin"
        markers = [row.marker for row in rows]
        words = [*options.split(), "-W", "default", "-o", "timeout=0", "-m", " or ".join(markers), "--rootdir", "."]
        plugins = [StopAfterFailure(markers)] if first_failure else []
        return int(pytest.main([*words, *files], plugins=plugins))

    _, ended = in_child(work, tree.parent / "public.log")
    return _read_events(events, {row.number: row.file for row in rows}, ended)


class StopAfterFailure:
    """A pytest plugin: once a test of a TODO failed, its other tests are left out."""

    def __init__(self, markers: list[str]) -> None:
        self.markers, self.failed = markers, set()

    def _todo(self, item: Any) -> str:
        return next((mark.name for mark in item.iter_markers() if mark.name in self.markers), "")

    def pytest_runtest_setup(self, item: Any) -> None:
        """Skip what would only fail again."""
        import pytest

        if self._todo(item) in self.failed:
            pytest.skip("an earlier test of this TODO failed")

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """Note a failure."""
        if call.excinfo is not None and call.excinfo.typename != "Skipped":
            self.failed.add(self._todo(item))


def _read_events(events: Path, todos: Mapping[str, str], ended: str) -> dict[str, list[str]]:
    """What tests/check_plugin.py wrote, by TODO; a process that died fails what it was busy with.

    todos: TODO -> file with its public tests.
    """
    found: dict[str, list[str]] = {}
    busy, seen = None, set()
    for line in events.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "failed" and event["todo"] in todos:
            found.setdefault(event["todo"], []).append(event["line"])
        elif event["event"] == "unreadable":
            for todo, file in todos.items():
                if file == event["file"]:
                    found.setdefault(todo, []).append(event["line"])
                    seen.add(todo)
        if event["event"] == "start":
            busy = event["todo"]
            seen.add(busy)
    if ended:
        for todo in [busy] if busy in todos else todos:
            found.setdefault(todo, []).append(ended)
    for todo in set(todos) - seen - set(found):
        found[todo] = ["no test was found for it"]
    return found


def models_to_train(todos: tuple[str, ...]) -> list[tuple[str, str]]:
    """(part, model) of the mains that show whether these TODOs work: the model itself, or one for a loop or a loss."""
    found = [(todo[0], MODEL_OF_TODO.get(todo, QUICK_MODELS[todo[0]])) for todo in todos]
    return list(dict.fromkeys(found))


def mains(tree: Path, todos: tuple[str, ...]) -> dict[str, list[str]]:
    """'classification cnn' -> what is wrong with that run of a main, each in a forked child."""
    found = {}
    for part, model_name in models_to_train(todos):
        task, metric = PARTS[part]
        name = f"{task} {model_name}"
        run = tree.parent / name.replace(" ", "-")

        def work(task: str = task, metric: str = metric, model_name: str = model_name, run: Path = run) -> list[str]:
            _enter(tree)
            _run_main(task, model_name, run)
            return list(_complaints(task, metric, model_name, run))

        result, ended = in_child(work, run.with_suffix(".log"))
        if ended or result:
            found[name] = [ended] if ended else result
        shutil.rmtree(run, ignore_errors=True)
    return found


def _run_main(task: str, model_name: str, run: Path) -> None:
    """The main, as from a shell, but for the pictures. SystemExit if it fails."""
    from matplotlib import figure

    script = f"{task}_main.py"
    settings = {"num_epochs": EPOCHS, "max_steps_per_epoch": STEPS[model_name], "seed": SEED, "output_dir": run}
    settings |= {"model_name": model_name, "dataset": "sample", "device": "cpu", "precision": "float32"}
    # A third of a quick run would be the drawing of pictures, which says nothing about a submission.
    figure.Figure.savefig = lambda *_, **_options: None
    sys.argv = [script, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as exit:
        if exit.code:
            raise


def _complaints(task: str, metric: str, model_name: str, run: Path) -> Iterator[str]:
    """What a run lacks: a complete results.json, checkpoints that load, a model that is better than its start."""
    import torch

    from toolkit.runs import load_checkpoint, read_json

    results = read_json(run / "results.json")
    missing = [name for name in (*RESULT_KEYS, f"best_val_{metric}") if name not in results]
    if missing:
        yield f"results.json has no {', '.join(missing)}"
        return
    for name in (f"{split}_{what}" for split in ("train", "val") for what in ("loss", metric)):
        values = results["history"].get(name, [])
        if len(values) != EPOCHS or not all(isinstance(value, float) and math.isfinite(value) for value in values):
            yield f"history of results.json: {name} is {values}, expected {EPOCHS} numbers"
    torch.manual_seed(SEED)
    module = __import__(f"{task}_models")
    build = module.get_model if task == "classification" else module.get_segmentation_model
    start, trained = build(model_name), build(model_name)
    load_checkpoint(run / "last.pt")
    trained.load_state_dict(load_checkpoint(run / "best.pt")["state_dict"])
    before, after, reported = _score(task, start), _score(task, trained), results[f"best_val_{metric}"]
    if not after >= before + BETTER:
        yield f"validation did not improve: {metric} {after:.3f} with best.pt, {before:.3f} untrained"
    if not abs(after - reported) <= AGREES:
        yield f"results.json reports val_{metric} {reported:.3f}, best.pt has {after:.3f}"


def _score(task: str, model: Any) -> float:
    """Accuracy or mean IoU on the first validation images, without a line of the submission but its model."""
    import torch

    images, truth = _validation(task)
    with torch.no_grad():
        model.eval()
        output = model(images)
    if task == "classification":
        return (output.argmax(dim=1) == truth).float().mean().item()
    inside, true = output.flatten(1) > 0.5, truth.flatten(1) > 0.5
    union = (inside | true).sum(1)
    return torch.where(union > 0, (inside & true).sum(1) / union.clamp(min=1), 1.0).mean().item()


def _validation(task: str) -> tuple[Any, Any]:
    """Images and labels, or images and masks."""
    if task == "classification":
        from classification_dataset import create_pathmnist_dataloaders

        return next(iter(create_pathmnist_dataloaders(SCORED, dataset="sample")[1]))
    from synthetic_data import create_box_dataloaders

    batch = next(iter(create_box_dataloaders(SCORED, dataset="sample")[1]))
    return batch["image"], batch["mask"]
