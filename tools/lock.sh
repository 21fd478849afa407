#!/usr/bin/env bash
# Writes requirements.lock: the newest versions that pyproject.toml allows of every dependency, of the development
# tools and of what builds the project, as one environment that was really installed.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"${PYTHON:-python3}" -m venv "$environment"
pip=("$environment/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --upgrade setuptools setuptools-rust
"${pip[@]}" install --no-build-isolation '.[dev]'
{
    echo '# Exact versions of everything in .venv. Made by `make lock`; do not edit.'
    "${pip[@]}" freeze --all --exclude pip --exclude meshnode
} >requirements.lock
