"""`python -m staff.make_sample`: a bundled sample of a data set, see staff/release/make_sample.py."""

from staff.release.make_sample import main
from toolkit.cli import run_script

if __name__ == "__main__":
    run_script(main)
