"""What malformed and stalled sessions cost an honest client, and whether they leave anything behind.

    hostile.py [--rounds N] [--seconds S] [--sessions N] [--stalled N] [--json FILE] [--uraid PATH] [--tcp]

One `uraid serve`, one fio over NBD on a unix socket (random reads and writes of mixed lengths, 16 in
flight), and a process of attackers (tests/e2e/harness/malform.py): malformed sessions at a fixed pace,
`--sessions` of them over all rounds, while `--stalled` others are held open and replaced when the server
closes them. Attackers need processor time of their own, which the honest client feels on a small machine
whoever is attacked. So each round measures fio three times, in an order that turns from round to round:

    quiet    nobody attacks
    decoy    the same attackers at the same pace against a socket on which nobody speaks NBD: every
             connection is accepted, read once and closed by another process
    attack   the attackers against uraid

The figure is the median of attack over the median of decoy; attack over quiet is shown, too. Descriptors
and memory of the daemon are compared before the first attack and behind the last one.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "e2e"))

from harness.case import need, reap, scratch_root, until  # noqa: E402
from harness.malform import Attacker, Stalled  # noqa: E402
from harness.rawnbd import Gone, Raw  # noqa: E402

MIB = 1 << 20
SAFE = 128 * MIB
# New stalled connections in one go, so that opening them is no burst of its own.
STALLED_AT_ONCE = 25
# Of those that the server closed, replaced every 20 ms: a decoy closes none, and the paces are to be the same.
REPLACED_AT_ONCE = 1
# Seconds in which fio works and is not measured: the attack begins in them, behind fio's own connect.
RAMP_S = 4


def attack(where, seed, size, pace, stalled, begun, stop, count):
    """The attackers' process: `pace` sessions a second, and `stalled` that hold on."""
    attacker, holders = Attacker(where, seed, SAFE, size), Stalled(where, seed, stalled)
    soon = time.monotonic() + RAMP_S / 2
    while len(holders.held) < stalled and time.monotonic() < soon:
        holders.fill(STALLED_AT_ONCE)
    begun.set()
    started, done = time.monotonic(), 0
    while not stop.is_set():
        due = int((time.monotonic() - started) * pace)
        while done < due and not stop.is_set():
            attacker.session()
            done += 1
        holders.fill(REPLACED_AT_ONCE)
        time.sleep(0.02)
    with count.get_lock():
        count.value += done
    holders.close()


def decoy(path, ready):
    """Accepts, reads once, and closes when the client does or has said something wrong: a server of nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1024)
    listener.setblocking(False)
    ready.set()
    watch = selectors.DefaultSelector()
    watch.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in watch.select():
            with contextlib.suppress(OSError):
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    client.setblocking(False)
                    watch.register(client, selectors.EVENT_READ)
                    continue
                data = key.fileobj.recv(65536)
                # Stalled ones say little; they are held, as uraid holds them.
                if data and len(data) < 200:
                    continue
            if key.fileobj is not listener:
                watch.unregister(key.fileobj)
                key.fileobj.close()


def fio(uri, seconds, mib):
    """Starts the honest client; `speed_of` waits for it."""
    return subprocess.Popen(["fio", "--name=honest", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--bssplit=4k/50:64k/40:1m/10",
                             "--iodepth=16", f"--size={mib}m", "--time_based", f"--runtime={seconds}", f"--ramp_time={RAMP_S}",
                             "--randrepeat=0", "--output-format=json", "--thread"], stdout=subprocess.PIPE, text=True)


def speed_of(process):
    """MB/s of the honest client, reads and writes together."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the honest client failed: {output[-500:]}")
    job = json.loads(output[output.index("{"):])["jobs"][0]
    return (job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) / 1e6


def newcomer(socket_path):
    """Seconds that a new honest client needs to its first answer, or None when it is turned away."""
    started = time.monotonic()
    try:
        with Raw(socket_path, 30) as raw:
            raw.go().read(0, 4096)
    except (Gone, OSError):
        return None
    return time.monotonic() - started


class Daemon:
    """`uraid serve` of a RAID 6 of 4+2 members on a tmpfs, if there is one."""

    def __init__(self, stack, uraid, home, tcp):
        members = [home / f"m{i}" for i in range(6)]
        subprocess.run([uraid, "create", "--level", "6", "--name", "hostile", "--size", "128M", "--assume-clean", *members], check=True,
                       capture_output=True)
        self.uraid, self.socket, self.control = uraid, home / "nbd.sock", home / "control"
        self.log = open(home / "uraid.log", "ab")
        listen = ["--listen", f"unix:{self.socket}"] + (["--listen", "tcp:127.0.0.1:0"] if tcp else [])
        self.process = subprocess.Popen([uraid, "serve", *listen, "--control", self.control, *members],
                                        stdout=subprocess.PIPE, stderr=self.log)
        stack.callback(reap, self.process)
        line = self.process.stdout.readline().decode()
        self.where = ("127.0.0.1", int(line.rsplit(":", 1)[1])) if tcp else self.socket
        with Raw(self.socket) as raw:
            self.size = raw.go().size

    def clients(self):
        """Connections in transmission, as `uraid status` counts them."""
        done = subprocess.run([self.uraid, "status", "--json", "--control", self.control], check=True, capture_output=True)
        return json.loads(done.stdout)["counters"]["connections"]

    def files(self):
        """Descriptors that it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self):
        """MiB of it in memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def phase(name, daemon, decoy_path, options, seed, count):
    """One measurement; returns the honest client's MB/s and the newcomers' times."""
    honest = fio(f"nbd+unix:///?socket={daemon.socket}", options.seconds, SAFE // MIB)
    if name == "quiet":
        return speed_of(honest), []
    until("the honest client to be connected", lambda: daemon.clients() > 0)
    where = daemon.where if name == "attack" else decoy_path
    pace = options.sessions / (options.rounds * options.seconds)
    begun, stop = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.Process(target=attack, args=(where, seed, daemon.size, pace, options.stalled, begun, stop, count[name]), daemon=True)
    process.start()
    begun.wait(60)
    try:
        speed = speed_of(honest)
        waits = [newcomer(daemon.socket) for _ in range(5)] if name == "attack" else []
    finally:
        stop.set()
        process.join(60)
    until("the daemon to be alone", lambda: daemon.clients() == 0, 60)
    return speed, waits


def measure(options):
    """All rounds; returns what was found."""
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="uraid-hostile.", dir=scratch_root(2 << 30)))
        stack.callback(subprocess.run, ["rm", "-rf", str(home)], check=False)
        daemon = Daemon(stack, options.uraid, home, options.tcp)
        ready = multiprocessing.Event()
        server = multiprocessing.Process(target=decoy, args=(home / "decoy.sock", ready), daemon=True)
        server.start()
        stack.callback(server.join, 5)
        stack.callback(server.terminate)
        ready.wait(10)
        speed_of(fio(f"nbd+unix:///?socket={daemon.socket}", 2, SAFE // MIB))
        until("the daemon to be alone", lambda: daemon.clients() == 0)
        before = daemon.files(), daemon.memory()
        names = ["quiet", "decoy", "attack"]
        found, waits, count = {name: [] for name in names}, [], {name: multiprocessing.Value("q", 0) for name in names}
        for number in range(options.rounds):
            for name in names[number % 3:] + names[:number % 3]:
                speed, came = phase(name, daemon, home / "decoy.sock", options, number, count)
                found[name].append(speed)
                waits += came
        until("the daemon to close what it was left with", lambda: daemon.files() <= before[0], 30)
        after = daemon.files(), daemon.memory()
        if daemon.process.poll() is not None:
            raise SystemExit("uraid did not survive")
    return {"mb_per_s": found, "sessions": {n: c.value for n, c in count.items() if n != "quiet"}, "stalled": options.stalled,
            "descriptors": [before[0], after[0]], "rss_mib": [round(before[1], 1), round(after[1], 1)],
            "newcomers": {"answered": sum(w is not None for w in waits), "of": len(waits),
                          "longest_s": max((w for w in waits if w is not None), default=None)}}


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description="malformed and stalled sessions beside an honest client")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=10_000, help="malformed sessions, over all rounds")
    parser.add_argument("--stalled", type=int, default=1000, help="stalled ones at once")
    parser.add_argument("--tcp", action="store_true", help="attack over TCP")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--uraid", default=REPO / "target" / "release" / "uraid", type=Path)
    options = parser.parse_args()
    need("fio")
    found = measure(options)
    medians = {name: statistics.median(values) for name, values in found["mb_per_s"].items()}
    found["ratio_to_decoy"] = round(medians["attack"] / medians["decoy"], 3)
    found["ratio_to_quiet"] = round(medians["attack"] / medians["quiet"], 3)
    for name, values in found["mb_per_s"].items():
        print(f"{name:7} median {medians[name]:7.0f} MB/s of {' '.join(f'{v:.0f}' for v in values)}")
    for key in ("ratio_to_decoy", "ratio_to_quiet", "sessions", "stalled", "descriptors", "rss_mib", "newcomers"):
        print(f"{key}: {found[key]}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
