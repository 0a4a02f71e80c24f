#!/usr/bin/env bash
# Runs the tests of views and of the store with everything they write on an overlayfs, as inside a container: there the
# kernel mounts no image from a file. It takes no upper directory there either, so nothing that is writable, no container
# among it, can be tested: that this is said is a test of its own (test_attach.py). Root. Arguments go to pytest.
#   tests/on_overlay.sh [-x ...]
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d "${TMPDIR:-/tmp}/lamina-overlay-XXXXXX")
mkdir "$scratch/lower" "$scratch/upper" "$scratch/work" "$scratch/top"
clean() {
  umount -l "$scratch/top" 2>/dev/null || true
  rm -rf "$scratch"
}
trap clean EXIT
mount -t overlay -o "lowerdir=$scratch/lower,upperdir=$scratch/upper,workdir=$scratch/work" none "$scratch/top"
python=${PYTHON:-.venv/bin/python}
"$python" -m pytest -q --basetemp="$scratch/top/t" tests/integration/view tests/integration/test_store_survives.py \
  --deselect tests/integration/view/test_mount.py::test_copy_up_leaves_the_lower_layer_as_it_was \
  --deselect tests/integration/view/test_unpack.py::test_pull_unpacks_what_the_overlay_view_takes "$@"
