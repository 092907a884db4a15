#!/bin/sh
# Creates the virtual environment named by $1 with the first Python >= 3.11 found.
set -eu
venv=$1
for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            echo "$python has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2
            exit 1
        fi
        echo "Creating $venv with $("$python" --version) ..."
        exec "$python" -m venv "$venv"
    fi
done
echo "Python 3.11 or newer is needed and was not found (set PYTHON=/path/to/python3)." >&2
exit 1
