"""The command `python -m staff.make_starter`; see release/make_starter.py."""

from staff.release.make_starter import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
