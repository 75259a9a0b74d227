"""Reading saved weights in any of the usual forms, and putting them into a model.

The forms: a state_dict; a dict that holds one, as the best.pt of a run or a tutorial's checkpoint does; names that
begin with `module.` (DataParallel, averaged weights) or `_orig_mod.` (torch.compile); tensors of a GPU; NumPy scalars,
paths and argparse settings next to the weights. Nothing that a file holds is run.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import UserError
from toolkit.runs import fault_of

if TYPE_CHECKING:
    import torch

# Where tutorials and libraries keep the weights in a checkpoint.
KEYS = ("state_dict", "model_state_dict", "model_state", "model", "weights", "net", "network", "params")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
MAX_NESTED = 4  # dicts in dicts
SAVE = "save weights alone: torch.save(model.state_dict(), 'FILE')"


def read_weights(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights on the CPU, and the whole content of the file.

    path: of a file that torch.save wrote.
    Returns: name -> tensor without prefixes of wrappers; the dict that was saved, for what else it says (`model_name`).
    Raises: UserError for an empty or damaged file, a Git LFS pointer, a pickled model, a dict without weights.
    """
    path = Path(path)
    content = _load(path)
    weights = _find(content, 0)
    if weights is None:
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{path.name} holds no weights ({held or 'nothing'}); {_save(path)}")
    return _without_prefixes(weights), dict(content)


def fit_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], file: str, name: str) -> None:
    """Put weights into a model. UserError with names, shapes and the cure if they belong to another one.

    file, name: of the weights and of the model, for the message.
    """
    wanted = {n: tuple(tensor.shape) for n, tensor in model.state_dict().items()}
    given = {n: tuple(tensor.shape) for n, tensor in weights.items()}
    differ = [
        f"{n} is {given[n]} in the file and {wanted[n]} in the code"
        for n in wanted
        if given.get(n, wanted[n]) != wanted[n]
    ]
    missing, unknown = [n for n in wanted if n not in given], [n for n in given if n not in wanted]
    faults = differ[:2]
    faults += [f"{len(missing)} of the code's names are not in the file (first: {missing[0]})"] if missing else []
    faults += [f"{len(unknown)} of the file's names are not in the code (first: {unknown[0]})"] if unknown else []
    if faults:
        raise UserError(
            f"{file} does not fit the {name} of your code: {'; '.join(faults)}. Hand in the code that these "
            "weights were trained with, or train again"
        )
    model.load_state_dict(weights)


def _load(path: Path) -> Any:
    import torch

    harmless = _harmless()
    try:
        with torch.serialization.safe_globals(harmless):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for a broken file
        raise UserError(f"{path.name} {fault_of(path, str(error))}") from None


def _save(path: Path) -> str:
    return SAVE.replace("FILE", path.name)


def _harmless() -> list[Any]:
    """Types that stand next to weights in checkpoints and run nothing when they are loaded."""
    numbers = [getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType")]
    parts = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]  # what makes a scalar, what makes an array
    names = [(part, f"numpy.{core}.multiarray.{part.__name__}") for part in parts for core in ("core", "_core")]
    # A path of another system cannot be made here; only its text is used.
    paths = [(getattr(pathlib, f"Pure{kind}Path"), f"pathlib.{kind}Path") for kind in ("Posix", "Windows")]
    return [*names, *numbers, *paths, argparse.Namespace, collections.defaultdict, np.dtype, np.ndarray]


def _find(content: Any, depth: int) -> dict[str, torch.Tensor] | None:
    """The dict of tensors in a checkpoint; None if there is none."""
    import torch

    if not isinstance(content, Mapping) or depth > MAX_NESTED:
        return None
    for key in KEYS:
        if isinstance(content.get(key), Mapping):
            found = _find(content[key], depth + 1)
            if found is not None:
                return found
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    return tensors or None


def _without_prefixes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as the model itself has them: what wrappers put before every name is taken off."""
    weights = {name: tensor for name, tensor in weights.items() if name != "n_averaged"}  # torch's AveragedModel
    for _ in range(MAX_NESTED):
        prefix = next((p for p in PREFIXES if weights and all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights
