"""Grades of a whole class."""
