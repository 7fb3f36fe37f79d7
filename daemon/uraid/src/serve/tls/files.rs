//! From the files of `[tls]` to what rustls works with. What is wrong with a file is found here, at the
//! start, and not by the first client.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use uraid_config::Tls;
use x509_parser::prelude::{FromDer, Validity, X509Certificate};

use super::verify::NamedClients;

/// Certificates and keys are short; what is longer is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Seconds before its end at which a certificate is worth a warning.
const SOON: i64 = 14 * 86_400;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(in crate::serve) enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {why}", file.display())]
    Unusable {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate's time is over.
    #[error("{}: the certificate has expired ({until}), so no client would take it; renew it", file.display())]
    Expired {
        /// The file of the certificate.
        file: PathBuf,
        /// When it did.
        until: String,
    },
    /// The key is another certificate's.
    #[error("{}: it is not the private key of the certificate in {}", key.display(), certificate.display())]
    WrongKey {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
}

/// Everything that a TLS handshake needs.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Certificates {
    server: Arc<ServerConfig>,
    /// The server's certificates, then those of the authorities.
    contents: Vec<CertificateDer<'static>>,
    /// What is not right but no reason not to serve.
    pub(in crate::serve) doubts: Vec<String>,
}

impl Certificates {
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Whether the same certificates are in these, whatever files they are from.
    pub(in crate::serve) fn are_those_of(&self, other: &Certificates) -> bool {
        self.contents == other.contents
    }
}

/// Loads what the configuration names; nothing if that is no certificate. `lenient` takes an expired
/// certificate with a doubt.
///
/// # Errors
/// The first file that cannot be used, and why.
pub(in crate::serve) fn load(tls: &Tls, lenient: bool) -> Result<Option<Certificates>, TlsError> {
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else { return Ok(None) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut doubts = Vec::new();
    let mut contents = certificates(certificate)?;
    check_times(certificate, &contents, now.cast_signed(), lenient, &mut doubts)?;
    let private = private_key(key, &mut doubts)?;
    let provider = Arc::new(ring::default_provider());
    let unusable = |file: &Path, why: String| TlsError::Unusable { file: file.into(), why };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(certificate, error.to_string()))?;
    let chain = contents.clone();
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let authorities = certificates(file)?;
            check_authorities(file, &authorities, now.cast_signed(), &mut doubts)?;
            let verifier = verifier(file, &authorities, provider)?;
            contents.extend(authorities);
            builder.with_client_cert_verifier(NamedClients::wrap(verifier, &tls.clients))
        }
    };
    let mut server = builder.with_single_cert(chain, private).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::WrongKey { key: key.clone(), certificate: certificate.clone() }
        }
        error => unusable(key, format!("it cannot be used with {}: {error}", certificate.display())),
    })?;
    // Connections live long, so that resuming would gain nothing; and without it every connection is made
    // under the certificates, authorities and names of its own time.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Some(Certificates { server: Arc::new(server), contents, doubts }))
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { file: file.into(), source };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(failed)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = "it is larger than 1 MiB, so it is no certificate and no key".to_owned();
        return Err(TlsError::Unusable { file: file.into(), why });
    }
    Ok(bytes)
}

/// All certificates of a file, of which there is at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |why: String| TlsError::Unusable { file: file.into(), why };
    let bytes = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| unusable(format!("it is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(unusable("it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(found)
}

fn private_key(file: &Path, doubts: &mut Vec<String>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let unusable = |why: &str| TlsError::Unusable { file: file.into(), why: why.to_owned() };
    let bytes = read(file)?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(unusable(
            "the key is encrypted, and nobody is there to give the pass phrase; decrypt it",
        ));
    }
    if std::fs::metadata(file).is_ok_and(|metadata| metadata.mode() & 0o007 != 0) {
        doubts.push(format!("{}: everybody on this machine can read the private key", file.display()));
    }
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| unusable("it holds no private key in PEM (-----BEGIN PRIVATE KEY-----)"))
}

/// The time in which a certificate is good.
fn validity(file: &Path, certificate: &CertificateDer<'_>) -> Result<Validity, TlsError> {
    let parsed = X509Certificate::from_der(certificate).map_err(|error| TlsError::Unusable {
        file: file.into(),
        why: format!("a certificate in it cannot be read: {error}"),
    });
    parsed.map(|(_, certificate)| certificate.validity().clone())
}

fn check_times(
    file: &Path,
    chain: &[CertificateDer<'_>],
    now: i64,
    lenient: bool,
    doubts: &mut Vec<String>,
) -> Result<(), TlsError> {
    for certificate in chain {
        let validity = validity(file, certificate)?;
        let left = validity.not_after.timestamp().saturating_sub(now);
        let (shown, until) = (file.display(), validity.not_after.to_string());
        if left < 0 && !lenient {
            return Err(TlsError::Expired { file: file.into(), until });
        }
        if left < 0 {
            doubts.push(format!("{shown}: the certificate has expired ({until}); clients will not take it"));
        } else if left < SOON {
            doubts.push(format!("{shown}: the certificate expires soon ({until}); renew it"));
        }
        // A clock that is wrong at boot must not keep a volume from being served.
        if validity.not_before.timestamp() > now {
            doubts.push(format!("{shown}: the certificate is good only from {}", validity.not_before));
        }
    }
    Ok(())
}

/// One authority that is good is enough to serve; one that is not is worth saying.
fn check_authorities(
    file: &Path,
    authorities: &[CertificateDer<'_>],
    now: i64,
    doubts: &mut Vec<String>,
) -> Result<(), TlsError> {
    let mut last = String::new();
    let mut expired = 0;
    for authority in authorities {
        let until = validity(file, authority)?.not_after;
        if until.timestamp() < now {
            expired += 1;
            last = until.to_string();
        }
    }
    if expired == authorities.len() {
        return Err(TlsError::Expired { file: file.into(), until: last });
    }
    if expired > 0 {
        doubts.push(format!("{}: {expired} of its authorities have expired", file.display()));
    }
    Ok(())
}

fn verifier(
    file: &Path,
    authorities: &[CertificateDer<'static>],
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |why: String| TlsError::Unusable { file: file.into(), why };
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let added = roots.add(authority.clone());
        added.map_err(|error| unusable(format!("a certificate in it is no authority: {error}")))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder.build().map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::{Authority, Files};
    use super::*;

    fn error(tls: &Tls) -> String {
        load(tls, false).unwrap_err().to_string()
    }

    #[test]
    fn what_is_right_is_loaded_without_a_doubt() {
        let files = Files::new();
        assert!(load(&Tls::default(), false).unwrap().is_none());
        for client_ca in [false, true] {
            let loaded = load(&files.tls(client_ca), false).unwrap().unwrap();
            assert_eq!(loaded.doubts, Vec::<String>::new());
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let files = Files::new();
        let other = Authority::new("other").issue("server", &["localhost"], 2300);
        let key = files.path("key.pem").display().to_string();
        let certificate = files.path("cert.pem").display().to_string();

        files.write("key.pem", &other.key);
        let text = error(&files.tls(false));
        assert!(
            text.starts_with(&key) && text.contains("not the private key of") && text.contains(&certificate)
        );

        files.write("key.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
        let text = error(&files.tls(false));
        assert!(text.starts_with(&key) && text.contains("encrypted"), "{text}");

        files.write("key.pem", &other.certificate);
        assert!(error(&files.tls(false)).contains("no private key in PEM"));

        std::fs::remove_file(files.path("key.pem")).unwrap();
        let text = error(&files.tls(false));
        assert!(text.starts_with(&key) && text.contains("No such file"), "{text}");

        files.write("key.pem", &other.key);
        files.write("cert.pem", &other.key);
        let text = error(&files.tls(false));
        assert!(text.starts_with(&certificate) && text.contains("no certificate in PEM"), "{text}");

        files.write("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(error(&files.tls(false)).contains("cannot be read"));

        files.write("cert.pem", &other.certificate);
        files.write("ca.pem", "nothing");
        assert!(error(&files.tls(true)).contains("ca.pem: it holds no certificate"));
        files.write("ca.pem", &"x".repeat(2 << 20));
        assert!(error(&files.tls(true)).contains("larger than 1 MiB"));
    }

    #[test]
    fn an_expired_certificate_is_refused_or_at_least_told() {
        let files = Files::new();
        let old = files.authority.issue("server", &["localhost"], 2020);
        files.write("cert.pem", &old.certificate);
        files.write("key.pem", &old.key);
        let text = error(&files.tls(false));
        assert!(text.contains("cert.pem: the certificate has expired") && text.contains("2020"), "{text}");
        let lenient = load(&files.tls(false), true).unwrap().unwrap();
        assert!(lenient.doubts.iter().any(|doubt| doubt.contains("expired")), "{:?}", lenient.doubts);
    }

    #[test]
    fn a_key_for_everybody_is_told() {
        let files = Files::new();
        let key = files.path("key.pem");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let doubts = load(&files.tls(false), false).unwrap().unwrap().doubts;
        assert!(doubts.len() == 1 && doubts[0].contains("everybody"), "{doubts:?}");
    }

    #[test]
    fn new_certificates_are_noticed() {
        let files = Files::new();
        let first = load(&files.tls(true), false).unwrap().unwrap();
        assert!(load(&files.tls(true), false).unwrap().unwrap().are_those_of(&first));
        let renewed = files.authority.issue("server", &["localhost"], 2301);
        files.write("cert.pem", &renewed.certificate);
        files.write("key.pem", &renewed.key);
        assert!(!load(&files.tls(true), false).unwrap().unwrap().are_those_of(&first));
    }
}
