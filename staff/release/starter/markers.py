"""Solution markers: read them, check them, replace what they enclose by stubs, and put it back.

    # BEGIN SOLUTION 1.2: define the layers            stub: raise NotImplementedError("TODO 1.2: define the layers")
    # END SOLUTION 1.2
    # BEGIN SOLUTION 1.3: choose the loss -> criterion = None      stub: criterion = None  # TODO 1.3: choose the loss

They enclose whole statements of a function's body; signatures, docstrings and hints stay outside.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass

from staff.release.starter.recipe import Recipe
from toolkit.errors import UserError

BEGIN = re.compile(r"# BEGIN SOLUTION (?P<todo>\d+\.\d+): (?P<text>\S.*?)(?: -> (?P<replacement>\S.*?))?")
END = re.compile(r"# END SOLUTION (?P<todo>\d+\.\d+)")
# Deliberately loose: whatever looks like a marker must be one, or a misspelled END would ship a solution.
LOOKS_LIKE_A_MARKER = re.compile(r"\b(?:BEGIN|END)[ _-]*SOLUTION|SOLUTION[ _-]+\d", re.IGNORECASE)
BLOCK_OWNERS = (ast.stmt, ast.ExceptHandler, ast.match_case, ast.Module)
FORBIDDEN_IN_TEXT = '"\\{}'  # the text becomes part of a string literal


class MarkerError(UserError):
    """A marker that cannot be trusted; the message starts with file and line."""


@dataclass(frozen=True)
class Region:
    """One marked piece of a file. `first` and `last` are the lines of its markers, counted from 1."""

    todo: str
    text: str
    replacement: str | None
    indent: str
    first: int
    last: int
    source: str  # BEGIN line to END line, both included

    @property
    def body(self) -> str:
        """What lies between the markers: the solution."""
        return "".join(self.source.splitlines(keepends=True)[1:-1])

    @property
    def stub(self) -> str:
        """The line that students get instead."""
        if self.replacement is not None:
            return f"{self.indent}{self.replacement}  # TODO {self.todo}: {self.text}\n"
        return f'{self.indent}raise NotImplementedError("TODO {self.todo}: {self.text}")\n'


def find_regions(source: str, name: str) -> list[Region]:
    """The regions of a graded file in their order. Raises MarkerError naming `name` and the line of what is wrong."""
    tree = parse(source, name)
    lines = source.splitlines(keepends=True)
    if "\r" in source:
        raise MarkerError(f"{name}:1: Windows line ends; save the file with plain line feeds")
    regions: list[Region] = []
    opened: tuple[int, re.Match[str], str] | None = None
    for number, column, comment in _marker_comments(source, name):
        indent, found_begin, found_end = " " * column, BEGIN.fullmatch(comment), END.fullmatch(comment)
        if lines[number - 1].strip() != comment or not (found_begin or found_end):
            raise MarkerError(f"{name}:{number}: malformed marker {lines[number - 1].strip()!r}; {_grammar()}")
        if found_begin:
            if opened:
                raise MarkerError(f"{name}:{number}: BEGIN inside the solution that begins in line {opened[0]}")
            opened = number, found_begin, indent
            continue
        if not opened:
            raise MarkerError(f"{name}:{number}: END SOLUTION {found_end['todo']} without a BEGIN")
        regions.append(_close(opened, number, found_end["todo"], indent, lines, name))
        opened = None
    if opened:
        raise MarkerError(f"{name}:{opened[0]}: BEGIN SOLUTION {opened[1]['todo']} has no END")
    for region in regions:
        _check_encloses_statements(tree, region, name)
    return regions


def _close(opened: tuple, last: int, todo: str, indent: str, lines: list[str], name: str) -> Region:
    """Make the region that ends in line `last`, or say what is wrong with it."""
    first, begin, begin_indent = opened
    if begin["todo"] != todo:
        raise MarkerError(f"{name}:{last}: END SOLUTION {todo} closes BEGIN SOLUTION {begin['todo']} of line {first}")
    if begin_indent != indent:
        raise MarkerError(f"{name}:{last}: END SOLUTION {todo} is indented otherwise than its BEGIN in line {first}")
    wrong = sorted(set(begin["text"]) & set(FORBIDDEN_IN_TEXT))
    if wrong:
        raise MarkerError(f"{name}:{first}: the text of a marker must not hold {' '.join(wrong)}")
    if begin["replacement"] is not None:
        parse(begin["replacement"] + "\n", f"{name}:{first}: replacement")
    region = Region(todo, begin["text"], begin["replacement"], indent, first, last, "".join(lines[first - 1 : last]))
    if not any(line.strip() and not line.strip().startswith("#") for line in region.body.splitlines()):
        raise MarkerError(f"{name}:{first}: empty solution {todo}: no statement between its markers")
    return region


def _check_encloses_statements(tree: ast.Module, region: Region, name: str) -> None:
    """Only whole statements of function bodies may be enclosed, never a signature, a docstring or half a block."""
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    statements = [node for node in parents if isinstance(node, ast.stmt)]
    inside = {node for node in statements if first_line(node) > region.first and node.end_lineno < region.last}
    outermost = [node for node in inside if parents[node] not in inside and isinstance(parents[node], BLOCK_OWNERS)]
    outermost.sort(key=first_line)
    around = _ancestors(outermost[0], parents) if outermost else []
    around = [node for node in around if not isinstance(node, ast.stmt) or first_line(node) < region.first]
    cut = [
        first_line(node)
        for node in statements
        if node not in inside
        and node not in around
        and first_line(node) <= region.last
        and node.end_lineno >= region.first
    ]
    if cut:  # the innermost one says most
        raise MarkerError(f"{name}:{region.first}: solution {region.todo} cuts the statement of line {max(cut)}")
    for node in outermost:
        if node.col_offset != len(region.indent):
            raise MarkerError(f"{name}:{node.lineno}: indented otherwise than the marker in line {region.first}")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            raise MarkerError(f"{name}:{node.lineno}: solution {region.todo} encloses a docstring")
        if _block(node, parents) != _block(outermost[0], parents):
            raise MarkerError(
                f"{name}:{region.first}: solution {region.todo} goes beyond its block in line {node.lineno}"
            )
    if not any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in around):
        raise MarkerError(f"{name}:{region.first}: solution {region.todo} is not inside a function's body")


def _block(node: ast.stmt, parents: dict[ast.AST, ast.AST]) -> tuple[ast.AST, str | None]:
    """The block that holds a statement: `body` and `orelse` of one `if` are two."""
    fields = ast.iter_fields(parents[node])
    return parents[node], next((name for name, value in fields if isinstance(value, list) and node in value), None)


def _ancestors(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> list[ast.AST]:
    """What encloses `node`, from the inside out."""
    found = []
    while node in parents:
        node = parents[node]
        found.append(node)
    return found


def first_line(node: ast.stmt) -> int:
    """First line of a statement; a decorator's line belongs to what it decorates."""
    return min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])


def check_unmarked(source: str, name: str, *, comments_only: bool) -> None:
    """Raise MarkerError if a file that is not graded holds a marker: anywhere, or only as a comment line."""
    for number, line in enumerate(source.splitlines(), start=1):
        if LOOKS_LIKE_A_MARKER.search(line) and (line.strip().startswith("#") or not comments_only):
            raise MarkerError(f"{name}:{number}: solution marker in a file that is not graded")


def strip_solutions(source: str, regions: list[Region]) -> str:
    """`source` with each region replaced by its stub."""
    lines = source.splitlines(keepends=True)
    for region in reversed(regions):
        lines[region.first - 1 : region.last] = [region.stub]
    return "".join(lines)


def insert_solutions(starter: str, regions: list[Region], name: str) -> str:
    """The inverse of strip_solutions: each stub, in order, becomes its region. MarkerError if one is missing."""
    result, rest = "", starter
    for region in regions:
        before, stub, rest = rest.partition(region.stub)
        if not stub or (before and not before.endswith("\n")):
            raise MarkerError(f"{name}: the stub of TODO {region.todo} is missing: {region.stub.strip()}")
        result += before + region.source
    return result + rest


def parse(source: str, name: str) -> ast.Module:
    """The syntax tree, or MarkerError naming file and line."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise MarkerError(f"{name}:{line}: does not parse: {getattr(error, 'msg', error)}") from None


def _marker_comments(source: str, name: str) -> list[tuple[int, int, str]]:
    """(line, column, comment) of everything that looks like a marker; MarkerError where one is not a comment."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and LOOKS_LIKE_A_MARKER.search(token.string):
            found.append((token.start[0], token.start[1], token.string.rstrip()))
        elif LOOKS_LIKE_A_MARKER.search(token.string):
            raise MarkerError(f"{name}:{token.start[0]}: solution marker that is not a comment")
    return found


def _grammar() -> str:
    return "allowed: '# BEGIN SOLUTION 1.2: text', the same with ' -> replacement', '# END SOLUTION 1.2'"


@dataclass(frozen=True)
class Graded:
    """A graded file: the original with its solutions, and the stubs that students get."""

    name: str
    original: str
    regions: list[Region]

    @property
    def starter(self) -> str:
        return strip_solutions(self.original, self.regions)


def read_graded(recipe: Recipe) -> list[Graded]:
    """The graded files with their regions. UserError for a missing file, a broken marker, or a file without any."""
    found = []
    for name in recipe.graded:
        text = recipe.read_text(name)
        regions = find_regions(text, name)
        if not regions:
            raise UserError(f"{name} is graded but has no solution marker")
        found.append(Graded(name, text, regions))
    return found
