#!/bin/sh
# The tour: a RAID6 volume on six files, a file system on it, two members lost while files are being
# copied, two new ones rebuilt, and every file compared. Run by `./dev demo` as root.
#
# Everything happens in one temporary directory, which is gone afterwards, also after Ctrl-C.
set -eu
here=$(dirname "$0")
# shellcheck source=tests/lib/say.sh
. "$here/lib/say.sh"

uraid=${1:?usage: demo.sh PATH-OF-URAID}
member_mib=256

# A place with room for the members and the new ones: memory if it is large enough.
roomy_dir() {
    for place in /dev/shm "${TMPDIR:-/var/tmp}" /tmp; do
        [ -d "$place" ] || continue
        free_kib=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')
        [ "$free_kib" -gt $((member_mib * 9 * 1024)) ] && echo "$place" && return
    done
    die "the demo needs $((member_mib * 9)) MiB free in /dev/shm, /var/tmp or /tmp"
}

# Shows a command as a person would type it, then runs it.
show() {
    printf '    $ %s\n' "$*"
    "$@"
}

# Polls a condition 20 times a second; gives up after $1 seconds.
until_true() {
    tries=$(($1 * 20))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || die "gave up waiting for: $*"
        sleep 0.05
    done
}

# Undoes whatever was done, in reverse order; harmless when nothing was.
cleanup() {
    code=$?
    trap - EXIT INT TERM
    cd /
    if mountpoint -q "$dir/mnt" 2>/dev/null; then umount -l "$dir/mnt" || true; fi
    if [ -n "$loop" ]; then losetup -d "$loop" 2>/dev/null || true; fi
    if mountpoint -q "$dir/fuse" 2>/dev/null; then fusermount3 -u -z "$dir/fuse" || true; fi
    if [ -n "$copier" ]; then kill "$copier" 2>/dev/null || true; fi
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; fi
    [ "$code" -eq 0 ] || { [ -f "$dir/uraid.log" ] && sed 's/^/    uraid: /' "$dir/uraid.log" | tail -20; } || true
    rm -rf "$dir"
    exit "$code"
}

loop='' daemon='' copier=''
dir=$(mktemp -d "$(roomy_dir)/uraid-demo.XXXXXX")
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
control="$dir/control.sock"
uri="nbd+unix:///?socket=$dir/nbd.sock"
mkdir "$dir/fuse" "$dir/mnt"

serving() { kill -0 "$daemon" 2>/dev/null || die "uraid ended early"; [ -s "$dir/ready" ]; }
attached() { kill -0 "$fuse" 2>/dev/null || die "nbdfuse ended early"; [ -f "$dir/fuse/nbd" ]; }
copied_some() { [ "$(find "$dir/mnt" -type f 2>/dev/null | wc -l)" -gt 200 ]; }

# Reads one field of `uraid status --json`.
field() {
    "$uraid" status --control "$control" --json | python3 -c "
import json, sys
array = json.load(sys.stdin)
sync = array.get('sync') or {}
print({'degraded': array['degraded'], 'sync': sync.get('kind', '')}['$1'])"
}
degraded_by() { [ "$(field degraded)" = "$1" ]; }

compare() {
    if diff -r --no-dereference "$tree" "$dir/mnt/tree"; then
        note "$(find "$dir/mnt/tree" -type f | wc -l) files, all equal"
    else
        die "the copy differs from the original"
    fi
}

# Shows the progress twice a second until no member is missing.
watch_rebuild() {
    quiet=0
    while ! degraded_by 0; do
        "$uraid" status --control "$control" | grep -E '%' | sed 's/^ */    /' || true
        if [ -n "$(field sync)" ]; then quiet=0; else quiet=$((quiet + 1)); fi
        [ "$quiet" -lt 40 ] || die "nothing is being rebuilt, yet members are missing"
        sleep 0.5
    done
}

# A tree of real files, at most about half of the volume.
real_tree() {
    for tree in /usr/share /usr/lib/python3 /usr/share/doc /etc; do
        [ -d "$tree" ] || continue
        used=$(du -sxm "$tree" 2>/dev/null | awk '{ print $1 }')
        [ "$used" -lt $((member_mib * 3)) ] && echo "$tree" && return
    done
    die "found no directory of files to copy"
}
tree=$(real_tree)

say "Six member files of $member_mib MiB, and a RAID6 volume over them"
show "$uraid" create --level 6 --chunk 64K --name demo --size "${member_mib}M" --assume-clean \
    "$dir/disk0" "$dir/disk1" "$dir/disk2" "$dir/disk3" "$dir/disk4" "$dir/disk5"

say "The daemon serves it over NBD, on a unix socket"
"$uraid" serve --listen "unix:$dir/nbd.sock" --control "$control" \
    "$dir/disk0" "$dir/disk1" "$dir/disk2" "$dir/disk3" "$dir/disk4" "$dir/disk5" >"$dir/ready" 2>"$dir/uraid.log" &
daemon=$!
until_true 20 serving
note "$(cat "$dir/ready")"

say "Attach it as a block device (nbdfuse and a loop device; no kernel module is needed)"
nbdfuse "$dir/fuse/nbd" "$uri" &
fuse=$!
until_true 20 attached
loop=$(losetup --find --show --direct-io=on "$dir/fuse/nbd")
note "$loop is the volume, $(blockdev --getsize64 "$loop") bytes"

say "A file system, mounted"
show mkfs.ext4 -q -F -i 8192 "$loop"
show mount "$loop" "$dir/mnt"

say "Copy $tree to it; meanwhile two members are lost"
cp -a "$tree" "$dir/mnt/tree" &
copier=$!
until_true 60 copied_some
show "$uraid" fail --control "$control" "$dir/disk1"
show "$uraid" fail --control "$control" "$dir/disk4"
rm -f "$dir/disk1" "$dir/disk4"
if kill -0 "$copier" 2>/dev/null; then
    note "two of six are gone and their files deleted; the copy goes on"
else
    note "two of six are gone and their files deleted; the copy had just ended"
fi
wait "$copier" || die "copying failed"
copier=''
sync -f "$dir/mnt"

say "Compare every file, read back with two members missing"
echo 1 >/proc/sys/vm/drop_caches 2>/dev/null || true
compare

say "Add two blank members; they are rebuilt while the volume stays mounted"
truncate -s "${member_mib}M" "$dir/new1" "$dir/new4"
show "$uraid" add --control "$control" "$dir/new1"
show "$uraid" add --control "$control" "$dir/new4"
watch_rebuild
show "$uraid" status --control "$control"

say "Compare every file again"
echo 1 >/proc/sys/vm/drop_caches 2>/dev/null || true
compare

say "Unmount, check the file system, stop"
show umount "$dir/mnt"
show fsck.ext4 -f -n "$loop"
losetup -d "$loop"
loop=''
fusermount3 -u "$dir/fuse"
show "$uraid" stop --control "$control"
wait "$daemon" || die "uraid did not stop cleanly"
daemon=''

say "Done: two members lost and rebuilt, not a byte of the files changed"
