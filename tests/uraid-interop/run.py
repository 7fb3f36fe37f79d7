#!/usr/bin/env python3
"""The same arrays under the Linux kernel's md and under uraid, in turns. See README.md.

    run.py [--list] [--sample | --all] [--seed N] [--jobs N] [WORD ...]
    run.py kills [--count N] [--by uraid|power|kernel] [--bitmap none|internal|ppl|any] [--seed N] [--jobs N]

Words choose the cells whose name contains all of them.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

from harness.case import REPO, Failed, need  # noqa: E402
from matrix import batch, cells, probe  # noqa: E402
from matrix import kills as kill  # noqa: E402

SAMPLE, SAMPLE_KILLS, BATCH = 64, 20, 48


def cores(jobs):
    """The core that each job keeps to."""
    mine = sorted(os.sched_getaffinity(0), reverse=True)
    return [mine[i % len(mine)] for i in range(jobs)]


def chosen(options):
    """The cells to run."""
    every = [c for c in cells.every() if all(w in c.name for w in options.words)]
    return cells.sample(every, options.seed, SAMPLE) if options.sample else every


def spread(tasks, jobs):
    """Runs tasks, (function, arguments) each, so many at once and each on a core of its own; yields what they return."""
    free, waiting = cores(jobs), list(tasks)
    with ProcessPoolExecutor(jobs) as pool:
        running = {}
        try:
            while waiting or running:
                while waiting and free:
                    function, arguments = waiting.pop(0)
                    core = free.pop()
                    running[pool.submit(function, *arguments, core)] = core
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    free.append(running.pop(future))
                    yield future.result()
        finally:
            # When this ends early, the jobs clear away what they have made, and end too.
            for job in multiprocessing.active_children() if running else []:
                job.terminate()


def refusals(wanted):
    """Why uraid takes no bitmaps yet, by starter; asked only when there are cells with one."""
    return probe.bitmaps() if "internal" in wanted else {}


def matrix(options, began):
    """Runs cells; returns (good, failed, refused)."""
    wanted = chosen(options)
    refused = refusals({c.bitmap for c in wanted})
    for starter, reason in refused.items():
        count = sum(c.bitmap == "internal" and c.starter == starter for c in wanted)
        print(f"refused today: {count} cells with a bitmap that the {starter} starts: {reason}", flush=True)
    able = [c for c in wanted if c.bitmap == "none" or c.starter not in refused]
    parts = cells.batches(able, max(1, min(BATCH, -(-len(able) // options.jobs))), options.seed)
    good = failed = 0
    tasks = [(batch.run_batch, (n, part, options.seed, str(options.logs))) for n, part in enumerate(parts)]
    for result in spread(tasks, options.jobs):
        for name, reason in result["failed"].items():
            print(f"FAILED {name}: {reason}", flush=True)
        good, failed = good + len(result["good"]), failed + len(result["failed"])
        turns = ", ".join(f"{k} {v:.0f} s" for k, v in result["seconds"].items())
        print(f"batch of {len(result['good'])} cells ({turns}); {good + failed} of {len(able)} after "
              f"{time.monotonic() - began:.0f} s", flush=True)
    return good, failed, len(wanted) - len(able)


def kill_loops(options, began):
    """Runs the kill loops; returns (kills that were made good, failed, refused)."""
    good = failed = 0
    bitmap = options.bitmap
    if reason := refusals({bitmap}).get("kernel"):
        print(f"refused today, so the arrays have no bitmap: {reason}", flush=True)
        bitmap = "none"
    sides = [options.by] if options.by else list(kill.AT_ONCE)
    for by in sides:
        torn = arrays = outdated = boots = kills = bad = 0
        per = kill.AT_ONCE[by] * kill.ROUNDS
        counts = [min(per, options.count - at) for at in range(0, options.count, per)]
        tasks = [(kill.run_kills, (n, by, c, bitmap, options.seed, str(options.logs))) for n, c in enumerate(counts)]
        for result in spread(tasks, options.jobs):
            for name, reason in result["failed"].items():
                print(f"FAILED killed {by}: {name}: {reason}", flush=True)
            kills, bad, boots = kills + result["kills"], bad + len(result["failed"]), boots + result["boots"]
            torn, arrays = torn + result["torn"], arrays + result["torn_arrays"]
            outdated += result["outdated"]
            print(f"killed {by}: {kills} crashed arrays of {options.count} in {boots} boots, {arrays} of them with {torn} "
                  f"torn stripes in all, {outdated} with a bitmap out of date, {bad} failed, after {time.monotonic() - began:.0f} s", flush=True)
        good, failed = good + max(0, kills - bad), failed + bad
    return good, failed, 0


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description="the same arrays under the kernel's md and under uraid")
    parser.add_argument("words", nargs="*", help="run the cells whose name contains all of these; `kills` runs the kill loops")
    parser.add_argument("--list", action="store_true", help="print the names of the cells and stop")
    parser.add_argument("--sample", action="store_true", help=f"a sample of {SAMPLE} cells, drawn by the seed, and some kills")
    parser.add_argument("--all", action="store_true", help="the whole matrix; takes about an hour on two cores")
    parser.add_argument("--seed", type=int, help="what everything is drawn from (default: another one each time)")
    parser.add_argument("--jobs", type=int, default=min(2, len(os.sched_getaffinity(0))), help="batches at once, a core each")
    parser.add_argument("--count", type=int, default=2000, help="of `kills`: how many arrays are crashed in each way")
    parser.add_argument("--by", choices=list(kill.AT_ONCE), help="of `kills`: who is killed (default: one after the other)")
    parser.add_argument("--bitmap", choices=kill.KEPT, default="internal", help="of `kills`: what arrays have")
    parser.add_argument("--logs", type=Path, default=REPO / "target" / "interop", help="where logs of what failed are kept")
    options = parser.parse_args()
    if not (options.words or options.sample or options.all or options.list):
        parser.error("say --sample, --all, kills, or words of the names that --list shows")
    options.seed = random.randrange(1 << 32) if options.seed is None else options.seed
    return options


def run(options, began):
    """Runs what was asked for; returns (good, failed, refused)."""
    if options.words == ["kills"]:
        return kill_loops(options, began)
    counts = matrix(options, began)
    if options.sample:
        options.count, options.bitmap = SAMPLE_KILLS, "any"
        counts = tuple(a + b for a, b in zip(counts, kill_loops(options, began)))
    return counts


def end(*_):
    """Ends the process, with all that is cleared away then. A second signal must not cut that short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main():
    """Entry point; the exit code is 1 when a cell failed or none was chosen."""
    options = arguments()
    if options.list:
        print("\n".join(c.name for c in chosen(options)))
        return 0
    signal.signal(signal.SIGTERM, end)
    shutil.rmtree(options.logs, ignore_errors=True)
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    try:
        need("linux.uml", "mdadm", "taskset")
        good, failed, refused = run(options, began)
    except Failed as failure:
        print(f"FAILED: {failure}")
        good, failed, refused = 0, 1, 0
    if failed:
        print(f"logs of what failed: {options.logs}")
    more = f", {refused} refused today" if refused else ""
    print(f"interop: {good} passed, {failed} failed{more} ({time.monotonic() - began:.0f} s)")
    return 1 if failed or not good else 0


if __name__ == "__main__":
    sys.exit(main())
