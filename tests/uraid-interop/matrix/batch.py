"""A batch: many cells that take their turns together, so that one boot of the kernel is the kernel's turn of all.

A cell that fails leaves its batch; the others go on. A batch keeps to the core that it is given, and what it
needs is gone when it ends, except for the logs of cells that failed.
"""

import contextlib
import os
import random
import shutil
import time
import traceback
from pathlib import Path

from harness.case import Case, Failed

from . import content
from .kernel import Boot
from .story import Story


class Batch:
    """The stories of some cells, turn by turn."""

    def __init__(self, number, cells, seed, logs):
        self.logs = Path(logs) / f"batch{number}"
        self.t = Case(f"interop{number}", 4 << 30)
        self.draw = random.Random(f"{seed} batch {number}")
        self.failed, self.seconds = {}, {}
        pool = content.make_pool(seed)
        self.pool = self.t.dir / "pool"
        self.pool.write_bytes(pool)
        self.stories = []
        for place, cell in enumerate(cells):
            part = self.t.part(f"c{place}")
            part.whole = self.t
            self.stories.append(Story(part, cell, seed, pool))

    def going(self, starter=None):
        """The stories that go on, of one starter or of both."""
        return [s for s in self.stories if s.cell.name not in self.failed and starter in (None, s.cell.starter)]

    @contextlib.contextmanager
    def judged(self, story, turn):
        """What happens inside is this cell's; if it fails, the cell has failed."""
        try:
            yield
        except Failed as failed:
            self.fail(story, turn, str(failed))
        except Exception as error:  # a defect of the test or something unforeseen: show where
            self.fail(story, turn, f"{type(error).__name__}: {error}")
            self.t.say(traceback.format_exc())

    def fail(self, story, turn, reason):
        """Notes a failure, and keeps the small files of the cell: its logs and, of each member, what it said."""
        self.failed[story.cell.name] = f"turn {turn} ({story.t.dir.name}): {reason}"
        self.t.say(f"FAILED {story.cell.name}, turn {turn}: {reason}")
        place = self.logs / story.t.dir.name
        place.mkdir(parents=True, exist_ok=True)
        for member in story.members:
            if member.exists():
                shutil.copy(member, place / member.name)

    def host(self, turn, act):
        """A turn of uraid: one array after the other."""
        began = time.monotonic()
        for story in act:
            with self.judged(story[0], turn):
                self.t.say(f"--- turn {turn} of {story[0].cell.name}")
                story[1]()
        self.seconds[f"uraid {turn}"] = time.monotonic() - began

    def kernel(self, turn, asked, took):
        """A turn of the kernel. `asked` and `took` are given a story; the kernel is killed when a turn says so."""
        began, turns = time.monotonic(), []
        for story in self.going():
            with self.judged(story, turn):
                turns.append((story, asked(story)))
        if not turns:
            return
        boot = Boot(self.t, [described for _, described in turns], self.pool)
        reports = {s.cell.name: s.report() for s, described in turns if described.get("crash")}
        results, flushed = boot.killed(reports, self.draw) if reports else (boot.results(), {})
        for story, described in turns:
            result = results[described["name"]]
            with self.judged(story, turn):
                if "error" in result:
                    raise Failed(self.explained(story, described, result["error"]))
                took(story, result, flushed.get(described["name"], 0))
        self.seconds[f"kernel {turn}"] = time.monotonic() - began

    @staticmethod
    def explained(story, described, error):
        """The guest's reason, and where the bytes differ if it left them."""
        dump = story.t.dir / "dump"
        if "other bytes" not in error or not dump.exists():
            return error
        got, want = dump.read_bytes(), bytearray(story.model)
        if described["story"] == "end":
            return f"{error}; the array has {len(got)} bytes"
        wrong = [at for at in range(0, len(want), 512) if got[at:at + 512] != want[at:at + 512]]
        return f"{error}; {len(wrong)} sectors differ, the first at byte {wrong[0] if wrong else None}"

    def tell(self):
        """All turns. Returns what came of the cells."""
        try:
            self.host(0, [(s, s.uraid_begins) for s in self.going("uraid")])
            self.kernel(1, lambda s: s.kernel_begins() if s.cell.starter == "kernel" else s.kernel_middle(),
                        lambda s, _, flushed: s.kernel_began(flushed) if s.cell.starter == "kernel"
                        else s.kernel_was_middle())
            self.host(2, [(s, s.uraid_middle if s.cell.starter == "kernel" else s.uraid_ends) for s in self.going()])
            self.kernel(3, lambda s: s.kernel_ends(), lambda s, result, _: s.kernel_ended(result))
            self.host(4, [(s, s.uraid_ends) for s in self.going("kernel")])
        except Failed as failed:
            for story in self.going():
                self.failed[story.cell.name] = f"the batch ended: {failed}"
        finally:
            self.t.close(keep_logs_in=self.logs if self.failed else None)
        good = [s.cell.name for s in self.going()]
        return {"good": good, "failed": self.failed, "seconds": self.seconds}


def run_batch(number, cells, seed, logs, core):
    """One batch on one core, in a process of its own."""
    os.sched_setaffinity(0, {core})
    return Batch(number, cells, seed, logs).tell()
