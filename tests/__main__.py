"""`python -m tests`: see tests/check_table.py."""

from __future__ import annotations

from tests.check_table import main

if __name__ == "__main__":
    raise SystemExit(main())
