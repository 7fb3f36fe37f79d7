"""What an operator sees: the hook, the metrics, the live view, a degraded start, the journal."""

import fcntl
import http.client
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import termios
import time

from harness.array import Array
from harness.case import URAID, Failed, need, until

HOOK = """#!/bin/sh
cat >>"{dir}/json"
printf '%s %s\\n' "$1" "$2" >>"{dir}/calls"
"""
LIVE = ["member-failed", "degraded", "member-added", "rebuild-started", "spare-used", "member-in-sync", "restored", "rebuild-ended"]


def configured(t, array, *sections):
    """Serves the array from a configuration with these lines."""
    listed = ", ".join(f'"{m}"' for m in array.members if m.exists())
    config = t.dir / f"{array.name}.toml"
    config.write_text(f'members = [{listed}]\nlisten = ["unix:{array.socket}"]\ncontrol = "{array.control}"\n'
                      + "\n".join(sections) + "\n")
    t.run(URAID, "check-config", config)
    array.serve(members=[config], plain=True)


def hook(t, text=HOOK):
    """A hook with this text, as lines of a configuration."""
    program = t.dir / "hook"
    program.write_text(text.format(dir=t.dir))
    program.chmod(0o755)
    return f'[events]\nhook = "{program}"\n'


def calls(t):
    """The events of which the hook was called, in order."""
    try:
        return [line.split()[0] for line in (t.dir / "calls").read_text().splitlines()]
    except FileNotFoundError:
        return []


def test_the_hook_is_called_in_order(t):
    """A failure, a new device, its rebuild and the stop: each event once, in order, with its JSON."""
    array = Array(t, 5, 3)
    configured(t, array, hook(t))
    failed = array.members[1]
    array.fail(1)
    array.add(1)
    array.wait_rebuilt()
    until("the end of the rebuild to be told", lambda: "rebuild-ended" in calls(t))
    array.stop()
    t.check(calls(t) == ["started", *LIVE, "stopped"], f"the hook was called for {calls(t)}")
    told = [json.loads(line) for line in (t.dir / "json").read_text().splitlines()]
    t.check([one["event"] for one in told] == calls(t), "the input says something else than the arguments")
    t.check(all(one["array"] == "e2e" and one["version"] == 1 and one["message"] for one in told), f"{told}")
    by_event = {one["event"]: one for one in told}
    t.check(by_event["member-failed"]["member"] == str(failed) and by_event["member-failed"]["role"] == 1,
            f"{by_event['member-failed']}")
    t.check(by_event["spare-used"]["member"] == str(array.members[1]), f"{by_event['spare-used']}")


def test_a_degraded_start_is_told(t):
    """An array that starts without a member tells so, in the log and to the hook, if that asked for it."""
    array = Array(t, 6, 4)
    array.serve()
    array.stop()
    array.members[2].unlink()
    configured(t, array, hook(t) + 'on = ["degraded", "stopped"]')
    until("the hook to be called", lambda: calls(t))
    log = (t.dir / "uraid.log").read_text()
    t.check("started degraded: 1 role has no member in sync" in log, f"the log is {log}")
    array.stop()
    t.check(calls(t) == ["degraded", "stopped"], f"the hook was called for {calls(t)}")
    told = json.loads((t.dir / "json").read_text().splitlines()[0])
    t.check(told["severity"] == "error", f"{told}")


def test_a_hook_that_hangs_holds_nothing_up(t):
    """The volume goes on, the hook is killed with what it started, and its end is logged and counted."""
    array = Array(t, 5, 3)
    slow = hook(t, "#!/bin/sh\necho $$ >>{dir}/calls\nsleep 1000 & wait\n") + "hook_timeout_s = 1\n"
    configured(t, array, slow, f'[metrics]\nlisten = "unix:{t.dir}/metrics"')
    until("the hook to run", lambda: calls(t))
    array.fail(0)
    t.check(array.status().degraded == 1, "the volume waits for the hook")
    timed_out = lambda: value(scrape(t), "uraid_hook_runs_total", result="timed_out") >= 1
    until("the first run to be killed", timed_out)
    t.check("the hook is killed" in (t.dir / "uraid.log").read_text(), "it is not logged")
    array.stop()
    for pid in calls(t):
        t.check(not os.path.exists(f"/proc/{pid}/fd/0"), f"the hook {pid} lives on")


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("uraid", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self.path))


def scrape(t):
    """The metrics, as Prometheus' own parser reads them: by family."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise Failed("the Python module prometheus_client is not installed; run ./dev setup") from error
    connection = Unix(t.dir / "metrics")
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    t.check(answer.status == 200 and "version=0.0.4" in answer.headers["Content-Type"], f"{answer.status} {text}")
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families, name, **labels):
    """The value of the one sample of this name with these labels."""
    family = families[name.removesuffix("_total")] if name.endswith("_total") else families[
        re.sub("_(bucket|count|sum)$", "", name)]
    found = [s.value for s in family.samples
             if s.name == name and all(s.labels.get(k) == v for k, v in labels.items())]
    if len(found) != 1:
        raise Failed(f"{len(found)} samples of {name} {labels}")
    return found[0]


def histogram(t, families, name, **labels):
    """Checks a histogram; gives its count."""
    samples = [s for s in families[name].samples
               if all(s.labels.get(k) == v for k, v in labels.items())]
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
    t.check(buckets == sorted(buckets) and buckets[-1][0] == float("inf"), f"the bounds of {name}: {buckets}")
    counts = [count for _, count in buckets]
    t.check(counts == sorted(counts), f"{name} counts down: {counts}")
    count, total = value(families, name + "_count", **labels), value(families, name + "_sum", **labels)
    t.check(count == counts[-1] and (total > 0) == (count > 0), f"{name}: {count} in {total} s, {counts}")
    return count


def test_metrics_while_fio_runs(t):
    """Scraped while fio works; at the end the counts are fio's own."""
    need("fio")
    array = Array(t, 6, 6)
    configured(t, array, f'[metrics]\nlisten = "unix:{t.dir}/metrics"')
    before = scrape(t)
    t.check(value(before, "uraid_array_state", state="clean") + value(before, "uraid_array_state", state="active") == 1,
            "the state")
    argv = ["fio", "--name=load", "--ioengine=nbd", f"--uri={array.uri}", "--rw=randrw", "--bs=16k", "--iodepth=8",
            "--size=64m", "--time_based", "--runtime=3", "--output-format=json", "--randseed=7"]
    load = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    t.defer(load.kill)
    busy = lambda: value(scrape(t), "uraid_client_operation_duration_seconds_count", op="write") > 20
    until("metrics that move", busy)
    during = scrape(t)
    t.check(value(during, "uraid_client_connections_open") >= 1, "nobody is connected")
    said = load.communicate(timeout=120)[0]
    job = json.loads(said[said.index("{"):])["jobs"][0]
    after = scrape(t)
    latency = "uraid_client_operation_duration_seconds"
    for op in ("read", "write"):
        count, ios = histogram(t, after, latency, op=op), job[op]["total_ios"]
        t.check(count == ios, f"{count} {op}s are counted, fio did {ios}")
        t.check(value(after, "uraid_client_operation_bytes_total", op=op) == ios * 16384, f"bytes of {op}s")
    for member in array.members:
        for op in ("read", "write", "flush", "write_meta"):
            histogram(t, after, "uraid_member_operation_duration_seconds", member=str(member), op=op)
        t.check(value(after, "uraid_member_operation_bytes_total", member=str(member), op="write") > 0, f"{member}")
        t.check(value(after, "uraid_member_state", member=str(member), state="in_sync") == 1, f"{member}")
    for name, family in after.items():
        for sample in family.samples:
            t.check(sample.labels.get("array") == "e2e", f"{name} does not say which array it is of")
            earlier = before.get(name)
            if family.type == "counter" and earlier:
                was = [s.value for s in earlier.samples if s.labels == sample.labels]
                t.check(not was or was[0] <= sample.value, f"{name} went back")
    array.fail(3)
    now = scrape(t)
    t.check(value(now, "uraid_array_degraded_roles") == 1, "degraded roles")
    t.check(value(now, "uraid_array_state", state="degraded") == 1, "the state of a degraded array")
    t.check(value(now, "uraid_events_total", event="member-failed") == 1, "events")
    t.check(value(now, "uraid_member_state", member=str(array.members[3]), state="failed") == 1, "the failed member")
    status = array.status().value
    reads = next(one for one in status["operations"] if one["operation"] == "read")
    t.check(reads["count"] == job["read"]["total_ios"], "`uraid status` and the metrics differ")
    t.check(0 < reads["p50_us"] <= reads["p99_us"], f"{reads}")
    array.stop()


class Screen:
    """As much of a terminal as it takes to see what is on it."""

    def __init__(self, columns, rows):
        self.size, self.rest = (columns, rows), b""
        self.rows, self.row, self.column, self.other = {}, 0, 0, False

    def feed(self, data):
        """Takes what a program wrote."""
        data = self.rest + data
        text = data.decode("utf-8", errors="ignore")
        # An escape sequence, or a character, that is cut off is kept for later.
        cut = text.rfind("\x1b")
        if cut >= 0 and not re.match(r"\x1b(\[[0-9;?]*[A-Za-z]|[^\[])", text[cut:]):
            text, self.rest = text[:cut], text[cut:].encode()
        else:
            self.rest = b""
        for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.|[^\x1b]+", text):
            self.escape(piece) if piece[0] == "\x1b" else self.print(piece)

    def escape(self, sequence):
        """Moves, clears and modes; colours are not looked at."""
        if at := re.fullmatch(r"\x1b\[(\d+);(\d+)H", sequence):
            self.row, self.column = int(at[1]) - 1, int(at[2]) - 1
        elif sequence == "\x1b[K":
            self.rows[self.row] = self.line(self.row)[:self.column]
        elif sequence == "\x1b[J":
            self.rows = {row: text for row, text in self.rows.items() if row < self.row}
        elif sequence in ("\x1b[?1049h", "\x1b[?1049l"):
            self.other = sequence.endswith("h")

    def print(self, text):
        """Text at the cursor."""
        line = self.line(self.row).ljust(self.column)
        self.rows[self.row] = line[:self.column] + text + line[self.column + len(text):]
        self.column += len(text)

    def line(self, row):
        """What stands in a row."""
        return self.rows.get(row, "")

    def text(self):
        """All of it."""
        return "\n".join(self.line(row) for row in range(self.size[1]))


class Terminal:
    """`uraid status --watch` in a terminal of its own."""

    def __init__(self, t, array, columns, rows):
        self.ours, self.theirs = pty.openpty()
        t.defer(os.close, self.ours)
        t.defer(os.close, self.theirs)
        self.before = termios.tcgetattr(self.theirs)
        self.process = None
        self.resize(columns, rows)
        argv = [str(URAID), "status", "--watch", "--interval", "0.2", "--control", str(array.control)]
        self.process = subprocess.Popen(argv, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        t.defer(self.process.kill)

    def resize(self, columns, rows):
        """Another size; the kernel tells the program."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen = Screen(columns, rows)

    def pump(self, seconds=0.1):
        """Reads what was written meanwhile."""
        end = time.monotonic() + seconds
        while select.select([self.ours], [], [], max(0, end - time.monotonic()))[0]:
            try:
                self.screen.feed(os.read(self.ours, 65536))
            except OSError:
                return

    def shows(self, *words):
        """Waits until all words stand on the screen."""
        def seen():
            self.pump()
            return all(word in self.screen.text() for word in words)
        try:
            until(f"{words} on the screen", seen)
        except Failed as failed:
            raise Failed(f"{failed}; it shows\n{self.screen.text()}") from failed

    def press(self, key):
        """A key."""
        os.write(self.ours, key)


def test_the_live_view_in_a_terminal(t):
    """State, members and rates; a failure shows; another size is obeyed; q leaves the terminal as it was."""
    array = Array(t, 5, 4)
    array.serve()
    terminal = Terminal(t, array, 160, 30)
    terminal.shows("e2e: ", "raid5", "[4/4] [UUUU]", "requests/s", "write zeroes", "in sync", str(array.members[3])[-20:],
                   "q quits")
    t.check(terminal.screen.other, "the view is not on the other screen")
    t.run("nbdcopy", "/usr/bin/env", array.uri, ok=None)
    array.fail(2)
    terminal.shows("e2e: degraded", "[UU_U]", "role 2 has no member; add one", "failed")
    array.add(2)
    array.wait_rebuilt()
    terminal.shows("[4/4] [UUUU]", "the last 0.")
    terminal.resize(50, 8)
    terminal.shows("q quits")
    terminal.pump(0.5)
    widths = [len(terminal.screen.line(row)) for row in range(100)]
    t.check(max(widths) <= 50 and not any(widths[8:]), f"it is drawn beyond 50x8: {widths}")
    t.check("q quits" in terminal.screen.line(7), "the last line is elsewhere")
    first = terminal.screen.line(0)
    terminal.press(b"\x1b[B\x1b[B\x1b[B")
    until("it to scroll", lambda: terminal.pump() or terminal.screen.line(0) != first)
    terminal.press(b"q")
    until("the view to end", lambda: terminal.pump() or terminal.process.poll() is not None)
    t.check(terminal.process.returncode == 0, f"it ended with {terminal.process.returncode}")
    terminal.pump()
    t.check(not terminal.screen.other, "the other screen is not left")
    t.check(termios.tcgetattr(terminal.theirs) == terminal.before, "the terminal is not as it was")
    array.stop()


def test_the_live_view_outlives_a_restart_and_ends_on_a_signal(t):
    array = Array(t, 5, 3)
    array.serve()
    terminal = Terminal(t, array, 120, 30)
    terminal.shows("e2e: ", "[3/3]")
    array.stop()
    terminal.shows("no daemon answers")
    array.serve()
    terminal.shows("e2e: ", "q quits")
    terminal.process.terminate()
    until("the view to end", lambda: terminal.pump() or terminal.process.poll() is not None)
    terminal.pump()
    t.check(terminal.process.returncode == 0 and not terminal.screen.other, "SIGTERM left the terminal as it was not")
    t.check(termios.tcgetattr(terminal.theirs) == terminal.before, "the terminal is not as it was")
    array.stop()


def test_the_live_view_without_a_terminal(t):
    """One block after the other, until nobody reads."""
    array = Array(t, 6, 4)
    array.serve()
    argv = [str(URAID), "status", "--watch", "--interval", "0.1", "--control", str(array.control)]
    watch = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    t.defer(watch.kill)
    blocks = 0
    while blocks < 3:
        line = watch.stdout.readline()
        t.check(line and "\x1b" not in line, f"a line {line!r}")
        blocks += line.startswith("e2e: ")
    watch.stdout.close()
    t.check(watch.wait(30) == 0, f"it ended with {watch.returncode} when nobody read")
    none = t.run(URAID, "status", "--watch", "--control", t.dir / "nobody", ok=(1,))
    t.check("no daemon answers" in none.stderr, none.stderr)
    t.run(URAID, "status", "--watch", "--json", "--control", array.control, ok=(2,))
    t.run(URAID, "status", "--interval", "0", "--watch", "--control", array.control, ok=(2,))
    array.stop()


def entry(data):
    """The fields of an entry of the journal's native protocol."""
    fields = {}
    while data:
        line, data = data.split(b"\n", 1)
        name, equals, text = line.partition(b"=")
        if not equals:
            length = struct.unpack("<Q", data[:8])[0]
            text, data = data[8:8 + length], data[8 + length + 1:]
        fields[name.decode()] = text.decode()
    return fields


def test_events_in_the_journal(t):
    """Where standard error is the journal, events go there with their fields, and not to the log as well."""
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    t.defer(journal.close)
    journal.bind(str(t.dir / "journal"))
    journal.settimeout(30)
    log = t.dir / "uraid.log"
    log.touch()
    stat = log.stat()
    os.environ["JOURNAL_STREAM"], os.environ["URAID_JOURNAL_SOCKET"] = f"{stat.st_dev}:{stat.st_ino}", str(t.dir / "journal")
    try:
        array = Array(t, 5, 3)
        array.serve()
    finally:
        del os.environ["JOURNAL_STREAM"], os.environ["URAID_JOURNAL_SOCKET"]
    started = entry(journal.recv(65536))
    t.check(started["URAID_EVENT"] == "started" and started["URAID_ARRAY"] == "e2e", f"{started}")
    t.check(started["PRIORITY"] == "6" and started["SYSLOG_IDENTIFIER"] == "uraid", f"{started}")
    array.fail(1)
    failed, degraded = entry(journal.recv(65536)), entry(journal.recv(65536))
    t.check(failed["MESSAGE_ID"] == "885d24cd63714e1daf9e0eb80d96202e" and failed["URAID_ROLE"] == "1", f"{failed}")
    t.check(failed["URAID_MEMBER"] == str(array.members[1]) and failed["PRIORITY"] == "3", f"{failed}")
    t.check(degraded["MESSAGE_ID"] == "67e2818c5bae43c6a64f6e33dc67e5fe", f"{degraded}")
    # A journal that is gone costs nobody anything: the log has the lines again.
    journal.close()
    (t.dir / "journal").unlink()
    t.check("failed" not in log.read_text(), "an event is in the journal and in the log")
    array.stop()
    t.check("is stopped and marked clean" in log.read_text(), "an event is lost that the journal did not take")
