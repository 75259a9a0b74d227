"""Tests of the course's code; `python -m tests` prints a table of the graded TODOs, one line each."""
