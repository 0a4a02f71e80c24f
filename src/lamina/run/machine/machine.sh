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
failed() {
  echo "failed $1" >&9
  $b sleep 0.1
  $b $ending -f
}
s=/run/lamina/shared # what the host shares, by number
mounted() { # what, type, options, target
  at=$4 source=$1 kind=$2 options=$3
  if [ "$kind" = shared ]; then
    source=$s/$1
    if [ ! -d $s ]; then
      $b mkdir -m 700 $s && $b mount -t virtiofs shared $s || failed "this kernel can't mount virtiofs"
    fi
  fi
  if [ "$kind" = shared ] && [ ! -d "$source" ]; then
    [ -e "$at" ] || { $b mkdir -p "${at%/*}/" && : >"$at"; }
  else
    [ -d "$at" ] || $b mkdir -p "$at"
  fi
  copied=
  case ,$options, in *,tmpcopyup,*)
    options=${options%,tmpcopyup} copied=/run/lamina/copied
    $b mkdir -p $copied && $b mount --bind "$at" $copied ;;
  esac
  [ "$($b readlink -f "$at")" != /run ] || { at=/dev/lamina && $b mkdir $at; }
  if [ "$kind" = shared ]; then
    $b mount --bind "$source" "$at" && { [ "$options" = rw ] || $b mount -o "remount,bind,$options" "$at"; }
  else
    $b mount -t "$kind" -o "$options" "$source" "$at"
  fi || failed "$4 can't be mounted in the machine"
  if [ "$copied" ]; then
    $b cp -a $copied/. "$at"
    $b umount $copied
  fi
  if [ "$at" != "$4" ]; then # /run itself: what it holds of lamina stays there
    $b mkdir -p $at/lamina && $b mount --rbind /run/lamina $at/lamina && $b mount --move $at /run && $b rmdir $at ||
      failed "$4 can't be mounted in the machine"
  fi
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
