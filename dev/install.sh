#!/bin/sh
# Create (or refresh) the virtual environment "$VENV" with the versions of constraints.txt, and
# install this checkout into it. Does nothing when the environment is up to date: a stamp holds
# the checksum of the files that say what is installed.
#
#   PYTHON=python3.12 VENV=/some/where sh dev/install.sh
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
STAMP="$VENV/.installed"
VERSION='import sys; print(sys.version)'
# An environment that works is kept with the Python it has, unless another one is asked for.
if [ -z "${PYTHON:-}" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    PYTHON="$VENV/bin/python"
fi
PYTHON=${PYTHON:-python3}
CHECKSUM="$(cat constraints.txt pyproject.toml | cksum) $(pwd) $("$PYTHON" -c "$VERSION" || true)"

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$CHECKSUM" ]; then
    exit 0
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: the tested versions need Python 3.11 or newer, and $PYTHON is older or missing." >&2
    echo "Choose another with: make PYTHON=/path/to/python3.11" >&2
    exit 1
}
echo "Installing into $VENV (a few minutes and about 6 GB, once) ..."
# Made anew when it is there only in part, or with another Python.
if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 ||
    [ "$("$VENV/bin/python" -c "$VERSION")" != "$("$PYTHON" -c "$VERSION")" ]; then
    "$PYTHON" -m venv --clear "$VENV"
fi
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet --constraint constraints.txt pip
# Without isolation, so that nothing is fetched when everything is there. setuptools builds what has
# no wheel (fvcore, iopath); an environment brings one that is too old for it, or none.
pip install --quiet --constraint constraints.txt hatchling editables setuptools
pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev,docs,detectron2-deps,timm]"

# detectron2: an installed one (the official build, say) is kept. Otherwise its pure-Python
# re-publication, which pip would refuse on other Pythons than the one it is tagged for.
if ! "$VENV/bin/python" -c 'import detectron2' 2>/dev/null; then
    SITE="$("$VENV/bin/python" -c 'import site; print(site.getsitepackages()[0])')"
    HAD_TOOLS=$([ -e "$SITE/tools" ] && echo yes || echo no)
    pip install --quiet --target "$SITE" --python-version 3.10 --implementation cp --abi none \
        --platform any --no-deps --only-binary=:all: sal-detectron2==0.7.2
    # It brings a top-level package "tools" that would shadow other people's.
    [ "$HAD_TOOLS" = yes ] || rm -rf "$SITE/tools"
fi
printf '%s' "$CHECKSUM" > "$STAMP"
