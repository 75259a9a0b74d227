"""The run folder: what every training writes, and how it is read again.

config.json (all settings), history.csv (one row per epoch), steps.csv (the loss of single steps), results.json,
curves.png, best.pt (weights and what is needed to build the model; loads with weights_only=True) and last.pt
(everything that resuming needs). Every JSON file and checkpoint is written under a temporary name and renamed, so a
file that is there is whole.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.json_file import read_json


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` to `path` so that the file is either the old one or the whole new one. Raises OSError.

    A device or a pipe (/dev/null, /dev/stdout) is written to: a file must not take its place.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN and infinity are refused (they are not JSON)."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False, default=str) + "\n").encode())


def save_checkpoint(path: Path | str, content: Mapping[str, Any]) -> None:
    """torch.save through memory, so that a full disk is an OSError and never half a checkpoint."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_bytes(path, buffer.getvalue())


LFS_POINTER = b"version https://git-lfs"


def load_checkpoint(path: Path | str, device: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint with weights_only=True. Raises UserError naming the file and the cure."""
    import torch

    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    except Exception as error:  # torch raises OSError, RuntimeError, UnpicklingError, EOFError, ... for a broken file
        raise UserError(f"{path} is not a checkpoint of this course: it {fault_of(Path(path), str(error))}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint of this course: it holds a {type(content).__name__}")
    return content


def fault_of(path: Path, said: str) -> str:
    """Why torch.load refused a file ('is empty: ...'), and what helps. said: torch's own message."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not head:
        return "is empty: it was not saved or copied to its end; copy it again from its run"
    if head.startswith(LFS_POINTER):
        return "is a pointer of Git LFS, not the weights; run git lfs pull, which fetches the file itself"
    if "safetensors is not installed" in said:
        return "is in the format of safetensors: pip install safetensors"
    if "GLOBAL" in said or "TorchScript" in said:
        save = f"torch.save(model.state_dict(), '{path.name}')"
        return f"holds a whole pickled model or other objects, which are not run; save weights alone: {save}"
    return "is damaged, or no file of torch.save; copy it again from its run, or train again"


# What a run writes. A folder with one of these belongs to a run, or to someone who would miss it.
RUN_FILES = ("config.json", "history.csv", "steps.csv", "results.json", "best.pt", "last.pt")
PICTURES = ("curves.png", "confusion.png", "samples.png", "predictions.png")


class RunFolder:
    """One training's folder. Use `create` for a new run and `open` for one that is to be resumed or read."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path | str, config: Mapping[str, Any], *, overwrite: bool = False) -> RunFolder:
        """Make the folder and write config.json.

        Raises UserError if files of a run are there already (unless `overwrite`, which removes them) or if the folder
        cannot be written.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                for name in (*RUN_FILES, *PICTURES):
                    run.file(name).unlink(missing_ok=True)
            run._claim()
            write_json(run.file("config.json"), dict(config))
        except OSError as error:
            run._unclaim()
            raise UserError(f"cannot write to the output folder {path}: {error.strerror}") from None
        return run

    def _claim(self) -> None:
        """Of two runs that start in one folder at the same moment the second gets the error, not half of the files."""
        try:
            with open(self.file("config.json"), "x"):
                pass
        except FileExistsError:
            if not self.file("last.pt").exists() and not self.file("results.json").exists():
                raise UserError(
                    f"{self.path} holds a run without a finished epoch: it still runs, or was ended from outside; "
                    "replace it with --overwrite, or choose another --output_dir"
                ) from None
            raise UserError(
                f"{self.path} holds a run already; continue it with --resume {self.path}, replace it with --overwrite, "
                "or choose another --output_dir"
            ) from None
        there = [name for name in (*RUN_FILES[1:], *PICTURES) if self.file(name).exists()]
        if there:
            self._unclaim()
            raise UserError(
                f"{self.path} holds {', '.join(there)} of something else; choose another --output_dir, or replace "
                "them with --overwrite"
            )

    def _unclaim(self) -> None:
        """Take back the empty config.json of a run that could not begin."""
        with contextlib.suppress(OSError):
            if self.file("config.json").stat().st_size == 0:
                self.file("config.json").unlink()

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open an existing run. Raises UserError if `path` is none."""
        run = cls(path)
        if not run.file("config.json").is_file():
            raise UserError(f"{path} is not a run folder: it has no config.json")
        return run

    def file(self, name: str) -> Path:
        """The path of the file called `name` in this folder."""
        return self.path / name

    def remove_unfinished(self) -> bool:
        """Remove what a run without a finished epoch has written, so that the next one gets its name; True if done."""
        if any(self.file(name).exists() for name in ("history.csv", "results.json", "best.pt", "last.pt")):
            return False
        for name in ("config.json", "steps.csv"):
            self.file(name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files stay
            self.path.rmdir()
        return True

    @property
    def config(self) -> dict[str, Any]:
        """The settings that the run was started with."""
        return read_json(self.file("config.json"))

    def prolong(self, num_epochs: int) -> None:
        """Note in config.json that a resumed run continues to `num_epochs`, so that the next resume does so too."""
        config = self.config
        if num_epochs > config.get("num_epochs", num_epochs):
            write_json(self.file("config.json"), {**config, "num_epochs": num_epochs})

    def seconds_so_far(self) -> float:
        """Seconds that the finished epochs took, from history.csv; 0 before the first."""
        if not self.file("history.csv").exists():
            return 0.0
        with open(self.file("history.csv"), encoding="utf-8", newline="") as file:
            return sum(float(row.get("seconds") or 0) for row in csv.DictReader(file))

    def write_history(self, history: Mapping[str, list[float]]) -> None:
        """Replace history.csv: a column for each list and one row per epoch, counted from 1."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *history])
        writer.writerows([epoch, *row] for epoch, row in enumerate(zip(*history.values(), strict=True), start=1))
        write_bytes(self.file("history.csv"), text.getvalue().encode())

    def append_history(self, epoch: int, row: Mapping[str, float]) -> None:
        """Append one epoch to history.csv at once, so that a sweep can watch it."""
        is_new = not self.file("history.csv").exists()
        with open(self.file("history.csv"), "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(["epoch", *row])
            writer.writerow([epoch, *row.values()])


def best_epoch_of(history: Mapping[str, Sequence[float]], metric: str) -> int:
    """The epoch (from 1) with the highest value of `metric`; of equals that with the lowest val_loss; 0 for none.

    A network that gives one class to all images has the accuracy of that class, and a small validation set has many
    ties: the loss tells a network that learned something from one that collapsed.
    """
    values = history[metric]
    losses = history.get("val_loss") or [0.0] * len(values)
    return 1 + max(range(len(values)), key=lambda epoch: (values[epoch], -losses[epoch])) if values else 0


def free_run_path(parent: Path | str, name: str) -> Path:
    """Make parent/name, or parent/name-2, -3, ... if that is taken: no two callers get the same. Raises UserError."""
    path, number = Path(parent) / name, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.exists():  # `parent` itself is a file
                raise UserError(f"cannot make a folder in {parent}: it is a file") from None
            number += 1
            path = Path(parent) / f"{name}-{number}"
        except OSError as error:
            raise UserError(f"cannot make the output folder {path}: {error.strerror}") from None


def writable_folder(path: Path | str, flag: str = "--output_dir") -> Path:
    """Make the folder; UserError now, not after an hour of training, if nothing can be written there."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".writable.{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(f"{flag}: the folder {path} cannot be written: {error.strerror}") from None
    return folder


def environment() -> dict[str, str]:
    """Versions and machine, for results.json."""
    packages = ("torch", "torchvision", "numpy", "medmnist")
    found = {name: metadata.version(name) for name in packages if _is_installed(name)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **found,
        "command": " ".join([started_as(), *sys.argv[1:]]),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def started_as() -> str:
    """What stands behind `python` to run this script again: `classification_main.py`, or `-m package.module`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"-m {spec.name}" if spec is not None and "." in spec.name else Path(sys.argv[0]).name


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
