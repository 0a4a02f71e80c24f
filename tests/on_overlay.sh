#!/usr/bin/env bash
# Runs the tests of views, of the store, of containers and of builds with everything they write on an overlayfs, as inside a
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
run=tests/integration/run
# these expect no line on stderr that says where a container writes: they run with a place that the settings name
named=(
  "$run/test_beside.py"
  "$run/test_damaged_container.py"
  "$run/test_killed_run.py"
  "$run/test_monitor.py"
  "$run/test_library_start.py"
  "$run/test_architecture.py::test_a_program_for_another_architecture_is_one_error_line"
  "$run/test_bubblewrap.py::test_a_nul_in_a_config_does_not_become_an_option_of_a_runtime"
  "$run/test_bubblewrap.py::test_sysfs_shows_the_containers_network"
  "$run/test_bubblewrap.py::test_the_hosts_sysfs_is_never_shown"
  "$run/test_bubblewrap.py::test_without_libseccomp_there_is_a_warning"
  "$run/test_users.py::test_a_number_out_of_range_starts_nothing"
  "tests/integration/view/test_odd_places.py::test_a_container_of_a_store_at_an_odd_path_runs_or_one_line_says_why_not"
)
check() { "$python" -m pytest -q --basetemp="$scratch/top/t" "$@"; }
check -n auto tests/integration/view tests/integration/test_store_survives.py "$run" "${named[@]/#/--deselect=}" "$@"
check -n auto tests/integration/build "$@"
check tests/integration/view/test_fuse.py "$@"  # again: some of it counts what else runs on the machine
# the one that is left out makes files of a container's own directory such that nobody can remove them
LAMINA_UPPER_DIR="$scratch/written" check -n auto "${named[@]}" \
  "--deselect=$run/test_damaged_container.py::test_rm_all_continues_and_reports_each_failure" "$@"
