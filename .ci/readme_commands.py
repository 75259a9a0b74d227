"""Run every command that stands in a README's ```sh block, in quick mode.

A command is shortened by the first rule that matches it. A command that no rule covers fails, so that nothing can stand
in a README untested. Commands that .ci/run has run already (installing, the tests) are listed and not repeated.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "labs/*/README.md", "staff/README.md", "configs/README.md")
# (pattern of the command, what to append; None: .ci/run has done it)
RULES = (
    (r"git clone .*|cd .*", None),
    (r"python3? -m venv .*|(source|\.) .*activate|.*Activate\.ps1|.*pip install .*", None),
    (r"make (test|lint|check|bench)|python -m (pytest|ruff)\b.*|bash \.ci/run", None),
    (r"make train", "--dataset sample --max_steps_per_epoch 5"),
    (r"python -m toolkit\.quickstart.*", "--dataset sample --max_steps_per_epoch 5"),
    (r"python (classification|segmentation)_main\.py .*--resume.*", ""),
    (r"python (classification|segmentation)_main\.py.*", "--dataset sample --max_steps_per_epoch 5 --num_epochs 1"),
    (r"python check_installation\.py", ""),
    (r"python dispatcher\.py report.*", None),  # needs finished runs: tests/sweeps makes them
    (r"python dispatcher\.py.*", "--dry_run"),
    (r"python -m bench\.(loader|train)", "--quick"),
    (r"python -m bench\.scores.*", "--models classification-mlp --seeds 1 --output_root runs/ci-scores"),
    (r"python -m bench\.dispatch.*", "--quick"),
    (r"python -m bench\.gpu.*", None),  # .ci/run runs it with the other benches
    (r"python -m staff\.gradebook similar .*", ""),
    (r"make starter|python -m staff\.(make_starter|check_starter) .*", ""),
    (r"python -m staff\.grade staff/tests/.* --check .*", ""),
    (r"python -m staff\.grade staff/tests/.*", "--todo 2.4 2.5"),
    (r"python -m staff\.grade .*", ""),
    (r"python -m staff\.package gradescope", ""),
    (r"make site|python -m staff\.site.*", None),  # needs Jekyll: staff/tests/site builds it
    (r"python -m staff\.release .*", None),  # its proofs take minutes: staff/tests/release calls it, and each of them
    # They need a class; staff/tests/gradebook calls each of them.
    (r"python -m staff\.gradebook (collect|sum|publish|decide|history) .*", None),
    (r"python -m staff\.gradebook serve .*", None),  # runs until Ctrl-C; staff/tests/gradebook opens it in a browser
    (r"python -m staff\.(grade_class|attacks|accidents|measure)\b.*", None),
    (r"python -m labs\.image_classifier\.train .*", "--epochs 1 --max_steps_per_epoch 5"),
    (r"python -m labs\.image_classifier\.(prepare|evaluate|predict) .*", ""),
    (r"python -m labs\.hw5_pneumonia\.hw5_dl --quick", "--output_dir build/ci-hw5"),
    (
        r"python -m labs\.hw5_pneumonia\.hw5_dl.*",
        "--quick --train_images 256 --models cnn --output_dir build/ci-hw5",
    ),
    (
        r"python -m labs\.few_labels\b.*",
        "--quick --methods labels fixmatch --overwrite --output_dir build/ci-few-labels",
    ),
    (r"python -m labs\.medmnist_experiments\.(cnn3d|augmentation|transfer|gradcam)\b.*", "--quick --overwrite"),
    (r"python -m labs\.medmnist_experiments\.(quantize|few_bits|resnet)\b.*", "--quick --overwrite"),
    (r"python -m labs\.medmnist_experiments\.predict_onnx .*", ""),  # the files of the quick run before it
    (
        r"python -m labs\.pathmnist_resnet18\.src\.pathmnist_resnet18 all --quick",
        "--overwrite --dataset sample --output_dir build/ci-pathmnist",
    ),
    (r"python -m labs\.pathmnist_resnet18\.src\.pathmnist_resnet18 all.*", None),  # half an hour; the quick one ran
    (r"python -m labs\.pathmnist_resnet18\.src\.pathmnist_resnet18 fullsize.*", "--quick"),
    (
        r"python -m labs\.pathmnist_resnet18\.src\.pathmnist_resnet18 .*",
        "--quick --dataset sample --output_dir build/ci-pathmnist",
    ),
    (
        r"python -m labs\.pathmnist_resnet18\.src\.job .*",
        "--dataset sample --num_epochs 1 --max_steps_per_epoch 2 --bootstrap 20 --overwrite",
    ),
    (r"python -m tests", None),
    (r"python -m toolkit\.compare .*", ""),
)


def commands(text: str) -> list[str]:
    """The commands of all ```sh blocks, comments and continuation lines taken care of."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#.*", "", line).strip()
            if command:
                found.append(command)
    return found


def quick_form(command: str) -> str | None:
    """The command in quick mode, or None if it was run already. SystemExit if no rule covers it."""
    for pattern, extra in RULES:
        if re.fullmatch(pattern, command):
            if extra is None:
                return None
            if command == "make train":
                command = "python -m toolkit.quickstart"
            if command == "make starter":
                command = "python -m staff.make_starter --assignment project2 --out build/starter"
            return f"{command} {extra}".strip()
    raise SystemExit(f"no rule in .ci/readme_commands.py covers this command of a README: {command}")


def run(command: str) -> float:
    """Run one command from the root with this Python first on the PATH; SystemExit if it fails unexpectedly."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PATH": path}  # two commands share two cores
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        code = subprocess.run(
            shlex.split(command), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        ).returncode
        output.seek(0)
        # 1 is the quick start's "an expectation is not met", which five steps cannot meet.
        if code not in ((0, 1) if "toolkit.quickstart" in command else (0,)):
            raise SystemExit(f"exit code {code}: {command}\n{output.read()[-3000:]}")
    return time.monotonic() - started


def run_all(readmes: list[Path], done: set[str]) -> None:
    """Run the commands of some READMEs in the order in which they stand; what ran before is not repeated."""
    for path in readmes:
        name = path.relative_to(ROOT)
        for command in commands(path.read_text(encoding="utf-8")):
            quick = quick_form(command)
            if quick is None or quick in done:
                print(f"{name}: covered elsewhere: {command}")
                continue
            done.add(quick)
            print(f"{name}: {quick}  ({run(quick):.1f} s)", flush=True)


def main() -> None:
    """Run them all, two READMEs at a time: each lab has its own folders, the others share theirs and take turns."""
    found = sorted(path for pattern in READMES for path in ROOT.glob(pattern))
    labs = [path for path in found if path.parent.parent.name == "labs"]
    done: set[str] = set()
    with ThreadPoolExecutor(max_workers=2) as lanes:
        lanes_run = [
            lanes.submit(run_all, group, done)
            for group in ([path for path in found if path not in labs], *([path] for path in labs))
        ]
    for lane in lanes_run:
        lane.result()
    print(f"{len(done)} commands of READMEs ran")


if __name__ == "__main__":
    main()
