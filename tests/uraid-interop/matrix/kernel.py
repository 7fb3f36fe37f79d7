"""The kernel's turns of many arrays in one boot of the user-mode kernel; what they are is in ../guest/agent.py."""

import json
import time
from pathlib import Path

from harness.case import Failed, until
from harness.uml import Guest

AGENT = Path(__file__).resolve().parents[1] / "guest" / "agent.py"
WORK = "/run/host"
SCRIPT = """
mkdir -p {work}
mount -t hostfs none {work} -o {dir}
python3 -I -S -B {agent} {work}/{boot}
"""


def in_guest(t, path):
    """A path below the test's directory, as the guest sees it."""
    return f"{WORK}/{Path(path).relative_to(t.dir)}"


class Boot:
    """One boot: tells all turns, and powers off or is killed."""

    def __init__(self, t, turns, pool):
        self.t, self.turns, self.began = t, turns, time.monotonic()
        number = len(list(t.dir.glob("boot*")))
        self.place = t.dir / f"boot{number}"
        self.place.mkdir()
        job = {"pool": in_guest(t, pool), "turns": turns}
        (self.place / "job.json").write_text(json.dumps(job))
        script = SCRIPT.format(work=WORK, dir=t.dir, agent=AGENT, boot=self.place.name)
        self.guest = Guest(t, script, mem="1G", modules="raid456 loop")
        # A turn takes a second at most; on a machine that is busy with other things, ten times as long.
        self.seconds = 180 + 15 * len(turns)

    def results(self):
        """Runs to the power-off; the results by name."""
        self.guest.wait(self.seconds)
        return json.loads((self.place / "results.json").read_text())

    def killed(self, reports, draw):
        """Runs until every array that is written has had some groups flushed, then kills the kernel; returns the
        results and how many groups of each report are known to be durable."""
        done = self.place / "results.json"
        until("the guest's turns to end", lambda: done.exists() or self.guest.process.poll() is not None, self.seconds)
        if not done.exists():
            self.guest.wait(1)
            raise Failed("the guest powered off and left no results")
        results = json.loads(done.read_text())
        alive = [r for name, r in reports.items() if "error" not in results[name]]
        goal = draw.randrange(1, 4)
        until("some flushes of every array", lambda: all(count(r) >= goal for r in alive), self.seconds, 0.001)
        time.sleep(draw.random() * 0.05)
        self.guest.kill()
        return results, {name: count(report) for name, report in reports.items()}


def count(report):
    """How many groups a report says are durable. The write of a number is a single one, so it is whole."""
    try:
        return int(Path(report).read_text() or 0)
    except (FileNotFoundError, ValueError):
        return 0
