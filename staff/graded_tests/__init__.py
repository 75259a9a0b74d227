"""Checks of the assignments. Runs in the trusted process; `student` answers from the sandbox."""
