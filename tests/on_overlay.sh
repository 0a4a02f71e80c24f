#!/usr/bin/env bash
# Runs the tests of views, of the store and of containers with everything they write on an overlayfs, as inside a
# container: there the kernel mounts no image from a file, takes no upper directory and lets nobody make whiteouts.
# Root. Arguments go to pytest.
#   tests/on_overlay.sh [-x ...]
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d "${TMPDIR:-/tmp}/lamina-overlay-XXXXXX")
chmod 755 "$scratch"
mkdir "$scratch/lower" "$scratch/upper" "$scratch/work" "$scratch/top"
clean() {
  umount -l "$scratch/top" 2>/dev/null || true
  rm -rf "$scratch"
}
trap clean EXIT
mount -t overlay -o "lowerdir=$scratch/lower,upperdir=$scratch/upper,workdir=$scratch/work" none "$scratch/top"
mkdir -m 1777 "$scratch/top/plain"
# plain users' stores are there too; what their containers write and keep is not: test_top.py has the other ways
mkdir -m 1777 "$scratch/written"
export LAMINA_TEST_PLAIN="$scratch/top/plain" LAMINA_TEST_UPPER="$scratch/written"
python=${PYTHON:-.venv/bin/python}
"$python" -m pytest -q --basetemp="$scratch/top/t" tests/integration/view tests/integration/test_store_survives.py \
  tests/integration/run "$@"
