//! Whom to trust with TLS: the same for every broker whose client takes rustls.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::{Error, ErrorKind, Result};

/// The certificate authorities that may vouch for a server (default: those of the system).
///
/// What it makes is rustls on ring, whatever else the process links.
#[derive(Debug, Clone, Default)]
pub struct Trust(Roots);

#[derive(Debug, Clone, Default)]
enum Roots {
    #[default]
    System,
    Only(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// Only those in `pem`.
    ///
    /// # Errors
    /// `InvalidInput` if it holds no certificate.
    pub fn only(pem: &[u8]) -> Result<Self> {
        let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|_| invalid("the root certificates are not PEM"))?;
        if roots.is_empty() {
            return Err(invalid("there is no certificate in the PEM text"));
        }
        Ok(Self(Roots::Only(roots)))
    }

    /// None, for a connection that is not encrypted.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(Roots::Only(Vec::new()))
    }

    /// A client that insists on TLS.
    ///
    /// # Errors
    /// `InvalidInput` if there is no usable root certificate, or TLS cannot be set up.
    pub fn client(&self) -> Result<ClientConfig> {
        let roots = self.roots();
        if roots.is_empty() {
            return Err(invalid(
                "no usable root certificate was found; install the system's, or give your own with \
                 with_root_certificates",
            ));
        }
        client(roots)
    }

    /// A client that learns only from the server whether TLS is needed. Without a usable root
    /// certificate it trusts no server.
    ///
    /// # Errors
    /// `InvalidInput` if TLS cannot be set up.
    pub fn client_if_needed(&self) -> Result<ClientConfig> {
        client(self.roots())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let (_added, _ignored) = match &self.0 {
            Roots::System => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)
            }
            Roots::Only(certificates) => {
                roots.add_parsable_certificates(certificates.iter().cloned())
            }
        };
        roots
    }
}

fn client(roots: RootCertStore) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| {
            Error::new(ErrorKind::InvalidInput, format!("TLS cannot be set up: {why}"))
        })?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_certificate_is_an_error() {
        for pem in ["", "no certificate", "-----BEGIN CERTIFICATE-----\n?\n"] {
            let error = Trust::only(pem.as_bytes()).expect_err(pem);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{pem}");
        }
    }

    #[test]
    fn a_client_that_insists_on_tls_needs_somebody_to_trust() {
        assert_eq!(Trust::nobody().client().expect_err("nobody").kind(), ErrorKind::InvalidInput);
        Trust::nobody().client_if_needed().expect("trusts no server");
    }
}
