"""Reading JSON that a person or a script may have written. Imports little: each job of a sweep waits for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from toolkit.errors import UserError


def read_json(path: os.PathLike | str, **hooks: Callable[..., Any]) -> Any:
    """Read a JSON file. Raises UserError naming the file, and line and column where it does not parse.

    hooks: those of json.load; one may raise UserError itself.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors begin a file with a mark
            return json.load(file, **hooks)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (RecursionError, ValueError) as error:  # nested a thousand deep, a number of a thousand digits
        raise UserError(f"{path} is not valid JSON: {str(error).partition(';')[0]}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
