"""The command `python -m staff.release`; see cycle.py."""

from staff.release.cycle import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
