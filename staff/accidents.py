"""The command `python -m staff.accidents`; see quality/accidents.py."""

import sys

from staff.quality.accidents import main

if __name__ == "__main__":
    sys.exit(main())
