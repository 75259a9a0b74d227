"""Proofs about the bytes of a starter: which files, from which sources, and nothing of a solution in any of them."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from staff.release.starter import leaks, markers, release, sample
from staff.release.starter.markers import Graded
from staff.release.starter.proof import Proof
from staff.release.starter.recipe import Recipe

TEXT_LIMIT = 1 << 20  # bytes; larger files are data


def proves_files(recipe: Recipe, found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> Proof:
    """The files are those of a release from today's sources: none more, none less, none changed."""
    problems = []
    for name in sorted(set(found) | set(expected)):
        if recipe.is_foreign(name):
            problems.append(f"{name}: nothing from {name.rsplit('/', 1)[0]}/ belongs into this starter")
        elif name not in expected:
            problems.append(f"{name}: not part of the release")
        elif name not in found:
            problems.append(f"{name}: missing")
        elif name not in recipe.graded and found[name] != expected[name]:
            problems.append(f"{name}{_first_difference(found[name], expected[name])}")
    return Proof(
        "files",
        f"{len(expected)} files, each as the sources make it, none from staff, other labs, bench or .ci",
        problems,
    )


def proves_release_file(found: Mapping[str, bytes], commit: str, record: Mapping) -> Proof:
    """RELEASE.json names the commit of the sources and the SHA-256 of each file."""
    problems = []
    if record["commit"] != commit:
        problems.append(f"made from commit {record['commit']}, but the sources are at {commit}: make it again")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in found.items() if name != release.RELEASE_FILE}
    for name in sorted(set(hashes) | set(record["files"])):
        if hashes.get(name) != record["files"].get(name):
            problems.append(f"{name}: its SHA-256 is not the one in {release.RELEASE_FILE}")
    return Proof("origin", f"commit {commit}, SHA-256 of {len(hashes)} files", problems)


def proves_round_trip(found: Mapping[str, bytes], graded: Sequence[Graded]) -> Proof:
    """With the solutions put back in, the graded files are the originals, byte for byte."""
    problems = []
    for item in graded:
        text = found.get(item.name, b"").decode("utf-8", "replace")
        try:
            whole = markers.insert_solutions(text, item.regions, item.name)
        except markers.MarkerError as error:
            problems.append(str(error))
        else:
            if whole == item.original:
                continue
        problems += _line_differences(item, text)
    what = f"{sum(len(item.regions) for item in graded)} solutions put back give {len(graded)} originals, byte for byte"
    return Proof("round trip", what, problems)


def proves_no_leak(found: Mapping[str, bytes], evidence: leaks.Evidence, graded: Sequence[str]) -> Proof:
    """No solution code, no solution line, no solution name in any file."""
    problems, texts, trees = [], 0, 0
    for name, data in sorted(found.items()):
        text = _as_text(data)
        if text is None:
            problems += _search_bytes(evidence, name, data)
            continue
        texts += 1
        problems += leaks.search_text(evidence, name, text)
        if name.endswith(".py"):
            trees += 1
            try:
                problems += leaks.search_code(evidence, name, text, graded=name in graded)
            except SyntaxError as error:
                problems.append(f"{name}:{error.lineno}: does not parse: {error.msg}")
    what = (
        f"{len(evidence.exact)} pieces of syntax ({len(evidence.renamed)} also with other names), "
        f"{len(evidence.lines)} lines and {len(evidence.telling_names)} names of the solutions are in none of "
        f"{trees} syntax trees, {texts} texts, {len(found) - texts} data files"
    )
    return Proof("no leak", what, problems)


def proves_no_markers(found: Mapping[str, bytes], roots: Sequence[str]) -> Proof:
    """No marker and no path of the machine that built it is left."""
    problems = []
    for name, data in sorted(found.items()):
        text = data.decode("utf-8", "replace")
        if match := markers.LOOKS_LIKE_A_MARKER.search(text):
            problems.append(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: solution marker")
        problems += [f"{name}: holds the path {root}" for root in roots if root in text]
    return Proof("no traces", f"no marker and no path of this machine in {len(found)} files", problems)


def proves_hidden_data(recipe: Recipe, found: Mapping[str, bytes]) -> Proof:
    """The arrays that are held back are not there, and none of their images is under another name."""
    (arrays, hidden), seen, problems = sample.held_back(recipe), 0, []
    for name, data in found.items():
        if not name.endswith((".npz", ".npy")):
            continue
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        for array in getattr(loaded, "files", [""]):
            if array in arrays:
                problems.append(f"{name}: array {array}")
            images = loaded[array] if array else loaded
            if images.ndim > 2:
                seen += len(images)
                known = sum(image.tobytes() in hidden for image in images)
                problems += [f"{name}: {known} held-back images in array {array}"] * bool(known)
    return Proof("held-back data", f"none of {len(hidden)} held-back images among the {seen} that ship", problems)


def proves_data_set(recipe: Recipe, found: Mapping[str, bytes]) -> Proof:
    """No text states a fact of the data set that the sources are written for, where the assignment has another one."""
    problems, texts = [], {name: text for name, data in found.items() if (text := _as_text(data)) is not None}
    for name, text in texts.items() if recipe.dataset else ():
        for number, words in recipe.dataset.left_over(text):
            problems.append(f"{name}:{number}: {words!r} is not said of {recipe.dataset.name}")
    what = f"{len(texts)} texts speak of {recipe.dataset.name} alone" if recipe.dataset else "the assignment names none"
    return Proof("data set", what, problems)


def machine_paths(recipe: Recipe) -> list[str]:
    """Paths that would tell where a release was built; the top folder alone says nothing."""
    paths = {str(recipe.root), str(Path.home())}
    return sorted(path for path in paths if path.count("/") > 1)


def _line_differences(item: Graded, text: str) -> list[str]:
    """Lines that a graded file has too many or too few, each with its number; solution lines are called so."""
    solution = {leaks.squeeze(line) for region in item.regions for line in region.body.splitlines()}
    expected, found = item.starter.splitlines(), text.splitlines()
    problems = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, expected, found, autojunk=False).get_opcodes():
        if kind != "equal":
            problems += [f"{item.name}:{c + 1}: missing: {line.strip()}" for line in expected[a:b] if line.strip()]
            for number, line in enumerate(found[c:d], c + 1):
                what = "solution line" if leaks.squeeze(line) in solution and line.strip() else "foreign line"
                problems.append(f"{item.name}:{number}: {what}: {line.strip()}")
    return problems


def _first_difference(found: bytes, expected: bytes) -> str:
    """':12: differs from its source: ...' for text."""
    texts = _as_text(found), _as_text(expected)
    if None in texts:
        return ": differs from its source"
    rows, wanted = (text.split("\n") for text in texts)
    pairs = enumerate(zip(rows, wanted, strict=False))
    number = next((i for i, (row, want) in pairs if row != want), min(len(rows), len(wanted)))
    row = rows[number].strip() if number < len(rows) else "(end of file)"
    return f":{number + 1}: differs from its source: {row[:100]}"


def _as_text(data: bytes) -> str | None:
    if len(data) > TEXT_LIMIT or b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _search_bytes(evidence: leaks.Evidence, name: str, data: bytes) -> list[str]:
    """Solution lines and names inside a data file, uncompressed as make_starter writes them."""
    squeezed = data.translate(None, b" \t\r\n")
    looked_for = {**evidence.lines, **evidence.telling_names}
    return [
        f"{name}: holds {text!r} of the solution in {where}"
        for text, where in looked_for.items()
        if len(text) >= 8 and text.encode() in squeezed
    ]
