"""What runs in the guest kernel: the kernel's turns of many arrays at once.

    agent.py DIRECTORY

DIRECTORY, the host's, holds job.json: the paths of the pool and of the arrays' turns. A turn names a story of
this file. What came of it goes into DIRECTORY/results.json; a turn that fails ends alone.
"""

import hashlib
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "e2e")]

from matrix import content  # noqa: E402
from md import Md, Trouble, run, until  # noqa: E402

# So many arrays are worked on at once: their waits overlap, and their stripe caches fit into the guest.
AT_ONCE = 6


def sha(md):
    """The digest of all bytes of the array."""
    digest = hashlib.sha256()
    md.read(digest.update)
    return digest.hexdigest()


def dump(md, path):
    """All bytes of the array, into a file that the host sees."""
    with open(path, "wb") as file:
        md.read(file.write)


def expect(md, turn):
    """Every byte is as the host says; if not, the host gets the bytes."""
    got = sha(md)
    if got != turn["sha"]:
        dump(md, turn["dump"])
        raise Trouble(f"the kernel reads other bytes than were written; it has sha256 {got}")


def begin(md, turn, pool):
    """The kernel creates, fills, and brings the array into its state."""
    members, cell = turn["members"], turn["cell"]
    md.create(cell, members)
    md.write(turn["fill"], pool)
    yield from md.settled()
    if turn["state"] == "mid-rebuild":
        yield from half_rebuilt(md, turn, pool)
    else:
        for path in turn["fail"]:
            yield from md.fail(path)
        if turn["state"] != "dirty":
            md.write(turn["writes"], pool)
    if turn["state"] == "dirty":
        return
    yield from md.clean()
    yield from md.stop()


def half_rebuilt(md, turn, pool):
    """A rebuild that stands still in the middle, with writes on both sides of it."""
    yield from md.fail(turn["fail"][0])
    half = len(turn["writes"]) // 2
    md.write(turn["writes"][:half], pool)
    chunk, used = turn["cell"]["chunk"] // 512, turn["cell"]["used"] // 512
    middle = used // 2 // chunk * chunk
    md.set("sync_max", middle)
    md.add(turn["fresh"][0])
    yield from until("the rebuild to be half way", lambda: md.get("sync_completed").startswith(f"{middle} /"))
    md.write(turn["writes"][half:], pool)


def middle(md, turn, pool):
    """An array that uraid began: read, checked, written, a member lost and rebuilt, checked again."""
    md.assemble(turn["members"])
    if turn["state"] == "dirty":
        yield from md.settled()
        dump(md, turn["dump"])
    else:
        expect(md, turn)
    yield from md.settled(turn["lost"])
    if not turn["lost"]:
        yield from no_mismatch(md)
    half = len(turn["writes"]) // 2
    md.write(turn["writes"][:half], pool)
    for path in turn["fail"]:
        yield from md.fail(path)
    md.write(turn["writes"][half:], pool)
    for path in turn["back"]:
        md.add(path, "--re-add")
    for path in turn["fresh"]:
        md.add(path)
    yield from md.settled()
    yield from no_mismatch(md)
    yield from md.clean()
    yield from md.stop()


def end(md, turn, pool):
    """An array that uraid has served: read, checked, written."""
    bitmap = None
    if turn["detail"] and turn["cell"]["bitmap"] == "internal":
        bitmap = run("mdadm", "--examine-bitmap", md.device(turn["members"][0]))
    md.assemble(turn["members"])
    expect(md, turn)
    yield from md.settled()
    yield from no_mismatch(md)
    md.write(turn["writes"], pool)
    yield from md.clean()
    detail = md.detail() if turn["detail"] else None
    yield from md.stop()
    return {"detail": detail, "bitmap": bitmap}


def resynced(md, turn, pool):
    """An array whose writer was killed: the kernel resyncs it, then all parity matches and no flushed write is lost."""
    md.assemble(turn["members"])
    yield from md.settled()
    yield from no_mismatch(md)
    dump(md, turn["dump"])
    yield from md.clean()
    yield from md.stop()


def resume(md, turn, pool):
    """An array that is to be written until this kernel is killed: made now, or checked first."""
    if turn["create"]:
        md.create(turn["cell"], turn["members"])
        md.write(turn["fill"], pool)
    else:
        md.assemble(turn["members"])
        expect(md, turn)
    yield from md.settled()
    yield from no_mismatch(md)


def no_mismatch(md):
    """All parity matches."""
    count = yield from md.check()
    if count:
        raise Trouble(f"the kernel's check found mismatch_cnt {count}")


def crash_load(md, turn, report):
    """Writes groups through the page cache, flushes each, and says how many are durable, until the end of the world."""
    cell, size = turn["cell"], md.size()
    node, place = os.open(md.node, os.O_RDWR), os.open(report, os.O_WRONLY | os.O_CREAT)
    for number, group in enumerate(content.groups(turn["seed"], size, cell["chunk"], cell["data"])):
        for version, first, count in group:
            os.pwrite(node, content.stamped(version, first, count), first * 512)
        os.fsync(node)
        os.pwrite(place, f"{number + 1}\n".encode(), 0)
        os.fsync(place)


STORIES = {"begin": begin, "middle": middle, "end": end, "resynced": resynced, "resume": resume}


def tell(turns, pool):
    """Tells all turns, some at a time; returns (results by name, arrays that are left running)."""
    waiting = [(n, turn) for n, turn in enumerate(turns)]
    running, results, left = [], {}, []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, turn = waiting.pop(0)
            md = Md(number)
            running.append((turn, md, STORIES[turn["story"]](md, turn, pool), time.monotonic()))
        for entry in list(running):
            turn, md, story, began = entry
            try:
                next(story)
                continue
            except StopIteration as done:
                results[turn["name"]] = {"seconds": time.monotonic() - began, **(done.value or {})}
                if turn.get("crash"):
                    left.append((turn, md))
            except Exception as error:
                results[turn["name"]] = {"error": describe(error, md)}
                given_up(md)
            running.remove(entry)
        # Looking whether something may go on takes the processor that it needs for that.
        time.sleep(0.004)
    return results, left


def describe(error, md):
    """What went wrong, and what the array looked like."""
    said = str(error) if isinstance(error, Trouble) else traceback.format_exc()
    names = ("array_state", "degraded", "sync_action", "sync_completed", "resync_start", "mismatch_cnt")
    state = {}
    for name in names:
        try:
            state[name] = md.get(name)
        except OSError as unread:  # an array that does not run has few of them
            state[name] = unread.strerror
    return f"{said} (array: {state}; {kernel_says()})"


def kernel_says():
    """The last lines of the kernel's log."""
    node, lines = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), []
    try:
        while True:
            try:
                lines.append(os.read(node, 8192).decode(errors="replace").split(";", 1)[-1].splitlines()[0])
            except BlockingIOError:
                return " | ".join(lines[-6:])
    finally:
        os.close(node)


def given_up(md):
    """Stops the array of a turn that failed, as well as that goes."""
    try:
        for _ in md.stop():
            time.sleep(0.01)
    except (OSError, Trouble):
        pass


def main():
    """Entry point."""
    place = Path(sys.argv[1])
    job = json.loads((place / "job.json").read_text())
    for name in ("speed_limit_min", "speed_limit_max"):
        Path(f"/proc/sys/dev/raid/{name}").write_text("100000000")
    Path("/sys/module/md_mod/parameters/start_ro").write_text("0")
    # mdadm looks at every node of /dev; hundreds of terminals that nobody uses are half of its time.
    for node in Path("/dev").glob("[pt]ty?[0-9a-f]"):
        node.unlink()
    pool = Path(job["pool"]).read_bytes()
    results, left = tell(job["turns"], pool)
    with open(place / "results.new", "w", encoding="utf-8") as file:
        json.dump(results, file)
        file.flush()
        os.fsync(file.fileno())
    os.sync()
    os.rename(place / "results.new", place / "results.json")
    for turn, md in left:
        threading.Thread(target=crash_load, args=(md, turn, turn["report"]), daemon=True).start()
    while left:
        time.sleep(1)


if __name__ == "__main__":
    main()
