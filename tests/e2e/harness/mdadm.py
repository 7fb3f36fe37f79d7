"""What mdadm and uraid say about the same members, side by side."""

import json
import re

from .case import URAID


def examine_ours(t, *members):
    """The superblocks of members as `uraid examine --json` shows them (docs/json.md)."""
    said = json.loads(t.run(URAID, "examine", "--json", *members).stdout)["members"]
    return [m["superblock"] for m in said]


def examine_theirs(t, *members):
    """`mdadm --examine` of members, each as a dict of its `Name : value` lines."""
    text = t.run("mdadm", "--examine", *members).stdout
    parts = re.split(r"(?m)^(?=/.*:$)", text)[1:]
    return [{k.strip(): v.strip() for k, v in re.findall(r"^\s*([^:\n]+?)\s*:\s(.*)$", part, re.M)} for part in parts]


def agree(t, members, clean):
    """Compares what both say about these members, and whether they are clean; returns what uraid says."""
    ours, theirs = examine_ours(t, *members), examine_theirs(t, *members)
    t.check(len(ours) == len(theirs) == len(members), f"{len(theirs)} of {len(members)} members are described by mdadm")
    for member, mine, mdadms in zip(members, ours, theirs):
        for what, (a, b) in pairs(mine, mdadms).items():
            t.check(a == b, f"{member.name}: {what} is {a} for uraid, {b} for mdadm")
        t.check("correct" in mdadms["Checksum"], f"{member.name}: mdadm finds the checksum wrong: {mdadms['Checksum']}")
        t.check(clean is None or (mine["state"] == "clean") == clean,
                f"{member.name}: uraid examine says {mine['state']}, expected clean={clean}")
    return ours


def pairs(ours, theirs):
    """What has to be the same for one member: (uraid's word, mdadm's word) by what it is about."""
    role = theirs["Device Role"].rsplit(" ", 1)[-1]
    recovery = theirs.get("Recovery Offset", "").split(" ")[0]
    return {
        "level": (f"raid{ours['level']}", theirs["Raid Level"]),
        "layout": (ours["layout"], theirs.get("Layout", ours["layout"])),
        "chunk": (f"{ours['chunk_bytes'] >> 10}K", theirs["Chunk Size"].split()[0]),
        "members": (str(ours["raid_disks"]), theirs["Raid Devices"]),
        "events": (str(ours["events"]), theirs["Events"]),
        "role": ("spare" if ours["role"] is None else str(ours["role"]), role),
        "uuid": (bare(ours["array_uuid"]), bare(theirs["Array UUID"])),
        "member's uuid": (bare(ours["member_uuid"]), bare(theirs["Device UUID"])),
        "array size": (f"{ours['array_bytes'] >> 10}", theirs["Array Size"].split()[0]),
        "used size": (f"{ours['used_member_bytes'] >> 9}", theirs.get("Used Dev Size", theirs["Avail Dev Size"]).split()[0]),
        "data offset": (f"{ours['data_offset_bytes'] >> 9} sectors", theirs.get("Data Offset", "0 sectors")),
        "state": (ours["state"], theirs["State"].split()[0]),
        "array state": (ours["array_state"], theirs["Array State"].split(" ")[0]),
        "features": (f"0x{ours['feature_map']:x}", theirs["Feature Map"]),
        "recovery offset": ("" if ours["recovery_offset_bytes"] is None else str(ours["recovery_offset_bytes"] >> 9), recovery),
    }


def bare(uuid):
    """A UUID without what separates its parts."""
    return re.sub("[-:]", "", uuid)


def detail(text):
    """`mdadm --detail` as a dict of its `Name : value` lines, and its table of members as `devices`:
    (role or None, state) each."""
    said = {k.strip(): v.strip() for k, v in re.findall(r"^\s*([^:\n]+?) : (.*)$", text, re.M)}
    rows = re.findall(r"^\s+(\d+|-)\s+\d+\s+\d+\s+(\d+|-)\s+(.*?)(?:\s+/dev/\S+)?$", text, re.M)
    said["devices"] = [(None if role == "-" else int(role), state.strip()) for _, role, state in rows]
    return said


def detail_agrees(t, text, ours):
    """Compares `mdadm --detail` of a running, clean array with the superblock of one of its members."""
    theirs = detail(text)
    same = {
        "level": (f"raid{ours['level']}", theirs["Raid Level"]),
        "layout": (ours["layout"], theirs.get("Layout", ours["layout"])),
        "chunk": (f"{ours['chunk_bytes'] >> 10}K", theirs["Chunk Size"]),
        "members": (str(ours["raid_disks"]), theirs["Raid Devices"]),
        "events": (str(ours["events"]), theirs["Events"]),
        "uuid": (bare(ours["array_uuid"]), bare(theirs["UUID"])),
        "name": (ours["array_name"], theirs["Name"].split(" ")[0]),
        "array size": (f"{ours['array_bytes'] >> 10}", theirs["Array Size"].split()[0]),
        "state": (ours["state"], theirs["State"].split(",")[0]),
        "policy": ("bitmap" if ours["feature_map"] & 1 else "resync", theirs["Consistency Policy"]),
        "missing members": (ours["array_state"].count("."), int(theirs["Raid Devices"]) - int(theirs["Active Devices"])),
    }
    for what, (a, b) in same.items():
        t.check(a == b, f"{what} is {a} for uraid, {b} for mdadm --detail")


def bitmap_agrees(t, text, bitmap, ours):
    """Compares `mdadm --examine-bitmap` with the bitmap as the tests read it (mdlayout.Bitmap), and with what
    `uraid examine --json` said of it."""
    theirs = {k.strip(): v.strip() for k, v in re.findall(r"^\s*([^:\n]+?) : (.*)$", text, re.M)}
    bits, dirty = re.match(r"(\d+) bits \(chunks\), (\d+) dirty", theirs["Bitmap"]).groups()
    size, unit = theirs["Chunksize"].split()
    said = {"events": int(theirs["Events"]), "events cleared": int(theirs["Events Cleared"]), "bits": int(bits),
            "set bits": int(dirty), "bytes a bit": int(size) << {"B": 0, "KB": 10, "MB": 20, "GB": 30}[unit],
            "out of date": theirs["State"] != "OK"}
    read = {"events": bitmap.events, "events cleared": bitmap.events_cleared, "bits": -(-bitmap.sync_size * 512 // bitmap.chunk),
            "set bits": len(bitmap.dirty), "bytes a bit": bitmap.chunk, "out of date": bool(bitmap.state)}
    t.check(said == read, f"of the bitmap mdadm says {said}, and it is {read}")
    named = {"events": ours["events"], "events cleared": ours["events_cleared"], "bits": ours["regions"],
             "set bits": ours["dirty_regions"], "bytes a bit": ours["region_bytes"], "out of date": ours["stale"]}
    t.check(said == named, f"of the bitmap mdadm says {said}, uraid {named}")
