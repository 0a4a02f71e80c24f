#!/lamina/busybox sh
# The first process of a machine: mounts the union of the image's layers at /root, and goes on with `machine.sh`.
# settings.sh (written by lamina) has: modules (names, in their order), devices (the disks with the layers' tars), upper
# (a disk, or `memory`).
b=/lamina/busybox
. /lamina/settings.sh

fail() {
  echo "lamina: $1" >/dev/console
  # without a port the console is all there is
  for port in /sys/class/virtio-ports/*; do
    [ "$($b cat "$port/name" 2>/dev/null)" = lamina.control ] && echo "failed $1" >"/dev/${port##*/}"
  done
  $b sleep 0.1
  $b poweroff -f
  while :; do $b sleep 1; done
}

[ "$ports" ] && echo "lamina: the kernel runs" >/dev/console # KVM may run nothing (ends.py)
$b mount -t devtmpfs dev /dev || fail "this kernel has no devtmpfs"
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in $modules; do
  $b insmod "/lamina/modules/$module.ko" 2>/dev/console || fail "the kernel module $module can't be loaded"
done

[ -d /sys/bus/virtio ] || fail "this kernel has no virtio devices built in, and no modules were found for it"
wait_for() { # a disk appears a moment after its driver
  tries=0
  until [ -b "$1" ]; do
    tries=$((tries + 1))
    [ $tries -lt 500 ] || fail "the disk $1 is not there"
    $b sleep 0.02
  done
}

options=ro
for device in $devices; do
  wait_for "$device"
  options=$options,device=$device
done
wait_for /dev/vda
$b mkdir -p /layers /upper /root
$b mount -t erofs -o "$options" /dev/vda /layers 2>/dev/console || fail "this kernel can't mount EROFS with blocks of 512 bytes"
if [ "$upper" = memory ]; then
  $b mount -t tmpfs -o mode=755 upper /upper
else
  wait_for "$upper"
  $b mount -t ext4 "$upper" /upper 2>/dev/console || fail "this kernel can't mount ext4"
fi
$b mkdir -p /upper/upper /upper/work
$b mount -t overlay -o lowerdir=/layers,upperdir=/upper/upper,workdir=/upper/work,metacopy=off,redirect_dir=off,index=off root /root \
  2>/dev/console || fail "this kernel can't mount an overlay"
for one in dev proc sys; do
  [ -d /root/$one ] || $b mkdir /root/$one
done
$b rm -r /lamina/modules
. /lamina/machine.sh
