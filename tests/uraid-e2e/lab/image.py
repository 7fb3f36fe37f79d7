"""The root file system of the machine: a small Debian 12 with systemd, made with mmdebstrap.

It is made once for each recipe (this file, the files of guest/, the kernel's modules) and kept in
target/uraid-e2e. Packages come from where this host's own apt gets Debian 12 from; where that is not
configured, from mmdebstrap's default.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from harness.case import REPO, Failed, need, scratch_root

GUEST = Path(__file__).resolve().parents[1] / "guest"
KEPT = REPO / "target" / "uraid-e2e"
MODULES = Path("/usr/lib/uml/modules")
SUITE = "bookworm"
# What an administrator's machine has, and nothing that only costs time.
PACKAGES = ["systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps", "mdadm", "fio", "e2fsprogs", "xfsprogs", "python3-minimal"]
# Documentation and translations are half the files; man pages stay, for the package's own are looked at.
LEFT_OUT = ["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/gcc/*"]
# Nothing here has a screen, a network or a next day.
MASKED = ["getty.target", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
          "fstrim.timer", "systemd-networkd.service", "systemd-timesyncd.service", "mdcheck_start.timer",
          "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "e2scrub_reap.service",
          "mdcheck_continue.timer", "mdmonitor-oneshot.timer"]
# Each costs a process at every `daemon-reload`, and here a process is dear.
NO_GENERATORS = ["bless-boot", "cryptsetup", "debug", "getty", "gpt-auto", "hibernate-resume", "integritysetup", "rc-local",
                 "run", "system-update", "veritysetup"]
SIZE_MIB = 3072
SETTINGS = {
    "etc/fstab": "/dev/ubda / ext4 errors=remount-ro 0 1\n",
    "etc/hostname": "e2e\n",
    "etc/hosts": "127.0.0.1 localhost e2e\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/dpkg/dpkg.cfg.d/e2e": "force-unsafe-io\n",
    # The user-mode kernel has a watchdog that wants a program of the host's.
    "etc/systemd/system.conf.d/e2e.conf": "[Manager]\nRebootWatchdogSec=off\n",
    # The journal of the boot before is what tells how a shutdown went.
    "etc/systemd/journald.conf.d/e2e.conf": "[Journal]\nStorage=persistent\nSyncIntervalSec=5s\nRateLimitIntervalSec=0\n",
}


def kernel_version():
    """The version of the user-mode kernel, as its modules' directory is called."""
    need("linux.uml")
    versions = sorted(p.name for p in MODULES.glob("*")) if MODULES.is_dir() else []
    if not versions:
        raise Failed(f"there are no modules in {MODULES}: reinstall the package user-mode-linux")
    return versions[-1]


def recipe():
    """What the image is made of, as a short key."""
    files = [Path(__file__), *sorted(p for p in GUEST.iterdir() if p.is_file())]
    parts = [kernel_version(), *(p.name + p.read_text() for p in files)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def image(say, anew=False):
    """The path of the image; makes it when it is not there yet."""
    path = KEPT / f"root-{recipe()}.ext4"
    if anew or not path.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        for old in KEPT.glob("root-*.ext4"):
            old.unlink()
        make(path, say)
    return path


def make(path, say):
    """Makes the image at `path`, or leaves nothing there."""
    need("mmdebstrap", "mkfs.ext4")
    if os.geteuid() != 0:
        raise Failed("making the machine's image takes root: run this as root, or install sudo")
    started = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="uraid-image.", dir=scratch_root(2 << 30)))
    try:
        # apt downloads as a user of its own, who has to get in.
        place.chmod(0o755)
        tree = place / "tree"
        install(tree, say)
        say(f"    packages after {time.monotonic() - started:.0f} s")
        furnish(tree)
        pack(tree, place / "root.ext4")
        copy_sparse(place / "root.ext4", path)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    say(f"    image after {time.monotonic() - started:.0f} s: {path.stat().st_blocks * 512 >> 20} MiB")


def install(tree, say):
    """Debian's packages into an empty directory."""
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    argv += [f"--aptopt={option}" for option in host_options()]
    argv += [SUITE, str(tree), *host_sources()]
    say(f"    installing Debian {SUITE} into a directory")
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=900, check=False)
    if done.returncode:
        raise Failed(f"mmdebstrap ended with {done.returncode}: {(done.stderr + done.stdout).strip()[-1500:]}")


def host_sources():
    """The lines of sources.list of Debian 12 that this host's apt is configured with; none elsewhere."""
    form = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
    done = subprocess.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
                          capture_output=True, text=True, check=False)
    lines = []
    for target in done.stdout.splitlines():
        origin, release, component, uri = target.split("|", 3)
        # The origin is known only once the lists were fetched.
        if origin in ("Debian", "$(ORIGIN)", "") and re.fullmatch(SUITE + "(-updates|-security)?", release) and component == "main":
            lines.append(f"deb {uri} {release} {component}")
    return sorted(set(lines)) if any(f" {SUITE} " in line for line in lines) else []


def host_options():
    """This host's ways of reaching an archive: proxies, and whether old lists are good enough."""
    done = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False)
    kept = re.compile(r'Acquire::(https?::Proxy|Check-Valid-Until|Check-Date|Retries)\S* "[^"]+";')
    return [line.rstrip(";") for line in done.stdout.splitlines() if kept.fullmatch(line)]


def furnish(tree):
    """The kernel's modules, the agent, and the settings."""
    version = kernel_version()
    shutil.copytree(MODULES / version, tree / "lib" / "modules" / version, symlinks=True)
    for name, text in SETTINGS.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    units = tree / "etc/systemd/system"
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    generators = tree / "etc/systemd/system-generators"
    generators.mkdir(parents=True, exist_ok=True)
    for name in NO_GENERATORS:
        (generators / f"systemd-{name}-generator").symlink_to("/dev/null")
    home = tree / "usr/lib/e2e"
    home.mkdir(parents=True)
    shutil.copy(GUEST / "agent.py", home)
    (home / "agent.py").chmod(0o755)
    shutil.copy(GUEST / "e2e-agent@.service", units)
    wants = units / "sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    for line in ("ttyS1", "ttyS2"):
        (wants / f"e2e-agent@{line}.service").symlink_to("/etc/systemd/system/e2e-agent@.service")
    (tree / "var/log/journal").mkdir(exist_ok=True)
    (tree / "host").mkdir()
    # Told that nothing is new: else the first boot rebuilds caches that it does not need.
    for mark in ("etc/.updated", "var/.updated"):
        (tree / mark).touch()


def pack(tree, path):
    """A directory as an ext4 image, sparse."""
    with open(path, "wb") as out:
        out.truncate(SIZE_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=32", "-d", str(tree), str(path)], check=True)


def copy_sparse(source, target):
    """Puts the finished image in its place at once."""
    part = target.with_suffix(".part")
    subprocess.run(["cp", "--sparse=always", str(source), str(part)], check=True)
    part.rename(target)
