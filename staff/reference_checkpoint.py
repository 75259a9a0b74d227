"""The command `python -m staff.reference_checkpoint`; see quality/reference_checkpoint.py."""

import sys

from staff.quality.reference_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
