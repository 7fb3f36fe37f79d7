#!/usr/bin/env python3
"""What runs in the guest kernel to see that arrays of mdadm's are found, named and described, and start by the
configuration that is written.

    guest_assemble.py URAID MEMBER...

Eight blank disks. Prints `word value` lines; ends with 0 if all went as it should.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.guestlib import check, run, until  # noqa: E402

WORK, CONFIGS, CONF = Path("/run/assemble"), Path("/run/assemble/etc"), Path("/run/assemble/mdadm.conf")


class Guest:
    """Three arrays: tank (raid5, three members), vault (raid6 of another host, one member gone), a mirror."""

    def __init__(self, uraid, disks):
        self.uraid = uraid
        self.tank, self.vault, self.mirror = disks[:3], disks[3:7], disks[7]

    def make(self):
        """The arrays, running, with something on tank, and links as udev makes them."""
        new = ["--run", "--assume-clean", "--metadata=1.2"]
        run("mdadm", "--create", "/dev/md10", *new, "--homehost=here", "--name=tank", "-l5", "-n3", *self.tank)
        run("mdadm", "--create", "/dev/md11", *new, "--homehost=other", "--name=vault", "-l6", "-n4", *self.vault)
        run("mdadm", "--create", "/dev/md12", *new, "--homehost=here", "--name=mirror", "-l1", "-n2", self.mirror,
            "missing")
        with open("/dev/md10", "r+b") as volume:
            volume.write(os.urandom(1 << 20))
            volume.flush()
            os.fsync(volume.fileno())
        self.sha = hashlib.sha256(Path("/dev/md10").read_bytes()).hexdigest()
        links = Path("/dev/disk/by-id")
        links.mkdir(parents=True, exist_ok=True)
        for at, disk in enumerate(self.tank):
            (links / f"wwn-0x500{at}").symlink_to(disk)
            (links / f"ata-Disk_{at}").symlink_to(disk)

    def uuids(self):
        """UUID by name, as mdadm has them."""
        lines = run("mdadm", "--examine", "--scan").stdout
        return {name.split(":")[1]: uuid for uuid, name in re.findall(r"UUID=(\S+)\s+name=(\S+)", lines)}

    def scan(self, *options, ok=True):
        """What `uraid assemble --scan --json` finds, by name, and its notes."""
        done = run(self.uraid, "assemble", "--scan", "--json", "--config", CONF, "--directory", CONFIGS, *options, ok=ok)
        document = json.loads(done.stdout)
        return {array["name"]: array for array in document["arrays"]}, document["notes"]

    def running(self):
        """While the kernel has them, they are in use and no configuration is written."""
        CONF.write_text("HOMEHOST here\n")
        arrays, notes = self.scan("--write")
        check(sorted(arrays) == ["tank", "vault"], f"found {sorted(arrays)}")
        for name, array in arrays.items():
            check(array["verdict"] == "in_use" and "kernel's array md1" in array["sentence"], f"{name}: {array}")
        check(not list(CONFIGS.glob("*")), "a configuration was written for an array in use")
        # The mirror is no array of ours; it is told, not hidden.
        check(any(self.mirror in note for note in notes), f"{notes}")
        run("mdadm", "--stop", "--scan")

    def described(self):
        """Members by lasting names, verdicts, lines of mdadm.conf."""
        uuid = self.uuids()
        run("mdadm", "--zero-superblock", self.vault[1])
        CONF.write_text(f"""DEVICE /dev/ubd[a-z]
HOMEHOST here
ARRAY /dev/md/tank metadata=1.2 name=here:tank UUID={uuid['tank']}
   spares=1
ARRAY /dev/md/safe UUID={uuid['vault']}
ARRAY /dev/md/again UUID={uuid['tank']}
ARRAY /dev/md/gone UUID=00000000:00000000:00000000:00000001
""")
        arrays, notes = self.scan()
        check(sorted(arrays) == ["safe", "tank"], f"names of ARRAY lines: {sorted(arrays)}")
        tank, safe = arrays["tank"], arrays["safe"]
        check(tank["verdict"] == "startable" and tank["degraded"] == 0 and tank["local"] is True, f"{tank}")
        check([m["path"] for m in tank["members"]] == [f"/dev/disk/by-id/ata-Disk_{i}" for i in range(3)], f"{tank}")
        check(any("0 of 1 spares" in note for note in tank["notes"]), f"{tank['notes']}")
        places = f"--config {CONF} --directory {CONFIGS}"
        check(tank["next"] == f"uraid assemble --scan --write {places} tank", f"{tank}")
        check(safe["verdict"] == "startable" and safe["degraded"] == 1 and safe["local"] is False, f"{safe}")
        check("role 1" in safe["sentence"] and "one more member may fail" in safe["sentence"], f"{safe['sentence']}")
        check([m["state"] for m in safe["members"]].count("missing") == 1, f"{safe}")
        check(any("gone" in note and "not found" in note for note in notes), f"{notes}")
        check(any("again" in note and "says before it what tank is" in note for note in notes), f"{notes}")
        text = run(self.uraid, "assemble", "--scan", "--config", CONF, "--directory", CONFIGS).stdout
        print("text", text.replace("\n", " | "), flush=True)
        check("It can be started: all 3 members are there and in sync." in text, text)
        check(not CONFIGS.exists(), "something was written without --write")

    def written(self):
        """A configuration that starts the array, and is never replaced."""
        arrays, _ = self.scan("--write", "--device", "none", "tank")
        tank = CONFIGS / "tank.toml"
        check(list(arrays) == ["tank"] and arrays["tank"]["written"], f"{arrays}")
        check(arrays["tank"]["next"] == f"uraid serve {tank}", f"{arrays}")
        check([p.name for p in CONFIGS.iterdir()] == ["tank.toml"], f"{list(CONFIGS.iterdir())}")
        text = tank.read_text()
        print("config", text.replace("\n", " | "), flush=True)
        run(self.uraid, "check-config", tank)
        arrays, _ = self.scan("--write")
        check(arrays["tank"]["configuration"] == str(tank) and not arrays["tank"]["written"], f"{arrays['tank']}")
        check(arrays["tank"]["next"] == f"uraid serve {tank}" and arrays["safe"]["written"], f"{arrays}")
        check(any("<ignore>" in note for note in arrays["tank"]["notes"]), f"{arrays['tank']['notes']}")
        for name in ("tank", "other"):
            again = run(self.uraid, "assemble", "--write", "--directory", CONFIGS, name, *self.tank, ok=False)
            check(tank.read_text() == text and not (CONFIGS / "other.toml").exists(), f"{name}: {again}")
        (CONFIGS / "mine.toml").write_text("members = ['/dev/null']\n")
        (CONFIGS / "safe.toml").rename(WORK / "safe.toml")
        refused = run(self.uraid, "assemble", "--write", "--directory", CONFIGS, "mine", *self.vault, ok=False)
        check(refused.returncode == 1 and "exists already" in refused.stderr, f"{refused}")
        check((CONFIGS / "mine.toml").read_text() == "members = ['/dev/null']\n", "a file was replaced")

    def served(self):
        """By the file that was written; the bytes are the kernel's, and afterwards the kernel has them again."""
        config, socket = CONFIGS / "tank.toml", WORK / "tank.sock"
        config.write_text(config.read_text() + f"listen = ['unix:{socket}']\ncontrol = '{WORK}/control'\n")
        with open(WORK / "log", "ab") as log:
            daemon = subprocess.Popen([self.uraid, "serve", config], stderr=log)
        until("uraid to serve", lambda: (WORK / "control").exists() or daemon.poll() is not None)
        check(daemon.poll() is None, (WORK / "log").read_text())
        copy = WORK / "copy"
        run("nbdcopy", f"nbd+unix:///?socket={socket}", copy)
        check(hashlib.sha256(copy.read_bytes()).hexdigest() == self.sha, "other bytes than the kernel wrote")
        arrays, _ = self.scan()
        check(arrays["tank"]["verdict"] == "in_use" and "uraid" in arrays["tank"]["sentence"], f"{arrays['tank']}")
        run(self.uraid, "stop", "--control", WORK / "control")
        check(daemon.wait() == 0, (WORK / "log").read_text())
        run("mdadm", "--assemble", "/dev/md10", *self.tank)
        check(hashlib.sha256(Path("/dev/md10").read_bytes()).hexdigest() == self.sha, "the kernel reads other bytes")
        run("mdadm", "--stop", "/dev/md10")

    def ignored(self):
        """<ignore> is obeyed by --scan and not by a name with members; too few members are refused in words."""
        for file in CONFIGS.glob("*"):
            file.unlink()
        CONF.write_text(f"ARRAY <ignore> UUID={self.uuids()['tank']}\nnonsense here\n")
        arrays, notes = self.scan("--write")
        check(arrays["tank"]["verdict"] == "ignored" and not (CONFIGS / "tank.toml").exists(), f"{arrays['tank']}")
        check(any("nonsense" in note for note in notes), f"{notes}")
        run(self.uraid, "assemble", "--write", "--directory", CONFIGS, "tank", *self.tank)
        check((CONFIGS / "tank.toml").exists(), "what was named was not taken")
        few = run(self.uraid, "assemble", "x", self.tank[0], ok=False)
        check(few.returncode == 1 and "too few members" in few.stderr, f"{few}")
        none = run(self.uraid, "assemble", "--scan", "--config", CONF, "nobody", ok=False)
        check(none.returncode == 1 and "nobody" in none.stderr, f"{none}")


def main():
    """Entry point."""
    WORK.mkdir(exist_ok=True)
    guest = Guest(sys.argv[1], sys.argv[2:])
    for step in (guest.make, guest.running, guest.described, guest.written, guest.served, guest.ignored):
        step()
    print("done yes", flush=True)


if __name__ == "__main__":
    main()
