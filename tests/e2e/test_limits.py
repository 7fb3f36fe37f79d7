"""Limits of connections, handshakes and silence, and who may connect to a unix socket."""

import os
import signal
import socket
import statistics
import time

from harness import pki, rawnbd
from harness.array import Array, open_files, settled_files
from harness.case import URAID, Failed, need, until

CROWD = 1000


def configured(t, text, listen=()):
    """An array that is served from a file; `text` is what is beside members and sockets."""
    array = Array(t, 5, 3)
    write(array, text, listen)
    array.line = array.serve(members=[array.t.dir / "limits.toml"], plain=True)
    return array


def write(array, text, listen=()):
    """The file; keys above the first section come first in `text`."""
    members = ", ".join(f'"{member}"' for member in array.members)
    listen = ", ".join(f'"{address}"' for address in (f"unix:{array.socket}", *listen))
    (array.t.dir / "limits.toml").write_text(
        f'members = [{members}]\nlisten = [{listen}]\ncontrol = "{array.control}"\n{text}')


def port_of(array):
    """The TCP port that it listens on."""
    return int(array.line.rsplit(":", 1)[1].split()[0])


def memory(array):
    """Bytes that the daemon has in memory."""
    with open(f"/proc/{array.process.pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def log(array):
    """What the daemon said so far."""
    return (array.t.dir / "uraid.log").read_text(encoding="utf-8", errors="replace")


def visit(where):
    """An honest client: connects, agrees, reads; says how long that took."""
    begin = time.monotonic()
    with rawnbd.Raw(where) as raw:
        raw.go()
        if raw.ask(rawnbd.READ, 0, 4096) != 0:
            raise Failed("an honest client cannot read")
    return time.monotonic() - begin


class Crowd:
    """Many connections that come and then do nothing. `kind` says how far they go before."""

    def __init__(self, where, kind, count=CROWD):
        self.socks = []
        for _ in range(count):
            sock = socket.socket(socket.AF_INET if isinstance(where, tuple) else socket.AF_UNIX)
            sock.settimeout(10)
            # A full backlog says EAGAIN at a unix socket; the daemon takes from it all the while.
            until("a place in the queue of the socket", lambda: self.connects(sock, where), 10, 0.001)
            try:
                if kind != "silent":
                    sock.sendall((3).to_bytes(4, "big"))
                if kind == "half an option":
                    sock.sendall(rawnbd.option_bytes(rawnbd.OPT_GO, b"", 100))
                if kind == "starts TLS":
                    sock.sendall(rawnbd.option_bytes(rawnbd.OPT_STARTTLS))
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.socks.append(sock)

    @staticmethod
    def connects(sock, where):
        """Whether the connection came about."""
        try:
            sock.connect(where if isinstance(where, tuple) else str(where))
        except BlockingIOError:
            return False
        return True

    def leave(self):
        """All hang up."""
        for sock in self.socks:
            sock.close()


def test_a_crowd_of_silent_clients(t, kind):
    """A thousand at each address keep nobody out, neither there nor elsewhere, and leave nothing behind."""
    need("openssl")
    ca = pki.Authority(t)
    cert, key = ca.server()
    array = configured(t, f'[tls]\ncertificate = "{cert}"\nkey = "{key}"\n[limits]\nhandshake_s = 60\n',
                       ["tcp:127.0.0.1:0"])
    places = [str(array.socket), ("127.0.0.1", port_of(array))]
    for where in places:
        visit(where)
        # The threads for TLS, and what they have open, are there from the first client on.
        secured = rawnbd.Raw(where)
        secured.greet()
        secured.try_option(rawnbd.OPT_STARTTLS)
        secured.sock.close()
    files = settled_files(array)
    alone = statistics.median(visit(where) for _ in range(50) for where in places)
    crowds = [Crowd(where, kind) for where in places]
    in_memory = memory(array)
    among = [visit(where) for _ in range(50) for where in places]
    t.say(f"{kind}: median {alone * 1e3:.2f} ms alone, {statistics.median(among) * 1e3:.2f} ms in the crowd, "
          f"longest {max(among) * 1e3:.1f} ms; {open_files(array)} files, {in_memory >> 20} MiB")
    t.check(max(among) < 2, f"an honest client needed {max(among):.1f} s")
    t.check("make room for others" in log(array), "the log says nothing about it")
    array.ctl("status")
    for crowd in crowds:
        crowd.leave()
    until("the files of the crowd to be closed", lambda: open_files(array) <= files)
    # A second crowd costs no more memory than the first one.
    for where in places:
        Crowd(where, kind).leave()
    until("the files of the second crowd to be closed", lambda: open_files(array) <= files)
    t.check(memory(array) < in_memory + (4 << 20), f"memory grew from {in_memory} to {memory(array)}")
    array.stop()


test_a_crowd_of_silent_clients.each = [("silent",), ("half an option",), ("starts TLS",)]


def test_a_burst_of_honest_clients(t):
    """As many as may be connected come at once, and all are served."""
    array = configured(t, "")
    raws = [rawnbd.Raw(array.socket) for _ in range(128)]
    for raw in raws:
        raw.go()
    for raw in raws:
        t.check(raw.ask(rawnbd.READ, 0, 4096) == 0, "a client of the burst cannot read")
        raw.sock.close()
    array.stop()


def test_handshake_deadline(t):
    """A slow client is closed at the deadline, however far it got, drop by drop or not."""
    array = configured(t, "[limits]\nhandshake_s = 1\n")
    begin = time.monotonic()
    with rawnbd.Raw(array.socket) as silent, rawnbd.Raw(array.socket) as slow:
        slow.greet()
        try:
            while time.monotonic() < begin + 10:
                slow.send(rawnbd.option_bytes(77, b""))
                slow.option_reply()
                time.sleep(0.05)
        except (rawnbd.Gone, OSError):
            pass
        took = time.monotonic() - begin
        t.check(0.8 < took < 5, f"the slow one was closed after {took:.1f} s, not after 1")
        silent.take(18)
        silent.expect_end(5)
    array.stop()


def test_idle_clients_are_closed_and_busy_ones_not(t):
    array = configured(t, "[limits]\nidle_s = 1\n")
    with rawnbd.Raw(array.socket) as idle, rawnbd.Raw(array.socket) as busy:
        idle.go()
        busy.go()
        begin = time.monotonic()
        idle.sock.setblocking(False)
        end = None
        while time.monotonic() < begin + 10:
            t.check(busy.ask(rawnbd.READ, 0, 4096) == 0, "a busy client was closed")
            try:
                if end is None and idle.sock.recv(1) == b"":
                    end = time.monotonic() - begin
            except BlockingIOError:
                pass
            if end is not None and time.monotonic() > begin + end + 2:
                break
            time.sleep(0.1)
        t.check(end is not None and 0.9 < end < 4, f"the idle one was closed after {end} s, not after 1 to 2")
        t.check("silent for too long" in log(array), "the log does not say why")
    array.stop()


def test_connections_per_peer(t):
    """The next one of the same user is closed after its handshake; one that leaves makes room."""
    array = configured(t, "[limits]\nconnections_per_peer = 2\n")
    raws = [rawnbd.Raw(array.socket) for _ in range(3)]
    for raw in raws:
        raw.go()
    for raw in raws[:2]:
        t.check(raw.ask(rawnbd.READ, 0, 512) == 0, "one of the first two cannot read")
    raws[2].expect_end()
    raws[0].sock.close()

    def room():
        try:
            return visit(array.socket) > 0
        except (rawnbd.Gone, OSError):
            return False
    until("room for another one", room)
    for raw in raws[1:]:
        raw.sock.close()
    array.stop()


def test_list_is_refused_by_policy(t):
    array = configured(t, "list = false\n")
    with rawnbd.Raw(array.socket) as raw:
        raw.greet()
        t.check(raw.try_option(rawnbd.OPT_LIST) == rawnbd.REP_POLICY, "LIST is not refused by policy")
    visit(array.socket)
    array.stop()


def as_user(t, array, user, *groups):
    """Whether a process of this user, in these groups, gets the export's size."""
    groups = ["--groups", ",".join(groups)] if groups else ["--clear-groups"]
    done = t.run("setpriv", "--reuid", user, "--regid", "65534", *groups, "nbdinfo", "--size", array.uri, ok=None)
    return done.returncode == 0


def test_unix_peers_by_user_and_group(t):
    """The kernel says who connects. The test is root, and lets nobody (65534), daemon (1) and games (5) in and out."""
    need("setpriv", "nbdinfo")
    t.check(os.getuid() == 0, "this test has to be root to become others")
    t.dir.chmod(0o755)
    top = 'socket_mode = "0666"\n'
    array = configured(t, top)
    t.check(array.socket.stat().st_mode & 0o777 == 0o666, "the mode of the socket is another one")
    t.check(as_user(t, array, "65534"), "without a list nobody is turned away")
    for lists, wanted in (
            ('allow_users = ["daemon"]\n', {("1",): True, ("65534",): False, ("0",): False}),
            ('allow_groups = ["games", "60"]\n', {("65534", "60"): True, ("65534",): False, ("1", "4", "60"): True}),
            ('allow_users = ["root"]\nallow_groups = ["65534"]\n', {("0",): True, ("1",): True})):
        write(array, top + lists)
        before = log(array).count("for clients that come from now on")
        array.process.send_signal(signal.SIGHUP)
        until("the reload", lambda: log(array).count("for clients that come from now on") > before)
        for who, let_in in wanted.items():
            t.check(as_user(t, array, *who) == let_in, f"{lists.strip()}: user and groups {who}")
    with socket.socket(socket.AF_UNIX) as sock:
        write(array, top + 'allow_users = ["daemon"]\n')
        array.process.send_signal(signal.SIGHUP)
        until("the reload", lambda: "allow_users = [\"daemon\"] (was [\"root\"])" in log(array))
        sock.connect(str(array.socket))
        t.check(sock.recv(1) == b"", "one who may not come in gets a byte")
    array.ctl("stop")
    array.expect_exit(0)


def test_a_disk_group_for_the_socket(t):
    """A daemon that is root gives its socket to the group disk; another one can be named."""
    import grp
    t.check(os.getuid() == 0, "this test has to be root")
    array = configured(t, "")
    status = array.socket.stat()
    t.check((status.st_gid, status.st_mode & 0o777) == (grp.getgrnam("disk").gr_gid, 0o660),
            f"group {status.st_gid}, mode {status.st_mode:o}")
    t.check(array.control.stat().st_gid == os.getgid(), "the control socket has another group")
    array.stop()
    write(array, 'socket_group = "daemon"\nsocket_mode = "0600"\n')
    array.serve(members=[t.dir / "limits.toml"], plain=True)
    t.check(array.socket.stat().st_gid == 1, "the group that was named does not have the socket")
    array.stop()
    write(array, 'socket_group = "no-such-group"\n')
    done = t.run(URAID, "serve", t.dir / "limits.toml", ok=(1,))
    t.check("no-such-group" in done.stderr, done.stderr)


def test_sighup_tells_the_service_manager(t):
    """RELOADING=1 with the time, then READY=1; and a daemon of options says that it has nothing to read."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(20)
    address = t.dir / "notify"
    manager.bind(str(address))
    os.environ["NOTIFY_SOCKET"] = str(address)
    try:
        array = Array(t, 5, 3)
        array.serve()
    finally:
        del os.environ["NOTIFY_SOCKET"]

    def told(word):
        while True:
            message = manager.recv(4096).decode()
            t.say(message)
            if word in message.splitlines():
                return message
    told("READY=1")
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    array.process.send_signal(signal.SIGHUP)
    reloading = told("RELOADING=1")
    stamp = int(reloading.split("MONOTONIC_USEC=")[1].split()[0])
    t.check(now <= stamp < now + 20_000_000, f"MONOTONIC_USEC is {stamp}, and it is {now}")
    told("READY=1")
    until("the log to say why nothing changes", lambda: "started with options" in log(array))
    visit(array.socket)
    array.stop()
    manager.close()
