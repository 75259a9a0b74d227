"""Look at what you hand in, then pack it: python -m toolkit.submission (also: make submission)

Looks for stubs that are left, imports that grading lacks, files that are missing, too large or changed, and weights
that do not fit your code any more, and measures each checkpoint on validation images. It trains nothing, downloads
nothing and ends within 20 seconds once PyTorch is loaded. Whatever it finds, it writes submission.zip with what is
there and lists the files in it. Exit code: 0 if all is well, 1 if there is something to look at.
"""

from __future__ import annotations

import ast
import faulthandler
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from toolkit.cli import OneLineParser, run_script
from toolkit.errors import UserError, reason_of
from toolkit.expectations import EXTRA_CREDIT, HAND_IN, LONG
from toolkit.runs import read_json
from toolkit.weights import fit_weights, read_weights

ROOT = Path(__file__).resolve().parents[1]
CODE = ("classification_models.py", "classification_train.py", "segmentation_models.py", "segmentation_train.py")
WEIGHTS = {"classification.pt": "classification", "segmentation.pt": "segmentation"}  # file -> task
LIMITS = dict.fromkeys(CODE, 300_000) | dict.fromkeys(WEIGHTS, 60_000_000)  # bytes that grading accepts
METRICS = {"classification": ("val_acc", "validation accuracy"), "segmentation": ("val_iou", "validation IoU")}
# What a graded file may import besides Python's own modules: what grading has, too.
PROVIDED = {"toolkit", "classification_dataset", "synthetic_data", *(Path(name).stem for name in CODE)}
PACKAGES = {"torch", "torchvision", "numpy", "medmnist", "matplotlib", "sklearn", "scipy", "PIL", "pandas", "tqdm"}
CHILD_LIMIT_S, SCORE_LIMIT_S = 15.0, 2.0  # for all that runs the student's code, and for measuring one checkpoint
TORCH_LIMIT_S = 60.0  # its first import after a start of the machine reads 1 GB from the disk, and is not the student's
MARK = "\0answer "  # begins a line that the second process prints for the first


class Finding(NamedTuple):
    """One line of the report. `fine` is False for what the student should look at."""

    name: str
    text: str
    fine: bool = False

    def __str__(self) -> str:
        return f"{'ok' if self.fine else 'LOOK':<6}{self.name:<27}{self.text}"


def look_at_code(name: str) -> Finding:
    """Can the file be read, which stubs are left, and does grading have what it imports?"""
    if not (ROOT / name).is_file():
        return Finding(name, "is missing: its TODOs earn nothing")
    content = (ROOT / name).read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        return Finding(name, f"is not valid Python (line {getattr(error, 'lineno', '?')}): its TODOs earn nothing")
    problems = []
    if stubs := sorted(set(stubs_of(tree)), key=lambda number: [int(digits) for digits in number.split(".")]):
        problems.append(f"stubs are left: TODO {', '.join(stubs)}")
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    if foreign := {name.split(".")[0] for name in names} - PROVIDED - PACKAGES - set(sys.stdlib_module_names):
        problems.append(
            f"imports {', '.join(sorted(foreign))}, which grading does not have; move that code into this file"
        )
    if len(content) > LIMITS[name]:
        problems.append(f"{len(content):,} bytes; grading accepts {LIMITS[name]:,}")
    return Finding(name, "; ".join(problems) or "no stub is left", not problems)


def stubs_of(tree: ast.AST) -> Iterator[str]:
    """The number of each `raise NotImplementedError("TODO 1.2: ...")` that can still be reached."""
    unset = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assign)}
    guards = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test).endswith(" is None")
    ]
    # `if criterion is None: raise ...` waits below `criterion = None`, and may stay when that has been replaced.
    idle = {
        id(line) for node in guards if ast.unparse(node.test).replace(" is ", " = ") not in unset for line in node.body
    }
    idle |= set(below_an_end(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and id(node) not in idle:
            yield from re.findall(r"^raise NotImplementedError\(f?['\"]TODO (\d+\.\d+)", ast.unparse(node))


def below_an_end(tree: ast.AST) -> Iterator[int]:
    """The id of each line that stands below a return or raise of the same block: Python never gets there."""
    for node in ast.walk(tree):
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            lines = block if isinstance(block, list) else []  # the body of a lambda is an expression
            ends = [number for number, line in enumerate(lines) if isinstance(line, (ast.Return, ast.Raise))]
            yield from (id(inner) for line in lines[ends[0] + 1 :] for inner in ast.walk(line)) if ends else ()


def look_at_weights(name: str) -> Finding | None:
    """What can be said without loading it; None if the checkpoint may be measured and there is nothing to add."""
    path, best = ROOT / name, best_run(WEIGHTS[name])
    size = path.stat().st_size if path.is_file() else 0
    if size > LIMITS[name]:
        return Finding(name, f"LEFT OUT: {size:,} bytes, and grading accepts {LIMITS[name]:,}; hand in a smaller model")
    if best is None:
        return (
            None if size else Finding(name, "is missing; train a long schedule, then add --copy_best to this command")
        )
    value, folder = best
    if size and path.read_bytes() == (folder / "best.pt").read_bytes():
        return None
    state = "is not from your best run" if size else "is missing"
    metric = METRICS[WEIGHTS[name]][1]
    return Finding(name, f"{state}, {show(folder)} ({metric} {value:.4f}); --copy_best copies its weights", bool(size))


def best_run(task: str) -> tuple[float, Path] | None:
    """Validation metric and folder of the best run in runs/ and logs/; those on the full set come first."""
    found = []
    for file in (file for top in ("runs", "logs") for file in (ROOT / top).rglob("results.json")):
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
            value = float(results[f"best_{METRICS[task][0]}"])
            # What is handed in is built without --model_args: weights of such a run do not fit.
            if (file.parent / "best.pt").is_file() and not (results.get("config") or {}).get("model_args"):
                found.append(("sample" not in str(results["dataset"]), value, file.parent))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return max(found)[1:] if found else None


def copy_best(name: str) -> None:
    """Copy best.pt of the best run to where it is handed in; another file that was there is kept next to it."""
    best, target = best_run(WEIGHTS[name]), ROOT / name
    if best is None:
        print(f"{name}: nothing copied, runs/ and logs/ hold no finished run of {WEIGHTS[name]}_main.py")
        return
    content, before = (best[1] / "best.pt").read_bytes(), target.with_suffix(".before.pt")
    if target.is_file() and target.read_bytes() != content:
        target.replace(before)
        print(f"{name}: what was there is now {before.name}")
    target.write_bytes(content)
    print(f"{name}: copied from {show(best[1])}")


def show(path: Path) -> str:
    """The path as it is typed in the project's folder."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def measure(name: str) -> str:
    """Load a checkpoint as grading does and score it. Raises UserError if it does not fit."""
    import torch

    from toolkit.medmnist_data import inspect, locate

    task, (weights, content) = WEIGHTS[name], read_weights(ROOT / name)
    is_mask = task == "segmentation"
    model_name = content.get("model_name", "unet" if is_mask else "cnn")
    models = importlib.import_module(f"{task}_models")
    model = (models.get_segmentation_model if is_mask else models.get_model)(model_name)
    fit_weights(model, weights, name, model_name)
    source = inspect("pathmnist") or locate("pathmnist", dataset="sample")
    data = importlib.import_module("synthetic_data" if is_mask else "classification_dataset")
    loader = (data.create_box_dataloaders if is_mask else data.create_pathmnist_dataloaders)(50, source=source)[1]
    values, ends = [], time.monotonic() + SCORE_LIMIT_S
    with torch.no_grad():
        for batch in loader:
            images, wanted = (batch["image"], batch["mask"]) if is_mask else batch
            outputs = model.eval()(images)
            values.append(
                models.iou_per_image(outputs, wanted) if is_mask else (outputs.argmax(dim=1) == wanted).float()
            )
            if time.monotonic() > ends:
                break
    scores, (key, metric) = torch.cat(values), METRICS[task]
    recorded = f" (the run: {content[key]:.4f})" if isinstance(content.get(key), float) else ""
    seen = f"{len(scores):,} of {len(loader.dataset):,} images of {source.name}"
    names = {"asked for": HAND_IN, "long schedule": LONG, "extra credit": EXTRA_CREDIT}
    wanted = ", ".join(f"{what} {values[task]}" for what, values in names.items() if task in values)
    goals = f"; on the full set: {wanted}" if wanted else ""
    return f"{model_name}, {metric} {scores.mean():.4f}{recorded} on {seen}{goals}"


def answer_all(limit_s: float) -> None:
    """In the second process: import the student's code and measure the checkpoints; print each answer at once."""
    sys.path.insert(0, str(ROOT))
    for name in ("torch", *CODE, *WEIGHTS):
        if name == "torch" or (ROOT / name).is_file():
            print(f"\n{MARK}{json.dumps([name, ''])}", flush=True)
            try:
                answer = Finding(name, measure(name) if name in WEIGHTS else "", fine=True)
                importlib.import_module(Path(name).stem) if name not in WEIGHTS else None
            except (Exception, SystemExit) as error:
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                answer = Finding(
                    name, f"{'' if name in WEIGHTS else 'cannot be imported: '}{kind}{reason_of(error, 250)}"
                )
            print(f"\n{MARK}{json.dumps(answer)}", flush=True)
            if name == "torch":  # the only thing here that imports it: the first process never does
                faulthandler.dump_traceback_later(limit_s, exit=True)


def ask_child() -> list[Finding]:
    """Findings of a second process, in which the student's code may crash or never end."""
    command = [sys.executable, "-m", "toolkit.submission", "--in_this_process", str(CHILD_LIMIT_S)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=TORCH_LIMIT_S + CHILD_LIMIT_S, check=False, **pipes)
        output, reason = done.stdout, f"ended Python with code {done.returncode} when it was run"
        if b"Timeout (" in done.stderr:  # faulthandler's, which then says where, the innermost line first
            place = re.search(rb'classification_\w+\.py", line \d+|segmentation_\w+\.py", line \d+', done.stderr)
            where = f", in {place[0].decode().replace(chr(34), '')}" if place else ""
            reason = f"did not end within {CHILD_LIMIT_S:.0f} s{where} (a busy machine, or an endless loop?)"
    except subprocess.TimeoutExpired as error:
        output, reason = error.stdout, f"did not end within {TORCH_LIMIT_S + CHILD_LIMIT_S:.0f} s (a busy machine?)"
    lines = (output or b"").decode("utf-8", "replace").splitlines()
    answers = [json.loads(line[len(MARK) :]) for line in lines if line.startswith(MARK)]
    found = [Finding(*answer) for answer in answers if len(answer) == 3 and (answer[1] or not answer[2])]
    if not answers or len(answers[-1]) < 3:  # the last one that was begun has not ended
        name = answers[-1][0] if answers else "torch"
        if name == "torch":
            name, reason = "PyTorch", f"{reason}: your imports and weights were not looked at; run this once more"
        found.append(Finding(name, reason))
    missed = [name for name in WEIGHTS if (ROOT / name).is_file() and name not in {answer[0] for answer in answers}]
    return found + [Finding(name, "was not measured, see above") for name in missed]


def changed_files() -> list[Finding]:
    """Provided code that is not as it was released: grading has its own copy."""
    hashes = read_json(ROOT / "RELEASE.json")["files"] if (ROOT / "RELEASE.json").is_file() else {}
    found = []
    for name, expected in hashes.items():
        if name.endswith(".py") and name not in CODE and not name.startswith("tests/"):
            content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
            forms = (content, content.replace(b"\r\n", b"\n"))  # git on Windows may change the ends of the lines
            if expected not in [hashlib.sha256(form).hexdigest() for form in forms]:
                found.append(Finding(name, "was changed; grading uses its own copy, without your change"))
    return found


def pack(target: Path) -> list[str]:
    """Write the zip, whole or not at all; the names of the files in it."""
    names = [
        name for name, limit in LIMITS.items() if (ROOT / name).is_file() and (ROOT / name).stat().st_size <= limit
    ]
    if not names:
        raise UserError(f"nothing to pack: {ROOT} has none of {', '.join(LIMITS)}")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(ROOT / name, name)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return names


def main() -> int:
    """Look, report, pack."""
    parser = OneLineParser(prog="python -m toolkit.submission", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--copy_best", action="store_true", help="first copy the weights of your best run of each part")
    parser.add_argument("--out", type=Path, default=ROOT / "submission.zip", help="zip file to write")
    parser.add_argument("--in_this_process", type=float, metavar="SECONDS", help="only measure, no second process")
    args = parser.parse_args()
    if args.in_this_process:
        answer_all(args.in_this_process)
        return 0
    for name in WEIGHTS if args.copy_best else ():
        copy_best(name)
    findings = [*map(look_at_code, CODE), *filter(None, map(look_at_weights, WEIGHTS)), *ask_child(), *changed_files()]
    print("\n".join(map(str, findings)))
    names = pack(args.out)
    print(f"\nwrote {show(args.out)}:")
    print("\n".join(f"  {name}  {(ROOT / name).stat().st_size:,} bytes" for name in names))
    problems = sum(not finding.fine for finding in findings)
    print(f"\n{problems} to look at, marked LOOK" if problems else "\nnothing is missing", end="")
    print("; this does not run the tests: python -m tests")
    return 1 if problems else 0


if __name__ == "__main__":
    run_script(main)
