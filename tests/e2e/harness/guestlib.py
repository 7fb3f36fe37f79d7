"""What the scripts in the guest kernel have in common."""

import subprocess
import time


def run(*argv, ok=True):
    """Runs a command at the root of the file system; fails with what it said."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, cwd="/")
    if ok and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))}: {done.returncode}: {done.stderr or done.stdout}")
    return done


def check(truth, text):
    """Fails with `text` unless `truth`."""
    if not truth:
        raise RuntimeError(text)


def until(what, condition, seconds=60):
    """Polls until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, f"waited {seconds} s for: {what}")
        time.sleep(0.02)
