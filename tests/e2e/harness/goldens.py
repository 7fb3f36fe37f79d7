"""The arrays under tests/golden, which the Linux kernel made, unpacked for a test."""

import hashlib
import json

from .case import REPO, need

HOME = REPO / "tests" / "golden"


def cases():
    """Every golden array's description."""
    return json.loads((HOME / "manifest.json").read_text())["cases"]


def unpack(t, case):
    """Writes the members into the test's directory and returns their paths in role order."""
    need("zstd")
    paths = []
    for member in sorted(case["members"], key=lambda m: m["role"]):
        path = t.dir / f"{case['name']}-{member['file']}.img"
        packed = HOME / case["name"] / f"{member['file']}.zst"
        t.run("zstd", "-q", "-d", "-f", "--long=27", packed, "-o", path)
        t.check(sha(path) == member["sha256"], f"{packed} is damaged")
        paths.append(path)
    return paths


def sha(path):
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
