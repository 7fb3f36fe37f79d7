"""What must be refused, in words that help, with nothing written: members, superblocks, configurations.

Plus members that go bad while they are served: full file systems and unreadable sectors.
"""

import os
import shutil
import subprocess

from harness import mdlayout, stamps
from harness.array import Array
from harness.case import URAID, listening, need, reap, until
from harness.goldens import sha


def served_once(t, level=5, n=4, **options):
    """An array that was used and stopped, and the bytes of its members as they must stay."""
    array = Array(t, level, n, size="16M", **options)
    array.serve()
    running = stamps.Load(array.uri, 8 << 11, 3)
    until("a few writes", lambda: running.ledger.writes >= 60 and running.ledger.flushes >= 1)
    running.end()
    array.stop()
    return array, running.ledger


def refuse(t, argv, words):
    """Runs uraid, which must say no: a small exit code, one clear message with all of `words`, no panic."""
    done = t.run(URAID, *argv, ok=None, timeout=20)
    said = done.stderr.lower()
    t.check(0 < done.returncode < 100, f"exit code {done.returncode} where a refusal was due: {done.stderr[-300:]}")
    t.check("panicked" not in said, f"uraid panicked: {done.stderr[-300:]}")
    for word in words:
        t.check(any(w in said for w in word.split("|")), f"the message does not say `{word}`: {done.stderr.strip()[-400:]}")
    return done.stderr


def refuse_serve(t, array, members, words):
    """`uraid serve` must refuse these members and leave every byte of them alone."""
    files = [m for m in members if os.path.isfile(m)]
    before = [sha(m) for m in files]
    argv = ["serve", "--listen", f"unix:{array.socket}", "--control", array.control, *members]
    refuse(t, argv, words)
    t.check(before == [sha(m) for m in files], "a refused member was written to")


def serve_with_warning(t, array, members, ledger, words):
    """`uraid serve` starts without the odd member, says why, and serves the right bytes."""
    array.serve(members=members)
    said = (t.dir / "uraid.log").read_text(errors="replace").lower()
    for word in words:
        t.check(any(w in said for w in word.split("|")), f"the log does not say `{word}`")
    complaints = stamps.verify(array.uri, ledger, strict=True)
    t.check(not complaints, f"wrong data: {complaints[:3]}")
    array.stop()


def test_too_many_members_missing(t):
    array, _ = served_once(t)
    refuse_serve(t, array, array.members[:2], ["missing|not enough|needs"])


def test_one_member_missing_starts_with_a_warning(t):
    array, ledger = served_once(t)
    serve_with_warning(t, array, array.members[1:], ledger, ["degraded|missing"])


def test_order_does_not_matter(t):
    array, ledger = served_once(t)
    serve_with_warning(t, array, array.members[::-1], ledger, [])


def test_stale_member_is_left_out(t):
    array, _ = served_once(t)
    array.serve()
    array.fail(2)
    running = stamps.Load(array.uri, 8 << 11, 4)
    until("a few writes", lambda: running.ledger.writes >= 60)
    running.end()
    array.stop()
    before = sha(array.members[2])
    # The load started over what served_once left, so only sectors that it wrote are compared.
    ledger = running.ledger
    array.serve()
    import nbd
    handle = nbd.NBD()
    handle.connect_uri(array.uri)
    for sector, version in list(ledger.acked.items())[:2000]:
        raw = bytes(handle.pread(512, sector * 512))
        t.check(stamps.version_of(raw, sector) == version, f"sector {sector} came from the stale member")
    handle.shutdown()
    t.check(array.status().degraded == 1, "the stale member was taken back")
    said = (t.dir / "uraid.log").read_text(errors="replace").lower()
    t.check("stale" in said or "out of date" in said or "events" in said, "the log does not say why the member is left out")
    array.stop()
    t.check(sha(array.members[2]) == before, "the stale member was written to")


def test_foreign_member(t):
    array, ledger = served_once(t)
    stranger = [t.dir / f"s{i}.img" for i in range(3)]
    t.run(URAID, "create", "--level", "5", "--name", "stranger", "--size", "16M", "--assume-clean", *stranger)
    refuse_or_ignore(t, array, [*array.members[:3], stranger[0]], ledger, ["another array|different|foreign|uuid|belongs"])


def refuse_or_ignore(t, array, members, ledger, words):
    """A member that does not belong may be refused or left out; silently taken it may not be."""
    before = sha(members[-1])
    argv = ["serve", "--listen", f"unix:{array.socket}", "--control", array.control]
    probe = subprocess.Popen([str(a) for a in (URAID, *argv, *members)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    t.defer(reap, probe)
    until("uraid to serve or to refuse", lambda: probe.poll() is not None or listening(array.socket), 20)
    if probe.poll() is None:
        complaints = stamps.verify(array.uri, ledger, strict=True)
        t.check(not complaints, f"wrong data: {complaints[:3]}")
        probe.terminate()
    said = probe.communicate(timeout=20)[1].decode(errors="replace").lower()
    t.say(said)
    for word in words:
        t.check(any(w in said for w in word.split("|")), f"nothing said about `{word}`: {said[-300:]}")
    t.check("panicked" not in said, "uraid panicked")
    t.check(sha(members[-1]) == before, "the odd member was written to")


def test_duplicated_member(t):
    array, ledger = served_once(t)
    shutil.copy(array.members[0], t.dir / "copy.img")
    refuse_or_ignore(t, array, [*array.members, t.dir / "copy.img"], ledger, ["same|twice|duplicate|copy|both"])


def test_the_same_path_twice(t):
    array, ledger = served_once(t)
    refuse_or_ignore(t, array, [*array.members, array.members[0]], ledger, ["same|twice|duplicate|both"])


def test_truncated_member(t):
    array, ledger = served_once(t)
    os.truncate(array.members[3], 5 << 20)
    refuse_or_ignore(t, array, array.members, ledger, ["small|short|truncated|size|bytes"])


def test_garbage_superblock(t):
    array, ledger = served_once(t)
    with open(array.members[3], "r+b") as f:
        f.seek(4096 + 80)
        f.write(os.urandom(64))
    refuse_or_ignore(t, array, array.members, ledger, ["checksum|damaged|superblock"])


def test_no_superblock_at_all(t):
    array, ledger = served_once(t)
    with open(array.members[3], "r+b") as f:
        f.write(bytes(16384))
    refuse_or_ignore(t, array, array.members, ledger, ["superblock"])


def test_empty_file_and_directory_and_nothing(t):
    array, _ = served_once(t, n=3)
    odd = {"an empty file": t.dir / "empty.img", "a directory": t.dir / "folder", "nothing": t.dir / "nothing.img"}
    odd["an empty file"].touch()
    odd["a directory"].mkdir()
    for what, path in odd.items():
        t.say(what)
        refuse_serve(t, array, [array.members[0], path], [str(path).lower()])


def test_unreadable_member(t):
    """A member that answers every read with EIO: named, left out or refused, and nothing lost."""
    array, ledger = served_once(t, n=3)
    bad, _trigger = faulty_file(t, array.members[2], "pread")
    _trigger.touch()
    refuse_or_ignore_unreadable(t, array, [*array.members[:2], bad], ledger)


def refuse_or_ignore_unreadable(t, array, members, ledger):
    """As `refuse_or_ignore`, for a member whose bytes cannot be compared."""
    argv = [URAID, "serve", "--listen", f"unix:{array.socket}", "--control", array.control, *members]
    probe = t.daemon("unreadable", *argv)
    until("uraid to serve or to refuse", lambda: probe.poll() is not None or listening(array.socket), 20)
    if probe.poll() is None:
        complaints = stamps.verify(array.uri, ledger, strict=True)
        t.check(not complaints, f"wrong data: {complaints[:3]}")
        reap(probe)
    said = (t.dir / "unreadable.log").read_text(errors="replace")
    t.check(str(members[-1]) in said, f"the member is not named: {said[-300:]}")


def faulty_file(t, image, operation, label="faulty"):
    """`image` as a file whose reads (`pread`) or writes (`pwrite`) fail while the trigger file exists."""
    need("nbdkit", "nbdfuse", "fusermount3")
    socket, point, trigger = t.dir / f"{label}.sock", t.dir / label, t.dir / f"{label}.on"
    point.mkdir()
    server = t.daemon("nbdkit", "nbdkit", "-f", "-U", socket, "--filter=error", "file", image, "error=EIO",
             f"error-{operation}-rate=100%", f"error-{operation}-file={trigger}")
    until("nbdkit", lambda: listening(socket))
    fuse = t.daemon("nbdfuse-" + label, "nbdfuse", point / "disk", f"nbd+unix:///?socket={socket}")

    def unmount():
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, capture_output=True)
        reap(fuse)
        reap(server)

    t.unmounts.append(unmount)
    t.defer(unmount)
    until("nbdfuse", lambda: (point / "disk").exists())
    return point / "disk", trigger


def test_write_errors_fail_the_member_and_lose_nothing(t):
    array = Array(t, 5, 3, size="16M")
    bad, trigger = faulty_file(t, array.members[1], "pwrite")
    array.members[1] = bad
    array.serve()
    running = stamps.Load(array.uri, 8 << 11, 8)
    until("a few writes", lambda: running.ledger.writes >= 60)
    trigger.touch()
    until("the member to be failed", lambda: array.status().degraded == 1)
    count = running.ledger.writes
    until("writes to go on", lambda: running.ledger.writes >= count + 60)
    running.end()
    t.check(not any(w.error for w in running.workers), "a client saw the member's error")
    complaints = stamps.verify(array.uri, running.ledger, strict=True)
    t.check(not complaints, f"wrong data: {complaints[:3]}")
    array.stop()


def test_read_errors_are_recovered(t):
    array = Array(t, 6, 4, size="16M")
    bad, trigger = faulty_file(t, array.members[1], "pread")
    array.members[1] = bad
    array.serve()
    running = stamps.Load(array.uri, 8 << 11, 9)
    until("a few writes", lambda: running.ledger.writes >= 60)
    running.end()
    array.stop()
    t.run("sh", "-c", "echo 1 >/proc/sys/vm/drop_caches")
    array.serve()
    trigger.touch()
    complaints = stamps.verify(array.uri, running.ledger, strict=True)
    t.check(not complaints, f"wrong data while a member cannot be read: {complaints[:3]}")
    said = (t.dir / "nbdkit.log").read_text(errors="replace")
    t.check("injecting EIO" in said, "no read failed: the test would prove nothing")
    array.stop()


def test_more_failures_than_parity_covers(t):
    """Two members of a RAID 5 refuse writes: the client hears EIO, the daemon lives, older data is not lost."""
    import nbd
    array = Array(t, 5, 3, size="16M")
    faults = [faulty_file(t, array.members[i], "pwrite", f"faulty{i}") for i in (0, 1)]
    plain, array.members[:2] = array.members[:2], [path for path, _ in faults]
    array.serve()
    running = stamps.Load(array.uri, 8 << 11, 11)
    until("a few writes", lambda: running.ledger.writes >= 60)
    running.end()
    handle = nbd.NBD()
    handle.connect_uri(array.uri)
    handle.flush()
    for _, trigger in faults:
        trigger.touch()
    refused = 0
    for mib in range(10, 14):
        try:
            handle.pwrite(bytes(1 << 20), mib << 20)
        except nbd.Error:
            refused += 1
    t.check(refused == 4, f"{4 - refused} of 4 writes were acknowledged although two members refuse them")
    t.check(array.status().value["state"] == "broken", "the status does not say that the array is broken")
    array.ctl("stop", ok=None)
    until("the daemon to end", lambda: array.process.poll() is not None)
    for _, trigger in faults:
        trigger.unlink()
    array.members[:2] = plain
    for unmount in t.unmounts:
        unmount()
    array.serve("--force")
    complaints = stamps.verify(array.uri, running.ledger, strict=True)
    t.check(not complaints, f"data from before the failures is lost: {complaints[:3]}")
    array.stop()


def test_disk_full_under_a_member(t):
    """A sparse member on a file system that fills up: the member fails, the data stay, the daemon lives."""
    small = t.dir / "small"
    small.mkdir()
    t.run("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small)
    t.defer(subprocess.run, ["umount", "-l", str(small)])
    array = Array(t, 5, 3, size="64M", create=False)
    array.members[2] = small / "m2.img"
    t.run(URAID, "create", "--level", "5", "--name", "full", "--size", "64M", "--assume-clean", *array.members)
    array.serve()
    running = stamps.Load(array.uri, 96 << 11, 10)
    until("the full member to be failed", lambda: array.status().degraded == 1, 90)
    count = running.ledger.writes
    until("writes to go on", lambda: running.ledger.writes >= count + 60)
    running.end()
    t.check(not any(w.error for w in running.workers), "a client saw the full file system")
    complaints = stamps.verify(array.uri, running.ledger, strict=True)
    t.check(not complaints, f"wrong data: {complaints[:3]}")
    array.stop()
    said = (t.dir / "uraid.log").read_text(errors="replace").lower()
    t.check("no space" in said or "full" in said, "the log does not say that the disk is full")


def test_create_keeps_its_hands_off(t):
    """A member with a file system, a partition table or another array on it needs --force."""
    need("mkfs.ext4")
    fresh = [t.dir / f"f{i}.img" for i in range(2)]
    array, _ = served_once(t, n=3)
    file_system, table = t.dir / "fs.img", t.dir / "table.img"
    t.run("truncate", "-s", "16M", file_system)
    t.run("mkfs.ext4", "-q", "-F", file_system)
    table.write_bytes(bytes(446) + bytes([0, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 255, 63, 0, 0]) + bytes(48) + b"\x55\xaa"
                      + bytes((16 << 20) - 512))
    for taken, words in ((file_system, ["ext|file system"]), (table, ["partition|mbr|dos"]),
                         (array.members[0], ["array|raid|superblock"])):
        before = sha(taken)
        refuse(t, ["create", "--level", "5", "--name", "x", "--size", "16M", *fresh, taken], [*words, "--force"])
        t.check(sha(taken) == before, f"{taken} was written to")
        t.check(not any(f.exists() for f in fresh), "a refused create left member files behind")
    t.run(URAID, "create", "--level", "5", "--name", "x", "--size", "16M", "--force", *fresh, file_system)


def test_impossible_geometry(t):
    members = [t.dir / f"g{i}.img" for i in range(8)]
    base = ["create", "--name", "x", "--size", "16M"]
    for more, words in [
        (["--level", "5", *members[:2]], ["3|three|members"]),
        (["--level", "6", *members[:3]], ["4|four|members"]),
        (["--level", "5", "--chunk", "48K", *members[:3]], ["power of two|chunk"]),
        (["--level", "5", "--chunk", "2K", *members[:3]], ["chunk"]),
        (["--level", "5", "--layout", "sideways", *members[:3]], ["layout"]),
        (["--level", "1", *members[:3]], ["level"]),
        (["--level", "5", members[0], members[0], members[1]], ["twice|same|duplicate"]),
        (["--level", "5", "--chunk", "16M", *members[:3]], ["small|size|room"]),
    ]:
        refuse(t, base + more, words)
        t.check(not any(m.exists() for m in members), "a refused create left member files behind")


# Text of the file, and words that the message must hold. All errors come at once, with line and column.
CONFIGS = {
    "wrong types": ('name = 5\nmembers = "a"\n', [":1:", ":2:", "name", "members"]),
    "unknown keys": ('members = ["/a", "/b", "/c"]\nnonsense = 1\n[io]\nengin = "sync"\n', [":2:", ":4:", "nonsense", "engin"]),
    "not TOML": ("this is = = not toml\n", [":1:"]),
    "empty": ("", ["members"]),
    "binary": ("\x00\x01\x02", []),
    "member twice": ('members = ["/a", "/b", "/a"]\n', ["/a"]),
    "bad address": ('members = ["/a", "/b", "/c"]\nlisten = ["ftp:x"]\n', [":2:", "listen|address"]),
}


def test_bad_configurations(t, which):
    text, words = CONFIGS[which]
    path = t.dir / "bad.toml"
    path.write_text(text)
    refuse(t, ["serve", path], ["bad.toml", *words])
    refuse(t, ["check-config", path], ["bad.toml", *words])


test_bad_configurations.each = [(name,) for name in CONFIGS]
