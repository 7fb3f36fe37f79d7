"""Authorities and certificates for TLS, made with openssl; and the clients' ways of naming them."""

import ssl


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, t, name="ca"):
        self.t, self.dir, self.count = t, t.dir / f"pki-{name}", 0
        self.dir.mkdir()
        self.cert, self.key = self.dir / "ca-cert.pem", self.dir / "ca-key.pem"
        t.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
              "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert,
              "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-addext", "basicConstraints=critical,CA:TRUE")

    def issue(self, common, names="", days=30):
        """(certificate, key) with a common name and alternative names as openssl writes them."""
        self.count += 1
        stem = self.dir / f"{common}-{self.count}"
        cert, key, request = (stem.with_name(f"{stem.name}-{part}.pem") for part in ("cert", "key", "request"))
        extensions = stem.with_name(f"{stem.name}.ext")
        usage = "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
        extensions.write_text(usage + (f"subjectAltName={names}\n" if names else ""))
        self.t.run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                   "-subj", f"/CN={common}", "-keyout", key, "-out", request)
        self.t.run("openssl", "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-days", days,
                   "-extfile", extensions, "-out", cert)
        key.chmod(0o600)
        return cert, key

    def server(self):
        """A certificate for the addresses of these tests."""
        return self.issue("server", "DNS:localhost,IP:127.0.0.1,IP:::1")

    def client_dir(self, common=None):
        """A directory as libnbd and qemu want it: the authority, and a certificate if `common` is given."""
        self.count += 1
        place = self.dir / f"client-{self.count}"
        place.mkdir()
        (place / "ca-cert.pem").write_bytes(self.cert.read_bytes())
        if common:
            cert, key = self.issue(common)
            (place / "client-cert.pem").write_bytes(cert.read_bytes())
            (place / "client-key.pem").write_bytes(key.read_bytes())
        return place


def context(place, version=None):
    """Python's context for a client with such a directory."""
    made = ssl.create_default_context(cafile=str(place / "ca-cert.pem"))
    if (place / "client-cert.pem").exists():
        made.load_cert_chain(place / "client-cert.pem", place / "client-key.pem")
    if version:
        made.minimum_version = made.maximum_version = version
    return made


def uri(port, place, export=""):
    """libnbd's URI of an export over TLS."""
    return f"nbds://127.0.0.1:{port}/{export}?tls-certificates={place}"


def qemu(port, place):
    """Options of qemu-img and qemu-io for an export over TLS."""
    return ["--object", f"tls-creds-x509,id=tls0,dir={place},endpoint=client,verify-peer=on", "--image-opts",
            f"driver=nbd,host=127.0.0.1,port={port},tls-creds=tls0"]
