"""Stops under load, gentle and not: what was flushed is there, and parity is right after the resync.

The client writes stamped sectors and keeps a ledger (harness/stamps.py). The seed is printed in the log
and can be set by URAID_SEED; URAID_CRASHES sets how often each array is killed.
"""

import os

from harness import mdlayout, stamps
from harness.array import SHAPES, Array
from harness.case import until

SEED = int(os.environ.get("URAID_SEED", "20261122"))
CRASHES = int(os.environ.get("URAID_CRASHES", "3"))
SECTORS = 48 << 11


def load(t, array, seed, writes):
    """A load of which at least `writes` writes and two flushes were answered; returns it running."""
    t.say(f"seed {seed}")
    running = stamps.Load(array.uri, SECTORS, seed)
    until(f"{writes} acknowledged writes", lambda: running.ledger.writes >= writes and running.ledger.flushes >= 2, 60)
    return running


def verify(t, array, ledger, strict):
    """The export holds what the ledger says it must."""
    t.check(ledger.flushes >= 2 and ledger.safe, "the load flushed nothing: the test would prove nothing")
    complaints = stamps.verify(array.uri, ledger, strict)
    t.check(not complaints, f"{len(complaints)} sectors are wrong: {complaints[:4]}")


def check_parity(t, array):
    """Parity on the members, after the array is stopped."""
    report = mdlayout.check_parity(array.present())
    t.check(not report.bad, f"parity: {report}")


def test_sigterm_under_load_loses_nothing(t, level, n):
    array = Array(t, level, n)
    array.serve()
    running = load(t, array, SEED + n, 400)
    array.terminate()
    running.join()
    check_parity(t, array)
    supers = [mdlayout.read_superblock(m) for m in array.members]
    t.check(all(s.resync_offset == mdlayout.CLEAN for s in supers), "the array is not marked clean after SIGTERM")
    array.serve()
    verify(t, array, running.ledger, strict=True)
    array.stop()


def test_kill_under_load_keeps_what_was_flushed(t, level, n):
    array = Array(t, level, n)
    for round_number in range(CRASHES):
        array.serve()
        array.wait_rebuilt()
        running = load(t, array, SEED + 1000 * round_number + n, 300 + 150 * round_number)
        array.kill()
        running.join()
        array.serve()
        verify(t, array, running.ledger, strict=False)
        array.wait_rebuilt()
        verify(t, array, running.ledger, strict=False)
        array.stop()
        check_parity(t, array)
        # The next load starts from blank sectors, so that version 0 means the same in every round.
        array.serve()
        blank(array.uri)
        array.stop()


def blank(uri):
    """Zeroes under the whole load, and a flush."""
    import nbd
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for mib in range(SECTORS >> 11):
        handle.zero(1 << 20, mib << 20)
    handle.flush()
    handle.shutdown()


def test_kill_while_degraded_keeps_what_was_flushed(t, level, n):
    """Dirty and degraded is refused without --force; with it, everything flushed is still there when the
    array was quiet at the crash, because then no stripe was half written."""
    array = Array(t, level, n)
    array.serve()
    array.fail(1)
    array.members[1].unlink()
    running = load(t, array, SEED + 7 * n, 300)
    running.end()
    ledger = running.ledger
    array.kill()
    left = [m for m in array.members if m.exists()]
    dirty = any(mdlayout.read_superblock(m).resync_offset != mdlayout.CLEAN for m in left)
    if dirty:
        refused = refused_serve(t, array, left)
        t.check("missing" in refused and "force" in refused, f"a dirty degraded array was refused without saying why: {refused}")
    array.serve("--force", members=left)
    verify(t, array, ledger, strict=False)
    array.stop()


def refused_serve(t, array, members):
    """What `uraid serve` says when it must refuse these members."""
    from harness.case import URAID
    done = t.run(URAID, "serve", "--listen", f"unix:{array.socket}", "--control", array.control, *members,
                 ok=None, timeout=20)
    t.check(done.returncode not in (0, 101) and done.returncode > 0, f"exit code {done.returncode}")
    return done.stderr


def test_kill_during_rebuild_goes_on_after_restart(t, level, n):
    """The load has ended before the crash: a stripe half written while degraded is md's write hole, too."""
    array = Array(t, level, n, size="256M")
    array.serve()
    running = load(t, array, SEED + 13 * n, 200)
    running.end()
    array.fail(0)
    array.add(0)
    array.kill()
    survivors = [m for m in array.members if m.exists() and has_superblock(m)]
    array.serve("--force", members=survivors)
    verify(t, array, running.ledger, strict=False)
    status = array.status()
    if status.degraded and status.sync is None:
        array.add(0)
    array.wait_rebuilt()
    verify(t, array, running.ledger, strict=False)
    array.stop()
    check_parity(t, array)


def has_superblock(path):
    """Whether the member's superblock got to disk before the crash."""
    try:
        return bool(mdlayout.read_superblock(path))
    except ValueError:
        return False


test_sigterm_under_load_loses_nothing.each = SHAPES
test_kill_under_load_keeps_what_was_flushed.each = SHAPES
test_kill_while_degraded_keeps_what_was_flushed.each = [(5, 5), (6, 6)]
test_kill_during_rebuild_goes_on_after_restart.each = [(5, 5), (6, 6)]
