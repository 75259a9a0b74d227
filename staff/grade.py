"""The command `python -m staff.grade`; see grader/grade.py."""

import sys

from staff.grader.grade import main

if __name__ == "__main__":
    sys.exit(main())
