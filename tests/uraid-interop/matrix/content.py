"""What is written to arrays, as numbers: both sides make the same bytes from them.

Used on the host and, over hostfs, in the guest. A write is (at, length, source): bytes `source` and on of the
pool go to `at`. The model of an array is a bytearray to which the same writes are applied.

A crash load is a sequence of groups of stamped writes, each group followed by a flush. It follows from its
seed alone, so whoever survives a crash knows every write that there can have been; what has to be told is only
how many groups were flushed.
"""

import random

from harness.stamps import SECTOR, sector_bytes, version_of

POOL_BYTES = 4 << 20
STEP = 1 << 20
GROUP = 12


def make_pool(seed):
    """The bytes that writes are cut from."""
    return random.Random(f"pool {seed}").randbytes(POOL_BYTES)


def fill(draw, size):
    """Writes that cover the whole array once."""
    for at in range(0, size, STEP):
        length = min(STEP, size - at)
        yield at, length, draw.randrange(POOL_BYTES - length + 1)


def scattered(draw, size, chunk, data, count):
    """Random writes: sectors, blocks, chunks, whole rows, and what lies across their borders."""
    row = chunk * data
    for _ in range(count):
        length = draw.choice([512, 1536, 4096, 12288, chunk // 2, chunk, chunk + 512, row, 2 * row - 4096])
        length = max(512, min(length, size, STEP))
        at = draw.randrange((size - length) // 512 + 1) * 512
        if draw.random() < 0.5:
            at -= at % min(row, chunk * draw.choice([1, data]))
        yield at, length, draw.randrange(POOL_BYTES - length + 1)


def apply(model, writes, pool):
    """Does the writes to a model."""
    for at, length, source in writes:
        model[at:at + length] = pool[source:source + length]


def groups(seed, size, chunk, data):
    """The groups of a crash load, without end: lists of (version, first sector, sectors) that do not overlap
    within a group. Sizes run from a sector to a row, and more rows than one."""
    draw, version, sectors = random.Random(f"groups {seed}"), 0, size // SECTOR
    row = chunk * data // SECTOR
    while True:
        group, taken = [], []
        for _ in range(GROUP):
            count = min(draw.choice([1, 3, 8, 8, 16, 64, min(row, 256), min(row + 8, 512)]), sectors)
            first = draw.randrange(sectors - count + 1)
            if draw.random() < 0.5:
                first -= first % 8
            if all(first + count <= f or f + c <= first for f, c in taken):
                version += 1
                taken.append((first, count))
                group.append((version, first, count))
        yield group


def stamped(version, first, count):
    """The bytes of one write of a group."""
    return b"".join(sector_bytes(s, version) for s in range(first, first + count))


class CrashLedger:
    """What an array may hold after a crash: `base` before the load, `flushed` groups that must be there, and a
    few more that may."""

    def __init__(self, base, seed, size, chunk, data, flushed, more=4):
        self.base, self.floor, self.allowed = base, {}, {}
        for number, group in zip(range(flushed + more), groups(seed, size, chunk, data)):
            for version, first, count in group:
                for sector in range(first, first + count):
                    if number < flushed:
                        self.floor[sector] = version
                        self.allowed[sector] = {version}
                    else:
                        self.allowed.setdefault(sector, set()).add(version)

    def complaints(self, got, limit=5):
        """Compares what was read; lists the first sectors that are wrong."""
        wrong = []
        for sector, allowed in self.allowed.items():
            raw = got[sector * SECTOR:(sector + 1) * SECTOR]
            version = version_of(bytes(raw), sector)
            if version in allowed:
                continue
            if sector not in self.floor and raw == self.base[sector * SECTOR:(sector + 1) * SECTOR]:
                continue
            wrong.append(f"sector {sector} holds {'version ' + str(version) if version is not None else raw[:24].hex()}, "
                         f"must be {'one of ' if sector in self.floor else 'as before or one of '}{sorted(allowed)}")
        untouched = [s for s in range(len(got) // SECTOR) if s not in self.allowed]
        wrong += [f"sector {s} was not written, and has changed" for s in untouched
                  if got[s * SECTOR:(s + 1) * SECTOR] != self.base[s * SECTOR:(s + 1) * SECTOR]]
        return wrong[:limit] + ([f"and {len(wrong) - limit} more"] if len(wrong) > limit else [])
