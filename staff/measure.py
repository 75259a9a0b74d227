"""The command `python -m staff.measure`; see quality/measure.py."""

from staff.quality.measure import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
