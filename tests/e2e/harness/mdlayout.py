"""md's superblocks 1.x and stripe layout, read independently of the Rust code, to check parity on disk.

Written from the format's description (field offsets, layout numbers, coefficient order), proven on
arrays that the Linux kernel made (tests/golden). Slow on purpose where slow is plainer.
"""

import struct
from dataclasses import dataclass, field

MAGIC = 0xA92B4EFC
CLEAN = (1 << 64) - 1
PAGE = 4096


@dataclass
class Superblock:
    """The fields of one member's superblock that the checks need; sectors are 512 bytes."""

    path: str
    uuid: bytes
    name: str
    level: int
    layout: int
    size: int
    chunk: int
    disks: int
    data_offset: int
    features: int
    recovery_offset: int
    events: int
    resync_offset: int
    role: int
    checksum_ok: bool


def find_superblock(path, f):
    """Where an open member has its superblock, and the 4 KiB from there on; raises ValueError when there is none. 1.2 is
    at 4 KiB, 1.1 at the start, 1.0 at the last multiple of 4 KiB that leaves 8 KiB."""
    for place in (4096, 0, (f.seek(0, 2) - 8192) & ~4095):
        f.seek(max(place, 0))
        raw = f.read(4096)
        if len(raw) >= 512 and struct.unpack_from("<I", raw)[0] == MAGIC and struct.unpack_from("<Q", raw, 144)[0] * 512 == place:
            return place, raw
    raise ValueError(f"{path}: no md superblock 1.x")


def read_superblock(path):
    """The superblock of a member file or device; raises ValueError when there is none."""
    with open(path, "rb") as f:
        raw = find_superblock(path, f)[1]
    u32 = lambda at: struct.unpack_from("<I", raw, at)[0]
    u64 = lambda at: struct.unpack_from("<Q", raw, at)[0]
    max_dev, dev_number = min(u32(220), 1920), u32(160)
    roles = struct.unpack_from(f"<{max_dev}H", raw, 256)
    return Superblock(
        path=str(path), uuid=raw[16:32], name=raw[32:64].rstrip(b"\0").decode(errors="replace"),
        level=struct.unpack_from("<i", raw, 72)[0], layout=u32(76), size=u64(80), chunk=u32(88), disks=u32(92),
        data_offset=u64(128), features=u32(8), recovery_offset=u64(152), events=u64(200), resync_offset=u64(208),
        role=roles[dev_number] if dev_number < max_dev else 0xFFFF,
        checksum_ok=checksum(raw, max_dev) == u32(216))


def checksum(raw, max_dev):
    """md's checksum over 256 + 2*max_dev bytes, with its own field taken as zero."""
    length = 256 + 2 * max_dev
    data = bytearray(raw[:length])
    data[216:220] = bytes(4)
    total = sum(struct.unpack_from(f"<{length // 4}I", data))
    if length % 4:
        total += struct.unpack_from("<H", data, length - 2)[0]
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF


@dataclass
class Bitmap:
    """The write-intent bitmap of one member: `chunk` bytes of the member's data a bit, `dirty` the bits that are set."""

    uuid: bytes
    events: int
    events_cleared: int
    sync_size: int
    state: int
    chunk: int
    dirty: set


def read_bitmap(path):
    """The internal bitmap of a member; None when its superblock says that there is none."""
    with open(path, "rb") as f:
        place, raw = find_superblock(path, f)
        if not struct.unpack_from("<I", raw, 8)[0] & 1:
            return None
        start = place + struct.unpack_from("<i", raw, 96)[0] * 512
        f.seek(start)
        head = f.read(256)
        magic, version = struct.unpack_from("<II", head)
        if magic != 0x6D746962 or version != 4:
            raise ValueError(f"{path}: no bitmap of version 4 where the superblock says that one is")
        events, cleared, size = struct.unpack_from("<QQQ", head, 24)
        state, chunk = struct.unpack_from("<II", head, 48)
        count = -(-size * 512 // chunk)
        bits = f.read(-(-count // 8))
    dirty = {i for i in range(count) if bits[i // 8] >> (i % 8) & 1}
    return Bitmap(uuid=head[8:24], events=events, events_cleared=cleared, sync_size=size, state=state, chunk=chunk, dirty=dirty)


def resync_covers(paths):
    """Whether a resync after a crash would pass every stripe whose parity does not match: the newest superblock says
    that one is due and, with a bitmap, each member's copy has the bit of each such stripe set, or is out of date, which
    has everything resynced. Returns (stripes that do not match, complaints, members whose bitmap is out of date)."""
    report, complaints, outdated = check_parity(paths), [], []
    supers = [read_superblock(p) for p in paths]
    newest = max(s.events for s in supers)
    if report.bad and any(s.resync_offset == CLEAN for s in supers if s.events == newest):
        complaints.append(f"the newest superblock says clean: {report}")
    for path, sb in zip(paths, supers):
        bitmap = read_bitmap(path)
        if bitmap is None:
            continue
        if bitmap.uuid != sb.uuid:
            complaints.append(f"{path}: the bitmap of another array")
        if bitmap.events < newest or bitmap.state:
            outdated.append(f"{path}: bitmap events {bitmap.events}, the newest superblock {newest}, state {bitmap.state:#x}")
            continue
        missed = [s for s in report.bad if s * PAGE // bitmap.chunk not in bitmap.dirty]
        if missed:
            complaints.append(f"{path}: stripes {missed[:5]} ({len(missed)} in all) do not match and have no bit")
    return len(report.bad), complaints, outdated


def row_of(level, layout, n, row):
    """Where one chunk row lies: (role of P, role of Q or None, roles of the data in array order)."""
    if level == 4:
        return n - 1, None, list(range(n - 1))
    if level == 5:
        return raid5_row(layout, n, row)
    if layout >= 16:
        p, _, data = raid5_row(layout - 16, n - 1, row)
        return p, n - 1, data
    left = n - 1 - row % n
    if layout in (0, 1, 2, 3):
        p = row % n if layout in (1, 3) else left
        q = (p + 1) % n
    elif layout == 4:
        p, q = 0, 1
    elif layout == 5:
        p, q = n - 2, n - 1
    elif layout == 8:
        p, q = row % n, (row % n + 1) % n
    elif layout == 9:
        p = n - 1 - (row + 1) % n
        q = (p + 1) % n
    elif layout == 10:
        p, q = left, (left - 1) % n
    else:
        raise ValueError(f"raid6 layout {layout}")
    if layout in (2, 3):
        return p, q, [(p + 2 + i) % n for i in range(n - 2)]
    if layout == 10:
        return p, q, [(p + 1 + i) % n for i in range(n - 2)]
    return p, q, [d for d in range(n) if d not in (p, q)]


def raid5_row(layout, n, row):
    """`row_of` for RAID 5; P only."""
    p = {0: n - 1 - row % n, 1: row % n, 2: n - 1 - row % n, 3: row % n, 4: 0, 5: n - 1}[layout]
    if layout in (2, 3):
        return p, None, [(p + 1 + i) % n for i in range(n - 1)]
    return p, None, [d for d in range(n) if d != p]


def exponents(layout, n, p, q):
    """The exponent of {02} with which each data role enters Q, as {role: exponent}."""
    if layout in (8, 9, 10):
        return {d: d for d in range(n) if d not in (p, q)}
    walk = [(q + 1 + i) % n for i in range(n)]
    return {d: e for e, d in enumerate(d for d in walk if d not in (p, q))}


def times_table(exponent):
    """The 256-byte table of multiplication by {02}^exponent in GF(2^8) with polynomial 0x11d."""
    table = []
    for value in range(256):
        for _ in range(exponent):
            value = (value << 1) ^ (0x11D if value & 0x80 else 0)
        table.append(value)
    return bytes(table)


def xor(blocks, length):
    """XOR of byte strings of one length."""
    total = 0
    for block in blocks:
        total ^= int.from_bytes(block, "little")
    return total.to_bytes(length, "little")


@dataclass
class ParityReport:
    """What `check_parity` found; a stripe is 4 KiB of every member at one offset."""

    stripes: int = 0
    bad: list = field(default_factory=list)
    skipped: int = 0

    def __str__(self):
        return f"{len(self.bad)} of {self.stripes} stripes do not match (first: {self.bad[:5]}), {self.skipped} rows skipped"


def check_parity(paths):
    """Recomputes P and Q of every stripe from the member files and lists the stripes that differ.

    `paths` may be in any order and leave members out; a parity that cannot be computed because a data
    member is missing is skipped and counted, a missing parity member leaves nothing to check.
    """
    supers = [read_superblock(p) for p in paths if p is not None]
    sb = max(supers, key=lambda s: s.events)
    files = {s.role: (open(s.path, "rb"), s.data_offset * 512) for s in supers if s.role < sb.disks}
    tables = [times_table(e) for e in range(sb.disks)]
    report, chunk = ParityReport(), sb.chunk * 512
    try:
        for row in range(sb.size // sb.chunk):
            check_row(sb, row, chunk, files, tables, report)
    finally:
        for handle, _ in files.values():
            handle.close()
    return report


def check_row(sb, row, chunk, files, tables, report):
    """Checks one chunk row; see `check_parity`."""
    p, q, data = row_of(sb.level, sb.layout, sb.disks, row)
    strip = {}
    for role, (handle, start) in files.items():
        handle.seek(start + row * chunk)
        strip[role] = handle.read(chunk).ljust(chunk, b"\0")
    report.stripes += chunk // PAGE
    if any(d not in strip for d in data):
        report.skipped += 1
        return
    wrong = set()
    if p in strip:
        wrong |= differing(xor([strip[d] for d in data], chunk), strip[p])
    if q is not None and q in strip:
        terms = [strip[d].translate(tables[e]) for d, e in exponents(sb.layout, sb.disks, p, q).items()]
        wrong |= differing(xor(terms, chunk), strip[q])
    report.bad.extend((row * chunk + at) // PAGE for at in sorted(wrong))


def differing(want, got):
    """Offsets of the 4 KiB blocks in which two strips differ."""
    if want == got:
        return set()
    return {at for at in range(0, len(want), PAGE) if want[at:at + PAGE] != got[at:at + PAGE]}


def read_content(paths):
    """The array's bytes, from its data strips alone (all data members must be present), chunk by chunk."""
    supers = {s.role: s for s in (read_superblock(p) for p in paths)}
    sb = next(iter(supers.values()))
    chunk = sb.chunk * 512
    for row in range(sb.size // sb.chunk):
        for role in row_of(sb.level, sb.layout, sb.disks, row)[2]:
            with open(supers[role].path, "rb") as f:
                f.seek(supers[role].data_offset * 512 + row * chunk)
                yield f.read(chunk).ljust(chunk, b"\0")
