"""From stored DICOM values to units (modality) and from units to grey (value of interest): PS3.3 C.11.1 and C.11.2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.images.errors import ImageError, require

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class Table:
    """A look-up table: values below `first` get the first entry, values behind the last one the last."""

    first: int
    bits: int  # of an entry; its full scale is 2 ** bits - 1
    entries: np.ndarray

    is_identity = False

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape → float64."""
        places = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        return self.entries[places].astype(np.float64)


@dataclass(frozen=True)
class Line:
    """Units = slope * stored + intercept."""

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def is_identity(self) -> bool:
        """True if stored values are all that is known."""
        return (self.slope, self.intercept) == (1.0, 0.0)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape → float64."""
        return self.slope * values.astype(np.float64) + self.intercept


@dataclass(frozen=True)
class Window:
    """Which units become black and white.

    function: 'LINEAR' (center - width / 2 to 0, center + width / 2 to 255, with the standard's half unit),
    'LINEAR_EXACT' (without it) or 'SIGMOID'.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Units of any shape → uint8."""
        values = values.astype(np.float64)
        if self.function == "SIGMOID":
            share = 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -500, 500)))
        elif self.function == "LINEAR_EXACT":
            share = (values - self.center) / self.width + 0.5
        else:
            share = (values - (self.center - 0.5)) / max(self.width - 1, 1e-6) + 0.5
        return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class TableWindow:
    """A look-up table from units to grey."""

    table: Table

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Units of any shape → uint8."""
        return np.rint(self.table.apply(values) * (255 / (2**self.table.bits - 1))).clip(0, 255).astype(np.uint8)


def modality_of(dataset: Any, index: int) -> Table | Line:
    """How the stored values of a frame become units. An empty slope or intercept is one that is not given."""
    group = _group(dataset, index, "PixelValueTransformationSequence")
    if group.get("ModalityLUTSequence"):
        return _table(group.ModalityLUTSequence[0], dataset)
    slope, intercept = number(group, "RescaleSlope"), number(group, "RescaleIntercept")
    if slope == 0:
        raise ImageError("its RescaleSlope is 0, which makes all pixels equal")
    return Line(1.0 if slope is None else slope, intercept or 0.0)


def voi_of(dataset: Any, index: int) -> Window | TableWindow | None:
    """The file's table or its first window for a frame; None if it has no usable one (a width of 0, say)."""
    group = _group(dataset, index, "FrameVOILUTSequence")
    if group.get("VOILUTSequence"):
        return TableWindow(_table(group.VOILUTSequence[0], dataset))
    center, width = number(group, "WindowCenter"), number(group, "WindowWidth")
    function = str(group.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in FUNCTIONS:
        raise ImageError(f"its VOILUTFunction is {function[:40]!r}; allowed: {', '.join(FUNCTIONS)}")
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(center, width, function)


def number(dataset: Any, keyword: str) -> float | None:
    """The (first) value of a numeric element; None if it is absent or empty. Some writers use a decimal comma.

    Raises ImageError for text that is not a number.
    """
    try:
        value = dataset.get(keyword)
    except (ValueError, OverflowError):
        tag = require("pydicom.datadict", "DICOM").tag_for_keyword(keyword)
        value = dataset.get_item(tag).value
        value = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    if isinstance(value, str):
        value = value.partition("\\")[0].strip(" \0").replace(",", ".")
    elif hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except ValueError:
        found = float("nan")
    if not np.isfinite(found):
        raise ImageError(f"its {keyword} is {str(value)[:40]!r}, which is not a number")
    return found


def _group(dataset: Any, index: int, sequence: str) -> Any:
    """Where a setting of a frame stands: among the frame's own groups, the shared ones, or (classic files) on top."""
    each, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    own = each[index] if each and index < len(each) else None
    for groups in (own, shared[0] if shared else None):
        if groups is not None and groups.get(sequence):
            return groups.get(sequence)[0]
    return dataset


def _table(item: Any, dataset: Any) -> Table:
    """The table of a sequence item; its data are numbers, or bytes where the writer chose OW."""
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    is_signed = bool(dataset.get("PixelRepresentation"))
    first = first - 2**16 if is_signed and first >= 2**15 else first  # US or SS: the writer's type may be ambiguous
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] in (True, None) else ">"
        data = np.frombuffer(data, dtype=f"{order}u2") if len(data) >= 2 * count else np.frombuffer(data, np.uint8)
    entries = np.atleast_1d(np.asarray(data)).astype(np.int64)[: count or 2**16]
    if not len(entries) or not 1 <= bits <= 16:
        raise ImageError("its look-up table is empty or damaged")
    return Table(first, bits, entries)
