"""`uraid kernels`: what it says must fit together and fit what the daemon does, on whatever machine this is."""

import json

from harness.array import Array
from harness.case import URAID

WORKS = {"gen_pq", "xor", "check_pq", "recover_two", "update"}


def kernels(t, *options):
    """What `uraid kernels --json --quick` says."""
    return json.loads(t.run(URAID, "kernels", "--json", "--quick", *options, timeout=20).stdout)


def test_every_kernel_that_runs_has_rates(t):
    said = kernels(t)
    t.check(said["version"] == 1 and said["cpu"]["architecture"], f"head: {said}")
    present = {f["name"] for f in said["cpu"]["features"] if f["present"]}
    for kernel in said["kernels"]:
        t.check(set(kernel["lacks"]) == set(kernel["needs"]) - present, f"lacks: {kernel}")
        t.check(kernel["available"] == (not kernel["lacks"]), f"available: {kernel}")
    runs = {k["name"] for k in said["kernels"] if k["available"]}
    t.check({"naive", "portable"} <= runs, f"what runs everywhere: {runs}")
    expected = {(kernel, work) for kernel in runs - {"naive"} for work in WORKS}
    t.check([m["set"] for m in said["measurements"]] == ["hot", "l3", "memory"], "the working sets")
    for table in said["measurements"]:
        if table["skipped"] is not None:
            t.check(table["set"] != "hot" and not table["rates"] and table["skipped"], f"skipped: {table}")
            continue
        rates = table["rates"]
        t.check({(r["kernel"], r["work"]) for r in rates} == expected, f"rates of {table['set']}: {rates}")
        good = all(r["bytes_per_second"] >= r["median_bytes_per_second"] > 0 for r in rates)
        t.check(good and len(rates) == len(expected), f"rates of {table['set']}: {rates}")
        t.check(table["working_set_bytes"] >= (table["data_blocks"] + 2) * table["block_bytes"], "a set below one stripe")


def test_the_choice_has_its_reason(t):
    said = kernels(t)
    runs = [k["name"] for k in said["kernels"] if k["available"]]
    auto, measured = said["choices"]
    t.check((auto["selection"], auto["kernel"], auto["why"]) == ("auto", runs[-1], "preferred"), f"auto: {auto}")
    t.check(measured["selection"] == "measured" and measured["kernel"] in set(runs) - {"naive"}, f"measured: {measured}")
    (named,) = kernels(t, "--kernel", "portable")["choices"]
    t.check((named["kernel"], named["why"]) == ("portable", "named"), f"portable: {named}")
    (cycle,) = kernels(t, "--kernel", "cycle")["choices"]
    t.check((cycle["kernel"], cycle["why"]) == (None, "cycle"), f"cycle: {cycle}")


def test_a_word_that_is_none_is_refused_with_those_that_are(t):
    done = t.run(URAID, "kernels", "--kernel", "avx9", ok=(2,))
    t.check("avx9" in done.stderr and not done.stdout, f"said: {done.stderr}")
    for word in ("auto", "measured", "cycle", "naive", "portable"):
        t.check(word in done.stderr, f"does not offer {word}: {done.stderr}")


def test_a_kernel_that_cannot_run_here_is_refused(t):
    for kernel in kernels(t)["kernels"]:
        if not kernel["available"]:
            done = t.run(URAID, "kernels", "--kernel", kernel["name"], ok=(1,))
            t.check("cannot run" in done.stderr and kernel["name"] in done.stderr, f"said: {done.stderr}")


def test_people_see_the_same(t):
    said = t.run(URAID, "kernels", "--quick").stdout
    for word in ("CPU", "caches", "portable", "P+Q", "GB/s", "hot:", 'kernel = "auto" takes'):
        t.check(word in said, f"does not say {word}: {said}")


def test_the_daemon_says_what_it_took_and_why(t, word):
    array = Array(t, 6, 4, size="16M")
    config = t.dir / "v.toml"
    members = ", ".join(f'"{m}"' for m in array.members)
    config.write_text(f'members = [{members}]\nlisten = ["unix:{array.socket}"]\n'
                      f'control = "{array.control}"\nkernel = "{word}"\n')
    array.serve(members=[config], plain=True)
    log = (t.dir / "uraid.log").read_text(errors="replace")
    line = next((line for line in log.splitlines() if "parity kernels: " in line), "")
    reason = {"auto": "preferred", "measured": "the fastest in a short measurement", "portable": "by name", "cycle": "next"}
    t.check(reason[word] in line, f"the log says: {line or log}")
    array.stop()


test_the_daemon_says_what_it_took_and_why.each = [("auto",), ("measured",), ("portable",), ("cycle",)]
