"""A later version of a Debian package: the same files under a higher number."""

import re
import subprocess

from harness.case import Failed, need


def version(package):
    """The version in a package's name card."""
    need("dpkg-deb")
    return subprocess.run(["dpkg-deb", "-f", str(package), "Version"], capture_output=True, text=True, check=True).stdout.strip()


def later(package, directory):
    """Packs `package` again, as the version after it; returns the new file."""
    tree = directory / "later"
    number = version(package) + "+later1"
    target = directory / "uraid_later.deb"
    subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True)
    control = tree / "DEBIAN" / "control"
    text, count = re.subn(r"(?m)^Version: .*$", f"Version: {number}", control.read_text())
    if count != 1:
        raise Failed(f"the control file of {package.name} has {count} lines with a version")
    control.write_text(text)
    packed = subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(target)], capture_output=True, text=True, check=False)
    if packed.returncode:
        raise Failed(f"dpkg-deb: {packed.stderr.strip()}")
    return target
