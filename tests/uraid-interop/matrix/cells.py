"""The cells of the matrix: which arrays, in which states, started by whom."""

import itertools
import random
from dataclasses import dataclass

LAYOUTS = {
    4: ["-"],
    5: ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first", "parity-last"],
    6: ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first", "parity-last",
        "left-asymmetric-6", "right-asymmetric-6", "left-symmetric-6", "right-symmetric-6", "parity-first-6"],
}
# Layouts that only the kernel creates.
DDF = ["ddf-zero-restart", "ddf-N-restart", "ddf-N-continue"]
MEMBERS = {4: range(3, 9), 5: range(3, 9), 6: range(4, 9)}
CHUNKS = [4 << 10, 64 << 10, 512 << 10]
BITMAPS = ["none", "internal"]
STATES = ["clean", "degraded-1", "degraded-2", "mid-rebuild", "dirty"]
STARTERS = ["kernel", "uraid"]


@dataclass(frozen=True)
class Cell:
    """One array and how its story begins."""

    level: int
    layout: str
    members: int
    chunk: int
    bitmap: str
    state: str
    starter: str

    @property
    def name(self):
        """What people call it: words that `./dev interop` can choose by."""
        return (f"{self.starter}:raid{self.level}:{self.layout}:n{self.members}:c{self.chunk >> 10}K"
                f":{self.bitmap}:{self.state}")

    @property
    def parities(self):
        """How many members it can lose."""
        return 2 if self.level == 6 else 1

    @property
    def data(self):
        """How many chunks of a row are data."""
        return self.members - self.parities

    @property
    def lost(self):
        """How many members the state takes away before the other side comes."""
        return {"degraded-1": 1, "degraded-2": 2, "mid-rebuild": 1}.get(self.state, 0)

    @property
    def used(self):
        """Bytes of each member that are used: every place of parity is passed at least once."""
        rows = max(self.members + 1, (256 << 10) // self.chunk)
        if self.state == "mid-rebuild" and self.starter == "uraid":
            # uraid has no brake on a rebuild; it is stopped in the middle of one that lasts long enough.
            rows = max(rows, (4 << 20) // self.chunk, 16)
        return rows * self.chunk


def every():
    """All cells, in a fixed order."""
    for level, starter in itertools.product((4, 5, 6), STARTERS):
        layouts = LAYOUTS[level] + (DDF if level == 6 and starter == "kernel" else [])
        for layout, members, chunk, bitmap, state in itertools.product(layouts, MEMBERS[level], CHUNKS, BITMAPS, STATES):
            if state != "degraded-2" or level == 6:
                yield Cell(level, layout, members, chunk, bitmap, state, starter)


def sample(cells, seed, count):
    """`count` of the cells, drawn so that every value of every dimension is there about equally often, and every
    pair of level, bitmap, state and starter at least once."""
    draw = random.Random(f"sample {seed}")
    left = sorted(cells, key=lambda c: c.name)
    draw.shuffle(left)
    seen, chosen = {}, []

    def marks(cell):
        pair = (cell.level, cell.bitmap, cell.state, cell.starter)
        return [pair, *((k, getattr(cell, k)) for k in ("layout", "members", "chunk", "state", "starter"))]

    while left and len(chosen) < count:
        best = min(left, key=lambda c: (seen.get(marks(c)[0], 0), sum(seen.get(m, 0) for m in marks(c)[1:])))
        left.remove(best)
        chosen.append(best)
        for mark in marks(best):
            seen[mark] = seen.get(mark, 0) + 1
    return chosen


def batches(cells, size, seed):
    """The cells in batches of about one weight: shuffled, so that each has some of all kinds."""
    mixed = list(cells)
    random.Random(f"batches {seed}").shuffle(mixed)
    return [mixed[i:i + size] for i in range(0, len(mixed), size)]
