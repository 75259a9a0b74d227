"""Public tests of Homework 5; one marker a TODO: `python -m pytest -m hw5_2_1`."""
