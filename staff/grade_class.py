"""The command `python -m staff.grade_class`; see gradebook/grade_class.py."""

from staff.gradebook.grade_class import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main, after_full_disk="give the same command again")
