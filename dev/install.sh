#!/bin/sh
# Create or update the virtual environment "$VENV" with the versions in constraints.txt, and install
# this checkout into it. The script does nothing if the environment is up to date: a stamp file has
# the checksum of the files that list the packages.
#
#   PYTHON=python3.12 VENV=/some/where sh dev/install.sh
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
STAMP="$VENV/.installed"
VERSION='import sys; print(sys.version)'
# A working environment keeps its Python, unless PYTHON is set.
if [ -z "${PYTHON:-}" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    PYTHON="$VENV/bin/python"
fi
PYTHON=${PYTHON:-python3}
CHECKSUM="$(cat constraints.txt pyproject.toml | cksum) $(pwd) $("$PYTHON" -c "$VERSION" || true)"

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$CHECKSUM" ]; then
    exit 0
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: the tested versions need Python 3.11 or newer, but $PYTHON is older or missing." >&2
    echo "Select another Python with: make PYTHON=/path/to/python3.11" >&2
    exit 1
}
echo "Installing into $VENV (a few minutes and about 6 GB, once) ..."
# Create the environment again if it is incomplete or has another Python.
if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 ||
    [ "$("$VENV/bin/python" -c "$VERSION")" != "$("$PYTHON" -c "$VERSION")" ]; then
    "$PYTHON" -m venv --clear "$VENV"
fi
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet --constraint constraints.txt pip
# Build without isolation, so that nothing is downloaded if everything is installed. setuptools builds
# the packages without a wheel (fvcore, iopath); a new environment has no setuptools or one that is
# too old for that.
pip install --quiet --constraint constraints.txt hatchling editables setuptools
pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev,docs,detectron2-deps,export,hotcoco,timm]"

# Keep an installed detectron2, such as the official build. Otherwise install sal-detectron2, a copy
# in pure Python. Its wheel has the tag of Python 3.10, and pip would refuse it for other versions.
if ! "$VENV/bin/python" -c 'import detectron2' 2>/dev/null; then
    SITE="$("$VENV/bin/python" -c 'import site; print(site.getsitepackages()[0])')"
    HAD_TOOLS=$([ -e "$SITE/tools" ] && echo yes || echo no)
    pip install --quiet --target "$SITE" --python-version 3.10 --implementation cp --abi none \
        --platform any --no-deps --only-binary=:all: sal-detectron2==0.7.2
    # It contains a top-level package "tools", which would hide other packages of that name.
    [ "$HAD_TOOLS" = yes ] || rm -rf "$SITE/tools"
fi
printf '%s' "$CHECKSUM" > "$STAMP"
