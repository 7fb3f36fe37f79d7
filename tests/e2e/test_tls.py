"""TLS: real clients with and without certificates, what is refused, and what an attacker on the wire can do."""

import os
import re
import shutil
import signal
import ssl
import struct
import time

from harness import pki, rawnbd
from harness.array import Array, open_files, settled_files, tail
from harness.case import URAID, need, until


class Secured:
    """An array whose export is at a TCP port of the loopback as well, with TLS."""

    def __init__(self, t, *options, clients=True, config=None):
        need("openssl")
        self.t, self.ca = t, pki.Authority(t)
        self.cert, self.key = t.dir / "server-cert.pem", t.dir / "server-key.pem"
        self.renew()
        self.array = Array(t, 5, 3)
        if config is None:
            files = ["--tls-certificate", self.cert, "--tls-key", self.key]
            files += ["--tls-client-ca", self.ca.cert] if clients else []
            line = self.array.serve("--listen", "tcp:127.0.0.1:0", *files, *options)
        else:
            self.config = t.dir / "tls.toml"
            self.write(config)
            line = self.array.serve(members=[self.config], plain=True)
        self.port = int(re.search(r"tcp:127\.0\.0\.1:(\d+)", line).group(1))

    def renew(self):
        """The server's files with a new certificate."""
        cert, key = self.ca.server()
        self.cert.write_bytes(cert.read_bytes())
        self.key.touch(0o600)
        self.key.write_bytes(key.read_bytes())

    def write(self, text):
        """The configuration file: the usual part, then `text`."""
        members = ", ".join(f'"{member}"' for member in self.array.members)
        tls = (f'[tls]\ncertificate = "{self.cert}"\nkey = "{self.key}"\nclient_ca = "{self.ca.cert}"\n')
        self.config.write_text(
            f'members = [{members}]\nlisten = ["unix:{self.array.socket}", "tcp:127.0.0.1:0"]\n'
            f'control = "{self.array.control}"\n{tls}{text}')

    def hang_up(self, expect):
        """SIGHUP; returns when the log has one more line that matches."""
        seen = len(re.findall(expect, self.log()))
        self.array.process.send_signal(signal.SIGHUP)
        until(f"the log to say {expect!r}", lambda: len(re.findall(expect, self.log())) > seen)

    def log(self):
        """What the daemon said so far."""
        return (self.t.dir / "uraid.log").read_text(encoding="utf-8", errors="replace")

    def raw(self, place, version=None):
        """A connection in transmission over TLS, every byte ours."""
        raw = self.start_tls(place, version)
        negotiate_on(raw)
        return raw

    def start_tls(self, place, version=None):
        """A connection right after the TLS handshake."""
        raw = rawnbd.Raw(("127.0.0.1", self.port))
        raw.greet()
        rawnbd.insist(raw.try_option(rawnbd.OPT_STARTTLS) == rawnbd.REP_ACK, "STARTTLS is refused")
        raw.starttls(pki.context(place, version), "127.0.0.1")
        return raw


def negotiate_on(raw, name=b""):
    """GO on a connection whose greeting is over."""
    export = raw.describe(rawnbd.OPT_GO, name)
    rawnbd.insist(isinstance(export, rawnbd.Export), f"GO is refused with {export}")


def test_clients_of_libnbd_and_qemu(t):
    """A random image in and out over several connections, patterns, and the same bytes without TLS."""
    need("nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "cmp")
    served = Secured(t)
    place = served.ca.client_dir("vm1")
    uri = pki.uri(served.port, place)
    size = t.run("nbdinfo", "--size", uri).stdout.strip()
    t.check(size == t.run("nbdinfo", "--size", served.array.uri).stdout.strip(), "the size differs under TLS")
    t.check("TLS" in t.run("nbdinfo", uri).stdout, "nbdinfo does not call it TLS")
    t.check("e2e" in t.run("nbdinfo", "--list", uri).stdout, "the list of exports is empty under TLS")
    image, back = t.dir / "image", t.dir / "back"
    image.write_bytes(os.urandom(48 << 20))
    t.run("nbdcopy", "--connections=4", image, uri)
    for source in (uri, served.array.uri):
        t.run("nbdcopy", "--connections=4", source, back)
        os.truncate(back, 48 << 20)
        t.run("cmp", image, back)
    options = pki.qemu(served.port, place)
    t.run("qemu-img", "info", *options)
    done = t.run("qemu-io", *options, "-c", "write -P 0x5a 65024 3M",
                 "-c", "flush", "-c", "read -P 0x5a 65024 3M", "-c", "write -z 1M 64k", "-c", "read -P 0 1M 64k")
    t.check("failed" not in done.stdout + done.stderr, f"qemu-io: {done.stdout} {done.stderr}")
    log = served.log()
    t.check("TLSv1_3, client vm1" in log, "the log does not name the client by its certificate")
    served.array.stop()


def test_fio_verify_over_tls(t):
    """fio lets no URI name files, so it runs as a user whose home has the certificates where libnbd looks."""
    need("fio", "setpriv")
    served = Secured(t)
    home = t.dir / "home"
    place = home / ".pki" / "libnbd"
    shutil.copytree(served.ca.client_dir("fio"), place)
    t.dir.chmod(0o755)
    t.run("chown", "-R", "65534:65534", home)
    t.run("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", f"HOME={home}",
          "fio", "--name=verify", "--ioengine=nbd", f"--uri=nbds://127.0.0.1:{served.port}/", "--rw=randwrite",
          "--iodepth=16", "--numjobs=2", "--bssplit=512/10:4k/40:64k/30:1m/20", "--blockalign=512", "--size=16m",
          "--offset_increment=16m", "--filesize=64m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
          "--randseed=4711", "--verify_state_save=0", "--fsync=64", "--thread", "--group_reporting", "--minimal",
          cwd=home)
    t.check("client fio" in served.log(), "fio came without its certificate")
    served.array.stop()


def test_client_certificates(t):
    """Without one, with a stranger's, with one of another name: refused; and the server has to prove itself, too."""
    need("nbdinfo", "qemu-img")
    served = Secured(t, "--tls-client", "vm1", "--tls-client", "backup.example.org")
    stranger = pki.Authority(t, "stranger")
    good, other = served.ca.client_dir("vm1"), served.ca.client_dir("vm2")
    nobody, foreign = served.ca.client_dir(), stranger.client_dir("vm1")
    (foreign / "ca-cert.pem").write_bytes(served.ca.cert.read_bytes())
    for place, label in ((nobody, "without a certificate"), (other, "of another name"), (foreign, "of a stranger")):
        done = t.run("nbdinfo", "--size", pki.uri(served.port, place), ok=None)
        t.check(done.returncode != 0, f"a client {label} was let in")
        done = t.run("qemu-img", "info", *pki.qemu(served.port, place), ok=None)
        t.check(done.returncode != 0, f"qemu was let in {label}")
    suspicious = stranger.client_dir("vm1")
    done = t.run("nbdinfo", "--size", pki.uri(served.port, suspicious), ok=None)
    t.check(done.returncode != 0, "the client took a server of an authority that it does not know")
    t.run("nbdinfo", "--size", pki.uri(served.port, good))
    t.run("qemu-img", "info", *pki.qemu(served.port, good))
    served.array.stop()


def test_offered(t):
    """Who does not want TLS does without; under TLS it is not to be had once more."""
    served = Secured(t, clients=False)
    with rawnbd.Raw(("127.0.0.1", served.port)) as raw:
        raw.go()
        t.check(raw.ask(rawnbd.READ, 0, 4096) == 0, "a plain client cannot read")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with served.start_tls(served.ca.client_dir(), version) as raw:
            t.check(raw.sock.version() == version.name.replace("_", "."), f"{raw.sock.version()} was spoken")
            t.check(raw.try_option(rawnbd.OPT_STARTTLS) & rawnbd.ERR, "TLS within TLS is offered")
            negotiate_on(raw)
            t.check(raw.ask(rawnbd.READ, 0, 4096) == 0, "a TLS client cannot read")
    served.array.stop()


def test_required(t):
    """In the clear there is nothing but STARTTLS and ABORT, at the unix socket as well."""
    need("nbdinfo")
    served = Secured(t, "--tls-mode", "required", clients=False)
    for where in (("127.0.0.1", served.port), served.array.socket):
        with rawnbd.Raw(where) as raw:
            raw.greet()
            for code, data in ((rawnbd.OPT_LIST, b""), (rawnbd.OPT_STRUCTURED, b""), (rawnbd.OPT_GO, rawnbd.info_data()),
                               (rawnbd.OPT_INFO, rawnbd.info_data()), (77, b"xyz")):
                kind = raw.try_option(code, data)
                t.check(kind == rawnbd.REP_TLS_REQD, f"option {code} is answered with {kind:x} before TLS")
            t.check(raw.try_option(rawnbd.OPT_ABORT) == rawnbd.REP_ACK, "ABORT is not acknowledged")
            raw.expect_end()
        with rawnbd.Raw(where) as raw:
            raw.greet()
            raw.option(rawnbd.OPT_EXPORT_NAME, b"")
            raw.expect_end()
    done = t.run("nbdinfo", "--size", f"nbd://127.0.0.1:{served.port}/", ok=None)
    t.check(done.returncode != 0, "nbdinfo got in without TLS")
    t.run("nbdinfo", "--size", pki.uri(served.port, served.ca.client_dir()))
    exports = served.array.status().value["exports"]
    t.check(all(export.startswith("nbds") for export in exports), f"the status names {exports}")
    served.array.stop()


def test_what_is_not_set_up_is_refused(t):
    """Without a certificate STARTTLS has an answer, and the session goes on."""
    array = Array(t, 5, 3)
    array.serve()
    with rawnbd.Raw(array.socket) as raw:
        raw.greet()
        kind = raw.try_option(rawnbd.OPT_STARTTLS)
        t.check(kind in (rawnbd.REP_POLICY, rawnbd.REP_UNSUP), f"STARTTLS is answered with {kind:x}")
        negotiate_on(raw)
        t.check(raw.ask(rawnbd.READ, 0, 512) == 0, "the session did not go on")
    array.stop()


def test_plain_text_injection(t):
    """What somebody puts behind STARTTLS in the clear counts as nothing, and what was agreed before neither."""
    served = Secured(t, clients=False)
    place = served.ca.client_dir()
    go = rawnbd.option_bytes(rawnbd.OPT_GO, rawnbd.info_data())
    injected = {
        "nothing, after an agreement in the clear": b"",
        "an agreement": rawnbd.option_bytes(rawnbd.OPT_STRUCTURED),
        "GO and a write": go + struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.WRITE, 1, 0, 512) + b"X" * 512,
        "a lot": rawnbd.option_bytes(rawnbd.OPT_STRUCTURED) * 1000,
    }
    for label, data in injected.items():
        with rawnbd.Raw(("127.0.0.1", served.port)) as raw:
            raw.greet()
            raw.try_option(rawnbd.OPT_STRUCTURED)
            raw.send(rawnbd.option_bytes(rawnbd.OPT_STARTTLS) + data)
            t.check(raw.option_replies(rawnbd.OPT_STARTTLS)[-1][0] == rawnbd.REP_ACK, "STARTTLS is refused")
            raw.starttls(pki.context(place), "127.0.0.1")
            negotiate_on(raw)
            raw.request(rawnbd.READ, 0, 512)
            answer = raw.take(16 + 512)
            magic, errno, _ = struct.unpack(">IIQ", answer[:16])
            t.check((magic, errno) == (rawnbd.SIMPLE_REPLY, 0), f"{label}: the answer is {answer[:16].hex()}")
            t.check(answer[16:] == bytes(512), f"{label}: something was written")
    served.array.stop()


def test_a_rejected_write_is_consumed(t):
    """Its payload comes out of TLS and nowhere else; the session goes on in step."""
    served = Secured(t)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with served.raw(served.ca.client_dir("vm1"), version) as raw:
            for _ in range(3):
                raw.request(rawnbd.WRITE, raw.size - 512, 1 << 20, os.urandom(1 << 20))
                _, errno, _ = struct.unpack(">IIQ", raw.take(16))
                t.check(errno in (rawnbd.ENOSPC, rawnbd.EINVAL), f"a write past the end got {errno}")
                raw.request(rawnbd.READ, 0, 512)
                t.check(raw.take(16 + 512)[16:] == bytes(512), "the session is out of step")
    served.array.stop()


def test_stalls_and_rubbish_in_the_tls_handshake(t):
    """They end at the deadline of the whole handshake, or at once, and leave nothing behind."""
    served = Secured(t, config="[limits]\nhandshake_s = 2\n")
    # The threads for TLS, and what they have open, are there from the first client on.
    served.raw(served.ca.client_dir("vm1")).sock.close()
    before = settled_files(served.array)
    begin = time.monotonic()
    stalled = []
    for _ in range(20):
        raw = rawnbd.Raw(("127.0.0.1", served.port))
        raw.greet()
        t.check(raw.try_option(rawnbd.OPT_STARTTLS) == rawnbd.REP_ACK, "STARTTLS is refused")
        stalled.append(raw)
    for raw in stalled[:10]:
        # The beginning of a ClientHello, and never the rest.
        raw.send(bytes.fromhex("16030100ff010000fb0303"))
    with rawnbd.Raw(("127.0.0.1", served.port)) as raw:
        raw.greet()
        raw.try_option(rawnbd.OPT_STARTTLS)
        raw.send(b"GET / HTTP/1.1\r\n\r\n")
        while raw.sock.recv(4096):
            pass
        t.check(time.monotonic() - begin < 2, "rubbish was not turned away at once")
    with served.raw(served.ca.client_dir("vm1")) as raw:
        t.check(raw.ask(rawnbd.READ, 0, 4096) == 0, "an honest client cannot read meanwhile")
    for raw in stalled:
        raw.expect_end(8)
        raw.sock.close()
    took = time.monotonic() - begin
    t.check(1.5 < took < 8, f"the stalled ones ended after {took:.1f} s, not after 2")
    until("the files of the connections to be closed", lambda: open_files(served.array) <= before)
    served.array.stop()


def test_reload_changes_the_certificate(t):
    """New clients see the new one, an old one goes on under the old one; a bad file changes nothing."""
    served = Secured(t, config="")
    place = served.ca.client_dir("vm1")
    with served.raw(place) as old:
        first = old.sock.getpeercert()["serialNumber"]
        t.check(old.ask(rawnbd.WRITE, 0, 4096, b"o" * 4096) == 0, "write")
        served.renew()
        served.hang_up("SIGHUP: the certificates of .tls. are new")
        with served.raw(place) as new:
            second = new.sock.getpeercert()["serialNumber"]
            t.check(second != first, "the certificate is the old one")
            t.check(new.ask(rawnbd.READ, 0, 4096) == 0, "read")
        for _ in range(20):
            t.check(old.ask(rawnbd.WRITE, 0, 65536, b"o" * 65536) == 0, "the old connection broke")
        served.key.write_text("rubbish")
        served.hang_up("SIGHUP: nothing has changed")
        t.check(str(served.key) in served.log(), "the file is not named")
        with served.raw(place) as new:
            t.check(new.sock.getpeercert()["serialNumber"] == second, "a bad key took the certificate away")
        served.renew()
        served.write("[limits]\nidle_s = 0\nhandshake = 1\n")
        served.hang_up("SIGHUP: nothing has changed")
        t.check("unknown key `handshake`" in served.log(), "the problem of the file is not told")
        served.write('clients = ["vm2"]\n[limits]\nconnections = 5\n')
        served.hang_up("SIGHUP: tls.clients = ")
        t.check("limits.connections = 5 (stays 128) until the next start" in served.log(), "a fixed key is not told")
        for place, taken in ((place, False), (served.ca.client_dir("vm2"), True)):
            try:
                with served.raw(place) as new:
                    got = new.ask(rawnbd.READ, 0, 4096) == 0
            except (ssl.SSLError, OSError, rawnbd.Gone):
                got = False
            t.check(got == taken, f"a client was {'let in' if got else 'turned away'} after the change of the list")
        t.check(old.ask(rawnbd.READ, 0, 4096) == 0, "the old connection broke")
    served.array.stop()


def test_stop_answers_over_tls(t):
    """All that was asked before the stop is answered, and the end is one that TLS knows as such."""
    served = Secured(t, clients=False)
    with served.raw(served.ca.client_dir()) as raw:
        for i in range(32):
            raw.request(rawnbd.READ, i << 20, 1 << 20, cookie=i + 1)
        t.check(len(raw.take(16)) == 16, "no answer")
        raw.take(1 << 20)
        served.array.process.send_signal(signal.SIGTERM)
        cookies = set()
        for _ in range(31):
            _, errno, cookie = struct.unpack(">IIQ", raw.take(16))
            cookies.add(cookie)
            if errno == 0:
                raw.take(1 << 20)
            else:
                t.check(errno == rawnbd.ESHUTDOWN, f"errno {errno}")
        t.check(len(cookies) == 31, "an answer came twice")
        t.check(raw.sock.recv(1) == b"", "something comes behind the last answer")
    served.array.expect_exit(0)
    t.check("TLS clients did not take" not in served.log(), tail(t.dir / "uraid.log"))


def test_files_that_cannot_be_used(t):
    """The start fails with the file and the reason; so the members stay as they are."""
    need("openssl")
    ca = pki.Authority(t)
    cert, key = ca.server()
    other = ca.server()
    old = ca.issue("old", days=-1)
    array = Array(t, 5, 3)
    for certificate, private, words in (
            (cert, other[1], [str(other[1]), "not the private key of"]), (t.dir / "none", key, ["none", "No such file"]),
            (key, key, [str(key), "no certificate"]), (*old, [str(old[0]), "expired"])):
        done = t.run(*array_command(array, certificate, private), ok=(1,))
        t.check(all(word in done.stderr for word in words), f"{words} in {done.stderr}")
    done = t.run(*array_command(array, cert, key)[:-2], ok=(2,))
    t.check("--tls-key" in done.stderr, done.stderr)


def array_command(array, certificate, key):
    """`uraid serve` of that array with these files, which come last."""
    return [URAID, "serve", "--listen", f"unix:{array.socket}", "--control", array.control, *array.members,
            "--tls-certificate", certificate, "--tls-key", key]


def test_the_network_takes_tls(t):
    """An address that others can reach is refused without TLS, and takes nobody without it."""
    need("openssl", "nbdinfo")
    ca = pki.Authority(t)
    cert, key = ca.server()
    array = Array(t, 5, 3)
    done = t.run(*array_command(array, cert, key), "--listen", "tcp:0.0.0.0:0", "--tls-mode", "offered", ok=(2,))
    t.check("other machines" in done.stderr, done.stderr)
    line = array.serve("--listen", "tcp:0.0.0.0:0", "--tls-certificate", cert, "--tls-key", key)
    port = int(re.search(r"tcp:0\.0\.0\.0:(\d+)", line).group(1))
    with rawnbd.Raw(("127.0.0.1", port)) as raw:
        raw.greet()
        t.check(raw.try_option(rawnbd.OPT_LIST) == rawnbd.REP_TLS_REQD, "a plain client is served")
    t.run("nbdinfo", "--size", pki.uri(port, ca.client_dir()))
    t.run("nbdinfo", "--size", array.uri)
    t.check("clients need no certificate" in (t.dir / "uraid.log").read_text(), "no warning about strangers")
    array.stop()
