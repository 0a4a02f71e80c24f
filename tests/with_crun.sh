#!/usr/bin/env bash
# Runs the tests of containers that name no runtime with crun. Debian's crun takes no machine whose cgroups are of both
# versions: it gets one hierarchy to see. Then those that need a container's cgroup with runc, which makes one of version 2
# there. Root. Arguments go to pytest.
#   tests/with_crun.sh [-x ...]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
run=tests/integration/run build=tests/integration/build
# the first two expect a cgroup that guards devices, as runc has it here, the third that nobody mounts anything anew; the
# others need controllers
named=(
  "$run/test_run.py::test_defaults_are_dockers"
  "$run/test_run.py::test_cap_add_all_adds_the_capabilities_of_this_process"
  "$run/test_run.py::test_layers_with_other_owners_count_as_used"
  "$run/test_changing.py::test_update_of_a_container_that_has_ended"
  "$run/test_watching.py::test_stats_are_those_of_the_cgroup"
  "$run/test_watching.py::test_without_a_whole_cgroup_stats_are_sums_over_processes"
)
# crun only makes cgroups where it may load a program that guards devices
paused=(
  "$run/test_changing.py::test_a_paused_container_is_removed_by_force"
  "$run/test_changing.py::test_a_paused_container_stands_still_until_unpause"
  "$run/test_changing.py::test_all_running_containers_are_paused_and_go_on"
  "$run/test_changing.py::test_signals_reach_a_paused_container"
  "$run/test_changing.py::test_what_ends_or_is_resumed_at_that_moment_needs_no_pause"
  "$run/test_changing.py::test_verbs_print_the_containers_as_they_were_named"
  "$run/test_hurt_monitors.py::test_a_pause_of_a_container_that_is_about_to_end"
  "$run/test_hurt_monitors.py::test_a_paused_container_is_not_started"
  "$run/test_pods.py::test_the_containers_of_a_pod_live_together"
)
# check RUNTIME ARGUMENTS
check() {
  LAMINA_RUNTIME=$1 unshare --mount sh -ec 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"' sh \
    "$python" -m pytest -q -n auto "${@:2}"
}
check crun "$run/test_run.py" "$run/test_users.py" "$run/test_sandbox.py" \
  "$run"/test_{monitor,hurt_monitors,health,changing,watching,volumes,plain_volumes,networks,ports,keep_id,pods}.py \
  "$build/test_run_program.py" "$build/test_step_mounts.py" "$build/test_killed_step.py" \
  "${named[@]/#/--deselect=}" "${paused[@]/#/--deselect=}" "$@"
check runc "${paused[@]}" "$@"
