"""Project 2: points, graded tests, starter, hints."""
