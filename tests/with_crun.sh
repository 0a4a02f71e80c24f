#!/usr/bin/env bash
# Runs the tests of containers that name no runtime with crun. Debian's crun takes no machine whose cgroups are of both
# versions: it gets one hierarchy to see. Root. Arguments go to pytest.
#   tests/with_crun.sh [-x ...]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
run=tests/integration/run build=tests/integration/build
# the first two expect a cgroup that guards devices, as runc has it here, the last that nobody mounts anything anew
named=(
  "$run/test_run.py::test_defaults_are_dockers"
  "$run/test_run.py::test_cap_add_all_adds_the_capabilities_of_this_process"
  "$run/test_run.py::test_layers_with_other_owners_count_as_used"
)
export LAMINA_RUNTIME=crun
exec unshare --mount sh -ec 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"' sh \
  "$python" -m pytest -q -n auto "$run/test_run.py" "$run/test_users.py" "$run/test_sandbox.py" \
  "$build/test_run_program.py" "$build/test_step_mounts.py" "$build/test_killed_step.py" "${named[@]/#/--deselect=}" "$@"
