#!/usr/bin/env python3
"""Stories of an administrator, told on a real Debian with systemd. See README.md.

    run.py [--list] [--all] [--build] [--shell] [--restarts N] [--logs DIR] [WORD ...]

Without words the stories of the core path are told; `--all` tells every one, and words those whose name
contains one of them. A story is a row of steps on one machine; a step that fails ends its story, and
what is needed to find out why is kept in DIR (default target/e2e-logs).
"""

import argparse
import importlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e"), str(HERE / "stories")]

from harness.case import REPO, Failed, scratch_root  # noqa: E402
from lab.image import image  # noqa: E402
from lab.story import Story  # noqa: E402


def stories():
    """(name, module) of every story, the core path first."""
    modules = [importlib.import_module(p.stem) for p in sorted((HERE / "stories").glob("story_*.py"))]
    named = [(m.__name__.removeprefix("story_"), m) for m in modules]
    return sorted(named, key=lambda x: not x[1].CORE)


def tell(name, module, root, options):
    """Tells one story; returns (steps that were good, steps that were not)."""
    place = Path(tempfile.mkdtemp(prefix=f"uraid-e2e-{name}.", dir=scratch_root(4 << 30)))
    story = Story(name, place, root, options)
    try:
        module.tell(story)
    except Failed:
        pass  # said and counted by the step
    except Exception as error:  # a defect of the story itself
        story.say(traceback.format_exc())
        print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
        story.failed = max(story.failed, 1)
    finally:
        story.close(options.logs / f"machine-{name}" if story.failed or sys.exc_info()[0] else None)
        shutil.rmtree(place, ignore_errors=True)
    return story.passed, story.failed


def shell(root, options):
    """A machine to try things on: each line from standard input runs in it; `reboot`, `power cut` and the end of input do that."""
    place = Path(tempfile.mkdtemp(prefix="uraid-e2e-shell.", dir=scratch_root(4 << 30)))
    story = Story("shell", place, root, options)
    machine = story.machine
    try:
        print("disks:", *(machine.add_disk(f"disk{i}", 256) for i in range(6)))
        print(f"up after {machine.boot():.0f} s; {machine.share} here is /host there")
        shutil.copy(story.package(), machine.share / "uraid.deb")
        print(machine.sh("dpkg -i /host/uraid.deb", ok=None, seconds=300).out, end="")
        for line in sys.stdin:
            if line.strip() == "reboot":
                machine.reboot()
            elif line.strip() == "power cut":
                machine.power_cut()
                machine.boot()
            else:
                done = machine.sh(line, ok=None, seconds=600)
                print(f"{done.out}[{done.code}]", flush=True)
    except Failed as failed:
        print(failed)
    finally:
        story.close(options.logs / "machine-shell")
        shutil.rmtree(place, ignore_errors=True)
    return 0


def main():
    """Entry point; the exit code is 1 when a step failed or nothing was told."""
    parser = argparse.ArgumentParser(description="stories of an administrator on a Debian with systemd")
    parser.add_argument("words", nargs="*", help="tell the stories whose name contains one of these")
    parser.add_argument("--all", action="store_true", help="tell all stories, not only the core path")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--build", action="store_true", help="make the machine's image anew and stop")
    parser.add_argument("--shell", action="store_true", help="boot a machine with the package and six disks, and run what is typed")
    parser.add_argument("--restarts", type=int, default=50, help="how often the story of restarts restarts (default 50)")
    parser.add_argument("--package", type=Path, help="the Debian package (default: the newest in target/debian)")
    parser.add_argument("--logs", type=Path, default=REPO / "target" / "e2e-logs")
    options = parser.parse_args()
    every = stories()
    if options.list:
        for name, module in every:
            print(f"{name:12} {'core' if module.CORE else 'all '}  {module.__doc__.splitlines()[0]}")
        return 0
    chosen = [(n, m) for n, m in every if (any(w in n for w in options.words) if options.words else m.CORE or options.all)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        root = image(lambda text: print(text, flush=True), anew=options.build)
    except Failed as failed:
        print(f"FAILED image: {failed}\nmachine: 0 passed, 1 failed")
        return 1
    if options.build:
        return 0
    if options.shell:
        return shell(root, options)
    started = time.monotonic()
    counts = [tell(name, module, root, options) for name, module in chosen]
    passed, failed = sum(p for p, _ in counts), sum(f for _, f in counts)
    if failed:
        print(f"logs of what failed: {options.logs}")
    print(f"machine: {passed} passed, {failed} failed ({time.monotonic() - started:.0f} s)")
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
