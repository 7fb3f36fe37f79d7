"""DSA work queues, with a model process as the hardware: used, killed, lying, absent, and described by nonsense.

The seeds are printed in the log; URAID_SEED sets them, URAID_CRASHES how often the model is killed.
"""

import json
import os
import random
import shutil

from harness import mdlayout
from harness.array import tail
from harness.case import REPO, URAID, need, until
from harness.dsa import Model, OffloadedArray, Pauser, Reaper, engines, environment

from test_clients import fio_verify, qemu_io_round_trip

SEED = int(os.environ.get("URAID_SEED", "20261122"))
KILLS = int(os.environ.get("URAID_CRASHES", "4"))
# Of each of fio's four jobs.
SPAN = 4 << 20


def offloaded(t, model, level=6, members=5, **settings):
    """A served array that uses the model for every copy and fill, however short."""
    array = OffloadedArray(t, level, members, size="32M")
    array.configure(model.sysfs, model.dev, 0, **settings)
    array.serve_configured()
    return array


def end_well(t, array):
    """A clean stop, and parity on the members as an independent reader sees it."""
    said = array.engines()
    t.check(said.value["chains_failed"] == 0, f"a compute plan failed: {said}")
    t.check(array.status().value["counters"]["requests_failed"] == 0, "a client was told of an error")
    array.stop()
    report = mdlayout.check_parity(array.present())
    t.check(not report.bad, f"parity on the members after a clean stop: {report}")


def test_fio_verifies_over_a_work_queue(t, queue, level, members):
    need("fio", "qemu-io")
    model = Model(t, queues=(queue,)).start()
    # A busy machine may take the model off the CPU for longer than a device would ever need.
    array = offloaded(t, model, level, members, dsa="require", timeout_ms=30_000)
    fio_verify(t, array.uri, "randwrite", SPAN)
    qemu_io_round_trip(t, array.uri)
    said = array.engines()
    for operation in ("copy", "fill"):
        t.check(said.on_queue(operation) > 0, f"no {operation} was done by the queue: {said}")
    t.check(said.total("failed") == 0 and not said.value["alerts"], f"the queue failed: {said}")
    t.check(said.backend["method"] == "socket" and said.backend["health"] == "good", f"backend: {said}")
    parity = [row for row in said.value["operations"] if row["operation"].startswith("pq")]
    t.check(parity and all(r["reason"] == "no_capability" for row in parity for r in row["reasons"]), f"parity: {said}")
    t.check("engine  dsa wq0.0: " in array.ctl("status").stdout, "the status does not name the queue")
    t.check("copy " in array.ctl("engines").stdout, "`uraid engines` for people says nothing of copies")
    end_well(t, array)


test_fio_verifies_over_a_work_queue.each = [("shared:128:120", 6, 5), ("dedicated:128", 6, 4), ("shared:128:120", 5, 3)]


def test_fio_verifies_over_queues_that_lie(t):
    """Everything that plans of faults have, lost and late completions, error statuses, resets; and wrong results."""
    need("fio")
    trouble, good, caught = {}, {}, 0
    for seed in range(SEED, SEED + 8):
        part = t.part(f"seed{seed}")
        model = Model(part, "--faults", f"corrupt:{seed}" if seed % 2 else str(seed)).start()
        array = offloaded(part, model, cross_check=1, timeout_ms=30, retry_ms=10)
        fio_verify(part, array.uri, "randwrite", SPAN)
        said = array.engines()
        # Some plans leave nothing of a queue, from the first operation on.
        good[seed] = min(said.on_queue("copy"), said.total("cross_checks"))
        trouble[seed] = sum(said.total(counter) for counter in ("failed", "declined", "mismatches", "timeouts"))
        caught += said.total("mismatches")
        end_well(part, array)
        model.kill()
    t.check(caught > 0, "no wrong result was caught")
    t.say(f"{caught} wrong results caught")
    t.say(f"operations in trouble by seed: {trouble}; done well and compared: {good}")
    t.check(sum(count > 0 for count in good.values()) >= 3, f"hardly a queue did anything: {good}")
    t.check(sum(count > 0 for count in trouble.values()) >= 3, f"hardly a plan of faults did anything: {trouble}")


def test_the_model_is_killed_while_fio_verifies(t):
    need("fio")
    t.say(f"seed {SEED}")
    model = Model(t).start()
    array = offloaded(t, model, timeout_ms=50, retry_ms=20)
    passes = 0
    with Reaper(array, model, SEED, KILLS) as reaper:
        while not reaper.done.is_set() or passes == 0:
            fio_verify(t, array.uri, "randwrite", SPAN)
            passes += 1
    t.say(f"{passes} passes of fio, {model.starts} lives of the model")
    said = array.engines()
    t.check(said.total("quarantines") >= KILLS and said.total("revived") >= KILLS, f"counters: {said}")
    t.check(said.retries > 0, f"nothing was done again on the CPU: {said}")
    t.check(len(said.alerts("quarantined")) >= KILLS and len(said.alerts("revived")) >= KILLS, f"alerts: {said}")
    t.check(said.on_queue("copy") > 0, f"the queue did nothing: {said}")
    log = array.log()
    for words in ("the backend is set aside, and the CPU does its work", "works again, after"):
        t.check(log.count(words) >= KILLS, f"the log does not say `{words}` {KILLS} times: {tail(t.dir / 'uraid.log')}")
    t.check(f"set aside {said.total('quarantines')} times" in array.ctl("status").stdout, "the status does not tell")
    fio_verify(t, array.uri, "randwrite", SPAN)
    end_well(t, array)


def test_the_model_stands_still_while_fio_verifies(t):
    """What it writes when it goes on, after all was given up, is in nobody's data."""
    need("fio")
    t.say(f"seed {SEED}")
    model = Model(t).start()
    array = offloaded(t, model, timeout_ms=20, retry_ms=10)
    with Pauser(array, model, SEED, 2) as pauser:
        while not pauser.done.is_set():
            fio_verify(t, array.uri, "randwrite", SPAN)
    said = array.engines()
    t.check(said.total("failed") > 0 and said.retries > 0 and said.total("revived") >= 2, f"counters: {said}")
    t.check("may still write memory" in array.log(), "the log does not say that memory is not given back")
    fio_verify(t, array.uri, "randwrite", SPAN)
    end_well(t, array)


def test_a_model_that_stands_still_does_not_hold_up_a_stop(t):
    need("fio")
    model = Model(t).start()
    array = offloaded(t, model)
    fio_verify(t, array.uri, "randwrite", SPAN)
    model.pause()
    array.ctl("stop")
    array.expect_exit(0, 15)
    t.check(not mdlayout.check_parity(array.present()).bad, "parity")


def test_a_queue_that_is_gone_for_good_costs_nothing_but_speed(t):
    """Killed and never started again: the volume serves, says so, and stops cleanly."""
    need("fio")
    model = Model(t).start()
    array = offloaded(t, model, timeout_ms=50, retry_ms=20)
    fio_verify(t, array.uri, "randwrite", SPAN)
    model.kill()
    fio_verify(t, array.uri, "randwrite", SPAN)
    said = array.engines()
    t.check(said.backend["health"] == "quarantined" and said.backend["last_fault"], f"backend: {said}")
    t.check("set aside now" in array.ctl("status").stdout, "the status does not say that the queue is set aside")
    end_well(t, array)


def test_queues_come_and_go_while_serving(t):
    """Plugged in after the start, and unplugged by its administrator."""
    need("fio")
    model = Model(t)
    array = offloaded(t, model)
    t.check(array.engines().backend is None, "a queue before there was one")
    t.check("no DSA work queue is used" in array.log(), "the log does not say that there is none")
    model.start()
    until("the new queue to be used", lambda: array.engines().backend)
    fio_verify(t, array.uri, "randwrite", SPAN)
    t.check(array.engines().on_queue("copy") > 0, "the new queue does nothing")
    model.terminate()
    until("the queue to be given up", lambda: array.engines().alerts("removed"))
    said = array.engines()
    t.check(said.value["unused"] and said.value["unused"][0]["name"] == "wq0.0", f"not told why: {said}")
    fio_verify(t, array.uri, "randwrite", SPAN)
    end_well(t, array)


def test_thresholds_are_measured_and_configured(t):
    """On a model behind a socket no copy pays; what the operator says comes first."""
    model = Model(t).start()
    array = OffloadedArray(t, 5, 3, size="16M")
    for offload, expected in (("auto", None), ("64KiB", 65536), ("never", "unused")):
        array.configure(model.sysfs, model.dev, offload)
        array.serve_configured()
        said = array.engines()
        if expected == "unused":
            t.check(said.backend is None and "neither copies nor fills" in said.value["unused"][0]["reason"], f"{said}")
        else:
            found = {row["operation"]: row["from_bytes"] for row in said.backend["operations"]}
            t.check(found == {"copy": expected, "fill": expected}, f"offload = {offload}: {said}")
        array.stop()


def test_a_dedicated_queue_has_one_user(t):
    model = Model(t, queues=("dedicated:16",)).start()
    array = offloaded(t, model, 5, 3)
    (queue,) = engines(t, model.sysfs, model.dev)["devices"][0]["queues"]
    t.check(not queue["usable"] and queue["obstacles"], f"queue: {queue}")
    array.stop()
    (queue,) = engines(t, model.sysfs, model.dev)["devices"][0]["queues"]
    t.check(queue["usable"] and queue["method"] == "socket", f"queue: {queue}")


def test_engines_shows_what_there_is(t):
    model = Model(t, queues=("shared:32:24", "dedicated:16")).start()
    said = engines(t, model.sysfs, model.dev)
    t.check(said["version"] == 1 and said["cpu"]["kernel"], f"head: {said}")
    (device,) = said["devices"]
    t.check((device["name"], device["version"], device["state"]) == ("dsa0", "1.0", "enabled"), f"device: {device}")
    document = (REPO / "docs" / "json.md").read_text()
    for queue, mode, entries in zip(device["queues"], ("shared", "dedicated"), (32, 16)):
        t.check(queue["usable"] and not queue["obstacles"], f"queue: {queue}")
        t.check((queue["mode"], queue["entries"]) == (mode, entries), f"queue: {queue}")
        t.check({"copy", "fill", "crc32c"} <= set(queue["operations"]), f"operations: {queue}")
        t.check("xor" not in json.dumps(queue) and "pq" not in json.dumps(queue), f"parity on a DSA: {queue}")
        for row in queue["offload"]:
            keys = {f"devices[].queues[].offload[].{key}" for key in row}
            keys |= {f"devices[].queues[].offload[].samples[].{key}" for sample in row["samples"] for key in sample}
            t.check(all(f"`{key}`" in document for key in keys), f"not in docs/json.md: {keys}")
    text = t.run(URAID, "engines", "--quick", env=environment(model.sysfs, model.dev)).stdout
    for words in ("1 device, 2 work queues, 2 usable", "usable, by socket", "no DSA that there is has XOR or P+Q"):
        t.check(words in text, f"does not say `{words}`: {text}")


def test_engines_says_why_a_queue_is_not_usable(t):
    model = Model(t, queues=("shared:32:24", "dedicated:16")).start()
    cases = [({"dsa0/wq0.0/name": "films"}, "only names that begin with"), ({"dsa0/wq0.0/type": "kernel"}, "type is kernel"),
             ({"dsa0/wq0.0/state": "disabled"}, "accel-config enable-wq"), ({"dsa0/state": "disabled"}, "accel-config enable-device"),
             ({"dsa0/state": "halted"}, "halted"), ({"dsa0/op_cap": "0"}, "cannot copy"), ({"dsa0/wq0.0/size": "0"}, "no size"),
             ({"dsa0/pasid_enabled": "0"}, "intel_iommu")]
    for number, (changes, words) in enumerate(cases):
        tree = t.dir / f"tree{number}"
        shutil.copytree(model.sysfs, tree, symlinks=True)
        for name, text in changes.items():
            (tree / name).write_text(text + "\n")
        queue = engines(t, tree, model.dev)["devices"][0]["queues"][0]
        t.check(not queue["usable"] and any(words in why for why in queue["obstacles"]), f"{changes}: {queue['obstacles']}")
        text = t.run(URAID, "engines", "--quick", env=environment(tree, model.dev)).stdout
        t.check("not usable: " in text and words in text, f"{changes}: {text}")
    gone = engines(t, model.sysfs, t.dir / "nowhere")["devices"][0]["queues"][0]
    t.check("does not exist" in gone["obstacles"][0], f"no node: {gone}")


def test_engines_on_a_machine_without_devices(t):
    for sysfs in (t.dir / "nowhere", t.dir / "empty"):
        (t.dir / "empty").mkdir(exist_ok=True)
        said = engines(t, sysfs, t.dir / "nowhere")
        t.check(said["devices"] == [] and bool(said["notes"]) == (sysfs.name == "nowhere"), f"{sysfs}: {said}")
        text = t.run(URAID, "engines", env=environment(sysfs, t.dir)).stdout
        t.check("no device in" in text and "CPU " in text, f"says: {text}")


def test_engines_takes_any_nonsense_in_sysfs(t):
    """Random bytes, huge files, directories and links to nowhere in the place of attributes: no crash, no wait."""
    t.say(f"seed {SEED}")
    rng = random.Random(SEED)
    model = Model(t, queues=("shared:32:24",)).start()
    files = [p.relative_to(model.sysfs) for p in sorted(model.sysfs.rglob("*")) if p.is_file()]
    for number in range(12):
        tree = t.dir / f"garbage{number}"
        shutil.copytree(model.sysfs, tree, symlinks=True)
        for name in rng.sample(files, min(len(files), 3 + number * 4)):
            path = tree / name
            if not path.parent.is_dir() or not path.is_file():
                continue
            path.unlink()
            kind = rng.randrange(6)
            if kind == 0:
                path.mkdir()
            elif kind == 1:
                path.symlink_to("nowhere")
            elif kind == 2:
                os.mkfifo(path)
            else:
                path.write_bytes([rng.randbytes(40), b"9" * 100_000, b"-1\n", b""][rng.randrange(4)])
        said = engines(t, tree, model.dev)
        t.check(said["version"] == 1, f"tree {number}: {said}")
        t.run(URAID, "engines", "--quick", env=environment(tree, model.dev), timeout=20)


def test_a_required_queue_that_is_missing_refuses_the_start(t):
    array = OffloadedArray(t, 5, 3, size="16M")
    before = [member.read_bytes()[:1 << 20] for member in array.members]
    for sysfs, words in ((t.dir / "nowhere", "cannot be read"), (t.dir, "no work queue is configured")):
        array.configure(sysfs, t.dir / "nowhere", 0, dsa="require")
        done = t.run(URAID, "serve", array.config, ok=(1,), timeout=20)
        for word in ('dsa = "require"', "a DSA work queue is required", words, "uraid engines"):
            t.check(word in done.stderr, f"does not say `{word}`: {done.stderr}")
    t.check(before == [member.read_bytes()[:1 << 20] for member in array.members], "a member was written to")
    model = Model(t).start()
    array.configure(model.sysfs, model.dev, 0, dsa="require", queues=["wq0.7"])
    done = t.run(URAID, "serve", array.config, ok=(1,), timeout=20)
    t.check("not among the queues of the configuration" in done.stderr, f"says: {done.stderr}")


def test_without_devices_the_cpu_does_everything(t):
    """`auto` on a machine without a DSA, and `off` on one that has: served, nothing offloaded, the reason is there."""
    model = Model(t).start()
    array = OffloadedArray(t, 5, 3, size="16M")
    for dsa, sysfs in (("auto", t.dir / "nowhere"), ("off", model.sysfs)):
        array.configure(sysfs, model.dev, 0, dsa=dsa)
        array.serve_configured()
        qemu_io_round_trip(t, array.uri)
        said = array.engines()
        t.check(not said.value["backends"] and said.value["dsa"] == dsa, f"{dsa}: {said}")
        reasons = {r["reason"] for row in said.value["operations"] for r in row["reasons"]}
        t.check(reasons == {"no_backend"}, f"{dsa}: {reasons}")
        end_well(t, array)


def test_bad_engine_settings_are_named(t):
    config = t.dir / "bad.toml"
    config.write_text('members = ["/a"]\n[engines]\ndsa = "yes"\ntimeout_ms = 0\nqueues = ["dsa0"]\ncopy = 1\n'
                      '[engines.offload]\nxor = "auto"\nfill = "4KB"\ncrc = 1\n')
    for verb in ("check-config", "serve"):
        done = t.run(URAID, verb, config, ok=(2,))
        for words in ("bad.toml:3:7: `dsa` cannot be \"yes\"", "bad.toml:4:14: `timeout_ms` is out of range",
                      "bad.toml:5:11: `queues` cannot hold \"dsa0\"", "`copy` belongs in [engines.offload]",
                      "`xor` cannot be offloaded: DSA has no such operation", "`fill` is not a size", "unknown key `crc`",
                      "7 problems"):
            t.check(words in done.stderr, f"{verb} does not say `{words}`: {done.stderr}")


def test_engines_of_no_daemon(t):
    done = t.run(URAID, "engines", "--control", t.dir / "no.control", ok=(1,))
    t.check("no daemon answers" in done.stderr, f"says: {done.stderr}")
    done = t.run(URAID, "engines", "--quick", "--control", t.dir / "no.control", ok=(2,))
    t.check("--quick" in done.stderr, f"says: {done.stderr}")
