"""The TODOs as students see them: the rows of tests/todos.py and the markers of pytest, both from assignment.toml."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from staff.release.starter.recipe import Recipe
from toolkit.errors import UserError

TABLE = '''"""The graded TODOs of this assignment, in the order in which they are tested and shown."""

from __future__ import annotations

from tests.todo import Todo

TODOS = (
{rows})
'''


def records(recipe: Recipe) -> list[dict[str, Any]]:
    """The TODOs of assignment.toml that students do; extra credit has no public tests."""
    return [record for record in recipe.points["todo"] if not record.get("extra")]


def marker(recipe: Recipe, number: str) -> str:
    """'hw5_1_2' for TODO 1.2 of Homework 5."""
    return f"{recipe.marker}_{number.replace('.', '_')}"


def markers(recipe: Recipe) -> str:
    """Lines of pyproject.toml, one a TODO."""
    rows = (f"{marker(recipe, record['id'])}: TODO {record['id']}, {record['title']}" for record in records(recipe))
    return "".join(f"    {json.dumps(row, ensure_ascii=False)},\n" for row in rows)


def table(recipe: Recipe, contents: Mapping[str, bytes]) -> str:
    """tests/todos.py. UserError for a TODO without a public test.

    Args:
        recipe: of the assignment.
        contents: name -> bytes of the starter's files; the tests among them are searched for the markers.
    """
    return TABLE.format(rows="".join(_rows(recipe, contents)))


def _rows(recipe: Recipe, contents: Mapping[str, bytes]) -> Iterator[str]:
    tests = {name: data.decode() for name, data in contents.items() if name.startswith("tests/test_")}
    for record in records(recipe):
        mark = f"@pytest.mark.{marker(recipe, record['id'])}\n"
        file = next((name for name, text in sorted(tests.items()) if mark in text), None)
        if file is None:
            raise UserError(f"TODO {record['id']} of {recipe.name} has no public test: none is marked {mark.strip()}")
        number, title, points = record["id"], record["title"], f"{record['points']:g}"
        cells = [json.dumps(number), json.dumps(title, ensure_ascii=False), points, json.dumps(file)]
        yield f"    Todo({', '.join([*cells, json.dumps(recipe.marker)])}),\n"
