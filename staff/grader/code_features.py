"""What a function or class does, read off its source as a set of words: calls, their order, numbers, unused arguments.

Students' code is only parsed, never run or imported. The words tell apart mistakes that look the same from outside: a
step that is missing and gradients that are cleared before it both leave the weights where they were.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

ORDERED = ("zero_grad", "backward", "step")  # calls whose order matters
MOST_COUNTED = 3


def features(source: str, name: str) -> set[str]:
    """Words of the top-level function or class `name`; empty if the source has none or cannot be parsed."""
    try:
        tree = ast.parse(source)
        node = next(node for node in tree.body if getattr(node, "name", None) == name)
        return set(_words(node))
    except (SyntaxError, ValueError, RecursionError, MemoryError, StopIteration):
        return set()


def changes(source: str, name: str, reference: set[str]) -> set[str]:
    """'+word' for what the code has and the reference does not, '-word' for what it lacks."""
    found = features(source, name)
    return {f"+{word}" for word in found - reference} | {f"-{word}" for word in reference - found}


def libraries_used(source: str, packages: Iterable[str], without: Iterable[str]) -> list[str]:
    """What the source uses of these packages, as dotted names; an import that nothing uses does not count.

    without: top-level classes that are not looked into.
    """
    try:
        body = [node for node in ast.parse(source).body if getattr(node, "name", None) not in set(without)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    bound, nodes = {}, [part for node in body for part in ast.walk(node)]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            bound |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names
            }
    used = set()
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Name):
            try:
                first, _, rest = ast.unparse(node).partition(".")
            except RecursionError:  # nested far deeper than anybody writes
                continue
            used.add(f"{bound.get(first, '')}.{rest}".strip("."))
    return sorted(name for name in used if name.startswith(tuple(f"{package}." for package in packages)))


def _words(node: ast.AST) -> Iterator[str]:
    calls: list[tuple[int, int, str]] = []
    counted: Counter[str] = Counter()
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            called = part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", "")
            calls.append((part.lineno, part.col_offset, called))
            counted[f"call {called}"] += 1
            yield from (f"{called} {key.arg}={ast.unparse(key.value)}" for key in part.keywords if key.arg)
        elif isinstance(part, ast.Constant) and type(part.value) in (int, float):
            counted[f"number {_short(part.value)}"] += 1
        elif isinstance(part, ast.BinOp | ast.UnaryOp | ast.AugAssign):
            counted[f"operator {type(part.op).__name__}"] += 1
        elif isinstance(part, ast.Compare):
            counted.update(f"operator {type(operator).__name__}" for operator in part.ops)
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load):
            yield f"attribute {part.attr}"
        elif isinstance(part, ast.Return) and isinstance(part.value, ast.Tuple):
            places = [number for number, value in enumerate(part.value.elts) if "loss" in ast.unparse(value)]
            yield f"returns the loss at {places}"
    yield from _ignored(node)
    for word, count in counted.items():
        yield from (f"{word} x{number}" for number in range(1, min(count, MOST_COUNTED) + 1))
    order = [called for _, _, called in sorted(calls) if called in ORDERED]
    yield from (f"order {a} {b}" for a, b in pairwise(order))


def _short(value: int | float) -> str:
    return f"{value:g}" if abs(value) < 1e300 else "huge"


def _ignored(node: ast.AST) -> Iterator[str]:
    """'ignores an argument' for arguments and attributes of self that are never read."""
    read = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
    attributes = [part for part in ast.walk(node) if isinstance(part, ast.Attribute)]
    kept = {part.attr for part in attributes if isinstance(part.ctx, ast.Store)}
    used = {part.attr for part in attributes if isinstance(part.ctx, ast.Load)}
    functions = [part for part in ast.walk(node) if isinstance(part, ast.FunctionDef)]
    given = {a.arg for f in functions for a in [*f.args.args, *f.args.kwonlyargs]} - {"self"}
    for name in sorted((given - read) | (kept - used)):
        yield f"ignores {name}"
    if (given - read) | (kept - used):
        yield "ignores an argument"
