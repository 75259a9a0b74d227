"""The command `python -m staff.check_starter`; see release/check_starter.py."""

from staff.release.check_starter import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
