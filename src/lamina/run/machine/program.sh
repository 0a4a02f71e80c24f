# In the image's root: makes what a program finds, and becomes the program. The descriptor 8 is of /lamina, which this
# root does not have; the program gets neither that one nor 7 (starting) and 9 (control).
l=/proc/self/fd/8
b=$l/busybox
. $l/settings.sh

$b mkdir -p /dev/pts /dev/shm /dev/mqueue
$b mount -t devpts -o mode=620,ptmxmode=666,gid=5,nosuid,noexec devpts /dev/pts
$b mount -t tmpfs -o mode=1777,nosuid,nodev,noexec shm /dev/shm
$b mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue 2>/dev/null && $b chmod 1777 /dev/mqueue
$b mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup 2>/dev/null
$b ln -s /proc/self/fd /dev/fd
for one in 0:stdin 1:stdout 2:stderr; do
  $b ln -s "/proc/self/fd/${one%:*}" "/dev/${one#*:}"
done
refuse() {
  echo "failed $1" >&9
  exit 125
}
real() { # sets `at` to a path without symlinks; what they lead to may be missing
  at='' rest=${1#/} links=0
  while [ "$rest" ]; do
    one=${rest%%/*}
    case $rest in */*) rest=${rest#*/} ;; *) rest='' ;; esac
    if [ "$one" = .. ]; then
      at=${at%/*}
    elif [ "$one" ] && [ "$one" != . ]; then
      at=$at/$one
    fi
    if [ -L "$at" ] && [ $links -lt 40 ]; then
      links=$((links + 1))
      link=$($b readlink "$at")
      at=${at%/*} rest=${link#/}/$rest
      [ "$link" = "${link#/}" ] || at=''
    fi
  done
}
point() { # what (a file or a directory) and its path: it is made for a mount, so the directory above keeps its times
  above=${2%/*}
  while [ ! -d "$above/" ]; do above=${above%/*}; done
  $b touch -r "$above/" $l/above
  $b mkdir -p "${2%/*}/"
  if [ "$1" = file ]; then $b touch "$2"; else $b mkdir -p "$2"; fi
  $b touch -r $l/above "$above/"
} 2>/dev/console
mounted() { # what, type, options, target
  source=$1 kind=$2 options=$3
  real "$4"
  [ "$kind" != shared ] || source=$l/shared/$1 # what the host shares, by number
  if [ "$kind" = shared ] && [ ! -d "$source" ]; then
    [ -e "$at" ] || point file "$at"
  else
    [ -d "$at" ] || point directory "$at"
  fi
  copied=
  case ,$options, in *,tmpcopyup,*)
    options=${options%,tmpcopyup} copied=$l/copied
    $b mkdir -p $copied && $b mount --bind "$at" $copied ;;
  esac
  if [ "$kind" = shared ]; then
    $b mount --bind "$source" "$at" && { [ "$options" = rw ] || $b mount -o "remount,bind,$options" "$at"; }
  else
    $b mount -t "$kind" -o "$options" "$source" "$at"
  fi || refuse "$4 can't be mounted in the machine"
  if [ "$copied" ]; then
    $b cp -a $copied/. "$at"
    $b umount $copied
  fi
}
. $l/mounts.sh
for name in $files; do # in /etc, over the image's
  real "/etc/$name"
  if [ ! -e "$at" ]; then
    point file "$at" && echo "${at#/}" >>$l/made
  fi
  $b mount --bind "$l/$name" "$at" 2>/dev/console || refuse "/etc/$name can't be mounted in the machine"
done
if [ "$ports" ] && [ "$uid" != 0 ]; then # it may open its streams anew, which are pipes or its terminal
  $b chown "$uid:$gid" /proc/self/fd/1 /proc/self/fd/2 ${interactive:+/proc/self/fd/0}
fi
ulimit -Hn 524288
[ -d "$cwd" ] || $b mkdir -p "$cwd"
[ ! "$read_only" ] || $b mount -o remount,bind,ro / || refuse "the root file system can't be made read-only"
. $l/command.sh
