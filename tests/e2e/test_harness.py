"""Is the yardstick straight? The independent md reader, on arrays that the Linux kernel made."""

import hashlib

from harness import goldens, mdlayout, stamps, uml


def test_reader_agrees_with_the_kernel(t, name):
    case = next(c for c in goldens.cases() if c["name"] == name)
    paths = goldens.unpack(t, case)
    digest = hashlib.sha256()
    for block in mdlayout.read_content(paths):
        digest.update(block)
    t.check(digest.hexdigest() == case["content_sha256"], "content differs from what the kernel served")
    report = mdlayout.check_parity(paths)
    t.check(not report.bad and report.stripes == case["dev_sectors"] // 8, f"parity of a kernel array: {report}")
    t.check(all(mdlayout.read_superblock(p).checksum_ok for p in paths), "a checksum does not match")


test_reader_agrees_with_the_kernel.each = [(name,) for name in goldens.SAMPLE]


def test_a_flipped_bit_is_found(t, role):
    case = next(c for c in goldens.cases() if c["name"] == "r6_n6_left_symmetric_c4k")
    paths = goldens.unpack(t, case)
    with open(paths[role], "r+b") as f:
        at = case["members"][role]["data_offset"] * 512 + 5 * 4096 + 77
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 0x10]))
    t.check(mdlayout.check_parity(paths).bad == [5], "the checker missed a flipped bit in stripe 5")


test_a_flipped_bit_is_found.each = [(role,) for role in range(6)]


def test_stamps_tell_torn_from_whole(t):
    whole = stamps.sector_bytes(9, 4)
    t.check(stamps.version_of(whole, 9) == 4, "a whole sector is not recognised")
    t.check(stamps.version_of(whole[:256] + stamps.sector_bytes(9, 5)[256:], 9) is None, "a torn sector passes")
    t.check(stamps.version_of(whole, 8) is None, "a sector in the wrong place passes")


def test_the_guest_kernel_makes_an_array_that_the_reader_reads(t):
    disks = [t.dir / f"d{i}.img" for i in range(4)]
    for disk in disks:
        t.run("truncate", "-s", "8M", disk)
    names = uml.device_names(4)
    made = uml.run(t, f"""
mdadm --create /dev/md0 --run --quiet -l6 -n4 -c16 --bitmap=none {' '.join(names)}
dd if=/usr/sbin/mdadm of=/dev/md0 bs=64k conv=notrunc,fsync
mdadm --wait /dev/md0 || true
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
mdadm --stop /dev/md0
""", disks)
    digest = hashlib.sha256()
    for block in mdlayout.read_content(disks):
        digest.update(block)
    t.check(digest.hexdigest() == uml.facts(made)["sha"], "the reader and the kernel disagree on the content")
    t.check(not mdlayout.check_parity(disks).bad, "the reader finds wrong parity in a kernel array")
    again = uml.facts(uml.run(t, uml.ASSEMBLE_AND_CHECK.format(devices=" ".join(names)), disks))
    t.check(again["mismatch_cnt"] == "0", f"the kernel finds mismatches in its own array: {again}")
