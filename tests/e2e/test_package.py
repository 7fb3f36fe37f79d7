"""The Debian package, as it is built, without installing it: what is in it, and whether everybody who will read
it can: systemd, man, mandoc, the shells. That it works when it is installed is for tests/uraid-e2e."""

import functools
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

from harness.case import REPO, need

# Every file of the package but the pages of the commands, with its mode.
FILES = {
    "usr/bin/uraid": 0o755,
    "usr/lib/systemd/system/uraid@.service": 0o644,
    "usr/lib/systemd/system/uraid-scrub@.service": 0o644,
    "usr/lib/systemd/system/uraid-scrub@.timer": 0o644,
    "usr/lib/systemd/system/uraid@.service.d/10-order.conf": 0o644,
    "usr/lib/systemd/catalog/uraid.catalog": 0o644,
    "usr/lib/sysusers.d/uraid.conf": 0o644,
    "usr/lib/tmpfiles.d/uraid.conf": 0o644,
    "usr/lib/udev/rules.d/60-uraid.rules": 0o644,
    "usr/lib/udev/rules.d/63-uraid-members.rules": 0o644,
    "usr/share/bash-completion/completions/uraid": 0o644,
    "usr/share/zsh/vendor-completions/_uraid": 0o644,
    "usr/share/fish/vendor_completions.d/uraid.fish": 0o644,
    "usr/share/doc/uraid/README.md": 0o644,
    "usr/share/doc/uraid/events.md": 0o644,
    "usr/share/doc/uraid/metrics.md": 0o644,
    "usr/share/doc/uraid/json.md": 0o644,
    "usr/share/doc/uraid/nbd.md": 0o644,
    "usr/share/uraid/grafana-uraid.json": 0o644,
    "usr/share/doc/uraid/CHANGELOG.md": 0o644,
    "usr/share/doc/uraid/changelog.Debian.gz": 0o644,
    "usr/share/doc/uraid/copyright": 0o644,
    "usr/share/doc/uraid/examples/example.toml": 0o644,
    "usr/share/doc/uraid/examples/order-files.conf": 0o644,
    "usr/share/doc/uraid/examples/order-network.conf": 0o644,
    "usr/share/man/man1/uraid.1.gz": 0o644,
    "usr/share/man/man5/uraid.toml.5.gz": 0o644,
    "usr/share/man/man8/uraid@.service.8.gz": 0o644,
}
COMMAND_PAGE = re.compile(r"usr/share/man/man1/uraid-[a-z-]+\.1\.gz")
# systemd-analyze's figure: 0 is a program that can do nothing, 10 one that can do everything.
EXPOSURE_MAX = 30  # tenths


@functools.cache
def built():
    """The package, built once for all tests of this file: (its path, what was printed)."""
    done = subprocess.run(["./dev", "package"], cwd=REPO, capture_output=True, text=True, check=False)
    return done


def package(t):
    """The path of the package; fails the test if it could not be built."""
    need("dpkg-deb")
    done = built()
    t.say(done.stdout + done.stderr)
    t.check(done.returncode == 0, f"./dev package failed: {done.stderr.strip()[-600:]}")
    path = Path(done.stdout.strip().splitlines()[-1])
    t.check(path.suffix == ".deb" and path.is_file(), f"./dev package did not print the package's path last: {path}")
    return path


def unpacked(t):
    """A directory with the package's files as they would be below /."""
    root = Path(tempfile.mkdtemp(dir=t.dir))
    t.run("dpkg-deb", "-x", package(t), root)
    return root


def test_it_holds_what_a_service_needs_and_nothing_else(t):
    path = package(t)
    with open(t.dir / "files.tar", "wb") as archive:
        archive.write(subprocess.run(["dpkg-deb", "--fsys-tarfile", path], capture_output=True, check=True).stdout)
    with tarfile.open(t.dir / "files.tar") as archive:
        members = [m for m in archive.getmembers() if not m.isdir()]
    modes = {m.name.removeprefix("./"): m.mode & 0o7777 for m in members}
    t.check(all(m.uid == 0 and m.gid == 0 for m in members), "a file does not belong to root")
    pages = {name for name in modes if COMMAND_PAGE.fullmatch(name)}
    t.check(len(pages) >= 10, f"only {len(pages)} commands have a page")
    others = {name: mode for name, mode in modes.items() if name not in pages}
    t.check(others == FILES, f"missing {sorted(FILES.keys() - others.keys())}, unexpected "
                             f"{sorted(others.keys() - FILES.keys())}, or of another mode")


def test_its_control_data_say_what_it_needs(t):
    path = package(t)
    fields = t.run("dpkg-deb", "-f", path).stdout
    for wanted in (r"^Package: uraid$", r"^Version: 0\.", r"^Depends: .*libc6 \(>= ", r"^Depends: .*systemd",
                   r"^Recommends: .*udev", r"^Suggests: .*mdadm", r"^Section: admin$"):
        t.check(re.search(wanted, fields, re.M), f"{wanted} is not in:\n{fields}")
    control = t.dir / "control"
    t.run("dpkg-deb", "-e", path, control)
    for script in ("postinst", "prerm", "postrm"):
        t.run("sh", "-n", control / script)
        t.check((control / script).stat().st_mode & 0o111 == 0o111, f"{script} cannot be run")
    version = re.search(r"^Version: (\S+)", fields, re.M).group(1)
    first = (REPO / "systemd/debian/changelog").read_text().splitlines()[0]
    t.check(f"({version})" in first, f"the package is {version}, systemd/debian/changelog begins with: {first}")


def system_commands(root):
    """What the units use of the system; all that is looked for is that it is there."""
    (root / "bin").symlink_to("usr/bin")
    for command in ("kill", "systemctl"):
        (root / "usr/bin" / command).symlink_to("uraid")


def test_systemd_understands_the_unit(t):
    need("systemd-analyze")
    root = unpacked(t)
    system_commands(root)
    for target in ("basic", "shutdown", "sysinit", "time-set", "time-sync", "timers"):
        (root / f"usr/lib/systemd/system/{target}.target").write_text(f"[Unit]\nDescription={target}\n")
    for unit in ("uraid@tank.service", "uraid-scrub@tank.service", "uraid-scrub@tank.timer"):
        done = t.run("systemd-analyze", f"--root={root}", "--man=no", "verify", unit, ok=None)
        said = (done.stdout + done.stderr).strip()
        t.check(done.returncode == 0 and not said, f"systemd-analyze verify {unit}: {said}")


def test_the_unit_is_hardened(t):
    need("systemd-analyze")
    root = unpacked(t)
    for unit in ("uraid@tank.service", "uraid-scrub@tank.service"):
        t.run("systemd-analyze", f"--root={root}", "security", "--offline=yes", "--no-pager",
              f"--threshold={EXPOSURE_MAX}", unit)


def test_a_volume_can_replace_its_order(t):
    """systemd takes the drop-in of the instance in place of the one of the template, because of its name."""
    need("systemd-analyze")
    root = unpacked(t)
    system_commands(root)

    def order():
        done = t.run("systemd-analyze", f"--root={root}", "--man=no", "verify", "uraid@tank.service",
                     env={"SYSTEMD_LOG_LEVEL": "debug", "PATH": "/usr/bin:/bin"})
        return set(re.findall(r"^\s*(Before|After): (\S+) \(origin-file\)", done.stdout + done.stderr, re.M))

    t.check(("Before", "local-fs-pre.target") in order(), "it is not ordered before local file systems")
    for example, wanted in (("order-files", ("Before", "shutdown.target")),
                            ("order-network", ("After", "network-online.target"))):
        own = root / "etc/systemd/system/uraid@tank.service.d"
        own.mkdir(parents=True, exist_ok=True)
        text = (root / f"usr/share/doc/uraid/examples/{example}.conf").read_text()
        (own / "10-order.conf").write_text(text)
        now = order()
        t.check(wanted in now and ("Before", "local-fs-pre.target") not in now, f"{example}: {sorted(now)}")


def test_man_shows_every_page_without_a_complaint(t):
    need("man", "mandoc", "lexgrog")
    root = unpacked(t)
    pages = sorted((root / "usr/share/man").rglob("*.gz"))
    t.check(len(pages) >= 13, f"only {len(pages)} pages")
    for page in pages:
        t.run("gzip", "-d", page)
        page = page.with_suffix("")
        done = t.run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page)
        t.check(not done.stderr.strip(), f"man: {page.name}: {done.stderr.strip()}")
        done = t.run("mandoc", "-T", "lint", "-W", "warning", page, ok=None)
        t.check(done.returncode == 0, f"mandoc: {done.stdout.strip()[:600]}")
        t.run("lexgrog", page)  # apropos and whatis find the page by what this finds


def test_the_shells_load_the_completions(t):
    need("bash", "zsh", "fish")
    root = unpacked(t)
    bash = root / "usr/share/bash-completion/completions/uraid"
    done = t.run("bash", "--norc", "-c", f"source {bash} && complete -p uraid && COMP_WORDS=(uraid st) COMP_CWORD=1 && "
                                         "_uraid uraid st uraid; echo ${COMPREPLY[*]}")
    t.check({"status", "stop"} <= set(done.stdout.split()), f"bash completes `uraid st` to: {done.stdout}")
    zsh = root / "usr/share/zsh/vendor-completions/_uraid"
    t.run("zsh", "-n", zsh)
    t.run("zsh", "-f", "-c", f"autoload -U compinit && compinit -u -D && source {zsh} && (( $+functions[_uraid] ))")
    fish = root / "usr/share/fish/vendor_completions.d/uraid.fish"
    done = t.run("fish", "--no-config", "-c", f"source {fish}; complete -C 'uraid st'")
    t.check({"status", "stop"} <= set(done.stdout.split()), f"fish completes `uraid st` to: {done.stdout}")
