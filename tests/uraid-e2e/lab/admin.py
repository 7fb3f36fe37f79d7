"""What an administrator does with uraid on the machine, and what he looks at afterwards."""

import json
import re
import shutil
import time

from harness.case import Failed

# What the kernel says when an error reaches a file system or a block device.
TROUBLE = re.compile(r"I/O error|EXT4-fs (error|warning)|XFS .*([Cc]orruption|error|shut ?down)|Remounting filesystem read-only"
                     r"|JBD2.*(abort|error)|blk_update_request.*error|Attempted send on invalid socket|hung_task|blocked for more than|BUG:|Oops")

LOAD = """[Unit]
Description=fio verify on /mnt/%i

[Service]
ExecStart=/usr/local/bin/load /mnt/%i
StandardOutput=truncate:/run/load.%i.log
StandardError=inherit
KillMode=mixed
"""

# Passes of fio until somebody says stop. Each writes a file whole and reads all of it back; the passes take
# turns at the page cache. A pass that fails ends the load, and fio's words are in the journal.
LOAD_SCRIPT = r"""#!/bin/bash
stop=/run/load.stop.$(basename "$1")
rm -f "$stop"
pass=0
while [ ! -e "$stop" ]; do
    pass=$((pass + 1))
    if [ $((pass % 2)) = 0 ]; then how="--direct=1 --ioengine=libaio --iodepth=8"; else how="--direct=0 --ioengine=psync --fsync=64 --end_fsync=1"; fi
    fio --name=load --directory="$1" --filename=load.bin --size=24M --rw=randwrite --bsrange=4k-64k --bs_unaligned=0 --blockalign=4k \
        --randseed=$RANDOM$pass --verify=crc32c --verify_fatal=1 --do_verify=1 --invalidate=1 $how \
        --output-format=json --output=/run/load.json.$$ --eta=never
    code=$?
    if [ $code != 0 ]; then
        grep -v '^[ {}"]' /run/load.json.$$
        echo "pass $pass: fio ended with $code"
        exit 1
    fi
    longest=$(python3 -c 'import json,sys; t=open(sys.argv[1]).read(); j=json.loads(t[t.index("{"):])["jobs"][0]; print(max(j[x]["clat_ns"]["max"] for x in ("read","write")+("sync",) if "clat_ns" in j[x])//1000000)' /run/load.json.$$)
    echo "pass $pass ok, longest request $longest ms"
done
echo "ended after $pass passes"
"""


class Volume:
    """One volume: its name, members, file system and where that is mounted."""

    def __init__(self, name, level, members, fs, chunk="64K"):
        self.name, self.level, self.members, self.fs, self.chunk = name, level, list(members), fs, chunk
        self.link = f"/dev/uraid/{name}"
        self.mount = f"/mnt/{name}"
        self.unit = f"uraid@{name}.service"

    def config(self):
        """The text of /etc/uraid/NAME.toml."""
        members = ", ".join(f'"{m}"' for m in self.members)
        return f'name = "{self.name}"\nmembers = [{members}]\ndevice = "auto"\n'


class Admin:
    """The verbs. Each fails the step when the machine does not do what it should."""

    def __init__(self, story):
        self.story, self.machine = story, story.machine
        self.sh = story.machine.sh
        self.trouble_seen = self.trouble_last = 0.0

    # ---- the package

    def bring(self, path, name=None):
        """A file of this host into the guest; returns its path there."""
        name = name or path.name
        shutil.copy(path, self.machine.share / name)
        self.sh(f"cp /host/{name} /var/tmp/{name}", log=False)
        return f"/var/tmp/{name}"

    def write(self, path, text, mode="644"):
        """Writes a file in the guest."""
        self.sh(f"mkdir -p {path.rsplit('/', 1)[0]}\ncat > {path} <<'END-OF-FILE'\n{text}\nEND-OF-FILE\nchmod {mode} {path}", log=False)
        self.story.say(f"# wrote {path}:\n{text.rstrip()}")

    def install(self, package):
        """dpkg -i; returns the version that is installed now."""
        self.sh(f"DEBIAN_FRONTEND=noninteractive dpkg -i {package}", seconds=180)
        return self.sh("dpkg-query -W -f '${Version}' uraid").text

    # ---- volumes

    def configure(self, volume):
        """Writes the configuration and has it checked."""
        self.write(f"/etc/uraid/{volume.name}.toml", volume.config())
        self.sh(f"uraid check-config /etc/uraid/{volume.name}.toml")

    def create(self, volume, options=""):
        """uraid create."""
        self.sh(f"uraid create --level {volume.level} --chunk {volume.chunk} --name {volume.name} {options} {' '.join(volume.members)}")

    def status(self, volume):
        """`uraid status --json` (docs/json.md)."""
        return json.loads(self.sh(f"uraid status --json {volume.name}", log=False).out)

    def until(self, what, condition, seconds=120, every=0.3):
        """Polls until `condition` is true and returns what it returned."""
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                raise Failed(f"waited {seconds} s for: {what}")
            time.sleep(every)

    def wait_whole(self, volume, seconds=180):
        """Waits until every role has a member in sync and nothing is resynced."""
        def whole():
            now = self.status(volume)
            return now if now["degraded"] == 0 and now["sync"] is None else None
        return self.until(f"{volume.name} to be whole", whole, seconds)

    def device(self, volume):
        """The kernel's name of the volume's device, as nbd0."""
        return self.sh(f"basename $(readlink -f {volume.link})", log=False).text

    def times(self, volume):
        """(start to ready, start to the device link), in seconds, of the unit's last start."""
        shown = self.sh(f"systemctl show {volume.unit} -p ExecMainStartTimestampMonotonic -p ActiveEnterTimestampMonotonic").text
        at = {k: int(v) / 1e6 for k, v in (line.split("=") for line in shown.splitlines())}
        device = self.sh(f"systemctl show $(systemd-escape --path --suffix=device {volume.link}) -P ActiveEnterTimestampMonotonic").text
        started = at["ExecMainStartTimestampMonotonic"]
        return at["ActiveEnterTimestampMonotonic"] - started, int(device or 0) / 1e6 - started

    def main_pid(self, volume):
        """The daemon's process id in the guest."""
        return int(self.sh(f"systemctl show -P MainPID {volume.unit}", log=False).text)

    def mkfs(self, volume):
        """A file system, and its line in fstab, as the man page says."""
        force = {"ext4": "-q -F", "xfs": "-q -f"}[volume.fs]
        self.sh(f"mkfs.{volume.fs} {force} {volume.link}", seconds=120)
        self.sh(f"mkdir -p {volume.mount} && echo '{volume.link} {volume.mount} {volume.fs} nofail,x-systemd.after={volume.unit} 0 2' >> /etc/fstab"
                " && systemctl daemon-reload", seconds=120)
        self.sh(f"systemctl start {escape(volume.mount)}.mount && findmnt {volume.mount}")

    def mounted(self, volume):
        """Whether its file system is mounted."""
        return self.sh(f"findmnt -n -o SOURCE,FSTYPE,OPTIONS {volume.mount}", ok=None, log=False).code == 0

    # ---- load

    def load_ready(self):
        """Puts the load's unit and script in place."""
        self.write("/etc/systemd/system/load@.service", LOAD)
        self.write("/usr/local/bin/load", LOAD_SCRIPT, "755")
        # They are the machine's own, and a power cut is to be no loss of what the test stands on.
        self.sh("sync")

    def load_start(self, *volumes):
        """Starts fio verify on these volumes and waits until it writes."""
        for volume in volumes:
            self.sh(f"rm -f /run/load.stop.{volume.name}; systemctl reset-failed load@{volume.name} 2>/dev/null; systemctl start load@{volume.name}")
        for volume in volumes:
            before = self.written(volume)
            self.until(f"fio to write on {volume.name}", lambda v=volume, b=before: self.written(v) > b + 1000, 60)

    def written(self, volume):
        """Sectors written and read by the kernel on the volume's device since it is there."""
        stat = self.sh(f"cat /sys/block/{self.device(volume)}/stat", log=False).text.split()
        return int(stat[2]) + int(stat[6])

    def load_alive(self, volume):
        """Fails when fio ended."""
        state = self.sh(f"systemctl show load@{volume.name} -P ActiveState", log=False).text
        if state != "active":
            said = self.load_said(volume)
            raise Failed(f"fio on {volume.mount} is {state}: {said[-600:]}")

    def load_goes_on(self, *volumes, seconds=120):
        """Waits until requests are answered again, after something that may have stopped them."""
        for volume in volumes:
            before = self.written(volume)
            def moved(v=volume, b=before):
                self.load_alive(v)
                return self.written(v) > b + 500
            self.until(f"I/O on {volume.name} to go on", moved, seconds)

    def load_end(self, *volumes, seconds=240):
        """Lets fio finish its pass; returns (passes, the longest request in ms)."""
        found = []
        self.sh("; ".join(f"touch /run/load.stop.{v.name}" for v in volumes))
        for volume in volumes:
            ended = self.until(f"fio on {volume.name} to end", lambda v=volume: self.load_over(v), seconds)
            said = self.load_said(volume)
            if ended != "success" or "ended after" not in said:
                raise Failed(f"fio on {volume.mount}: {ended}: {said[-800:]}")
            longest = [int(x) for x in re.findall(r"longest request (\d+) ms", said)]
            found.append((len(longest), max(longest, default=0)))
        return sum(p for p, _ in found), max(ms for _, ms in found)

    def load_over(self, volume):
        """The unit's result, once fio is not active any more."""
        shown = self.sh(f"systemctl show load@{volume.name} -p ActiveState -p Result", log=False).text
        at = dict(line.split("=", 1) for line in shown.splitlines())
        return at["Result"] if at["ActiveState"] in ("inactive", "failed") else None

    def load_said(self, volume):
        """What the load printed since it was started."""
        return self.sh(f"cat /run/load.{volume.name}.log", ok=None).text

    # ---- looking

    def no_trouble(self, *volumes, allow=""):
        """No error reached a file system or the block layer since the last look. `allow`: lines that may be there."""
        new = []
        for line in self.sh("dmesg", log=False).out.splitlines():
            at = re.match(r"\[ *([\d.]+)\]", line)
            if at and float(at.group(1)) > self.trouble_seen:
                new.append(line)
                self.trouble_last = float(at.group(1))
        self.trouble_seen = self.trouble_last
        bad = [x for x in new if TROUBLE.search(x) and not (allow and re.search(allow, x))]
        if bad:
            raise Failed("the kernel says: " + " | ".join(bad[:8]))
        for volume in volumes:
            options = self.sh(f"findmnt -n -o OPTIONS {volume.mount}").text
            self.story.check(options.startswith("rw"), f"{volume.mount} is mounted {options}")
            if volume.fs == "ext4":
                count = self.sh(f"cat /sys/fs/ext4/{self.device(volume)}/errors_count").text
                self.story.check(count == "0", f"ext4 on {volume.name} counts {count} errors")

    def new_boot(self):
        """The kernel's log begins anew."""
        self.trouble_seen = self.trouble_last = 0.0

    def put(self, volume, name, mib):
        """A file of random bytes, flushed; returns its digest."""
        return self.sh(f"head -c {mib}M /dev/urandom > {volume.mount}/{name} && sync -f {volume.mount} && sha256sum < {volume.mount}/{name}", seconds=120).text.split()[0]

    def digest(self, path):
        """A file's digest, read from the device and not from memory."""
        return self.sh(f"echo 1 > /proc/sys/vm/drop_caches; sha256sum < {path}", seconds=120).text.split()[0]

    def journal(self, volume, boot="0", extra=""):
        """What the unit said in a boot (-1 is the one before)."""
        return self.sh(f"journalctl -b {boot} -u {volume.unit} -o short-monotonic --no-pager {extra}", log=False).text


def escape(path):
    """systemd's name of a mount point."""
    return path.strip("/").replace("-", r"\x2d").replace("/", "-")
