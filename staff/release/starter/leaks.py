"""Does anything of a solution survive? Compared as syntax trees, as identifiers and as text.

What is recognised where:

* graded files: everything, because they must equal the originals with each region replaced by its stub;
* all Python files: statements and expressions of the solutions, if they are large enough (EXACT_NODES), also with all
  variables renamed (RENAMED_NODES), and the telling ones of the names that the solutions introduce;
* all texts, in Python files the comments and strings: lines of the solutions, however indented, quoted or commented
  out, and those names.

What provided code has itself (`model.eval()`) is not a leak. Code that was rewritten (not only renamed) or encoded is
not recognised outside graded files; that every other file equals its source is proved separately.
"""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

EXACT_NODES = 9  # `total_loss += batch_loss * len(labels)` has 11; `optimizer.zero_grad()`, which tests need too, has 4
RENAMED_NODES = 16  # smaller shapes, such as `a = b(c.d(), e=1)`, are everywhere
TELLING_LINE = 24  # characters without spaces; `optimizer.zero_grad()`, which any explanation may name, has 21
WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
CODE_TOKENS = (tokenize.NAME, tokenize.NUMBER, tokenize.OP)
MODULE_NAMES = frozenset({"torch", "nn", "F", "np", "self", *dir(builtins)})


@dataclass
class Evidence:
    """What would give a solution away; each maps what is looked for to where the solution has it ('file:line')."""

    exact: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)  # without white space
    names: dict[str, str] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)  # of the syntax trees in `exact` and `renamed`; others cannot match

    @property
    def telling_names(self) -> dict[str, str]:
        """Names that are not used by chance: `decoder_14`, not `size`."""
        return {name: where for name, where in self.names.items() if is_telling(name)}


def collect(originals: Mapping[str, str], provided: Mapping[str, str], common_names: Iterable[str]) -> Evidence:
    """Evidence from the graded `originals` {name: text}.

    provided: {name: text} of Python code that students are given; what it holds itself is not evidence.
    """
    evidence = Evidence()
    known_names, known_text = set(common_names), ""
    known_trees: list[tuple[ast.AST, int]] = []
    for name, text in originals.items():
        outside = _lines_outside(text)
        known_text += squeeze("\n".join(line for number, line in enumerate(text.split("\n"), 1) if number in outside))
        for node, size in sized_nodes(ast.parse(text)):
            if getattr(node, "lineno", 0) in outside:
                known_names.update(identifiers(node))
                known_trees.append((node, size))
            elif hasattr(node, "lineno"):
                _add_fragment(evidence, node, size, f"{name}:{node.lineno}")
        _add_lines(evidence, name, text, outside)
    for text in provided.values():
        known_text += squeeze(text)
        known_trees += sized_nodes(ast.parse(text))
        known_names |= {name for node in ast.walk(ast.parse(text)) for name in identifiers(node)}
    for node, size in known_trees:
        if size in evidence.sizes and isinstance(node, (ast.stmt, ast.expr)):
            evidence.exact.pop(exact(node), None)
            evidence.renamed.pop(renamed(node), None)
    evidence.lines = {line: where for line, where in evidence.lines.items() if line not in known_text}
    evidence.names = {name: where for name, where in evidence.names.items() if name not in known_names}
    return evidence


def search_code(evidence: Evidence, name: str, text: str, graded: bool) -> Iterator[str]:
    """Problems of one Python file of the starter; in a graded one every name that a solution introduces counts."""
    names = evidence.names if graded else evidence.telling_names
    for node, size in sized_nodes(ast.parse(text)):
        if size in evidence.sizes and isinstance(node, (ast.stmt, ast.expr)):
            if where := evidence.exact.get(exact(node)):
                yield f"{name}:{node.lineno}: solution code of {where}: {first_line(node)}"
            elif where := evidence.renamed.get(renamed(node)):
                yield f"{name}:{node.lineno}: solution code of {where} with other names: {first_line(node)}"
        for identifier in identifiers(node):
            if identifier in names:
                line = getattr(node, "lineno", "?")
                yield f"{name}:{line}: name {identifier!r} of the solution in {names[identifier]}"


def search_text(evidence: Evidence, name: str, text: str) -> Iterator[str]:
    """Problems of any text: solution lines and telling names, in comments, quotes, JSON or anything else."""
    if name.endswith(".py"):
        text = comments_and_strings(text)  # code is compared as syntax, which tells what is common from what is not
    squeezed, rows = squeeze(text), text.split("\n")
    for line, where in evidence.lines.items():
        if line in squeezed:
            number = next((i for i, row in enumerate(rows, 1) if line in squeeze(row)), "?")
            yield f"{name}:{number}: solution line of {where}: {line}"
    telling = evidence.telling_names
    for number, row in enumerate(rows, 1):
        for word in WORD.findall(row):
            if word in telling:
                yield f"{name}:{number}: name {word!r} of the solution in {telling[word]}"


def comments_and_strings(source: str) -> str:
    """Python source without its code, line for line; all of it where it cannot be read."""
    rows = [""] * (source.count("\n") + 2)
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in CODE_TOKENS:
                for offset, row in enumerate(token.string.split("\n")):
                    rows[token.start[0] - 1 + offset] += " " + row
    except (tokenize.TokenError, SyntaxError):
        return source
    return "\n".join(rows)


def _add_fragment(evidence: Evidence, node: ast.AST, size: int, where: str) -> None:
    """Take a node of a solution into the evidence: its names, and its syntax if that is large enough to tell."""
    for name in bound_names(node):
        evidence.names.setdefault(name, where)
    if isinstance(node, (ast.stmt, ast.expr)) and size >= EXACT_NODES:
        evidence.sizes.add(size)
        evidence.exact.setdefault(exact(node), where)
        if size >= RENAMED_NODES:
            evidence.renamed.setdefault(renamed(node), where)


def _add_lines(evidence: Evidence, name: str, text: str, outside: set[int]) -> None:
    """Lines of the solutions, each with and without its comment."""
    comments = {
        token.start[0]: token.start[1]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for number, line in enumerate(text.split("\n"), 1):
        if number not in outside:
            for form in (squeeze(line), squeeze(line[: comments.get(number)])):
                if len(form) >= TELLING_LINE:
                    evidence.lines.setdefault(form, f"{name}:{number}")


def _lines_outside(text: str) -> set[int]:
    """Numbers of the lines that no solution holds; on purpose not with the parser that make_starter relies on."""
    outside, inside = set(), False
    for number, line in enumerate(text.split("\n"), 1):
        if "BEGIN SOLUTION" in line or "END SOLUTION" in line:
            inside = "BEGIN SOLUTION" in line
            outside.add(number)
        elif not inside:
            outside.add(number)
    return outside


def identifiers(node: ast.AST) -> list[str]:
    """Identifiers that a node itself holds."""
    fields = ("id", "attr", "arg", "name", "asname", "rest")
    values = [getattr(node, name, None) for name in fields]
    return [value for value in values if isinstance(value, str)]


def bound_names(node: ast.AST) -> list[str]:
    """Names that a node introduces: assigned variables and attributes, functions, classes, arguments."""
    if isinstance(node, (ast.Name, ast.Attribute)) and not isinstance(node.ctx, ast.Store):
        return []
    if isinstance(node, (ast.Name, ast.Attribute, ast.FunctionDef, ast.ClassDef, ast.arg)):
        return [name for name in identifiers(node) if name != "_"]
    return []


def is_telling(name: str) -> bool:
    """True for a name of several parts; a single word may stand anywhere."""
    return "_" in name.strip("_") or any(letter.isdigit() for letter in name)


def sized_nodes(tree: ast.AST) -> list[tuple[ast.AST, int]]:
    """Every node with the size of its syntax tree in nodes, contexts (load, store) left out."""
    found: list[tuple[ast.AST, int]] = []

    def visit(node: ast.AST) -> int:
        size = 1 + sum(visit(child) for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context))
        found.append((node, size))
        return size

    visit(tree)
    return found


def exact(node: ast.AST) -> str:
    """A syntax tree as text: layout, comments and quotes make no difference."""
    return ast.dump(node, annotate_fields=False)


def renamed(node: ast.AST) -> str:
    """A syntax tree with variables, own attributes, arguments and functions numbered as they first come."""
    numbers: dict[str, str] = {}

    def number(name: str) -> str:
        return name if name in MODULE_NAMES else numbers.setdefault(name, f"_{len(numbers)}")

    def show(item: object) -> str:
        if isinstance(item, list):
            return "[" + ",".join(map(show, item)) + "]"
        if not isinstance(item, ast.AST):
            return repr(item)
        own = {}
        if isinstance(item, ast.Name):
            own["id"] = number(item.id)
        elif isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == "self":
            own["attr"] = number(item.attr)
        elif isinstance(item, ast.arg):
            own["arg"] = number(item.arg)
        elif isinstance(item, (ast.FunctionDef, ast.ClassDef)):
            own["name"] = number(item.name)
        parts = [own.get(key) or show(value) for key, value in ast.iter_fields(item)]
        return f"{type(item).__name__}({','.join(parts)})"

    return show(node)


def squeeze(text: str) -> str:
    """Text without white space."""
    return "".join(text.split())


def first_line(node: ast.AST) -> str:
    """The code of a node, at most one line of it."""
    text = ast.unparse(node).split("\n")[0]
    return text if len(text) <= 100 else text[:97] + "..."
