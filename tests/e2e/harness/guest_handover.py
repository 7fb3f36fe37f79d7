#!/usr/bin/env python3
"""What runs in the guest kernel to see that members which something holds are left alone, and by what they are
said to be held.

    guest_handover.py URAID MEMBER MEMBER MEMBER SPARE

Members are blank disks. Each case makes a holder, has uraid refuse the device, runs the commands that the refusal
names, and sees the device free again. Prints `word value` lines; ends with 0 if all went as it should.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.guestlib import check, run, until  # noqa: E402

WORK = Path("/run/handover")


class Guest:
    """The devices, and the uraid that is to leave them alone."""

    def __init__(self, uraid, disks):
        self.uraid, self.disks, self.members, self.spare = uraid, disks, disks[:3], disks[3]

    def held(self, device):
        """What uraid says against taking `device`, or None. A member that cannot be made keeps it from writing."""
        done = run(self.uraid, "create", "--force", "--level", "5", "--name", "x", device, "/proc/no/a", "/proc/no/b",
                   ok=False)
        check(done.returncode == 1 and "nothing was changed" in done.stderr, f"create did not fail: {done}")
        lines = [line for line in done.stderr.splitlines() if line.strip().startswith(f"{device}: ")]
        return lines[0].strip() if lines else None

    def case(self, word, device, *want):
        """`device` is refused with each of `want` in the reason; what is named there frees it."""
        said = self.held(device)
        print(word, said, flush=True)
        check(said is not None, f"{word}: {device} is taken although it is held")
        check("it is in use: " in said, f"{word}: {said}")
        for part in want:
            check(part in said, f"{word}: {part!r} is not in {said!r}")
        commands = re.findall("`([^`]+)`", said)
        check(commands, f"{word}: no command in {said!r}")
        for command in commands:
            words = command.replace("uraid ", f"{self.uraid} ", 1) if command.startswith("uraid ") else command
            run("sh", "-c", words)
        until(f"{word}: {device} to be free after {commands}", lambda: self.held(device) is None)

    def array(self):
        """The kernel's array over the members, held by md."""
        run("mdadm", "--assemble", "--run", "/dev/md0", *self.members)

    def serve(self, *members):
        """A uraid over members, serving."""
        control = WORK / "control"
        daemon = subprocess.Popen([self.uraid, "serve", "--listen", f"unix:{WORK}/nbd", "--control", control,
                                   *members], stderr=open(WORK / "log", "ab"))
        until("uraid to serve", lambda: control.exists() or daemon.poll() is not None)
        check(daemon.poll() is None, Path(WORK / "log").read_text())
        return daemon

    def kernel_holders(self):
        """md, running, mounted and not started; device-mapper; swap; mounts."""
        run("mdadm", "--create", "/dev/md0", "--run", "--level=5", "-n", "3", "--assume-clean", *self.members)
        self.case("md", self.members[1], "a member of the kernel's array md0", "`mdadm --stop /dev/md0`")
        self.array()
        run("mkfs.ext4", "-q", "-F", "/dev/md0")
        os.makedirs("/run/mnt", exist_ok=True)
        run("mount", "-t", "ext4", "/dev/md0", "/run/mnt")
        self.case("md_mounted", self.members[0], "md0, which is mounted on /run/mnt", "`umount /run/mnt` and then")
        run("mdadm", "--incremental", self.members[2], ok=False)
        self.case("md_not_started", self.members[2], "(not started)", "mdadm --stop /dev/md")
        run("dmsetup", "create", "over", "--table", f"0 65536 linear {self.spare} 0")
        self.case("dm", self.spare, "the device-mapper device over", "`dmsetup remove over`")
        run("mkswap", self.spare)
        run("swapon", self.spare)
        self.case("swap", self.spare, "swapped to", "`swapoff ")
        run("mkfs.ext4", "-q", "-F", self.spare)
        run("mount", "-t", "ext4", self.spare, "/run/mnt")
        self.case("mount", self.spare, "mounted on /run/mnt", "`umount /run/mnt`")

    def loops(self):
        """A loop device does not claim what backs it, so uraid has to look."""
        device = run("losetup", "--show", "-f", self.spare).stdout.strip()
        self.case("loop", self.spare, f"what backs {device}", f"`losetup --detach {device}`")
        file = WORK / "file"
        run("truncate", "-s", "32M", file)
        device = run("losetup", "--show", "-f", file).stdout.strip()
        run("mkswap", device)
        run("swapon", device)
        self.case("loop_file", file, f"what backs {device}, which is swapped to", f"`losetup --detach {device}`")

    def another_uraid(self):
        """While uraid serves, neither a second one nor the kernel gets at a member, and afterwards both do."""
        daemon = self.serve(*self.members)
        (WORK / "mdadm.conf").write_text("DEVICE /dev/ubd*\n")
        for argv in (["--assemble", "--scan", "-c", WORK / "mdadm.conf"],
                     ["--incremental", "-c", WORK / "mdadm.conf", self.members[0]],
                     ["--assemble", "--run", "--force", "/dev/md0", *self.members]):
            done = run("mdadm", *argv, ok=False)
            print("mdadm", done.returncode, (done.stderr + done.stdout).strip().replace("\n", " | "), flush=True)
            mdstat = Path("/proc/mdstat").read_text()
            check("ubd" not in mdstat, f"{argv}: the kernel has a member of a running uraid: {mdstat}")
        self.case("uraid", self.members[0], "open by a running uraid", f"`uraid stop --control {WORK}/control`")
        check(daemon.wait() == 0, Path(WORK / "log").read_text())
        files = [WORK / name for name in "abc"]
        run(self.uraid, "create", "--level", "5", "--name", "f", "--size", "8M", *files)
        daemon = self.serve(*files)
        self.case("uraid_file", files[1], "locked by a running uraid", "`uraid stop")
        check(daemon.wait() == 0, Path(WORK / "log").read_text())
        # Given back: the kernel takes it, and serve says who has it now.
        self.array()
        done = run(self.uraid, "serve", "--listen", f"unix:{WORK}/n2", "--control", WORK / "c2", *self.members, ok=False)
        print("serve", done.returncode, done.stderr.strip().replace("\n", " | "), flush=True)
        check(done.returncode == 1 and "kernel's array md0" in done.stderr, f"{done}")

    def ignored_by_mdadm(self):
        """A line of mdadm.conf keeps it from arrays that are uraid's, which is what an initramfs needs."""
        run("mdadm", "--stop", "/dev/md0")
        uuid = re.search(r"Array UUID : (\S+)", run("mdadm", "--examine", self.members[0]).stdout)[1]
        conf = WORK / "ignore.conf"
        conf.write_text(f"DEVICE /dev/ubd*\nARRAY <ignore> metadata=1.2 UUID={uuid}\n")
        run("mdadm", "--assemble", "--scan", "-c", conf, ok=False)
        for member in self.members:
            run("mdadm", "--incremental", "-c", conf, member, ok=False)
        check("ubd" not in Path("/proc/mdstat").read_text(), "mdadm does not ignore what it is told to")
        conf.write_text("DEVICE /dev/ubd*\n")
        run("mdadm", "--assemble", "--scan", "-c", conf)
        check("ubd" in Path("/proc/mdstat").read_text(), "the test would not notice")
        print("ignored yes", flush=True)


def main():
    """Entry point."""
    WORK.mkdir(exist_ok=True)
    guest = Guest(sys.argv[1], sys.argv[2:])
    guest.kernel_holders()
    guest.loops()
    guest.another_uraid()
    guest.ignored_by_mdadm()
    print("done yes", flush=True)


if __name__ == "__main__":
    main()
