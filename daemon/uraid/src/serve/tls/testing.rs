//! Certificates, and a client that has some, for tests.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use uraid_config::Tls;

/// A certificate and its key, PEM.
pub(in crate::serve) struct Issued {
    pub(in crate::serve) certificate: String,
    pub(in crate::serve) key: String,
}

/// An authority.
pub(in crate::serve) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(in crate::serve) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(in crate::serve) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate of these names, which are DNS names or addresses, that ended or ends in this year.
    pub(in crate::serve) fn issue(&self, common: &str, names: &[&str], until: i32) -> Issued {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A directory with the files of a server, and its authority.
pub(in crate::serve) struct Files {
    directory: TempDir,
    pub(in crate::serve) authority: Authority,
}

impl Files {
    /// A server called localhost.
    pub(in crate::serve) fn new() -> Self {
        let files = Files { directory: tempfile::tempdir().unwrap(), authority: Authority::new("ca") };
        let issued = files.authority.issue("server", &["localhost"], 2300);
        files.write("cert.pem", &issued.certificate);
        files.write("key.pem", &issued.key);
        files.write("ca.pem", &files.authority.pem());
        files
    }

    pub(in crate::serve) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Only the owner can read it.
    pub(in crate::serve) fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Certificate and key; with `client_ca` if clients need certificates of the same authority.
    pub(in crate::serve) fn tls(&self, client_ca: bool) -> Tls {
        Tls {
            certificate: Some(self.path("cert.pem")),
            key: Some(self.path("key.pem")),
            client_ca: client_ca.then(|| self.path("ca.pem")),
            ..Tls::default()
        }
    }

    /// A client's handshake, with a certificate if it has one, and one byte of the server's to be sure that
    /// it was taken.
    pub(in crate::serve) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        own: Option<&Issued>,
    ) -> std::io::Result<TlsStream<S>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}
