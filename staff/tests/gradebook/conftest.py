"""All tests of the gradebook take place in one term, so that a new term breaks none of them."""

from __future__ import annotations

import pytest

from staff.gradebook import term
from staff.tests.gradebook.terms import COURSE_FILE


@pytest.fixture(autouse=True)
def _term_of_these_tests(monkeypatch):
    monkeypatch.setattr(term, "COURSE", COURSE_FILE)
