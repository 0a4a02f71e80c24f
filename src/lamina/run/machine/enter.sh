# Process 1 of the program's namespaces: makes the union its root, and goes on with program.sh there.
b=/lamina/busybox
. /lamina/settings.sh
refuse() {
  echo "failed $1" >&9
  exit 125
}
read -r pid rest </proc/self/stat
echo "$pid" >/lamina/pid
echo 0 >/proc/self/oom_score_adj
umask 022
if [ "$shared" ]; then
  $b mkdir /lamina/shared && $b mount -t virtiofs shared /lamina/shared 2>/dev/console ||
    refuse "this kernel can't mount virtiofs"
fi
exec 7>/lamina/starting 8</lamina
{
  $b mount -t devtmpfs dev /root/dev &&
    $b mount -t sysfs -o nosuid,nodev,noexec sysfs /root/sys &&
    $b mount -t proc -o nosuid,nodev,noexec proc /root/proc &&
    cd /root && $b mount --move /root /
} 2>/dev/console || refuse "the machine's file systems can't be mounted"
exec $b chroot . /proc/self/fd/8/busybox sh /proc/self/fd/8/program.sh
