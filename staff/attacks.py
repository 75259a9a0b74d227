"""The command `python -m staff.attacks`; see quality/attacks/run.py."""

import sys

from staff.quality.attacks.run import main

if __name__ == "__main__":
    sys.exit(main())
