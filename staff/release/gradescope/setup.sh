#!/usr/bin/env bash
# Gradescope runs this once, as root, when the image of the autograder is built.
# GRADER_PYTHON: use this interpreter, which has all packages, and install nothing.
set -euo pipefail
root=${AUTOGRADER_ROOT:-/autograder}
python=${GRADER_PYTHON:-$root/venv/bin/python}

if [ -z "${GRADER_PYTHON:-}" ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv bubblewrap git
    python3 -m venv "$root/venv"
    "$python" -m pip install --disable-pip-version-check --no-cache-dir -q \
        -r "$root/source/requirements.txt" -c "$root/source/constraints.txt"
fi

# The student's code may run as another user: it must reach Python and must not reach the grader.
chmod 755 "$root"
chmod -R go= "$root/source"
mkdir -p "$root/results"
cd "$root/source/grader"
"$python" -c 'from staff.grader import sandbox; layer, weaker = sandbox.choose_layer(); print("sandbox:", layer, *weaker)'
