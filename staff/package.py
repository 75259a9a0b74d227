"""The command `python -m staff.package`; see release/package.py."""

from staff.release.package import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
