"""The command `python -m staff.site`; see release/site.py."""

from staff.release.site import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
