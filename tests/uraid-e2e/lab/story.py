"""A story: steps on one machine, each a line with its time; the first that fails ends it."""

import contextlib
import shutil
import time

from harness.case import REPO, Failed

from .machine import Machine


class Story:
    """What a story gets: `machine`, `step`, `options`, and the words to say things with."""

    def __init__(self, name, place, image, options):
        self.name, self.place, self.options = name, place, options
        self.log = open(place / "story.log", "a", encoding="utf-8", buffering=1)
        self.machine = Machine(image, place, self.say)
        self.passed, self.failed = 0, 0
        self.started = time.monotonic()

    def say(self, text):
        """A line for the log."""
        self.log.write(text + "\n")

    @contextlib.contextmanager
    def step(self, text, ends_story=True):
        """One step; says how it ended and how long it took. What the block puts into the list is shown, too.

        When it fails the story ends, unless nothing that follows depends on it.
        """
        started = time.monotonic()
        remarks = []
        self.say(f"\n=== {text} (at {started - self.started:.0f} s)")
        try:
            yield remarks
        except Exception as error:
            why = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            self.say("FAILED: " + why)
            print(f"FAILED {self.name}: {text} ({time.monotonic() - started:.1f} s): {why}", flush=True)
            self.failed += 1
            if not ends_story and isinstance(error, Failed):
                return
            self.diagnose()
            raise
        self.passed += 1
        said = f": {'; '.join(remarks)}" if remarks else ""
        self.say(f"ok {said}")
        print(f"ok     {self.name}: {text} ({time.monotonic() - started:.1f} s){said}", flush=True)

    def check(self, truth, text):
        """Fails the step with `text` unless `truth`."""
        if not truth:
            raise Failed(text)

    def diagnose(self):
        """Shows the end of what uraid and the kernel said, and logs much more of it."""
        look = self.machine.look
        journal = look("journalctl -b -o short-monotonic --no-pager -n 400 -u 'uraid@*'")
        for title, text in (("journal of uraid", journal), ("kernel", look("dmesg | tail -60")),
                            ("whole journal", look("journalctl -b -o short-monotonic --no-pager -n 300")),
                            ("units", look("systemctl list-jobs --no-pager; systemctl status --no-pager 'uraid@*' 'load@*'; systemctl --failed --no-pager")),
                            ("devices", look("lsblk; cat /proc/mounts; cat /proc/mdstat; for d in /sys/block/nbd*; do [ -e $d/pid ] && grep -H . $d/pid $d/backend $d/size $d/inflight; done; ls -l /dev/uraid")),
                            ("processes", look("ps -eo pid,ppid,stat,wchan:24,args --forest | tail -60"))):
            self.say(f"--- {title}\n{text}")
        print(indent("journal of uraid@", journal.splitlines()[-25:]))
        print(indent("console", self.machine.console_tail(12).splitlines()), flush=True)

    def package(self):
        """The Debian package that is installed."""
        if self.options.package:
            return self.options.package
        found = sorted((REPO / "target" / "debian").glob("uraid_*.deb"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise Failed("there is no package in target/debian: run ./dev package")
        return found[-1]

    def close(self, keep_in=None):
        """Ends the machine; keeps the logs if asked."""
        self.machine.kill()
        self.log.close()
        if keep_in is not None:
            keep_in.mkdir(parents=True, exist_ok=True)
            for log in self.place.glob("*.log"):
                shutil.copy(log, keep_in)


def indent(title, lines):
    """Lines below a title, for the terminal."""
    return "\n".join([f"    --- {title}", *("    " + line for line in lines)])
