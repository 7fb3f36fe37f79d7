#!/usr/bin/env python3
"""Runs the end-to-end tests: every function `test_*` of every file `test_*.py` beside this one.

    run.py [--list] [--logs DIR] [WORD ...]

Words choose the tests whose name contains one of them. Each test has its own directory, which is gone
afterwards; the logs of a test that failed are kept in DIR (default target/e2e-logs). A test that lacks
a tool fails and says which.
"""

import argparse
import importlib
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from harness.case import REPO, Case, Failed  # noqa: E402

SECONDS_PER_TEST = 300


def tests():
    """(name, function, arguments) of every test, in the order of the files."""
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for name, function in vars(module).items():
            if not name.startswith("test_") or not callable(function):
                continue
            for arguments in getattr(function, "each", [()]):
                label = ",".join(str(a) for a in arguments)
                yield f"{path.stem[5:]}.{name[5:]}" + (f"[{label}]" if label else ""), function, arguments


def too_late(*_):
    """The alarm's handler."""
    raise Failed(f"the test took more than {SECONDS_PER_TEST} s")


def run_one(name, function, arguments, logs):
    """Runs one test; returns None or the reason of its failure."""
    case = Case(name)
    signal.alarm(SECONDS_PER_TEST)
    reason = None
    try:
        function(case, *arguments)
    except Failed as failed:
        reason = str(failed)
    except Exception as error:  # a defect of the test or something unforeseen: show where
        reason = f"{type(error).__name__}: {error}"
        case.say(traceback.format_exc())
    finally:
        signal.alarm(0)
        if reason:
            case.say("FAILED: " + reason)
        case.close(keep_logs_in=logs / name.replace("/", "_") if reason else None)
    return reason


def main():
    """Entry point; the exit code is 1 when a test failed or none was chosen."""
    parser = argparse.ArgumentParser(description="end-to-end tests of uraid")
    parser.add_argument("words", nargs="*", help="run the tests whose name contains one of these")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--logs", type=Path, default=REPO / "target" / "e2e-logs")
    options = parser.parse_args()
    chosen = [x for x in tests() if not options.words or any(w in x[0] for w in options.words)]
    if options.list:
        print("\n".join(name for name, _, _ in chosen))
        return 0
    signal.signal(signal.SIGALRM, too_late)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(options.logs, ignore_errors=True)
    failed = []
    for name, function, arguments in chosen:
        started = time.monotonic()
        reason = run_one(name, function, arguments, options.logs)
        verdict = "FAILED" if reason else "ok"
        print(f"{verdict:6} {name} ({time.monotonic() - started:.1f} s)" + (f": {reason}" if reason else ""), flush=True)
        failed += [name] if reason else []
    if failed:
        print(f"logs of what failed: {options.logs}")
    print(f"end to end: {len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
