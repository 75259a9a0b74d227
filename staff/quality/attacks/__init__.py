"""Submissions that try to get points without solving anything, and the command that proves they get none."""
