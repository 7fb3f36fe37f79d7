#!/usr/bin/env python3
"""What runs in the guest kernel: a volume that is a block device there, and what is done to its daemon.

    guest.py SCENARIO URAID MEMBER...

Members are blank disks. Prints `word value` lines; ends with 0 if all went as it should.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.guestlib import check, run, until  # noqa: E402
from harness.manager import Manager, control  # noqa: E402

WORK, MOUNT, CONTROL = Path("/run/guest"), Path("/run/mnt"), "/run/guest/control"
# What the kernel says when an error has reached the file system.
TROUBLE = re.compile(r"I/O error|EXT4-fs (error|warning)|XFS .*(error|shutdown|corruption)|lost async page write")

CONFIG = """
members = {members}
listen = ["unix:/run/guest/nbd.sock"]
control = "{control}"
device = "{device}"
[attach]
connections = {connections}
timeout_s = 3
[cache]
stripes_bytes = "16MiB"
request_bytes = "64MiB"
"""


def say(word, value):
    """A fact for the test."""
    print(word, value, flush=True)


class Volume:
    """The volume and its service."""

    def __init__(self, uraid, members, connections=2, device="auto"):
        self.uraid, self.members = uraid, members
        WORK.mkdir(exist_ok=True)
        MOUNT.mkdir(exist_ok=True)
        run(uraid, "create", "--level", "5", "--assume-clean", "--force", "--name", "tank", *members)
        self.config = WORK / "tank.toml"
        self.configure(connections, device)
        self.manager = Manager(WORK, [uraid, "serve", self.config], WORK / "uraid.log")

    def configure(self, connections, device="auto"):
        self.config.write_text(CONFIG.format(members=json.dumps([str(m) for m in self.members]), control=CONTROL,
                                             device=device, connections=connections))

    def start(self):
        self.manager.start()
        self.manager.wait_ready(120)

    def status(self):
        return control(CONTROL, "status")["ok"]["status"]

    def device(self):
        return self.status()["device"]["path"]

    def restart(self):
        reply = control(CONTROL, "hand_over")
        check("ok" in reply, f"no hand-over: {reply}; {self.manager.tail()}")
        check(self.manager.wait_end() == 0, f"no good end: {self.manager.tail()}")
        self.start()

    def crash(self):
        self.manager.kill()
        self.start()

    def settle(self):
        until("parity to match", lambda: self.status()["sync"] is None, 240)

    def stop(self):
        reply = control(CONTROL, "stop", 300)
        check("clean" in reply.get("ok", {}).get("message", ""), f"no clean stop: {reply}")
        check(self.manager.wait_end() == 0, f"no good end: {self.manager.tail()}")


def trouble():
    """What the kernel said of errors."""
    lines = run("dmesg").stdout.splitlines()
    return [line for line in lines if TROUBLE.search(line)]


def make(filesystem, device):
    """Makes and mounts a file system."""
    quick = ["-q", "-f"] if filesystem == "xfs" else ["-q", "-F", "-E", "lazy_itable_init=0"]
    run(f"mkfs.{filesystem}", *quick, device)
    run("mount", "-t", filesystem, device, MOUNT)


def fio(seconds):
    """Writes and verifies on the file system for so long."""
    return subprocess.Popen(
        ["fio", "--name=load", f"--directory={MOUNT}", "--rw=randrw", "--bsrange=4k-64k", "--blockalign=4k",
         "--size=24m", "--numjobs=2", "--ioengine=psync", "--fsync=32", "--verify=crc32c", "--verify_backlog=32",
         "--verify_fatal=1", "--time_based", f"--runtime={seconds}", "--group_reporting", "--output=/run/guest/fio"],
        cwd=WORK)


def under_load(volume, filesystem, act, times, seconds):
    """Does `act` again and again while fio writes to the file system; says how long requests waited."""
    make(filesystem, volume.device())
    load, longest = fio(seconds), 0.0
    until("fio to write", lambda: volume.status()["counters"]["written_bytes"] > 4 << 20)
    done = 0
    while load.poll() is None and done < times:
        began = time.monotonic()
        act()
        (MOUNT / "probe").write_text(str(done))
        run("sync", "-f", MOUNT / "probe")
        longest, done = max(longest, time.monotonic() - began), done + 1
        check(not trouble(), f"after {done} times: {trouble()}")
    check(load.wait() == 0, f"fio failed: {Path('/run/guest/fio').read_text()[-600:]}; {trouble()}")
    check(done == times, f"only {done} of {times} times within fio's run")
    check(not trouble(), f"the kernel says {trouble()}")
    say("times", done)
    say("longest", f"{longest:.2f}")
    run("umount", MOUNT)
    fsck = ["xfs_repair", "-n"] if filesystem == "xfs" else ["fsck.ext4", "-fn"]
    run(*fsck, volume.device())
    volume.settle()
    volume.stop()
    say("clean", "yes")


def restart(volume, filesystem, times):
    """Restarts under load."""
    volume.start()
    under_load(volume, filesystem, volume.restart, times, times * 4 + 5)


def crash(volume, filesystem, times):
    """kill -9 under load."""
    volume.start()
    under_load(volume, filesystem, volume.crash, times, times * 10 + 5)


def hold(volume):
    """A stop is refused while the device is used, SIGTERM waits, and nothing is lost."""
    volume.start()
    device = volume.device()
    make("ext4", device)
    refused = run(volume.uraid, "stop", "--control", CONTROL, ok=False)
    say("refused", f"{refused.returncode} {refused.stderr.strip()}")
    for _ in range(2):
        volume.manager.terminate()
    until("the daemon to say what it waits for", lambda: str(MOUNT) in volume.manager.status)
    (MOUNT / "late").write_bytes(b"x" * 65536)
    run("sync", "-f", MOUNT / "late")
    check(volume.manager.process.poll() is None, "the daemon ended under a mounted file system")
    run("umount", MOUNT)
    check(volume.manager.wait_end() == 0, f"no good end: {volume.manager.tail()}")
    size = int(Path(f"/sys/block/{Path(device).name}/size").read_text())
    say("detached", "yes" if size == 0 else f"no, {size} sectors")
    volume.start()
    run("mount", volume.device(), MOUNT)
    say("kept", "yes" if (MOUNT / "late").read_bytes() == b"x" * 65536 else "no")
    forced = run(volume.uraid, "stop", "--force", "--control", CONTROL, ok=False)
    say("forced", forced.returncode)
    check(volume.manager.wait_end() == 0, f"no good end: {volume.manager.tail()}")
    # What is cut off is still mounted. The volume gets another device, also after a crash.
    volume.start()
    say("another", volume.device())
    volume.crash()
    say("kept_another", volume.device())
    run("umount", "-l", MOUNT, ok=False)
    volume.settle()
    volume.stop()


def odd(volume):
    """Restarts with another configuration, members on the own device, a foreign device, one that is taken."""
    volume.start()
    device = volume.device()
    # A crash, and then another number of connections than the device has.
    volume.manager.kill()
    volume.configure(4)
    volume.start()
    check(volume.device() == device, "another device after a crash")
    # A restart that goes on without `device` in the configuration.
    volume.configure(2)
    text = volume.config.read_text()
    volume.config.write_text(text.replace('device = "auto"', ""))
    volume.restart()
    check(volume.device() == device, "the device is forgotten")
    volume.config.write_text(text)
    # One that fails, and then one that works.
    reply = control(CONTROL, "hand_over")
    check("ok" in reply and volume.manager.wait_end() == 0, f"no hand-over: {reply}")
    volume.manager.start(volume.uraid, "serve", "/nonexistent.toml")
    check(volume.manager.wait_end() != 0, "a start that cannot work worked")
    run("dd", "if=/dev/zero", "of=/run/guest/blank", "bs=1M", "count=1")
    volume.start()
    with open(device, "rb") as disk:
        disk.read(4096)
    # A member on the own device.
    own = run(volume.uraid, "add", "--force", "--control", CONTROL, device, ok=False)
    say("own", f"{own.returncode} {own.stderr.strip()}")
    check(not trouble(), f"the kernel says {trouble()}")
    volume.stop()
    # A device that somebody else has.
    volume.configure(2, "/dev/nbd0")
    volume.start()
    say("wanted", volume.device())
    other = volume.config.with_name("other.toml")
    volume.stop()
    other.write_text(text.replace('"auto"', '"/dev/sda"'))
    bad = run(volume.uraid, "check-config", other, ok=False)
    say("bad", f"{bad.returncode}")


def main():
    """Entry point."""
    scenario, uraid, members = sys.argv[1], sys.argv[2], sys.argv[3:]
    name, *arguments = scenario.split(",")
    volume = Volume(uraid, members)
    try:
        {"restart": restart, "crash": crash, "hold": hold, "odd": odd}[name](
            volume, *[int(a) if a.isdigit() else a for a in arguments])
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        print(volume.manager.tail(25), flush=True)
        print("\n".join(run("dmesg").stdout.splitlines()[-15:]), flush=True)
        if volume.manager.process and volume.manager.process.poll() is None:
            volume.manager.kill()
        sys.stdout.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
