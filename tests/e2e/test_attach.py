"""The kernel's nbd driver and uraid-attach, in a user-mode kernel: a server of memory attaches itself there.

The server is the example `attach` of the crate: it is told what to do by `tell`, and everything else that
looks at the device is an ordinary tool. What it prints as `word value` the tests compare.
"""

from harness import uml
from harness.case import REPO, Failed, need

ATTACH = REPO / "target" / "release" / "examples" / "attach"

# In every guest: the driver, and words to start the server, to tell it something, and to expect failure.
PRELUDE = f"""
A={ATTACH}
C=/run/control
modprobe -d "$(dirname "$0")" nbd
tell() {{ "$A" tell $C "$@"; }}
start() {{
    rm -f $C
    "$A" serve $C "$@" &
    SERVER=$!
    N=$(tell index | cut -d' ' -f2)
    D=/dev/nbd$N
}}
stop() {{
    tell disconnect >/dev/null
    wait $SERVER
}}
fails() {{
    if "$@" >/run/failed 2>&1; then echo "unexpected success: $*"; exit 1; fi
    echo "refused $(tr '\\n' ' ' </run/failed)"
}}
mkdir -p /run/mnt
"""


def guest(t, script, seconds=90):
    """Runs `script` in a guest; returns (its output, its `word value` lines)."""
    need("linux.uml", "modprobe", "mkfs.ext4", "setpriv", "unshare", "losetup", "blkdiscard")
    if not ATTACH.exists():
        raise Failed(f"{ATTACH} is missing; ./dev e2e builds it")
    said = uml.run(t, PRELUDE + script, [], seconds)
    return said, uml.facts(said)


def test_a_file_system_lives_on_an_attached_device(t, sockets):
    """mkfs, mount, write, sync, unmount, fsck; flushes reach the server; what is read is what was written."""
    _, facts = guest(t, f"""
start --size 96 --sockets {sockets} --backend uraid:test
echo "size $(blockdev --getsize64 $D)"
echo "backend $(cat /sys/block/nbd$N/backend)"
echo "cache $(cat /sys/block/nbd$N/queue/write_cache)"
mkfs.ext4 -q $D
mount $D /run/mnt
tell counts >/dev/null
dd if=/dev/urandom of=/run/mnt/file bs=1M count=24 conv=fsync 2>/dev/null
echo "flushes $(tell counts | grep -c flushes)"
before=$(sha256sum < /run/mnt/file)
umount /run/mnt
echo 3 > /proc/sys/vm/drop_caches
fsck.ext4 -fn $D >/dev/null 2>&1
mount -o ro $D /run/mnt
[ "$before" = "$(sha256sum < /run/mnt/file)" ] && echo "same yes"
umount /run/mnt
echo "$(tell buffer)"
stop
echo "after $(cat /sys/block/nbd$N/size)"
"$A" attached $N
"$A" status $N
""")
    t.check(facts["size"] == str(96 << 20) and facts["backend"] == "uraid:test", f"the kernel shows {facts}")
    t.check(facts["cache"] == "write back" and facts["flushes"] == "1", f"fsync does not reach the server: {facts}")
    t.check(facts["same"] == "yes" and facts["after"] == "0", f"other bytes, or still attached: {facts}")
    t.check(int(facts["buffer"]) >= 4 << 20, f"the buffers are small: {facts['buffer']}")


test_a_file_system_lives_on_an_attached_device.each = [(1,), (4,)]


def refusals(said):
    """What the commands said that were meant to fail, in their order."""
    return [line.split(" ", 1)[1] for line in said.splitlines() if line.startswith("refused ")]


def test_numbers_block_sizes_and_flags_are_what_was_asked_for(t):
    said, facts = guest(t, """
Q=/sys/block/nbd
start --index 5 --block 512 --size 8
echo "node $D"
echo "block512 $(cat ${Q}5/queue/logical_block_size)"
dd if=/dev/zero of=$D bs=512 count=3 seek=1 oflag=direct 2>/dev/null
stop
start --index 77 --block 4096 --read-only --destroy
echo "block4096 $(cat ${Q}77/queue/logical_block_size)"
echo "ro $(cat ${Q}77/ro)"
"$A" attached 77
dd if=$D of=/dev/null bs=1M 2>/dev/null
fails dd if=/dev/zero of=$D bs=4096 count=1 conv=fsync
stop
[ -e ${Q}77 ] || echo "destroyed yes"
start --size 32
tell carry >/dev/null
tell resize 48 >/dev/null
echo "resized $(blockdev --getsize64 $D)"
stop
fails "$A" serve /run/other --index 4 --block 256
fails "$A" serve /run/other --index 4 --block 8192
fails "$A" serve /run/other --index 4 --sockets 2 --one-connection
fails "$A" serve /run/other --index 4000000000
""")
    t.check(facts["node"] == "/dev/nbd5" and facts["block512"] == "512" and facts["block4096"] == "4096", f"{facts}")
    t.check(facts["ro"] == "1" and "read_only: true" in said, "a read-only export is not read-only")
    t.check(facts["destroyed"] == "yes" and facts["resized"] == str(48 << 20), f"{facts}")
    told = refusals(said)
    t.check(len(told) == 5 and "Operation not permitted" in told[0], f"writing to a read-only device: {told}")
    t.check("256 bytes" in told[1] and "8192 bytes" in told[2] and "CAN_MULTI_CONN" in told[3], f"{told}")
    t.check("refuses to attach nbd4000000000" in told[4], f"a number that no kernel takes: {told[4]}")


def test_who_may_not_attach_is_told_why(t):
    """A number in use, a number whose device is still open, no privilege, no driver."""
    said, facts = guest(t, """
start --index 3 --size 8
fails "$A" serve /run/other --index 3
fails "$A" serve /run/other --index 3 --ioctl
exec 9<$D
stop
"$A" status 3
fails "$A" serve /run/other --index 3
exec 9<&-
fails "$A" resize 3 16
start --index 3 --size 8
stop
chmod 1777 /run
fails setpriv --reuid 65534 "$A" serve /run/other --image /run/other.image --index 3
rmmod nbd
fails "$A" serve /run/other
fails "$A" serve /run/other --ioctl
""")
    told = refusals(said)
    for which in (0, 1, 2):
        t.check("nbd3 is in use" in told[which], f"{which}: {told[which]}")
    t.check("Some(true)" in said, "the kernel does not show the open device as in use")
    t.check("nbd3 is not attached" in told[3], f"a change of a device that is not attached: {told[3]}")
    t.check("CAP_SYS_ADMIN" in told[4], f"without privilege: {told[4]}")
    t.check("modprobe nbd" in told[5] and "modprobe nbd" in told[6], f"without the driver: {told[5:]}")


def test_requests_grow_to_whole_stripes(t):
    _, facts = guest(t, """
write() { dd if=/dev/zero of=$D bs=16M count=1 oflag=direct conv=fsync 2>/dev/null; }
start --size 64
echo "default_kb $(cat /sys/block/nbd$N/queue/max_sectors_kb)"
tell counts >/dev/null
write
tell counts | sed 's/^/before_/'
"$A" tune $N 768
write
tell counts | sed 's/^/after_/'
for file in max_sectors_kb read_ahead_kb scheduler; do echo "$file $(cat /sys/block/nbd$N/queue/$file)"; done
stop
""")
    t.check(facts["max_sectors_kb"] == "32256" and facts["read_ahead_kb"] == "1536", f"{facts}")
    t.check("[none]" in facts["scheduler"], f"the scheduler is {facts['scheduler']}")
    cut = -(-16384 // int(facts["default_kb"]))
    # The kernel may cut once more where its own queue of what is to be sent was full.
    t.check(int(facts["before_writes"]) >= cut >= 8 and int(facts["after_writes"]) <= 4, f"{facts}")
    t.check("refused" not in facts, f"{facts}")
    t.say(f"16 MiB: {facts['before_writes']} requests before, {facts['after_writes']} after")


def test_zeroes_and_discards_arrive(t):
    _, facts = guest(t, """
start --size 32
dd if=/dev/urandom of=$D bs=1M count=32 oflag=direct 2>/dev/null
tell counts >/dev/null
blkdiscard -z -o 1M -l 8M $D
echo "zero $(dd if=$D bs=1M skip=1 count=8 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c)"
blkdiscard -o 16M -l 8M $D
tell counts
stop
""")
    t.check(facts["zero"] == "0", f"{facts['zero']} bytes are not zero")
    t.check(int(facts["trims"]) >= 1, f"the discard did not arrive: {facts}")


def test_partitions_are_found(t):
    said, facts = guest(t, """
start --size 64 --block 512 --partition
echo "whole $(blockdev --getsize64 $D)"
echo "part $(blockdev --getsize64 ${D}p1)"
mkfs.ext4 -q ${D}p1
mount ${D}p1 /run/mnt
echo "held $("$A" holders $N)"
umount /run/mnt
echo "freed $("$A" free $N)"
stop
[ -e ${D}p1 ] || echo "gone yes"
""")
    t.check(facts["part"] == str(63 << 20) and facts["freed"] == "true", f"{facts}")
    t.check(facts["held"] == "nbd0p1 mounted on /run/mnt", f"{facts['held']}")
    t.check(facts["gone"] == "yes", said)


def test_whoever_uses_a_device_is_named(t):
    said, facts = guest(t, """
start --size 64
echo "nobody $("$A" holders $N)"
mkfs.ext4 -q $D
mount $D /run/mnt
echo "mount $("$A" holders $N)"
umount /run/mnt
sleep 100 <$D &
echo "opener $("$A" holders $N)"
echo "pid $!"
kill $!
modprobe -d "$(dirname "$0")" loop
loop=$(losetup --find --show $D)
echo "loop $("$A" holders $N)"
losetup -d $loop
mkfifo /run/up /run/down
unshare --mount sh -c "mount $D /run/mnt; echo >/run/up; read _ </run/down" &
read _ </run/up
echo "hidden $("$A" holders $N)"
echo >/run/down
wait $!
echo "freed $("$A" free $N)"
mkswap $D >/dev/null
swapon $D
echo "swap $("$A" holders $N)"
swapoff $D
echo "freed2 $("$A" free $N)"
stop
""")
    t.check(facts["nobody"] == "not used by anybody", facts["nobody"])
    t.check(facts["mount"] == "mounted on /run/mnt", facts["mount"])
    t.check(facts["opener"] == f"open by sleep (pid {facts['pid']})", facts["opener"])
    t.check(facts["loop"].startswith("used by loop"), facts["loop"])
    t.check("another namespace" in facts["hidden"], facts["hidden"])
    t.check(facts["swap"] == "swapped to (nbd0)", facts["swap"])
    t.check(facts["freed"] == facts["freed2"] == "true", said)


def test_udev_has_looked_when_the_device_has_settled(t):
    """With udev running in the guest: its links of a file system are there when `settle` returns."""
    need("udevadm")
    said, facts = guest(t, """
start --size 32
echo "without $(tell settle)"
mkfs.ext4 -q -U 11111111-2222-3333-4444-555555555555 $D
stop
/lib/systemd/systemd-udevd --daemon
start --size 32
tell settle
echo "link $(readlink -f /dev/disk/by-uuid/11111111-2222-3333-4444-555555555555)"
tell link /dev/disk/by-uuid/11111111-2222-3333-4444-555555555555
fails "$A" tell $C link /dev/disk/by-uuid/none
echo "freed $("$A" free $N)"
stop
udevadm control --exit
""")
    t.check(facts["without"] == "settled NoUdev" and facts["settled"] == "Looked", said)
    t.check(facts["link"] == "/dev/nbd0" and facts["leads"] == "there" and facts["freed"] == "true", said)
    t.check("none to lead to nbd0" in refusals(said)[0], said)


def test_a_dead_socket_is_told_and_the_other_one_goes_on(t):
    _, facts = guest(t, """
start --size 32 --sockets 2 --timeout 3
tell shut 0
tell dead 10
dd if=/dev/urandom of=$D bs=1M count=16 oflag=direct 2>/dev/null && echo "wrote yes"
echo "more $(tell dead 0)"
stop
""")
    t.check(facts["dead"] == "0" and facts["wrote"] == "yes" and facts["more"] == "none", f"{facts}")


def test_sockets_are_replaced_under_load_without_an_error(t):
    """Four times all sockets are replaced while dd writes; then the kernel's view and the bytes are right."""
    said, facts = guest(t, """
start --size 48 --sockets 2 --timeout 2 --backend uraid:load
dd if=/dev/urandom of=/run/pattern bs=1M count=32 2>/dev/null
dmesg -C
( while [ ! -e /run/enough ]; do
    dd if=/run/pattern of=$D bs=256k oflag=direct 2>/dev/null || exit 1
    echo >> /run/rounds
done ) &
load=$!
for i in 1 2 3 4; do
    tell counts >/dev/null
    tell replace
    until tell counts | grep -q writes; do :; done
done
touch /run/enough
wait $load && echo "load well"
echo "rounds $(wc -l < /run/rounds)"
cmp -n 33554432 /run/pattern $D && echo "same yes"
dmesg | grep -i 'i/o error' || echo "log clean"
stop
""", seconds=150)
    t.check(said.count("sockets 2") == 4, "not all sockets were replaced")
    t.check(facts["load"] == "well" and facts["same"] == "yes" and facts["log"] == "clean", f"{facts}")


def test_a_killed_server_is_replaced_under_load_without_an_error(t):
    """Three times the server is killed while dd writes, and another one takes the device over by its name."""
    said, facts = guest(t, """
options="--size 48 --sockets 2 --timeout 2 --backend uraid:load"
start $options
dd if=/dev/urandom of=/run/pattern bs=1M count=32 2>/dev/null
dmesg -C
( while [ ! -e /run/enough ]; do
    dd if=/run/pattern of=$D bs=256k oflag=direct 2>/dev/null || exit 1
done ) &
load=$!
for i in 1 2 3; do
    until tell counts | grep -q writes; do :; done
    kill -9 $SERVER
    wait $SERVER || true
    start $options --adopt
    echo "adopted $N"
done
until tell counts | grep -q writes; do :; done
touch /run/enough
wait $load && echo "load well"
cmp -n 33554432 /run/pattern $D && echo "same yes"
dmesg | grep -i 'i/o error' || echo "log clean"
stop
""", seconds=150)
    t.check(said.count("adopted 0") == 3, "not every new server took the device over")
    t.check(facts["load"] == "well" and facts["same"] == "yes" and facts["log"] == "clean", f"{facts}")


def test_new_sockets_are_not_taken_while_the_old_ones_live(t):
    """The kernel reports success and drops them; that is seen, and the device goes on."""
    said, facts = guest(t, """
start --size 16 --backend uraid:mine
fails tell offer
dd if=/dev/zero of=$D bs=1M count=16 oflag=direct 2>/dev/null && echo "goes on"
tell backend uraid:other >/dev/null
fails tell resize 32
fails tell replace 1
stop
""")
    told = refusals(said)
    t.check(len(told) == 3 and facts["goes"] == "on", said)
    t.check("to give up a socket of nbd0" in told[0], f"new sockets beside a living one: {told[0]}")
    t.check(all("another backend" in refusal for refusal in told[1:]), f"in another's name: {told[1:]}")


def test_without_a_server_requests_fail_after_the_configured_time(t):
    _, facts = guest(t, """
read_one() { dd if=$D of=/dev/null bs=4k count=1 iflag=direct 2>/run/err; }
start --size 16 --dead-conn-timeout 3 --timeout 30
tell shut 0
tell dead 10
began=$(date +%s%N)
fails read_one
echo "waited $(( ($(date +%s%N) - began) / 1000000 ))"
grep -c 'Input/output error' /run/err
tell replace
read_one && echo "again yes"
stop
start --size 16 --dead-conn-timeout 0
tell shut 0
tell dead 10
began=$(date +%s%N)
fails read_one
echo "at_once $(( ($(date +%s%N) - began) / 1000000 ))"
stop
""")
    t.check(2500 <= int(facts["waited"]) <= 8000, f"EIO after {facts['waited']} ms, configured are 3000")
    t.check(facts["again"] == "yes", "the device does not live again with a new socket")
    t.check(int(facts["at_once"]) < 2500, f"EIO after {facts['at_once']} ms, configured is at once")


def test_ioctls_attach_where_netlink_cannot(t, sockets):
    said, facts = guest(t, f"""
start --ioctl --size 64 --sockets {sockets}
echo "auto $D"
stop
start --ioctl --index 2 --size 64 --block 512 --sockets {sockets}
echo "size $(blockdev --getsize64 $D)"
echo "cache $(cat /sys/block/nbd2/queue/write_cache)"
mkfs.ext4 -q $D
mount $D /run/mnt
cp /etc/services /run/mnt/ 2>/dev/null || cp /etc/passwd /run/mnt/
tell counts >/dev/null
sync -f /run/mnt
echo "flushes $(tell counts | grep -c flushes)"
echo "held $("$A" holders 2)"
fails "$A" serve /run/other --index 2 --ioctl
umount /run/mnt
fsck.ext4 -fn $D >/dev/null 2>&1 && echo "fsck well"
stop
"$A" attached 2
""")
    t.check(facts["auto"] == "/dev/nbd0" and facts["size"] == str(64 << 20), f"{facts}")
    t.check(facts["cache"] == "write back" and facts["flushes"] == "1" and facts["fsck"] == "well", f"{facts}")
    t.check(facts["held"].startswith("mounted on /run/mnt"), facts["held"])
    t.check("nbd2 is in use" in refusals(said)[0] and "None" in said, said)


test_ioctls_attach_where_netlink_cannot.each = [(1,), (3,)]
