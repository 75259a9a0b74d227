"""What the command-line scripts share: flags, named configurations, and one line instead of a traceback.

Imports nothing heavy: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import errno
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from toolkit.errors import UserError
from toolkit.runs import read_json

T = TypeVar("T")
EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130
COMMENT_KEYS = ("name", "description", "measured", "tuned")  # for people; everything else in a configuration is a flag
# A resumed run keeps its settings; these may differ, because they do not change what is learned.
FREE_ON_RESUME = ("num_epochs", "device", "data_root", "mirror", "results_path", "evaluate_test", "resume", "overwrite")
NOT_IN_CONFIG = ("help", "config", "resume")  # flags of one command, not settings of a run
MOST_WORKERS = 64  # loader processes; a slip of the finger must not start thousands
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", None))  # Windows has no EDQUOT
RESUME = "continue with --resume"
PACKAGES = ("torch", "torchvision", "numpy", "medmnist", "matplotlib", "sklearn", "tqdm", "filelock")


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Adds each default to the help, unless there is none or the help tells it in words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default == []
        return action.help if nothing or "(default" in (action.help or "") else super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and whose flags cannot be abbreviated."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Defaults)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            flags = sorted(self.flags())
            typed = next((word.partition("=")[0] for word in message.split() if word.startswith("-")), "")
            close = similar_flags(typed, flags)
            meant = f"; did you mean {' or '.join(close)}? (--help lists all)"
            message += meant if close else f"; allowed: {' '.join(flags)}"
        elif match := re.search(r"model_name: invalid choice: '(\w+)'", message):
            if match[1].lower() in message.partition("choose from")[2]:
                message += f"; did you mean {match[1].lower()}, in small letters?"
            elif match[1].lower() == "unet":
                message += "; the U-Net is a model of segmentation_main.py"
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(EXIT_USER_ERROR)

    def flags(self) -> dict[str, argparse.Action]:
        """All long flags and what they do."""
        return {flag: action for action in self._actions for flag in action.option_strings if flag.startswith("--")}


def similar_flags(typed: str, flags: Sequence[str]) -> list[str]:
    """The flags that may be meant: spelled alike, of the same words (--epochs), or with these initials (--lr)."""
    if close := difflib.get_close_matches(typed, flags, 1, 0.75):
        return close
    name = typed.lstrip("-").replace("-", "_").lower()
    words = {flag: flag.lstrip("-").split("_") for flag in flags}
    return [flag for flag in flags if name in words[flag] or name == "".join(word[0] for word in words[flag])][:2]


def in_range(kind: type, low: float, high: float = float("inf"), *, open_low: bool = False) -> Callable[[str], Any]:
    """An argparse type: a finite number of `kind` from `low` (without it if `open_low`) to `high`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high or value == float("inf") or (open_low and value == low):
            bounds = f"{'above' if open_low else 'at least'} {low}" + (
                "" if high == float("inf") else f", up to {high}"
            )
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give {noun} {bounds}")
        return value

    parse.__name__ = kind.__name__
    return parse


def not_empty(text: str) -> str:
    """An argparse type: a path or name. `--resume "$RUN"` with RUN unset is a mistake and no flag left out."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a path, or leave the flag out")
    return text


def json_object(text: str) -> dict[str, Any]:
    """An argparse type: a JSON object whose keys can be names of arguments."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(name.isidentifier() for name in value):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a JSON object like '{{\"base_channels\": 8}}'")
    return value


def add_training_flags(parser: OneLineParser, models: Sequence[str], model_name: str, augment: str) -> None:
    """The flags that both mains have."""
    group = parser.add_argument_group("model and training")
    group.add_argument("--model_name", choices=models, default=model_name, help="architecture")
    group.add_argument(
        "--model_args",
        type=json_object,
        metavar="JSON",
        help="arguments for the model's __init__, like '{\"base_channels\": 8}' for the U-Net of segmentation_main.py",
    )
    group.add_argument("--learning_rate", type=in_range(float, 0, open_low=True), default=0.001, help="step size")
    group.add_argument("--num_epochs", type=in_range(int, 1), default=1, help="epochs in all, a resumed run's included")
    group.add_argument("--weight_decay", type=in_range(float, 0), default=0.0, help="L2 penalty of the optimizer")
    group.add_argument("--batch_size", type=in_range(int, 1), default=32, help="images per step")
    group.add_argument(
        "--max_steps_per_epoch", type=in_range(int, 0), default=100, help="steps per epoch; 0: all batches"
    )
    group.add_argument("--optimizer", choices=("adam", "adamw", "sgd"), default="adam", help="sgd: Nesterov, 0.9")
    group.add_argument(
        "--schedule",
        choices=("constant", "cosine", "onecycle"),
        default="constant",
        help="learning rate over all epochs; its highest value is --learning_rate",
    )
    group.add_argument(
        "--ema_decay", type=in_range(float, 0, 0.99999), default=0.95, help="averaging of weights; 0: none"
    )
    group.add_argument("--patience", type=in_range(int, 1), help="stop after this many epochs without a better result")
    group.add_argument(
        "--augment", choices=("none", "flips", "standard", "strong"), default=augment, help="of training images"
    )
    group.add_argument("--seed", type=in_range(int, 0, 2**32 - 1), default=0, help="of weights, order and augmentation")


def add_data_flags(parser: OneLineParser) -> None:
    """Where images come from."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data_root", type=not_empty, default="./data", help="folder with pathmnist.npz, or to download it to"
    )
    group.add_argument(
        "--dataset",
        choices=("auto", "full", "sample"),
        default="auto",
        help="auto: the full set if it is there or can be downloaded, else the bundled sample",
    )
    group.add_argument("--mirror", help="base address to download from (also: environment variable MEDMNIST_MIRROR)")
    group.add_argument(
        "--num_workers", type=in_range(int, 0, MOST_WORKERS), default=0, help="loader processes; 0 is fastest here"
    )


def add_machine_and_output_flags(parser: OneLineParser) -> None:
    """Where it runs and what it leaves behind."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="auto: bfloat16 where the hardware has it",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output_dir", type=not_empty, help="run folder (default: runs/TASK-MODEL-seedN, numbered if taken)"
    )
    group.add_argument("--overwrite", action="store_true", help="replace a run that is in --output_dir")
    group.add_argument("--results_path", type=not_empty, help="also write results.json here")
    group.add_argument("--evaluate_test", action="store_true", help="read the test split, once, for the final score")
    group.add_argument("--resume", type=not_empty, metavar="RUN_DIR", help="continue a run, with its settings")
    group.add_argument("--config", type=not_empty, metavar="FILE", help="JSON of flags; flags on the command line win")


def parse(parser: OneLineParser, argv: Sequence[str] | None = None, task: str | None = None) -> argparse.Namespace:
    """Parse the command line over --config or, for --resume, over the settings of that run (of `task`, if given)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    if args.resume and args.config:
        raise UserError("--resume and --config exclude each other: a resumed run has its settings already")
    if args.config:
        return parser.parse_args(config_to_argv(parser, read_json(args.config), args.config) + argv)
    if args.resume:
        return _resumed(parser, argv, args.resume, task)
    return args


def config_to_argv(parser: OneLineParser, config: Any, origin: str) -> list[str]:
    """Turn a JSON object of flags into command-line words. Raises UserError naming keys that are not flags."""
    if not isinstance(config, dict):
        raise UserError(f"{origin} must hold one JSON object of flags, not a {type(config).__name__}")
    flags = {flag[2:]: action for flag, action in parser.flags().items() if flag[2:] not in NOT_IN_CONFIG}
    words: list[str] = []
    for key, value in config.items():
        if key in COMMENT_KEYS or value is None:
            continue
        if key not in flags:
            raise UserError(f"{origin}: unknown key {key!r}; allowed: {', '.join(sorted(flags))}")
        if flags[key].nargs == 0:  # a switch such as --overwrite
            if not isinstance(value, bool):
                raise UserError(f"{origin}: {key} is {value!r}; allowed: true, false")
            words += [f"--{key}"] if value else []
        elif isinstance(value, dict) and flags[key].type is json_object:
            words.append(f"--{key}={json.dumps(value)}")
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            words.append(f"--{key}={value}")
        else:
            raise UserError(f"{origin}: {key} is {value!r}; give one number or string (lists are for dispatcher.py)")
    return words


def _resumed(parser: OneLineParser, argv: list[str], run_dir: str, task: str | None) -> argparse.Namespace:
    """The settings of the run in `run_dir`, with what may be changed taken from `argv`."""
    path = Path(run_dir) / "config.json"
    if not path.is_file():
        raise UserError(f"--resume {run_dir}: not a run folder, it has no config.json")
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"--resume {run_dir}: not a run folder, its config.json holds no settings")
    if task is not None and config.get("task", task) != task:
        raise UserError(f"--resume {run_dir}: that is a run of {config['task']}, and this script is for {task}")
    flags = parser.flags()
    saved = {key: value for key, value in config.items() if f"--{key}" in flags and key not in NOT_IN_CONFIG}
    before = parser.parse_args(config_to_argv(parser, saved, str(path)))
    after = parser.parse_args(config_to_argv(parser, saved, str(path)) + argv)
    changed = [key for key, value in vars(after).items() if value != getattr(before, key) and key not in FREE_ON_RESUME]
    if changed:
        raise UserError(
            f"--resume keeps the settings of the run; these differ: {', '.join(changed)}; "
            f"allowed: {', '.join('--' + name for name in FREE_ON_RESUME[:-2])}"
        )
    if after.num_epochs != before.num_epochs and after.schedule != "constant":
        raise UserError(
            f"the schedule {after.schedule!r} was laid out for {before.num_epochs} epochs; "
            f"start a new run for more (only --schedule constant can be prolonged)"
        )
    after.output_dir = run_dir
    return after


def from_flags(kind: type[T], flags: Mapping[str, Any]) -> T:
    """A settings dataclass from the flags that have the names of its fields; `flags` may hold others, too."""
    return kind(**{field.name: flags[field.name] for field in dataclasses.fields(kind)})


def run_script(main: Callable[[], int | None], after_full_disk: str = RESUME) -> NoReturn:
    """Run a script's main and exit: 0, or 2 with one line for a mistake of the user's, or 130 after Ctrl-C.

    after_full_disk: what to do when there is space again.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a terminal without "±" gets "?", not an error after the training
            stream.reconfigure(errors="replace")
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough: python classification_main.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = EXIT_INTERRUPTED
    except Exception as error:
        line = one_line(error, after_full_disk)
        if line is None:
            raise
        sys.stderr.write(f"error: {line}\n")
        code = EXIT_USER_ERROR
    raise SystemExit(code)


def one_line(error: BaseException, after_full_disk: str = RESUME) -> str | None:
    """What to tell the user, or None if the error is a bug (or the student's) and needs its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, NotImplementedError) and str(error).startswith("TODO "):  # a stub of the starter
        place = traceback.extract_tb(error.__traceback__)[-1:]
        where = "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in place)
        return f"{error}{where}; `python -m tests` lists what is still to do"
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"{error.strerror}: free some space and {after_full_disk}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
        return f"the package {error.name} is missing; activate .venv, or see: python check_installation.py"
    return _out_of_memory(error)


def _out_of_memory(error: BaseException) -> str | None:
    """The line for memory that ran out, whichever way torch says so (torch itself is not imported here)."""
    cure = "use a smaller --batch_size, or end what else runs there"
    text = str(error) if isinstance(error, RuntimeError) else ""
    if type(error).__name__ == "OutOfMemoryError" or "MPS backend out of memory" in text:
        return f"out of GPU memory; {cure}, or take another --device"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return f"out of memory; {cure}"
    return None


@contextlib.contextmanager
def noticing_ctrl_c(notice: Callable[[], None]) -> Iterator[None]:
    """Call `notice` at a Ctrl-C, before Python raises it (in the main thread; elsewhere there is none)."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return

    def handler(number: int, frame: Any) -> None:
        notice()
        previous(number, frame)

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
