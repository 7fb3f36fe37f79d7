"""The tools that people have: libnbd's, qemu's, nbd-client with and without a kernel. Each is a second opinion
on what the daemon says and does; test_clients.py has the long runs with fio, nbdcopy and file systems.
"""

import json
import os
import shutil
import struct

from harness import pki, rawnbd, uml
from harness.array import Array
from harness.case import URAID, listening, need, until
from harness.shared import on_shared

MIB = 1 << 20


def uri_of(array):
    """The default export over the unix socket."""
    return f"nbd+unix:///?socket={array.socket}"


def tcp_uri(array, name=""):
    """An export over TCP."""
    return f"nbd://{array.tcp[0]}:{array.tcp[1]}/{name}"


def image(t, name, length, seed):
    """A file of so many bytes, no two blocks of which are alike, with holes in between."""
    path = t.dir / name
    with open(path, "wb") as f:
        for at in range(0, length, 256 << 10):
            f.seek(at)
            f.write(struct.pack(">QQ", at, seed) * (128 << 6))
        f.truncate(length)
    return path


@on_shared
def test_nbdinfo_json(t, array):
    need("nbdinfo")
    for uri in (uri_of(array), tcp_uri(array, "door")):
        said = json.loads(t.run("nbdinfo", "--json", uri).stdout)
        export, = said["exports"]
        t.check(said["protocol"] == "newstyle-fixed" and said["structured"], f"{said}")
        t.check(export["contexts"] and "base:allocation" in export["contexts"], f"contexts {export['contexts']}")
        for key in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"):
            t.check(export[key], f"{key} is not true")
        t.check(not export["is_read_only"], "it is said to be read-only")
        t.check(export["block_size_minimum"] == 512 and export["block_size_preferred"] == 65536, f"{export}")
        t.check(export["block_size_maximum"] == 32 * MIB, f"{export}")
        t.check("uraid" in export["description"], f"description {export['description']}")


@on_shared
def test_nbdinfo_asks_for_each_feature(t, array):
    need("nbdinfo")
    for what in ("connect", "structured-reply", "cache", "df", "fast-zero", "flush", "fua", "multi-conn", "read", "trim", "write", "zero"):
        t.run("nbdinfo", "--can", what, uri_of(array))
    t.run("nbdinfo", "--is", "read-only", uri_of(array), ok=(2,))
    t.run("nbdinfo", "--is", "tls", uri_of(array), ok=(2,))
    size = int(t.run("nbdinfo", "--size", uri_of(array)).stdout)
    t.check(size == int(json.loads(t.run("nbdinfo", "--json", uri_of(array)).stdout)["exports"][0]["export-size"]), "two sizes")


@on_shared
def test_nbdinfo_list_and_map(t, array):
    need("nbdinfo")
    said = json.loads(t.run("nbdinfo", "--list", "--json", tcp_uri(array)).stdout)
    t.check([e["export-name"] for e in said["exports"]] == ["door"], f"{said}")
    extents = json.loads(t.run("nbdinfo", "--map", "--json", uri_of(array)).stdout)
    size = int(t.run("nbdinfo", "--size", uri_of(array)).stdout)
    t.check(sum(e["length"] for e in extents) == size, f"the map covers {sum(e['length'] for e in extents)} of {size}")
    for context in ("base:allocation",):
        t.run("nbdinfo", f"--map={context}", "--totals", uri_of(array))


@on_shared
def test_an_unknown_export_is_said_to_be_unknown(t, array):
    need("nbdinfo")
    done = t.run("nbdinfo", tcp_uri(array, "nothing"), ok=(1,))
    t.check("nothing" in done.stderr, f"nbdinfo does not say which: {done.stderr}")


@on_shared
def test_nbdcopy_in_and_out(t, array):
    need("nbdcopy", "cmp")
    source, back = image(t, "source", 48 * MIB, 1), t.dir / "back"
    for options in (["--connections=4", "--requests=64", "--flush"], ["--synchronous", "--request-size=1048576"]):
        t.run("nbdcopy", *options, source, uri_of(array))
        t.run("nbdcopy", *options, uri_of(array), back)
        with open(back, "r+b") as f:
            f.truncate(48 * MIB)
        t.run("cmp", source, back)


@on_shared
def test_nbdcopy_within_the_export(t, array):
    """Reading and writing one export at once, over both kinds of socket."""
    need("nbdcopy")
    t.run("nbdcopy", "--connections=4", uri_of(array), tcp_uri(array))


@on_shared
def test_nbdsh(t, array):
    need("nbdsh")
    script = "; ".join([
        "h.pwrite(b'x' * 512, 512, nbd.CMD_FLAG_FUA)", "assert h.pread(512, 512) == b'x' * 512", "h.flush()",
        "h.zero(512, 512, nbd.CMD_FLAG_NO_HOLE)", "assert h.pread(512, 512) == bytes(512)", "h.trim(4096, 0)", "h.cache(4096, 0)",
        "assert h.get_structured_replies_negotiated()", "assert h.can_meta_context('base:allocation')",
        "got = []", "h.block_status(65536, 0, lambda c, o, e, err: got.append(e))", "assert got",
        "assert h.get_block_size(nbd.SIZE_MINIMUM) == 512", "h.shutdown()"])
    # The system's Python has the module, whichever else comes first here.
    t.run("env", f"PATH=/usr/bin:{os.environ['PATH']}", "nbdsh", "--base-allocation", "-u", uri_of(array), "-c", script)


@on_shared
def test_nbddump_through_nbdkit(t, array):
    """nbdkit's nbd plugin is the client here, and shows nbddump the first sectors."""
    need("nbddump", "nbdkit")
    with rawnbd.Raw(array.socket) as raw:
        raw.go().write(0, b"uraid " * 256 * 2)
        raw.write(3072, bytes(512))
    said = t.run("nbddump", "--", "[", "nbdkit", "--exit-with-parent", "--filter=offset", "nbd", f"uri={uri_of(array)}", "offset=0",
                 "range=3584", "]").stdout
    t.check("uraid uraid" in said, f"nbddump shows {said[:200]}")


@on_shared
def test_qemu_img(t, array):
    """qemu speaks extended headers where it can: convert in, compare, map, convert out, compare."""
    need("qemu-img", "cmp")
    source, out, uri = image(t, "source.raw", 40 * MIB, 2), t.dir / "out.qcow2", uri_of(array)
    info = json.loads(t.run("qemu-img", "info", "--output=json", uri).stdout)
    t.check(info["format"] == "raw" and info["virtual-size"] % 512 == 0, f"{info}")
    t.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", source, uri)
    t.run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri, ok=(0, 1))
    extents = json.loads(t.run("qemu-img", "map", "--output=json", "-f", "raw", uri).stdout)
    t.check(sum(e["length"] for e in extents) == info["virtual-size"], "the map does not cover the image")
    t.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, out)
    t.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", out, uri)
    with rawnbd.Raw(array.socket) as raw:
        t.check(raw.go(structured=True).read(0, 40 * MIB) == source.read_bytes(), "what qemu-img wrote is not what is there")


@on_shared
def test_qemu_io(t, array):
    need("qemu-io")
    commands = ["write -P 0x31 0 1M", "write -f -P 0x32 512 512", "write -z 64k 64k", "write -z -u 192k 64k", "discard 512k 128k", "flush",
                "read -P 0x31 0 512", "read -P 0x32 512 512", "read -P 0 64k 64k", "read -P 0 192k 64k", "read -P 0x31 256k 256k",
                "aio_write -P 0x33 2M 8M", "aio_write -P 0x34 10M 8M", "aio_flush", "read -P 0x33 2M 8M", "read -P 0x34 10M 8M", "length"]
    for uri in (uri_of(array), tcp_uri(array)):
        argv = ["qemu-io", "-f", "raw", "-t", "none", uri]
        for command in commands:
            argv += ["-c", command]
        said = t.run(*argv)
        t.check("failed" not in said.stdout + said.stderr, f"qemu-io: {said.stdout} {said.stderr}")


@on_shared
def test_qemu_nbd_as_a_client_of_ours(t, array):
    """A second server in front: qemu-nbd serves our export again, and what goes in by one comes out by the other."""
    need("qemu-nbd", "nbdcopy", "cmp")
    source, again = image(t, "source", 24 * MIB, 3), t.dir / "again.sock"
    server = t.daemon("qemu-nbd", "qemu-nbd", "-t", "-k", again, "-f", "raw", "--cache=none", "--discard=unmap", uri_of(array))
    until("qemu-nbd to listen", lambda: server.poll() is not None or listening(again))
    t.run("nbdcopy", source, f"nbd+unix:///?socket={again}", "--flush")
    t.run("nbdcopy", uri_of(array), t.dir / "back")
    with open(t.dir / "back", "r+b") as f:
        f.truncate(24 * MIB)
    t.run("cmp", source, t.dir / "back")
    server.terminate()
    server.wait(20)


@on_shared
def test_fio_over_tcp(t, array):
    need("fio")
    t.run("fio", "--name=v", "--ioengine=nbd", f"--uri={tcp_uri(array)}", "--rw=randwrite", "--bssplit=512/20:4k/40:64k/30:1m/10", "--blockalign=512",
          "--iodepth=32", "--size=24m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--fsync=32", "--thread")


@on_shared
def test_nbd_client_lists(t, array):
    need("nbd-client")
    said = t.run("nbd-client", "-l", array.tcp[0], str(array.tcp[1]))
    t.check("door" in said.stdout, f"nbd-client -l says {said.stdout}")


KERNEL = """
ip link set lo up
modprobe -d "$(dirname "$0")" nbd
{uraid} serve --listen tcp:127.0.0.1:10809 {server} --control /run/control {members} > /run/served 2> /run/uraid.log &
while ! grep -q serving /run/served; do :; done
nbd-client 127.0.0.1 10809 /dev/nbd0 -N e2e -b 512 {client} >&2
echo "size $(blockdev --getsize64 /dev/nbd0)"
echo "ro $(blockdev --getro /dev/nbd0)"
mkfs.ext4 -q -E nodiscard /dev/nbd0
mkdir -p /run/mnt
mount -o discard /dev/nbd0 /run/mnt
cp -a {tree} /run/mnt/tree
sync
fstrim /run/mnt
umount /run/mnt
mount /dev/nbd0 /run/mnt
diff -r --no-dereference {tree} /run/mnt/tree && echo "same yes"
rm -r /run/mnt/tree
umount /run/mnt
e2fsck -f -n /dev/nbd0 >&2 && echo "fsck clean"
blkdiscard -f -z -o 0 -l 1048576 /dev/nbd0
dd if=/dev/nbd0 bs=1M count=1 iflag=direct status=none | tr -d '\\0' | wc -c | sed 's/^/left /'
nbd-client -d /dev/nbd0 >&2
{uraid} stop --control /run/control
"""


def test_nbd_client_with_a_kernel(t, how):
    """A Linux kernel's own client over TCP: size, a file system with discard, fsck, zeroes, disconnect."""
    need("nbd-client", "ip", "mkfs.ext4", "linux.uml", "openssl")
    array = Array(t, 5, 3, size="48M")
    server = client = ""
    if how == "tls":
        ca, place = pki.Authority(t), uml.guest_visible_dir(t)
        for name, (cert, key) in (("server", ca.server()), ("client", ca.issue("client"))):
            shutil.copy(cert, place / f"{name}.pem")
            shutil.copy(key, place / f"{name}.key")
        shutil.copy(ca.cert, place / "ca.pem")
        server = f"--tls-certificate {place}/server.pem --tls-key {place}/server.key --tls-client-ca {place}/ca.pem --tls-mode required"
        client = f"-certfile {place}/client.pem -keyfile {place}/client.key -cacertfile {place}/ca.pem -tlshostname localhost"
    script = KERNEL.format(uraid=URAID, members=" ".join(uml.device_names(3)), tree="/usr/share/python3", server=server, client=client)
    said = uml.facts(uml.run(t, script, array.members))
    t.check(int(said["size"]) > 64 * MIB, f"{said}")
    t.check(said.get("same") == "yes" and said.get("fsck") == "clean" and said.get("left") == "0" and said["ro"] == "0", f"{said}")


test_nbd_client_with_a_kernel.each = [("plain",), ("tls",)]
