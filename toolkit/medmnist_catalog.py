"""What MedMNIST sets exist: the official ones as medmnist lists them, and the files that data/bundled ships."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import check_choice
from toolkit.npz_file import DataError, Layout

# Beside the code and not in the working directory: every room finds it from wherever it is started.
BUNDLED_FOLDER = Path(__file__).resolve().parents[1] / "data" / "bundled"
MANIFEST = BUNDLED_FOLDER / "manifest.json"
RESTORE = "restore it with: git checkout -- data/bundled"


@dataclass(frozen=True)
class Entry:
    """What medmnist says of one flag at one size."""

    flag: str
    name: str  # with the size if it is not 28: "pathmnist_64"
    url: str
    md5: str
    task: str
    class_names: tuple[str, ...]
    layout: Layout

    @property
    def file_name(self) -> str:
        """Official name of the file."""
        return f"{self.name}.npz"


@dataclass(frozen=True)
class Bundled:
    """One file of data/bundled, as its manifest describes it."""

    path: Path
    name: str  # what results record
    official: bool  # the same bytes as the official file; else a sample
    md5: str
    what: str


@functools.cache
def medmnist_info() -> dict[str, dict]:
    """medmnist.INFO, without importing the package itself, which takes 3 s because it imports torchvision."""
    if "medmnist.info" in sys.modules:
        return sys.modules["medmnist.info"].INFO
    package = importlib.util.find_spec("medmnist")
    if package is None or not package.submodule_search_locations:
        raise DataError("the package medmnist is missing; run: python -m pip install -r requirements.txt")
    info_path = Path(package.submodule_search_locations[0]) / "info.py"
    spec = importlib.util.spec_from_file_location("_medmnist_info", info_path)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the home directory is read-only it warns of a folder that we do not use
        spec.loader.exec_module(module)
    return module.INFO


def official_entry(flag: str, size: int) -> Entry:
    """Look up a flag and a size in pixels; UserError with the allowed ones."""
    info = medmnist_info()
    check_choice("flag", flag, info)
    facts = info[flag]
    suffixes = {28: ""} | {int(key[4:]): key[3:] for key in facts if key.startswith("MD5_")}
    check_choice(f"size of {flag}", size, suffixes)
    suffix = suffixes[size]
    layout = Layout(
        size=size,
        is_3d=flag.endswith("3d"),
        channels=facts["n_channels"],
        num_classes=len(facts["label"]),
        multi_label=facts["task"].startswith("multi-label"),
    )
    names = tuple(facts["label"][str(index)] for index in range(layout.num_classes))
    return Entry(flag, flag + suffix, facts["url" + suffix], facts["MD5" + suffix], facts["task"], names, layout)


def bundled(flag: str, size: int) -> Bundled | None:
    """The bundled file of a flag and size, if there is one; its bytes are not looked at here."""
    return _first(lambda record: (record["flag"], record["size"]) == (flag, size) and "test_of" not in record)


def bundled_flags() -> list[str]:
    """The sets that data/bundled has a file of, that of the assignment first."""
    return list(dict.fromkeys(record["flag"] for record in _manifest() if "test_of" not in record))


def bundled_test_of(name: str) -> Bundled | None:
    """The bundled test images that belong to the sample `name`, if they are here; students' copies lack them."""
    return _first(lambda record: record.get("test_of") == name)


def _first(fits: Callable[[dict], bool]) -> Bundled | None:
    """The first record of the manifest that fits."""
    for record in _manifest():
        if fits(record):
            fields = (record["name"], record["official"], record["md5"], record["what"])
            return Bundled(BUNDLED_FOLDER / record["file"], *fields)
    return None


def _manifest() -> list[dict]:
    """Records of data/bundled/manifest.json; none where the folder was left out."""
    if not MANIFEST.exists():
        return []
    try:
        return json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{MANIFEST} is damaged ({error}); {RESTORE}") from None
