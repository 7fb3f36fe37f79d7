"""The story of one cell: what uraid does with the array in its turns, and what the kernel is asked to do in its own.

Both kinds of cells see the same five turns: uraid, kernel, uraid, kernel, uraid. In a cell that the kernel starts the
first is empty. The model holds what every byte of the array must be.
"""

import hashlib
import random

from harness import mdadm, mdlayout
from harness.case import URAID, Failed

from . import content
from .daemon import Daemon, Refused, crash
from .kernel import in_guest

WRITES = 12


class Story:
    """One cell, its members and its model."""

    def __init__(self, t, cell, seed, pool):
        self.t, self.cell, self.pool = t, cell, pool
        self.seed = f"{seed} {cell.name}"
        self.draw = random.Random(self.seed)
        self.size = cell.used * cell.data
        self.model, self.ledger = bytearray(self.size), None
        self.fresh_count, self.members = 0, [t.dir / f"m{i}" for i in range(cell.members)]
        self.lost, self.stale, self.gone, self.planned = 0, [], [], []
        self.bitmap_chunk = self.draw.choice([4 << 10, 16 << 10, 64 << 10])
        self.metadata = self.draw.choice(["1.0", "1.1", "1.2", "1.2"])

    # What the host does.

    def member_bytes(self):
        """Size of a member file."""
        return self.cell.used + self.beside()

    def beside(self):
        """Bytes beside the data: before them, or behind them with metadata 1.0. uraid leaves as much as mdadm does by
        itself; of mdadm the test asks for 1 MiB, and more for partial parity logs."""
        wide = self.cell.starter == "uraid" and self.cell.chunk >= 512 << 10
        return (2 << 20) if wide or self.cell.bitmap == "ppl" else (1 << 20)

    def fresh(self):
        """A blank member."""
        path = self.t.dir / f"fresh{self.fresh_count}"
        self.fresh_count += 1
        with open(path, "wb") as file:
            file.truncate(self.member_bytes())
        return path

    def fill(self):
        """Writes that cover the array."""
        writes = list(content.fill(self.draw, self.size))
        content.apply(self.model, writes, self.pool)
        return writes

    def writes(self):
        """Random writes."""
        writes = list(content.scattered(self.draw, self.size, self.cell.chunk, self.cell.data, WRITES))
        content.apply(self.model, writes, self.pool)
        return writes

    def groups(self):
        """The groups of the crash load."""
        return content.groups(self.seed, self.size, self.cell.chunk, self.cell.data)

    def crashed(self, flushed):
        """Notes what may be on the array after a crash."""
        self.ledger = content.CrashLedger(bytes(self.model), self.seed, self.size, self.cell.chunk, self.cell.data, flushed)

    def survived(self, whole):
        """Compares the array after a crash with the ledger; what it holds is the model from now on."""
        self.t.check(len(whole) == self.size, f"the array has {len(whole)} bytes, not {self.size}")
        complaints = self.ledger.complaints(whole)
        self.t.check(not complaints, f"after the crash: {'; '.join(complaints)}")
        self.model, self.ledger = bytearray(whole), None

    def verify(self, daemon):
        """Reads every byte through uraid."""
        whole = daemon.read()
        if self.ledger is not None:
            self.survived(whole)
        elif whole != self.model:
            self.differs(whole, "uraid")

    def differs(self, whole, reader):
        """Fails, and says where."""
        self.t.check(len(whole) == len(self.model), f"{reader} sees {len(whole)} bytes, not {len(self.model)}")
        wrong = [at for at in range(0, self.size, 512) if whole[at:at + 512] != self.model[at:at + 512]]
        raise Failed(f"{reader} reads other bytes than were written in {len(wrong)} sectors, the first at byte {wrong[0]}, "
                     f"in row {wrong[0] // (self.cell.chunk * self.cell.data)}")

    def lose(self):
        """The members that are taken away next."""
        return self.draw.sample(self.current(), self.draw.randint(1, self.cell.parities))

    def come_back(self, failed):
        """Which of the members that are away come back with what they hold; the others are replaced by blank ones.
        None does without a bitmap, or if its role was given to another one."""
        away = failed or (self.stale if self.lost else [])
        return list(away) if self.cell.bitmap == "internal" and self.draw.random() < 0.5 else []

    def replace(self, failed, fresh, back):
        """From now on `fresh` and `back` are members, in place of `failed` and of what was stale."""
        self.members = [m for m in self.members if m not in failed + self.stale] + list(fresh) + list(back)
        self.stale, self.lost = [], 0

    def bitmap_is_clear(self):
        """After a clean stop no bit is set, and the bitmap is as current as the superblock."""
        for member in self.members if self.cell.bitmap == "internal" else []:
            bitmap, superblock = mdlayout.read_bitmap(member), mdlayout.read_superblock(member)
            self.t.check(bitmap is not None, f"{member.name}: the bitmap is gone")
            self.t.check(not bitmap.dirty and not bitmap.state and bitmap.events == superblock.events,
                         f"{member.name}: {len(bitmap.dirty)} bits are set, state {bitmap.state}, events {bitmap.events} "
                         f"and {superblock.events}, after a clean stop")

    # Turn 0 and 2 and 4: uraid.

    def uraid_begins(self):
        """Turn 0 of a cell that uraid starts: create, fill, bring into the state."""
        cell = self.cell
        layout = [] if cell.layout == "-" else ["--layout", cell.layout]
        bitmap = ["--bitmap", "internal", "--bitmap-chunk", f"{self.bitmap_chunk >> 10}K"] if cell.bitmap != "none" else []
        self.t.run(URAID, "create", "--level", cell.level, *layout, "--chunk", f"{cell.chunk >> 10}K", "--name", "cell",
                   "--metadata", self.metadata, "--size", self.member_bytes(), *bitmap, *self.members)
        self.size = mdadm.agree(self.t, self.members, clean=None)[0]["array_bytes"]
        self.model = bytearray(self.size)
        # One stripe at a time: the rebuild is to be met in its middle.
        with self.serve(self.members, 1 if cell.state == "mid-rebuild" else 8) as daemon:
            daemon.write(self.fill(), self.pool)
            daemon.settled()
            if cell.state == "dirty":
                flushed = self.draw.randrange(1, 6)
                self.crashed(flushed)
                crash(daemon, self.groups(), content.stamped, self.draw, flushed)
                return
            if cell.state == "mid-rebuild":
                stale = self.half_rebuilt(daemon)
            else:
                stale = self.draw.sample(self.members, cell.lost)
                for member in stale:
                    daemon.fail(member)
                daemon.write(self.writes(), self.pool)
                daemon.stop()
                self.lost = cell.lost
        self.leave(stale)
        mdadm.agree(self.t, self.current(), clean=True)

    def half_rebuilt(self, daemon):
        """A member fails, and uraid is stopped in the middle of the rebuild of another one. If it was too fast, the
        new member is the next one to fail."""
        failed = [self.draw.choice(self.members)]
        daemon.fail(failed[0])
        daemon.write(self.writes(), self.pool)
        for _ in range(8):
            fresh = self.fresh()
            daemon.add(fresh)
            daemon.stop()
            self.members = [m for m in self.members if m != failed[-1]] + [fresh]
            if mdadm.examine_ours(self.t, fresh)[0]["recovery_offset_bytes"] is not None:
                self.members += failed
                return failed
            daemon = self.serve(self.members, 1)
            try:
                daemon.fail(fresh)
            except BaseException:
                daemon.kill()
                raise
            failed.append(fresh)
        daemon.kill()
        raise Failed("the state was not reached: each rebuild had ended before uraid was stopped")

    def leave(self, stale):
        """Members that failed are shown to the other side or not: both have to do. At most one is shown."""
        shown = stale[-1:] if self.draw.random() < 0.5 else []
        for member in stale:
            if member not in shown:
                member.unlink()
        self.members = [m for m in self.members if m not in stale] + shown
        self.stale = shown

    def current(self):
        """The members that are up to date."""
        return [m for m in self.members if m not in self.stale]

    def serve(self, members, in_flight=8):
        """Starts uraid."""
        try:
            return Daemon(self.t, members, in_flight)
        except Refused as refused:
            raise Failed(f"uraid does not serve the array: {refused}") from refused

    def uraid_middle(self):
        """Turn 2 of a cell that the kernel started: read, write, lose a member, rebuild, stop."""
        if self.cell.state != "dirty":
            mdadm.agree(self.t, self.current(), clean=True)
        with self.serve(self.members) as daemon:
            self.verify(daemon)
            daemon.settled(self.lost)
            daemon.write(self.writes(), self.pool)
            failed = [] if self.lost else self.lose()
            for member in failed:
                daemon.fail(member)
            daemon.write(self.writes(), self.pool)
            back = self.come_back(failed)
            fresh = [self.fresh() for _ in range(len(failed) + self.lost - len(back))]
            for member in back + fresh:
                daemon.add(member)
            daemon.settled()
            daemon.write(self.writes(), self.pool)
            self.verify(daemon)
            daemon.stop()
        self.replace(failed, fresh, back)
        mdadm.agree(self.t, self.members, clean=True)
        self.parity_matches()
        self.bitmap_is_clear()

    def parity_matches(self):
        """The members say themselves that all parity matches, without uraid or the kernel."""
        report = mdlayout.check_parity(self.members)
        self.t.check(report.stripes and not report.bad and not report.skipped, f"parity: {report}")

    def uraid_ends(self):
        """Turn 2 of a cell that uraid started, and the last one of the others: read, scrub, write, stop."""
        mdadm.agree(self.t, self.members, clean=True)
        with self.serve(self.members) as daemon:
            self.verify(daemon)
            status = daemon.status()
            self.t.check(status["degraded"] == 0 and status["sync"] is None, "the array is not whole")
            # The command asks twice a second whether it has ended: too slow for every cell.
            if self.draw.random() < 0.1:
                daemon.ask("scrub", repair=False, wait=True)
            daemon.write(self.writes(), self.pool)
            self.verify(daemon)
            daemon.stop()
        mdadm.agree(self.t, self.members, clean=True)
        self.parity_matches()
        self.bitmap_is_clear()

    # What the kernel is asked to do.

    def turn(self, story, **more):
        """A turn of the kernel; see ../guest/agent.py."""
        cell = self.cell
        described = {"level": cell.level, "layout": cell.layout, "chunk": cell.chunk, "used": cell.used, "data": cell.data,
                     "bitmap": cell.bitmap, "bitmap_chunk": self.bitmap_chunk,
                     "metadata": self.metadata, "beside": self.beside()}
        turn = {"story": story, "name": cell.name, "cell": described, "state": cell.state, "seed": self.seed,
                "dump": in_guest(self.t.whole, self.t.dir / "dump"), "lost": self.lost, **more}
        for key in ("members", "fail", "fresh", "back"):
            turn[key] = [in_guest(self.t.whole, p) for p in turn.get(key, [])]
        return turn

    def kernel_begins(self):
        """Turn 1 of a cell that the kernel starts."""
        for member in self.members:
            with open(member, "wb") as file:
                file.truncate(self.member_bytes())
        state = self.cell.state
        self.gone = self.draw.sample(self.members, self.cell.lost)
        fresh = [self.fresh()] if state == "mid-rebuild" else []
        turn = self.turn("begin", members=self.members, fail=self.gone, fresh=fresh, fill=self.fill(),
                         writes=self.writes() if state != "dirty" else [])
        self.members += fresh
        if state == "dirty":
            turn |= {"crash": True, "report": in_guest(self.t.whole, self.report())}
        return turn

    def report(self):
        """Where the guest says how many groups are durable."""
        return self.t.dir / "report"

    def kernel_began(self, flushed):
        """What turn 1 left is what was asked for."""
        if self.cell.state == "dirty":
            self.t.check(flushed > 0, "the kernel's flushes were not reported")
            self.crashed(flushed)
            return
        self.leave(self.gone)
        ours = mdadm.examine_ours(self.t, *self.current())
        offsets = [o["recovery_offset_bytes"] for o in ours if o["recovery_offset_bytes"] is not None]
        if self.cell.state == "mid-rebuild":
            self.t.check(len(offsets) == 1 and 0 < offsets[0] < self.cell.used, f"no rebuild stands half way: {offsets}")
        else:
            self.lost = self.cell.lost
            self.t.check(ours[0]["array_state"].count(".") == self.lost, f"the array is {ours[0]['array_state']}")

    def kernel_middle(self):
        """Turn 1 of a cell that uraid started."""
        sha = hashlib.sha256(self.model).hexdigest()
        self.planned = list(content.scattered(self.draw, self.size, self.cell.chunk, self.cell.data, WRITES))
        failed = [] if self.lost else self.lose()
        back = self.come_back(failed)
        fresh = [self.fresh() for _ in range(len(failed) + self.lost - len(back))]
        turn = self.turn("middle", members=self.members, fail=failed, fresh=fresh, back=back, sha=sha, writes=self.planned)
        self.replace(failed, fresh, back)
        return turn

    def kernel_was_middle(self):
        """Takes over what turn 1 did."""
        if self.cell.state == "dirty":
            self.survived((self.t.dir / "dump").read_bytes())
        content.apply(self.model, self.planned, self.pool)

    def kernel_ends(self):
        """Turn 3."""
        sha = hashlib.sha256(self.model).hexdigest()
        self.bitmap = mdlayout.read_bitmap(self.members[0]), mdadm.examine_ours(self.t, self.members[0])[0]
        # mdadm --detail asks the kernel about 4,096 members that there could be, so not in every cell.
        return self.turn("end", members=self.members, sha=sha, writes=self.writes(), detail=self.draw.random() < 0.34)

    def kernel_ended(self, result):
        """What mdadm said at the end of turn 3."""
        ours = mdadm.agree(self.t, self.members, clean=True)
        if result["detail"] is not None:
            mdadm.detail_agrees(self.t, result["detail"], ours[0])
        if result["bitmap"] is not None:
            mdadm.bitmap_agrees(self.t, result["bitmap"], self.bitmap[0], self.bitmap[1]["bitmap"])
