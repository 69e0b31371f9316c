#!/bin/sh
# Install pinned requirements into .venv: `sh requirements/install.sh requirements/run.txt`, as `make` does.
# Creates .venv first if needed, with the newest supported Python on the path, or with $1 of PYTHON=… given to make.
set -eu
requirements=$1
python=${2:-}

stop() {
    printf '%s\n' "$1" >&2
    exit 1
}

# A name on the path is not enough: the shim of a version manager may lead nowhere.
works() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' > /dev/null 2>&1
}

find_python() {
    for candidate in python3.13 python3.12 python3.11 python3; do
        if works "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

command -v git > /dev/null || stop "git is not on the path: install it, since DVC and every recorded result need it"
if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c '' > /dev/null 2>&1; then
    if [ -n "$python" ]; then
        works "$python" || stop "PYTHON=$python is not Python 3.11, 3.12 or 3.13: name one that is"
    else
        python=$(find_python)
        [ -n "$python" ] || stop "no Python 3.11, 3.12 or 3.13 is on the path: install one, or name it: make run PYTHON=/path/to/python3.13"
    fi
    "$python" -c 'import ensurepip, venv' > /dev/null 2>&1 ||
        stop "$python has no venv module: install it (Debian and Ubuntu: apt install $(basename "$python")-venv)"
    rm -rf .venv
    "$python" -m venv .venv
fi
works .venv/bin/python || stop ".venv has another Python than 3.11, 3.12 or 3.13: make clean, then the same command again"

# Into .venv, wherever a pip.conf or the shell would have packages go.
install() {
    PIP_PYTHON='' PIP_CONSTRAINT='' PIP_DRY_RUN=0 PIP_REQUIRE_HASHES='' PIP_REQUIREMENT='' PIP_EDITABLE='' \
        .venv/bin/python -m pip install --quiet --no-deps --no-user \
        --target= --prefix="$PWD/.venv" --root=/ "$@"
}

install --require-hashes --requirement "$requirements" || stop "the packages could not be installed: see the lines above. \
Where one has to be compiled, a C compiler is needed (Debian and Ubuntu: apt install build-essential)"
install --no-build-isolation --editable .
