"""What an operator does, and what must be refused to him: configuration file, TCP, resync, wrong additions."""

import json
import os

from harness import mdlayout, stamps
from harness.array import Array
from harness.case import URAID, need, until

from test_clients import export_sha


def test_resync_after_create_makes_parity_match(t, level, n):
    """Members full of old bytes: without --assume-clean the resync makes parity of them."""
    members = [t.dir / f"m{i}.img" for i in range(n)]
    for member in members:
        member.write_bytes(bytes(16384) + os.urandom((16 << 20) - 16384))
    array = Array(t, level, n, size="16M", options=("--force",))
    t.check(mdlayout.check_parity(array.members).bad, "the members matched before the resync: nothing would be proven")
    array.serve()
    running = stamps.Load(array.uri, 8 << 11, 21)
    array.wait_rebuilt()
    running.end()
    sha = export_sha(t, array.uri)
    array.stop()
    report = mdlayout.check_parity(array.members)
    t.check(not report.bad, f"after the resync: {report}")
    array.serve()
    t.check(export_sha(t, array.uri) == sha, "the resync changed data")
    array.stop()


def test_served_from_a_configuration_file_over_tcp(t):
    need("nbdinfo", "qemu-io")
    array = Array(t, 5, 3, name="books")
    config = t.dir / "books.toml"
    listed = ", ".join(f'"{m}"' for m in array.members)
    config.write_text(f'name = "books"\nmembers = [{listed}]\n'
                      f'listen = ["unix:{array.socket}", "tcp:127.0.0.1:0"]\ncontrol = "{array.control}"\n')
    t.run(URAID, "check-config", config)
    array.serve(members=[config], plain=True)
    exports = array.status().value["exports"]
    tcp = next(uri for uri in exports if uri.startswith("nbd://"))
    for uri in (tcp, array.uri, f"nbd+unix:///books?socket={array.socket}"):
        size = int(t.run("nbdinfo", "--size", uri).stdout)
        t.check(size == array.status().value["size_bytes"], f"{uri} shows {size} bytes")
    t.run("nbdinfo", "--list", array.uri)
    t.run("nbdinfo", "nbd+unix:///films?socket=" + str(array.socket), ok=(1,))
    t.run("qemu-io", "-f", "raw", tcp, "-c", "write -P 0x42 1M 1M", "-c", "flush", "-c", "read -P 0x42 1M 1M")
    array.stop()


def test_beyond_parity_writes_are_refused(t):
    """A member that fails when no redundancy is left: writes are refused, the daemon lives, reads of what is left go on."""
    array = Array(t, 5, 4)
    array.serve()
    running = stamps.Load(array.uri, 8 << 11, 22)
    until("a few writes", lambda: running.ledger.writes >= 60)
    running.end()
    array.fail(0)
    again = array.ctl("fail", array.members[1], ok=None)
    import nbd
    handle = nbd.NBD()
    handle.connect_uri(array.uri)
    if again.returncode == 0:
        try:
            handle.pwrite(bytes(4096), 0)
            t.check(False, "a write was taken by an array that is broken")
        except nbd.Error as error:
            t.say(f"refused: {error}")
    else:
        t.check(array.status().degraded == 1, "a refused `fail` changed the array")
        handle.pwrite(bytes(4096), 0)
    t.check(array.status().value["state"] in ("broken", "degraded"), "the state is not told")
    handle.shutdown()
    array.ctl("stop", ok=None)
    until("the daemon to end", lambda: array.process.poll() is not None)


def test_a_wrong_addition_is_refused(t):
    """Too small, already a member, holding something, not there: named, refused, nothing written."""
    need("mkfs.ext4")
    array = Array(t, 5, 3, size="32M")
    array.serve()
    array.fail(0)
    small, taken = t.dir / "small.img", t.dir / "taken.img"
    t.run("truncate", "-s", "8M", small)
    t.run("truncate", "-s", "32M", taken)
    t.run("mkfs.ext4", "-q", "-F", taken)
    for path, words in ((small, "small|bytes|size"), (taken, "ext|file system"), (array.members[1], "already|member|in use"),
                        (t.dir / "nothing.img", "no such|exist|open"), (t.dir, "directory|device|file")):
        said = array.ctl("add", path, ok=None)
        t.check(said.returncode not in (0, 101), f"{path} was taken")
        t.check(any(w in said.stderr.lower() for w in words.split("|")), f"{path}: the message is `{said.stderr.strip()}`")
    t.check(array.status().degraded == 1, "a refused addition changed the array")
    array.add(0)
    array.wait_rebuilt()
    array.stop()
    t.check(not mdlayout.check_parity(array.members).bad, "parity after the rebuild")


def test_two_daemons_cannot_have_one_array(t):
    array = Array(t, 5, 3)
    array.serve()
    other = t.run(URAID, "serve", "--listen", f"unix:{t.dir}/other.sock", "--control", t.dir / "other.ctl", *array.members,
                  ok=None, timeout=20)
    t.check(other.returncode not in (0, 101), "a second daemon served the same members")
    t.check(any(w in other.stderr.lower() for w in ("in use", "busy", "lock", "another")), f"said: {other.stderr.strip()}")
    array.stop()


def test_status_json_has_its_version(t):
    array = Array(t, 6, 4)
    array.serve()
    value = json.loads(array.ctl("status", "--json").stdout)
    t.check(value["version"] == 1 and value["level"] == 6 and value["raid_disks"] == 4, f"status: {value}")
    t.check([m["role"] for m in value["members"]] == [0, 1, 2, 3], "roles")
    t.check(array.ctl("status").stdout.strip(), "the status for people is empty")
    array.stop()


test_resync_after_create_makes_parity_match.each = [(5, 3), (6, 5)]
