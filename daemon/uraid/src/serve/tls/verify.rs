//! Which clients are let in, by the names in their certificates.
//!
//! The chain, the dates and the signatures are rustls's business. A client's certificate has many places
//! for a name; any of them will do, for whoever signs certificates for clients of this volume decides what
//! is in all of them.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Characters of a name in the log.
const SHOWN_MAX: usize = 64;

/// A verifier that also wants one of these names.
#[derive(Debug)]
pub(super) struct NamedClients {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl NamedClients {
    /// The verifier itself if any name will do.
    pub(super) fn wrap(inner: Arc<dyn ClientCertVerifier>, names: &[String]) -> Arc<dyn ClientCertVerifier> {
        match names {
            [] => inner,
            names => Arc::new(NamedClients { inner, names: names.to_vec() }),
        }
    }
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let known = |name: &String| self.names.iter().any(|known| known.eq_ignore_ascii_case(name));
        match names(end_entity).iter().any(known) {
            true => Ok(verified),
            // The client is told `access_denied`.
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Every name in a certificate: common names, then alternative names.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_owned).collect();
    // A certificate with an extension twice has none.
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        names.extend(alternative.value.general_names.iter().filter_map(text));
    }
    names
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// A certificate's first name, fit for the log.
pub(super) fn name(certificate: &CertificateDer<'_>) -> Option<String> {
    let name = names(certificate).into_iter().next()?;
    Some(name.chars().map(|c| if c.is_control() { '?' } else { c }).take(SHOWN_MAX).collect())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::testing::{Authority, Files, Issued};
    use super::super::{accept, load};

    /// Whether a server with these names for clients takes a client; how it calls it.
    fn attempt(files: &Files, names: &[&str], own: Option<&Issued>) -> Result<String, String> {
        let mut tls = files.tls(true);
        tls.clients = names.iter().map(|&name| name.to_owned()).collect();
        let certificates = load(&tls, false).unwrap().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let client = async {
                let mut stream = files.connect(theirs, own).await?;
                // In TLS 1.3 a client learns only now whether its certificate was taken.
                stream.read_u8().await
            };
            let server = async {
                let mut stream = accept(ours, &certificates).await?;
                stream.write_u8(7).await?;
                stream.flush().await?;
                Ok::<_, std::io::Error>(super::super::describe(&stream))
            };
            let (client, server) = tokio::join!(client, server);
            assert_eq!(client.is_ok(), server.is_ok(), "{client:?} {server:?}");
            server.map_err(|error| format!("{error}; {}", client.unwrap_err()))
        })
    }

    #[test]
    fn clients_need_a_certificate_of_the_authority() {
        let files = Files::new();
        let good = files.authority.issue("vm1", &[], 2300);
        let taken = attempt(&files, &[], Some(&good)).unwrap();
        assert_eq!(taken, "TLSv1_3, client vm1");
        assert!(attempt(&files, &[], None).is_err());
        let stranger = Authority::new("ca").issue("vm1", &[], 2300);
        assert!(attempt(&files, &[], Some(&stranger)).is_err());
        let old = files.authority.issue("vm1", &[], 2020);
        assert!(attempt(&files, &[], Some(&old)).is_err());
    }

    #[test]
    fn names_of_clients_are_common_or_alternative_ones() {
        let files = Files::new();
        let client = files.authority.issue("vm1", &["vm1.example.org", "192.0.2.7", "2001:db8::7"], 2300);
        for name in ["vm1", "VM1.example.org", "192.0.2.7", "2001:db8::7"] {
            assert!(attempt(&files, &["other", name], Some(&client)).is_ok(), "{name}");
        }
        for name in ["vm", "vm1.example.org.", "example.org", "ca", "*"] {
            let refused = attempt(&files, &[name], Some(&client)).unwrap_err();
            assert!(refused.to_lowercase().contains("access"), "the client is told why: {refused}");
        }
    }

    #[test]
    fn a_name_cannot_forge_the_log() {
        let files = Files::new();
        let client = files.authority.issue(&format!("a\nb\u{1b}[31m{}", "x".repeat(100)), &[], 2300);
        let shown = attempt(&files, &[], Some(&client)).unwrap();
        assert!(shown.starts_with("TLSv1_3, client a?b?[31mxx") && shown.len() < 100, "{shown}");
    }
}
