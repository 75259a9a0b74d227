"""The command `python -m staff.identify`; see release/identify.py."""

from staff.release.identify import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
