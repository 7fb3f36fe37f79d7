#!/usr/bin/env python3
"""uraid beside qemu-nbd and nbdkit, driven by fio over NBD on unix sockets, in one interleaved run.

    bench.py [--json FILE] [--rounds N] [--seconds S] [--size MIB] [--uraid PATH]

uraid serves a RAID6 of 4+2 members with 64 KiB chunks, all on one tmpfs; each peer serves one plain
file of the same usable size on the same tmpfs. Every server first gets one untimed pass of writes and
reads over its whole export, because first touches of memory are slow. Then each round measures every
server on every load, one server at a time, in an order that turns from round to round; the figure is
the median of the rounds. The ratio compares with the better of the peers and is the other way round
where less is better, so that more is always better. docs/benchmarks.md says what the figures mean.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "e2e"))

from harness.case import need, reap, scratch_root, until  # noqa: E402

# name, fio's rw, block size, depth, unit of its main figure
LOADS = [
    ("seq_read_1m_qd4", "read", "1m", 4, "MB/s"),
    ("seq_write_1m_qd4", "write", "1m", 4, "MB/s"),
    ("rand_read_4k_qd1", "randread", "4k", 1, "IOPS"),
    ("rand_read_4k_qd32", "randread", "4k", 32, "IOPS"),
    ("rand_write_4k_qd1", "randwrite", "4k", 1, "IOPS"),
    ("rand_write_4k_qd32", "randwrite", "4k", 32, "IOPS"),
]
DEGRADED = [("degraded_seq_read_1m_qd4", "read", "1m", 4, "MB/s"),
            ("degraded_rand_read_4k_qd32", "randread", "4k", 32, "IOPS")]
MEMBERS = 6


def cpu_group(stack, name):
    """A control group that counts CPU time to the nanosecond, or None where we may not make one."""
    for root in ("/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"):
        group = Path(root) / f"uraid-bench-{os.getpid()}-{name}"
        if not (Path(root) / "cgroup.procs").exists():
            continue
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / "cpuacct.usage").exists() or (group / "cpu.stat").exists():
                stack.callback(drop_group, group)
                return group
            group.rmdir()
    return None


def drop_group(group):
    """Removes the group; its process has been reaped by now."""
    with contextlib.suppress(OSError):
        group.rmdir()


class Server:
    """A server process, its socket, and the CPU time that it and its threads used."""

    def __init__(self, stack, name, home, argv):
        self.name, self.socket = name, home / f"{name}.sock"
        argv = [str(a) for a in argv(self.socket)]
        with open(home / f"{name}.log", "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.group = None
        group = cpu_group(stack, name)
        with contextlib.suppress(OSError):
            if group:
                (group / "cgroup.procs").write_text(str(self.process.pid))
                self.group = group
        stack.callback(reap, self.process)
        until(f"{name} to listen", lambda: self.alive() and self.socket.exists(), 30)

    def alive(self):
        """Fails at once, with the reason, if the server is gone."""
        if self.process.poll() is not None:
            log = self.socket.with_suffix(".log").read_text(errors="replace")[-400:]
            raise SystemExit(f"{self.name} ended with {self.process.returncode}: {log}")
        return True

    def cpu_seconds(self):
        """CPU time up to now: of the control group, or by the clock ticks of /proc, which is coarse."""
        if self.group and (self.group / "cpuacct.usage").exists():
            return int((self.group / "cpuacct.usage").read_text()) / 1e9
        if self.group:
            return int((self.group / "cpu.stat").read_text().split()[1]) / 1e6
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(int(f) for f in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def fio(server, rw, bs, depth, mib, seconds):
    """One fio job; a run over the whole export when `seconds` is None. Returns its part of the JSON."""
    argv = ["fio", "--name=b", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={server.socket}", f"--rw={rw}",
            f"--bs={bs}", f"--iodepth={depth}", f"--size={mib}m", "--thread", "--output-format=json", "--randrepeat=1",
            "--norandommap", "--refill_buffers=0"]
    if seconds:
        argv += ["--time_based", f"--runtime={seconds}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"fio failed on {server.name}: {done.stderr.strip()[-400:]}")
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    return job["read"] if "read" in rw else job["write"]


def measure(server, load, mib, seconds):
    """One load on one server: {figure: value}."""
    _name, rw, bs, depth, _unit = load
    before = server.cpu_seconds()
    side = fio(server, rw, bs, depth, mib, seconds)
    used, ios = server.cpu_seconds() - before, side["total_ios"]
    return {"MB/s": side["bw_bytes"] / 1e6, "IOPS": side["iops"],
            "p99": side["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1000,
            "cpu": used * 1e6 / ios if ios else 0.0}


def warm(server, mib):
    """The untimed pass: every byte written and read once."""
    fio(server, "write", "1m", 4, mib, None)
    fio(server, "read", "1m", 4, mib, None)


def peers(stack, home, mib):
    """qemu-nbd and nbdkit, each with a plain file."""
    plain = {}
    for name in ("qemu-nbd", "nbdkit"):
        plain[name] = home / f"{name}.img"
        with open(plain[name], "wb") as f:
            f.truncate(mib << 20)
    yield Server(stack, "qemu-nbd", home, lambda s: ["qemu-nbd", "-t", "-f", "raw", "-e", "8", "-k", s, plain["qemu-nbd"]])
    yield Server(stack, "nbdkit", home, lambda s: ["nbdkit", "-f", "-U", s, "file", plain["nbdkit"]])


def create_array(uraid, home, mib):
    """The RAID6 under test, with a little more room than `mib`."""
    members = [home / f"m{i}.img" for i in range(MEMBERS)]
    subprocess.run([str(a) for a in (uraid, "create", "--level", "6", "--chunk", "64K", "--name", "bench", "--size",
                                     f"{mib // (MEMBERS - 2) + 8}M", "--assume-clean", *members)],
                   check=True, stdout=subprocess.DEVNULL)
    return members


def rounds_of(servers, loads, mib, seconds, rounds):
    """{(server, load): [one dict a round]}, interleaved."""
    found = {}
    for number in range(rounds):
        for load in loads:
            turn = number % len(servers)
            for server in servers[turn:] + servers[:turn]:
                found.setdefault((server.name, load[0]), []).append(measure(server, load, mib, seconds))
        print(f"  round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return found


def median(found, server, load, figure):
    """The median of one figure over the rounds."""
    return statistics.median(one[figure] for one in found[server, load])


def rebuild_rate(uraid, home, control, members, rounds):
    """MB/s of member data rebuilt onto a blank member, idle otherwise; the median of the rounds."""
    rates = []
    say = lambda *argv: subprocess.run([str(a) for a in (uraid, *argv)], check=True, capture_output=True, text=True).stdout
    degraded = lambda: json.loads(say("status", "--control", control, "--json"))["degraded"]
    for number in range(rounds):
        if degraded() == 0:
            say("fail", "--control", control, members[0])
            until("the member to be failed", lambda: degraded() == 1)
        fresh, size = home / f"fresh{number}.img", os.path.getsize(members[1])
        with open(fresh, "wb") as f:
            f.truncate(size)
        started = time.monotonic()
        say("add", "--control", control, fresh)
        until("the rebuild to end", lambda: degraded() == 0, 300, 0.005)
        rates.append(size / (time.monotonic() - started) / 1e6)
        members[0].unlink(missing_ok=True)
        members[0] = fresh
    return statistics.median(rates)


def entry(name, value, unit, peer=None, peer_value=None, less_is_better=False):
    """One object of the JSON."""
    ratio = None
    if peer_value and value:
        ratio = round(peer_value / value if less_is_better else value / peer_value, 3)
    return {"name": name, "value": round(value, 2), "unit": unit, "peer": peer,
            "peer_value": None if peer_value is None else round(peer_value, 2), "ratio": ratio}


def compare(found, load):
    """The entries of one load against the better peer of each figure."""
    entries = []
    for figure, unit, less in ((load[4], load[4], False), ("p99", "us", True), ("cpu", "us/IO", True)):
        values = {p: median(found, p, load[0], figure) for p in ("qemu-nbd", "nbdkit")}
        best = (min if less else max)(values, key=values.get)
        name = load[0] if figure == load[4] else f"{load[0]}_{figure}"
        entries.append(entry(name, median(found, "uraid", load[0], figure), unit, best, values[best], less))
    return entries


def table(found, loads, names):
    """The figures of all servers, as text."""
    lines = [f"{'load':28} {'server':9} {'MB/s':>9} {'IOPS':>10} {'p99 us':>9} {'CPU us/IO':>10}"]
    for load in loads:
        for name in names:
            if (name, load[0]) in found:
                row = [median(found, name, load[0], f) for f in ("MB/s", "IOPS", "p99", "cpu")]
                lines.append(f"{load[0]:28} {name:9} {row[0]:9.1f} {row[1]:10.0f} {row[2]:9.1f} {row[3]:10.2f}")
    return "\n".join(lines)


def run(stack, options):
    """The whole run; returns (entries, text)."""
    home = Path(tempfile.mkdtemp(prefix="uraid-bench.", dir=scratch_root(5 * options.size << 20)))
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    control = home / "control.sock"
    members = create_array(options.uraid, home, options.size)
    ours = Server(stack, "uraid", home, lambda s: [options.uraid, "serve", "--listen", f"unix:{s}", "--control", control, *members])
    servers = [ours, *peers(stack, home, options.size)]
    print(f"warming up: {options.size} MiB written and read on each server", file=sys.stderr, flush=True)
    for server in servers:
        warm(server, options.size)
    found = rounds_of(servers, LOADS, options.size, options.seconds, options.rounds)
    entries = [e for load in LOADS for e in compare(found, load)]
    subprocess.run([str(a) for a in (options.uraid, "fail", "--control", control, members[0])], check=True, capture_output=True)
    found |= rounds_of(servers, DEGRADED, options.size, options.seconds, options.rounds)
    entries += [e for load in DEGRADED for e in compare(found, load)]
    entries.append(entry("rebuild", rebuild_rate(options.uraid, home, control, members, options.rounds), "MB/s"))
    return entries, table(found, LOADS + DEGRADED, [s.name for s in servers])


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description="uraid beside qemu-nbd and nbdkit")
    parser.add_argument("--json", type=Path, help="also write the figures as a JSON array")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="length of one measurement")
    parser.add_argument("--size", type=int, default=512, help="MiB of each export")
    parser.add_argument("--uraid", type=Path, default=REPO / "target" / "release" / "uraid")
    options = parser.parse_args()
    need("fio", "qemu-nbd", "nbdkit")
    with contextlib.ExitStack() as stack:
        entries, text = run(stack, options)
    print(text + "\n")
    print(f"{'figure':36} {'uraid':>11} {'unit':6} {'best peer':>11} {'which':9} {'ratio':>6}")
    for e in entries:
        peer = f"{e['peer_value']:11.1f} {e['peer']:9} {e['ratio'] or 0:6.2f}" if e["peer"] else ""
        print(f"{e['name']:36} {e['value']:11.1f} {e['unit']:6} {peer}")
    if options.json:
        options.json.write_text(json.dumps(entries, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
