"""A model of a DSA device as a process, the trees that describe it, and arrays that use it."""

import json
import os
import random
import signal
import subprocess
import threading
from pathlib import Path

from .array import Array, first_line, tail
from .case import REPO, URAID, Failed, until

MODEL = Path(os.environ.get("URAID_DSA_MODEL", REPO / "target" / "release" / "uraid-dsa-model"))


class Model:
    """`uraid-dsa-model`: queues behind sockets in `dev`, described below `sysfs`, both in the test's directory."""

    def __init__(self, t, *options, queues=("shared:128:120",)):
        t.check(MODEL.exists(), f"{MODEL} is missing; run ./dev e2e, which builds it")
        self.t, self.process, self.starts = t, None, 0
        self.sysfs, self.dev = t.dir / "sysfs", t.dir / "dev"
        self.options = [*options, *(word for queue in queues for word in ("--queue", queue))]

    def start(self):
        """Starts it and returns when all its queues listen."""
        self.starts += 1
        self.process = self.t.daemon("model", MODEL, "--sysfs", self.sysfs, "--dev", self.dev, *self.options,
                                     stdout=subprocess.PIPE)
        if first_line(self.process, 30) != "ready":
            raise Failed(f"the model did not come up: {tail(self.t.dir / 'model.log')}")
        return self

    def kill(self):
        """kill -9: what is under way is never heard of again, and the sockets are left lying about."""
        self.process.kill()
        self.process.wait()

    def pause(self):
        """SIGSTOP: it keeps what it has and answers nobody, until `resume`."""
        self.process.send_signal(signal.SIGSTOP)
        self.t.defer(self.resume)

    def resume(self):
        """SIGCONT: it goes on with what it had, however old that is."""
        self.process.send_signal(signal.SIGCONT)

    def terminate(self):
        """SIGTERM: queues are disabled, sockets removed."""
        self.process.terminate()
        self.process.wait(20)


def environment(sysfs, dev):
    """The environment in which uraid looks for devices there."""
    return {**os.environ, "URAID_DSA_SYSFS_PATH": str(sysfs), "URAID_DSA_DEV_PATH": str(dev)}


def engines(t, sysfs, dev, *options):
    """What `uraid engines --json --quick` says of these trees."""
    done = t.run(URAID, "engines", "--json", "--quick", *options, env=environment(sysfs, dev), timeout=60)
    return json.loads(done.stdout)


class OffloadedArray(Array):
    """An array that is served from a configuration with an `[engines]` section."""

    def configure(self, sysfs, dev, offload, **settings):
        """Writes the configuration; `offload` is the threshold of copies and fills."""
        members = ", ".join(f'"{m}"' for m in self.members)
        words = {"dsa_sysfs": str(sysfs), "dsa_dev": str(dev), **settings}
        lines = [f"members = [{members}]", f'listen = ["unix:{self.socket}"]', f'control = "{self.control}"', "[engines]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in words.items()]
        lines += ["[engines.offload]", f"copy = {json.dumps(offload)}", f"fill = {json.dumps(offload)}"]
        self.config = self.t.dir / "v.toml"
        self.config.write_text("\n".join(lines) + "\n")

    def serve_configured(self):
        """Starts the daemon from that configuration."""
        return self.serve(members=[self.config], plain=True)

    def engines(self):
        """What `uraid engines --control` says, as an `Engines`."""
        said = json.loads(self.ctl("engines", "--json").stdout)
        return Engines(said["engines"])

    def log(self):
        """The daemon's log so far."""
        return (self.t.dir / "uraid.log").read_text(errors="replace")


class Engines:
    """The engines of a running array; the only place in the tests that knows these field names (docs/json.md)."""

    def __init__(self, value):
        self.value = value

    def __str__(self):
        return json.dumps(self.value)

    @property
    def backend(self):
        """The one work queue, or None before there is one."""
        return self.value["backends"][0] if self.value["backends"] else None

    def on_queue(self, operation, counter="completed"):
        """A counter of a kind of operation on the work queues."""
        rows = (row for backend in self.value["backends"] for row in backend["operations"])
        return sum(row[counter] for row in rows if row["operation"] == operation)

    def total(self, counter):
        """A counter over all work queues."""
        return sum(backend[counter] for backend in self.value["backends"])

    @property
    def retries(self):
        """Operations that a device was to do, and the CPU did."""
        return sum(row["retries"] for row in self.value["operations"])

    def alerts(self, kind):
        """The alerts of this kind."""
        return [alert for alert in self.value["alerts"] if alert["kind"] == kind]


class Reaper:
    """Kills the model and starts it again, `rounds` times, while the client works: each time after so many
    more operations on the queue as the seed says. Entered, it runs; `done` says when it has had its way."""

    def __init__(self, array, model, seed, rounds):
        self.array, self.model, self.rounds = array, model, rounds
        self.random, self.trouble, self.done = random.Random(seed), None, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def _run(self):
        try:
            for _ in range(self.rounds):
                self._round()
        except Exception as error:  # handed to the test's own thread in __exit__
            self.trouble = error
        self.done.set()

    def _round(self):
        before = self.array.engines()
        goal = before.total("completed") + self.random.randrange(20, 200)
        until("the queue to be used", lambda: self.array.engines().total("completed") >= goal, 60)
        self._harm(before)
        until("the queue to come back", lambda: self.array.engines().total("revived") > before.total("revived"), 60)

    def _harm(self, before):
        self.model.kill()
        until("the loss to be noticed", lambda: self.array.engines().total("quarantines") > before.total("quarantines"), 60)
        self.model.start()

    def __exit__(self, kind, *_):
        self._thread.join(200)
        if kind is None and self.trouble is not None:
            raise Failed(f"while the model was killed and started: {self.trouble}")
        return False


class Pauser(Reaper):
    """The same, but the model stands still until its operations are long given up, and then goes on with them."""

    def _harm(self, before):
        self.model.pause()
        late = len(before.alerts("giving_up_late"))
        until("it to be said that memory is not given back", lambda: len(self.array.engines().alerts("giving_up_late")) > late, 60)
        self.model.resume()
