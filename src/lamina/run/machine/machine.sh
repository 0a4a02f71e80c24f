# The first process in the image's root: makes the machine ready, runs program.sh, and tells its exit code.
# settings.sh has: hostname, uid, gid, terminal (yes or nothing), network (ADDRESS/LENGTH GATEWAY, or nothing), files
# (names in /etc that are mounted over the image's), ending (poweroff or reboot).
b=/run/lamina/busybox
. /run/lamina/settings.sh

port() {
  for one in /sys/class/virtio-ports/*; do
    if [ "$($b cat "$one/name")" = "lamina.$1" ]; then
      echo "/dev/${one##*/}"
    fi
  done
}

control=$(port control)
exec 9<>"${control:-/dev/null}"
$b mkdir -p /dev/pts /dev/shm /dev/mqueue
$b mount -t devpts -o mode=620,ptmxmode=666,gid=5 pts /dev/pts
$b mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
$b ln -s /proc/self/fd /dev/fd
for one in 0:stdin 1:stdout 2:stderr; do
  $b ln -s "/proc/self/fd/${one%:*}" "/dev/${one#*:}"
done
$b hostname "$hostname"
$b ip link set lo up
if [ "$network" ]; then
  set -- $network
  $b ip address add "$1" dev eth0 && $b ip link set eth0 up && $b ip route add default via "$2"
fi
mounted() { # what, type, options, target
  $b mkdir -p "$4"
  $b mount -t "$2" -o "$3" "$1" "$4" || echo "failed $4 can't be mounted in the machine" >&9
}
. /run/lamina/mounts.sh
for name in $files; do
  if [ ! -e "/etc/$name" ]; then
    { [ -d /etc ] || $b mkdir /etc; } && : >"/etc/$name" && made="etc/$name $made"
  fi
  $b mount --bind "/run/lamina/$name" "/etc/$name"
done

if [ ! "$control" ]; then
  # a monitor without ports (vm-disk): the console is all there is
  $b setsid -c $b sh /run/lamina/program.sh 9>&- <>/dev/console >&0 2>&0 &
  program=$!
elif [ "$terminal" ]; then
  $b setsid -c $b sh /run/lamina/program.sh 9>&- </dev/hvc0 >/dev/hvc0 2>&1 &
  program=$!
else
  # a program may open /dev/stdout again, which a port refuses: it gets pipes
  for one in out err; do
    $b mkfifo -m 600 /run/lamina/$one
    $b chown "$uid:$gid" /run/lamina/$one
  done
  $b chmod 711 /run/lamina
  $b cat /run/lamina/out 9>&- >"$(port stdout)" &
  out=$!
  $b cat /run/lamina/err 9>&- >"$(port stderr)" &
  err=$!
  $b sh /run/lamina/program.sh 9>&- <"$(port stdin)" >/run/lamina/out 2>/run/lamina/err &
  program=$!
fi
echo started >&9

# what the host says while the program runs
{
  [ "$control" ] && while read -r word first second; do
    case $word in
      signal) $b kill "-$first" "$program" ;;
      size) $b stty -F /dev/hvc0 rows "$first" cols "$second" ;;
    esac
  done
} <&9 2>/dev/null &
listening=$!

while :; do
  wait "$program"
  code=$?
  $b kill -0 "$program" 2>/dev/null || break # a signal to this shell ends `wait` early
done
$b kill "$listening" 2>/dev/null
if [ "$out" ]; then
  # what other processes still hold open does not keep the machine
  { $b sleep 1; $b kill "$out" "$err"; } 2>/dev/null &
  wait "$out" "$err"
fi
for name in $files; do
  $b umount "/etc/$name"
done
cd /
for one in $made; do
  [ -d "/$one" ] || $b rm -f "/$one"
done
$b sync
if [ "$control" ]; then
  echo "exit $code" >&9
  read -r word <&9 # the host has it
else
  echo "lamina: exit $code" >/dev/console
fi
$b mount -o remount,ro / 2>/dev/null
$b $ending -f
while :; do $b sleep 1; done
