"""Homework 5: points, graded tests, starter, what its worker can be asked."""
