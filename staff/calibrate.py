"""The command `python -m staff.calibrate`; see quality/calibrate.py."""

from staff.quality.calibrate import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
