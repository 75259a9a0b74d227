"""The command `python -m staff.new_assignment`; see release/new_assignment/make.py."""

from staff.release.new_assignment.make import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
