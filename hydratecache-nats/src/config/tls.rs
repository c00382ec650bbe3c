//! Whom to trust.

use std::sync::Arc;

use hydratecache::{Error, ErrorKind, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

#[derive(Clone, Debug)]
pub(super) enum Trust {
    SystemRoots,
    Only(Vec<CertificateDer<'static>>),
}

impl Trust {
    pub(super) fn only(pem: &[u8]) -> Result<Self> {
        let invalid = |what: &'static str| Error::new(ErrorKind::InvalidInput, what);
        let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|_| invalid("the root certificates are not PEM"))?;
        if roots.is_empty() {
            return Err(invalid("there is no certificate in the PEM text"));
        }
        Ok(Self::Only(roots))
    }

    /// rustls on ring, whatever else the process links. Made in any case: whether a server wants
    /// TLS is known when it answers. Without any root, it is trusted by none.
    pub(super) fn client(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let (_added, _ignored) = match self {
            Self::SystemRoots => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)
            }
            Self::Only(certificates) => {
                roots.add_parsable_certificates(certificates.iter().cloned())
            }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| {
                Error::new(ErrorKind::InvalidInput, format!("TLS cannot be set up: {why}"))
            })?;
        Ok(versions.with_root_certificates(roots).with_no_client_auth())
    }
}
