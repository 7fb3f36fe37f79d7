"""Writers that are killed, again and again, and the other side that has to make good of what they leave.

By uraid: the daemon is killed while its requests are in flight, the kernel assembles, resyncs and checks. By power:
the same, but its members lose power at that moment, and what it had not flushed is there, or not, or in part
(`disks.py`). By the kernel: the process of the guest kernel is killed while it writes many arrays, and what it had not
flushed is lost; uraid serves, resyncs, and the kernel checks afterwards. Arrays live through several kills, so that
what one side leaves is what the other begins with.

Before the resync every stripe whose parity does not match must be one that a resync will pass: the superblock says
dirty, and a bitmap has its bit, on each member. After it nothing may be lost that was flushed, and nothing may differ.
"""

import contextlib
import hashlib
import os
import random
import time
import traceback
from pathlib import Path

from harness import mdlayout
from harness.case import Case, Failed

from . import cells, content
from .daemon import crash
from .disks import Disks
from .kernel import Boot
from .story import Story

AT_ONCE, ROUNDS = {"uraid": 50, "power": 50, "kernel": 25}, 4
# What the arrays have to come back from a crash; "any" draws it for each.
KEPT = [*cells.BITMAPS, "ppl", "any"]


def shape(draw, bitmap):
    """A random array, dirty by nature; small ones more often than large ones. Only level 5 has partial parity logs."""
    bitmap = draw.choice(["internal", "internal", "none", "ppl"]) if bitmap == "any" else bitmap
    level = 5 if bitmap == "ppl" else draw.choice([4, 5, 5, 6, 6])
    return cells.Cell(level, draw.choice(cells.LAYOUTS[level]), draw.choice(list(cells.MEMBERS[level])),
                      draw.choice([4 << 10, 4 << 10, 16 << 10, 64 << 10, 64 << 10, 128 << 10, 512 << 10]), bitmap, "dirty", "kernel")


class Victim(Story):
    """One array that is crashed, and crashed again."""

    def __init__(self, t, cell, seed, pool, number):
        super().__init__(t, cell, f"{seed} {number}", pool)
        self.label, self.round, self.kills = f"{number}:{cell.name}", 0, 0
        self.bitmap_chunk = self.draw.choice([4, 8, 16, 64, 1024]) << 10
        self.base = self.seed

    def next_round(self):
        """Each load is another one."""
        self.round += 1
        self.seed = f"{self.base} round {self.round}"

    def described(self, story, **more):
        """A turn of the kernel under this array's own name."""
        return {**self.turn(story, members=self.members, **more), "name": self.label}

    def made(self, story):
        """The members, blank, and the turn in which the kernel makes the array and fills it."""
        for member in self.members:
            with open(member, "wb") as file:
                file.truncate(self.member_bytes())
        return {**self.described(story, fill=self.fill(), writes=[], create=True), "state": "clean"}

    def sha(self):
        """Of what every byte has to be."""
        return hashlib.sha256(self.model).hexdigest()

    def covered(self):
        """A resync will pass whatever does not match. Returns how many stripes that are, and the members whose bitmap
        is out of date."""
        torn, complaints, outdated = mdlayout.resync_covers(self.members)
        self.t.check(not complaints, f"before the resync: {'; '.join(complaints[:3])}")
        return torn, outdated

    def writes_until(self, members, others=()):
        """uraid serves these members and writes until it is killed, and some other processes with it."""
        with self.serve(members) as daemon:
            self.t.check(bytes(daemon.read()) == self.model, "uraid reads other bytes than the kernel left")
            flushed = self.draw.randrange(5)
            self.crashed(flushed)
            crash(daemon, self.groups(), content.stamped, self.draw, flushed, others)

    def killed_uraid(self, by):
        """uraid writes and is killed; returns how many stripes it left torn."""
        if by == "power":
            with Disks(self.t, self.members) as disks:
                self.writes_until(disks.paths, [disks.process.pid])
            disks.cut(self.draw)
        else:
            self.writes_until(self.members)
        self.kills += 1
        torn, outdated = self.covered()
        # uraid promises more than the kernel does: its bitmap is never behind.
        self.t.check(not outdated, f"before the resync: {'; '.join(outdated[:3])}")
        return torn, outdated

    def recovered_by_uraid(self):
        """uraid takes what the kernel left when it was killed."""
        torn, outdated = self.covered()
        with self.serve(self.members) as daemon:
            daemon.settled()
            self.verify(daemon)
            daemon.stop()
        self.parity_matches()
        self.bitmap_is_clear()
        self.kills += 1
        return torn, outdated


class Kills:
    """One batch of victims and its rounds."""

    def __init__(self, number, by, count, bitmap, seed, logs):
        self.by, self.count = by, count
        self.logs = Path(logs) / f"kills-{by}-{number}"
        self.t = Case(f"kills{number}", 4 << 30)
        self.draw = random.Random(f"{seed} kills by {by} {number}")
        pool = content.make_pool(seed)
        (self.t.dir / "pool").write_bytes(pool)
        self.victims, self.failed, self.torn, self.torn_arrays, self.outdated, self.boots = [], {}, 0, 0, 0, 0
        for place in range(min(AT_ONCE[by], count)):
            part = self.t.part(f"c{place}")
            part.whole = self.t
            self.victims.append(Victim(part, shape(self.draw, bitmap), f"{seed} {by} {number}", pool, place))

    def going(self):
        """The victims of which nothing bad is known."""
        return [v for v in self.victims if v.label not in self.failed]

    @contextlib.contextmanager
    def judged(self, victim):
        """What fails inside is this victim's failure."""
        try:
            yield
        except Failed as failed:
            self.fail(victim, str(failed))
        except Exception as error:  # a defect of the test or something unforeseen: show where
            self.t.say(traceback.format_exc())
            self.fail(victim, f"{type(error).__name__}: {error}")

    def fail(self, victim, reason):
        """Notes a failure and keeps the members as they are."""
        self.failed[victim.label] = f"round {victim.round} ({victim.t.dir.name}, seed {victim.seed!r}): {reason}"
        place = self.logs / victim.t.dir.name
        place.mkdir(parents=True, exist_ok=True)
        for member in victim.members:
            (place / member.name).write_bytes(member.read_bytes())

    def boot(self, turns, after, kill=False):
        """One boot with a turn for each of the victims that go on."""
        described = [(v, turns(v)) for v in self.going()]
        if not described:
            return
        self.boots += 1
        boot = Boot(self.t, [d for _, d in described], self.t.dir / "pool")
        reports = {v.label: v.report() for v, _ in described} if kill else {}
        results, flushed = boot.killed(reports, self.draw) if kill else (boot.results(), {})
        for victim, _ in described:
            with self.judged(victim):
                if "error" in results[victim.label]:
                    raise Failed(results[victim.label]["error"])
                after(victim, flushed.get(victim.label, 0))

    def left(self, torn, outdated):
        """Counts what a kill left."""
        self.torn += torn
        self.torn_arrays += torn > 0
        self.outdated += bool(outdated)

    def rounds(self):
        """Rounds until the victims were crashed often enough, all together."""
        while sum(v.kills for v in self.victims) < self.count and self.going():
            for victim in self.going():
                victim.next_round()
            yield

    def by_uraid(self):
        """uraid is killed, the kernel recovers."""
        self.boot(lambda v: v.made("begin"), lambda v, _: None)
        for _ in self.rounds():
            for victim in self.going():
                with self.judged(victim):
                    self.left(*victim.killed_uraid(self.by))
            self.boot(lambda v: v.described("resynced"), lambda v, _: v.survived((v.t.dir / "dump").read_bytes()))

    def by_kernel(self):
        """The kernel is killed, uraid recovers, and the next boot checks."""
        for number, _ in enumerate(self.rounds()):
            self.boot(lambda v, first=number == 0: self.writer(v, first), self.crashed_kernel, kill=True)
            for victim in self.going():
                with self.judged(victim):
                    self.left(*victim.recovered_by_uraid())
        self.boot(lambda v: v.described("end", sha=v.sha(), writes=[], detail=False), lambda v, _: None)

    @staticmethod
    def writer(victim, first):
        """The turn after which the array is written until the kernel dies."""
        victim.report().unlink(missing_ok=True)
        turn = victim.made("resume") if first else victim.described("resume", create=False, sha=victim.sha())
        return {**turn, "crash": True, "report": turn["dump"].replace("dump", "report")}

    @staticmethod
    def crashed_kernel(victim, flushed):
        """Notes what may be there now."""
        victim.t.check(flushed > 0, "the kernel's flushes were not reported")
        victim.crashed(flushed)

    def run(self):
        """The whole batch; returns its figures."""
        began = time.monotonic()
        try:
            self.by_kernel() if self.by == "kernel" else self.by_uraid()
        except Failed as failed:
            for victim in self.going():
                self.failed[victim.label] = f"the batch ended: {failed}"
        finally:
            self.t.close(keep_logs_in=self.logs if self.failed else None)
        return {"kills": sum(v.kills for v in self.victims), "failed": self.failed, "torn": self.torn,
                "torn_arrays": self.torn_arrays, "outdated": self.outdated, "boots": self.boots, "seconds": time.monotonic() - began}


def run_kills(number, by, count, bitmap, seed, logs, core):
    """One batch on one core, in a process of its own."""
    os.sched_setaffinity(0, {core})
    return Kills(number, by, count, bitmap, seed, logs).run()
