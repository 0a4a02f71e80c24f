# The first process goes on: it starts the program, tells it what the host says, and tells the host its exit code.
# settings.sh has: hostname, uid, gid, interactive (yes or nothing), terminal (hvc0, or nothing), network (ADDRESS/LENGTH GATEWAY, or
# nothing), token (what follows the program's output), ports (yes, or nothing where the console is all there is),
# ending (poweroff or reboot).
find_ports() { # sets the paths of the ports, without a further process: by emulation each takes 20 ms
  for one in /sys/class/virtio-ports/*; do
    read -r name <"$one/name"
    case $name in
      lamina.control) control=/dev/${one##*/} ;;
      lamina.stdin) stdin=/dev/${one##*/} ;;
      lamina.stdout) stdout=/dev/${one##*/} ;;
      lamina.stderr) stderr=/dev/${one##*/} ;;
    esac
  done
} 2>/dev/null

if [ "$ports" ]; then
  control=
  find_ports
  tries=0
  until [ -c "$control" ]; do # a port appears a moment after its driver
    tries=$((tries + 1))
    [ $tries -lt 500 ] || fail "the port of this machine is not there"
    nap
    find_ports
  done
fi
exec 5>&- 9<>"${control:-/dev/null}"
echo -1000 >/proc/self/oom_score_adj # what passes the streams on outlives a lack of memory
umask 077
echo "$hostname" >/proc/sys/kernel/hostname
$b ip link set lo up
if [ "$network" ]; then
  set -- $network
  $b ip address add "$1" dev eth0 && $b ip link set eth0 up && $b ip route add default via "$2"
fi
if [ "$terminal" ] && [ "$ports" ]; then
  exec 6<>"/dev/$terminal" # the first one to open it resets its size
  read -r word first second <&9 # the host has told the size already
  $b stty rows "$first" cols "$second" <&6 2>/dev/null
fi
: >/lamina/made

{
  read -r word </lamina/starting # it ends when the program is executed
  echo started >&9
  read -r pid </lamina/pid
  while read -r word first second; do # what the host says while the program runs
    case $word in
      signal) $b kill "-$first" "$pid" ;;
      size) $b stty rows "$first" cols "$second" <&6 ;;
    esac
  done <&9
} 2>/dev/null &
listening=$!

# The program is process 1 of its own namespace, as in a container: what it leaves ends with it. It sees nothing of
# this process. `time` tells how it has ended. It does not run in the background: it would ignore SIGINT.
enter() {
  exec $b time -o /lamina/ended -f "" $b unshare -m -p -f $b sh /lamina/enter.sh
}
if [ ! "$ports" ]; then
  (enter) <>/dev/console >&0 2>&0
elif [ "$terminal" ]; then
  (enter) <&6 >&6 2>&6 6>&-
else
  # A program may open /dev/stdout again, which a port refuses: it gets pipes. Its user owns them (program.sh).
  { $b cat; printf %s "$token"; } </lamina/out >"$stdout" 9>&- &
  out=$!
  { $b cat; printf %s "$token"; } </lamina/err >"$stderr" 9>&- &
  err=$!
  if [ "$interactive" ]; then
    { $b cat <"$stdin" 2>/dev/null & } 9>&- | (enter) >/lamina/out 2>/lamina/err
  else
    (enter) </dev/null >/lamina/out 2>/lamina/err
  fi
fi
code=$?
read -r ended </lamina/ended
case $ended in
  *" signal 1" | *" signal 2") code=0 ;; # it has switched the machine off: no signal but KILL ends a process 1
  *" signal "*) code=$((128 + ${ended##* })) ;;
esac
$b kill -9 "$listening" 2>/dev/null
[ "$out" ] && wait "$out" "$err"
exec 6>&- # it waits until all is written
while read -r one; do
  $b touch -r "/root/${one%/*}" /lamina/above
  $b rm -f "/root/$one"
  $b touch -r /lamina/above "/root/${one%/*}"
done </lamina/made
$b sync
$b umount /root /upper 2>/dev/null
if [ "$written" ] && $b dmesg | $b grep -q "I/O error, dev $written,"; then
  echo "failed a part of what was written to the disk of the machine is lost: is the file system of the store full?" >&9
fi
if [ "$ports" ]; then
  echo "exit $code" >&9
  while read -r word first second <&9; do # until the host has it, and all output
    [ "$word" = end ] && break
  done
else
  echo 0 >/proc/sys/kernel/printk # nothing comes after this line
  echo "lamina: exit $code" >/dev/console
fi
$b $ending -f
while :; do $b sleep 1; done
