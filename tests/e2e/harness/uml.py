"""A real Linux kernel with md, as a process: user-mode Linux over this host's files.

The guest sees the host's root read-only and the given files as /dev/ubda, /dev/ubdb ...; a shell
script runs as root in it and its output comes back as text. Boot, script and power-off take about
three seconds. Needs no KVM, no modules of the host and no root.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .case import Failed, need

MODULES = "/usr/lib/uml/modules"

INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /run/out /run/mdadm
mount -t hostfs none /run/out -o {out}
modprobe -d {out} -a {modules}
(sh -e {out}/script) > /run/out/output 2>&1
echo $? > /run/out/code
sync
echo 1 > /proc/sys/kernel/sysrq
echo o > /proc/sysrq-trigger
sleep 60
"""

# Kernel md in words: assemble what the disks hold, read all of it, have the kernel check parity, stop.
ASSEMBLE_AND_CHECK = """
mdadm --assemble --run /dev/md0 {devices}
mdadm --wait /dev/md0 || true
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
echo check > /sys/block/md0/md/sync_action
while [ "$(cat /sys/block/md0/md/sync_action)" != idle ]; do :; done
echo "mismatch_cnt $(cat /sys/block/md0/md/mismatch_cnt)"
echo "degraded $(cat /sys/block/md0/md/degraded)"
echo "state $(cat /sys/block/md0/md/array_state)"
mdadm --stop /dev/md0
"""


def run(t, script, disks, seconds=90):
    """Boots a guest with `disks`, runs `script` in it, returns its output; fails if the script does."""
    return Guest(t, script, disks).wait(seconds)


class Guest:
    """One boot, from the start of the kernel's process to its power-off or its end by kill -9."""

    def __init__(self, t, script, disks=(), mem="512M", modules="raid456"):
        need("linux.uml", "mdadm", "taskset")
        self.t, self.out = t, guest_visible_dir(t)
        (self.out / "lib").mkdir(parents=True)
        (self.out / "lib" / "modules").symlink_to(MODULES)
        (self.out / "init").write_text(INIT.format(out=self.out, modules=modules))
        (self.out / "init").chmod(0o755)
        (self.out / "script").write_text(script)
        self.process = start(t, self.out, disks, mem)
        t.defer(self.kill)

    def wait(self, seconds):
        """Waits for the power-off; returns what the script printed, and fails if it failed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"the guest kernel did not power off within {seconds} s; see uml-console.log") from late
        finally:
            self.kill()
        output = read(self.out / "output")
        self.t.say("guest said:\n" + output)
        if read(self.out / "code").strip() != "0":
            raise Failed(f"the script in the guest failed: {output.strip()[-400:] or 'no output; see uml-console.log'}")
        return output

    def kill(self):
        """kill -9 of the kernel, if it still runs: a crash of the machine. What the guest had not written out is lost."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()


def on_one_core(argv):
    """The command, kept on one core. Such a kernel has one processor, made of processes that wake each other at each
    system call and page fault of the guest; across cores that takes three times as long (boot of a whole Debian on
    two cores of a virtual machine: 41 s, on one: 13 s)."""
    return ["taskset", "-c", str(max(os.sched_getaffinity(0))), *argv]


def guest_visible_dir(t):
    """A directory that the guest sees at the same path: not below /dev, /run, /proc or /sys, its own mounts."""
    out = Path(tempfile.mkdtemp(prefix="uraid-uml.", dir="/var/tmp"))
    t.defer(shutil.rmtree, out, True)
    return out


def start(t, out, disks, mem):
    """Starts the process of a kernel."""
    argv = ["linux.uml", f"mem={mem}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={out}/init",
            "con=null", "con0=null,fd:1", "con1=null", f"uml_dir={out}", "quiet"]
    argv += [f"ubd{i}dt={disk}" for i, disk in enumerate(disks)]
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(t.dir)
    with open(t.dir / "uml-console.log", "ab") as console:
        return subprocess.Popen(on_one_core(argv), stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                env={**os.environ, "TMPDIR": place}, start_new_session=True)


def read(path):
    """A file's text, or nothing."""
    return Path(path).read_text(errors="replace") if path.exists() else ""


def device_names(count):
    """/dev/ubda /dev/ubdb ..."""
    return [f"/dev/ubd{chr(ord('a') + i)}" for i in range(count)]


def facts(output):
    """The `word value` lines of a guest script's output, as a dict."""
    pairs = (line.split(" ", 1) for line in output.splitlines() if " " in line)
    return {k: v.strip() for k, v in pairs}
