"""`uraid assemble` finds what mdadm made, says whether it can be started, and writes what starts it."""

import json
import subprocess
from pathlib import Path

from harness import uml
from harness.array import Array
from harness.case import REPO, URAID, need

GUEST = REPO / "tests" / "e2e" / "harness" / "guest_assemble.py"


def test_arrays_of_mdadm_are_found_and_started(t):
    need("linux.uml", "mdadm", "nbdcopy", "python3")
    t.check(URAID.exists(), f"{URAID} is missing; run ./dev build")
    disks = [t.dir / f"disk{i}" for i in range(8)]
    for disk in disks:
        subprocess.run(["truncate", "-s", "24M", disk], check=True)
    script = 'modprobe -d "$(dirname "$0")" raid1\n'
    script += f"exec python3 -B {GUEST} {Path(URAID).resolve()} {' '.join(uml.device_names(8))}\n"
    facts = uml.facts(uml.run(t, script, disks, 280))
    t.check(facts["done"] == "yes", f"{facts}")


def test_files_are_members_too(t):
    """Of an array that is served, one that is not, and one that lacks a member."""
    array = Array(t, 5, 3)
    configs = t.dir / "configs"

    def assemble(*options, ok=(0,)):
        return t.run(URAID, "assemble", "--json", "--directory", configs, *options, ok=ok)

    def only(done):
        return json.loads(done.stdout)["arrays"][0]

    found = only(assemble("files", *array.members))
    t.check(found["verdict"] == "startable" and found["configuration"] is None and not configs.exists(), f"{found}")
    t.check([m["path"] for m in found["members"]] == [str(m) for m in array.members], f"{found}")
    found = only(assemble("files", *array.members[1:]))
    t.check(found["degraded"] == 1 and "role 0" in found["sentence"], f"{found}")
    array.serve()
    found = only(assemble("files", *array.members, ok=(1,)))
    t.check(found["verdict"] == "in_use" and "uraid" in found["sentence"], f"{found}")
    array.stop()
    found = only(assemble("--write", "files", *array.members))
    t.check(found["written"] and found["configuration"] == str(configs / "files.toml"), f"{found}")
    t.run(URAID, "check-config", configs / "files.toml")
    text = (configs / "files.toml").read_text()
    t.check(found["array_uuid"] in text and "files.control" in text, f"not by its own name: {text}")
    refused = assemble("--write", "again", *array.members, ok=(1,))
    t.check("files.toml" in refused.stdout and not (configs / "again.toml").exists(), f"{refused}")
