"""Who may be separated from whom, and stratified splits and folds that respect it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def bind(groups: Sequence[str], contents: Sequence[str]) -> np.ndarray:
    """Number the units that must stay together → int (N,): the same group, or the same content, directly or by a chain.

    groups: a patient, say; "" means none. contents: a hash of the pixels; "" means unknown.
    """
    count = len(groups)
    names: dict[tuple[str, str], int] = {}
    edges = [
        (index, names.setdefault((kind, value), count + len(names)))
        for kind, values in (("group", groups), ("content", contents))
        for index, value in enumerate(values)
        if value
    ]
    rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    size = count + len(names)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:count]


def assign(units: np.ndarray, labels: np.ndarray, shares: Mapping[str, float], seed: int) -> np.ndarray:
    """Give every image a part → str (N,), so that each label is shared out in proportion and no unit is torn apart.

    units: int (N,) from `bind`. labels: 0 or 1 (N, L); one-hot, or several an image. shares: part → fraction, which
    sum to 1. The order is that of iterative stratification (Sechidis et al. 2011), with units in the place of single
    images: the rarest label first, its largest units first. Each goes where the chi-square distance between what the
    parts have and what they should have falls most; looking at the rarest label alone, as in the paper, leaves other
    labels up to 18 images off where 600 images of 150 patients are split, and this at most 3. A label with at least as
    many units as there are parts reaches every part.
    """
    parts = [name for name, share in shares.items() if share > 0]
    fractions = np.array([shares[name] for name in parts])
    _, unit_of = np.unique(units, return_inverse=True)
    columns = np.column_stack([labels, labels.sum(axis=1) == 0]).astype(np.int64)  # the last one: no label at all
    content = np.zeros((unit_of.max() + 1, columns.shape[1]), dtype=np.int64)  # (U, L + 1)
    np.add.at(content, unit_of, columns)

    wanted = fractions[:, None] * content.sum(axis=0)  # (P, L + 1) images that each part still lacks
    enough = (content > 0).sum(axis=0) >= len(parts)
    main = int(fractions.argmax())
    others = [part for part in range(len(parts)) if part != main]
    for part in others:
        wanted[part, enough] = np.maximum(wanted[part, enough], 1)
    wanted[main] = content.sum(axis=0) - wanted[others].sum(axis=0)

    expected = fractions[:, None] * np.maximum(content.sum(axis=0), 1)
    part_of = np.full(len(content), -1)
    reached = np.zeros(wanted.shape, dtype=bool)
    shuffled = np.random.default_rng(seed).permutation(len(content))
    while (part_of < 0).any():
        free = shuffled[part_of[shuffled] < 0]
        units_left = (content[free] > 0).sum(axis=0)
        label = int(np.where(units_left > 0, units_left, np.iinfo(np.int64).max).argmin())
        having = free[content[free, label] > 0]
        order = having[np.argsort(-content[having, label], kind="stable")]
        for left, unit in zip(range(len(order), 0, -1), order, strict=True):
            change = (((wanted - content[unit]) ** 2 - wanted**2) / expected).sum(axis=1)
            without = ~reached[:, label]
            if enough[label] and 0 < without.sum() >= left:  # a unit may be larger than what a part still lacks
                change[~without] = np.inf
            best = int(change.argmin())
            part_of[unit] = best
            wanted[best] -= content[unit]
            reached[best] |= content[unit] > 0
    return np.array(parts)[part_of[unit_of]]
