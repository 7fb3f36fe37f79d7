"""A client that knows what it may lose: writes stamped sectors, remembers what was acknowledged and flushed.

Every sector carries its number and the version of the write that put it there. Versions grow, and two
writes in flight never overlap, so the versions of a sector are ordered as they were issued. A write is
*safe* once it was acknowledged before a FLUSH was sent that then completed, or once it completed with
FUA. After any crash a sector must hold its newest safe version or a later one, whole.
"""

import random
import struct
import threading

SECTOR = 512
STAMP = struct.Struct("<8sQQ")
MAGIC = b"uraidtst"


def sector_bytes(number, version):
    """The 512 bytes of one sector: the stamp, again and again."""
    one = STAMP.pack(MAGIC, number, version)
    return (one * (SECTOR // len(one) + 1))[:SECTOR]


def version_of(raw, number):
    """The version that a sector holds, 0 for a blank one, None for anything torn or strange."""
    if raw == bytes(SECTOR):
        return 0
    magic, said, version = STAMP.unpack_from(raw)
    return version if magic == MAGIC and said == number and raw == sector_bytes(number, version) else None


class Ledger:
    """What may and what must be on the array, per sector. Shared by the workers under one lock."""

    def __init__(self, sectors):
        self.lock = threading.Lock()
        self.sectors = sectors
        self.version = 0
        self.acked = {}
        self.issued = {}
        self.safe = {}
        self.flushes = self.writes = 0

    def issue(self, first, count):
        """A new version for a write that is about to be sent."""
        with self.lock:
            self.version += 1
            for s in range(first, first + count):
                self.issued[s] = self.version
            return self.version

    def ack(self, first, count, version, fua):
        """The write was answered well."""
        with self.lock:
            self.writes += 1
            for s in range(first, first + count):
                self.acked[s] = version
                if fua:
                    self.safe[s] = version

    def snapshot(self):
        """What was acknowledged up to now: taken before a FLUSH is sent."""
        with self.lock:
            return dict(self.acked)

    def flushed(self, snapshot):
        """The FLUSH that was sent after `snapshot` completed."""
        with self.lock:
            self.flushes += 1
            for s, version in snapshot.items():
                self.safe[s] = max(version, self.safe.get(s, 0))


class Worker(threading.Thread):
    """One connection with one request in flight; its writes stay in its own stretch of the array.

    A FLUSH covers the writes of all connections when the server allows several (NBD multi-conn);
    otherwise only its own, and the worker then records only those.
    """

    def __init__(self, uri, ledger, first, count, seed, stop):
        super().__init__(daemon=True)
        import nbd
        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)
        self.shared_flush = self.handle.can_multi_conn()
        self.error_type = nbd.Error
        self.fua_flag = nbd.CMD_FLAG_FUA if self.handle.can_fua() else 0
        self.ledger, self.first, self.count = ledger, first, count
        self.random, self.stop, self.error = random.Random(seed), stop, None

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
        except self.error_type as error:  # the server went away: expected when it is killed
            self.error = error

    def step(self):
        """One random request."""
        if self.random.random() < 0.03:
            before = self.ledger.snapshot()
            if not self.shared_flush:
                before = {s: v for s, v in before.items() if self.first <= s < self.first + self.count}
            self.handle.flush()
            self.ledger.flushed(before)
            return
        length = min(self.random.choice([1, 1, 3, 8, 8, 64, 129, 512]), self.count)
        at = self.first + self.random.randrange(self.count - length + 1)
        fua = self.fua_flag if self.random.random() < 0.05 else 0
        version = self.ledger.issue(at, length)
        data = b"".join(sector_bytes(s, version) for s in range(at, at + length))
        self.handle.pwrite(data, at * SECTOR, fua)
        self.ledger.ack(at, length, version, bool(fua))


class Load:
    """Several workers over the first `sectors` of an export, until stopped or until the server dies."""

    def __init__(self, uri, sectors, seed, workers=4):
        self.ledger, self.stop = Ledger(sectors), threading.Event()
        each = sectors // workers
        self.workers = [Worker(uri, self.ledger, i * each, each, seed * 100 + i, self.stop) for i in range(workers)]
        for worker in self.workers:
            worker.start()

    def end(self):
        """Asks the workers to end and waits until they have."""
        self.stop.set()
        self.join()

    def join(self):
        """Waits until every worker has ended, by itself or because the server is gone."""
        for worker in self.workers:
            worker.join(60)


def verify(uri, ledger, strict=False):
    """Reads the array back; returns a list of complaints (empty = all is well).

    With `strict`, an acknowledged write must be there even if it was never flushed (after a clean stop).
    """
    import nbd
    handle = nbd.NBD()
    handle.connect_uri(uri)
    complaints, step = [], 2048
    for first in range(0, ledger.sectors, step):
        count = min(step, ledger.sectors - first)
        raw = bytes(handle.pread(count * SECTOR, first * SECTOR))
        for s in range(first, first + count):
            at = (s - first) * SECTOR
            got = version_of(raw[at:at + SECTOR], s)
            floor = (ledger.acked if strict else ledger.safe).get(s, 0)
            if got is None:
                complaints.append(f"sector {s} is torn or foreign: {raw[at:at + 24].hex()}")
            elif not floor <= got <= ledger.issued.get(s, 0):
                complaints.append(f"sector {s} holds version {got}, must be {floor}..{ledger.issued.get(s, 0)}")
    handle.shutdown()
    return complaints
