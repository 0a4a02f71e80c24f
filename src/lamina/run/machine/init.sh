#!/lamina/busybox sh
# The first process of a machine: mounts the union of the image's layers at /root, and goes on with `machine.sh`.
# settings.sh (written by lamina) has: modules (names, in their order), union (the disk with the metadata), devices (the
# disks with the layers' tars), upper (a disk, or `memory`). A disk is a path or a serial number.
# top: mode and owner of the root directory.
b=/lamina/busybox
. /lamina/settings.sh
written=
exec 5<>/lamina/nothing # nobody writes there
nap() { read -r -t 0.02 word <&5; } # a process takes longer

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
look() {
  found=" "
  for one in /sys/block/vd*; do
    serial=
    read -r serial <"$one/serial" # it does not end with a newline
    found="$found$serial=/dev/${one##*/} "
  done
} 2>/dev/null

find_disk() { # sets `disk`; it appears a moment after its driver
  tries=0
  while :; do
    disk=$1
    case $found in
      *" $1="*)
        disk=${found#*" $1="}
        disk=${disk%% *}
        ;;
    esac
    [ -b "$disk" ] && return
    tries=$((tries + 1))
    [ $tries -lt 500 ] || fail "the disk $1 is not there"
    [ $tries -eq 1 ] || nap
    look
  done
}

options=ro
for device in $devices; do
  find_disk "$device"
  options=$options,device=$disk
done
find_disk "$union"
$b mount -t erofs -o "$options" "$disk" /layers 2>/dev/console || fail "this kernel can't mount EROFS with blocks of 512 bytes"
if [ "$upper" = memory ]; then
  $b mount -t tmpfs -o mode=755 upper /upper
else
  find_disk "$upper"
  written=${disk#/dev/}
  # What the host can't keep must not look written: the machine ends. The disk is a sparse file, and has zeros already.
  how=errors=panic,data_err=abort,discard,noinit_itable
  $b mount -t ext4 -o $how "$disk" /upper 2>/dev/console || fail "this kernel can't mount ext4"
fi
if [ ! -d /upper/upper ]; then # the root directory, too, is the image's
  set -- $top
  $b mkdir -p /upper/new /upper/work
  $b chown "$2" /upper/new
  $b chmod "$1" /upper/new
  $b touch -r /layers /upper/new
  $b mv /upper/new /upper/upper
fi
$b mount -t overlay -o lowerdir=/layers,upperdir=/upper/upper,workdir=/upper/work,metacopy=off,redirect_dir=off,index=off root /root \
  2>/dev/console || fail "this kernel can't mount an overlay"
for one in dev proc sys; do
  if [ ! -d /root/$one ]; then
    [ -e /lamina/time ] || $b touch -r /root /lamina/time
    $b mkdir /root/$one
  fi
done
[ ! -e /lamina/time ] || $b touch -r /lamina/time /root # a mount point is no change of the image
$b rm -r /lamina/modules
. /lamina/machine.sh
