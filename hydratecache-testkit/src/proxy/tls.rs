//! TLS in front of a server that does not speak it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a client may take for its handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Terminates TLS on 127.0.0.1 and forwards the plain bytes, so that `rediss://` and its like can be
/// tested against a broker without TLS.
///
/// Each front has a certificate authority of its own, made when it starts; clients are to trust
/// [`ca_pem`](Self::ca_pem). It does nothing wrong by itself: put a [`FaultProxy`](super::FaultProxy)
/// before or behind it. Dropping it stops listening and closes every connection as soon as the runtime
/// runs its tasks.
///
/// ```
/// use hydratecache_testkit::proxy::TlsFront;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let front = TlsFront::start("127.0.0.1:6379", "localhost").await?;
/// let url = format!("rediss://localhost:{}", front.addr().port());
/// assert!(front.ca_pem().starts_with("-----BEGIN CERTIFICATE-----"));
/// # Ok(())
/// # }
/// ```
pub struct TlsFront {
    addr: SocketAddr,
    ca_pem: String,
    ca_der: Vec<u8>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// The chain that a front presents and what clients need to trust it.
struct Identity {
    authority: CertifiedIssuer<'static, KeyPair>,
    config: ServerConfig,
}

impl TlsFront {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream`, an address or `host:port`.
    ///
    /// The certificate is valid for `server_name` alone, a DNS name or an IP address: a client that
    /// connects by another name has to refuse it. A client whose handshake fails or takes more than 5 s is
    /// dropped, as is one for whom the upstream cannot be reached.
    ///
    /// # Errors
    /// `InvalidInput` when no certificate can be made for `server_name`; else what the system says when no
    /// port can be opened.
    pub async fn start(upstream: impl fmt::Display + Send, server_name: &str) -> io::Result<Self> {
        let upstream = super::checked(upstream.to_string())?.into();
        let identity = Identity::issued_for(server_name).map_err(|error| {
            let message = format!("no certificate can be made for `{server_name}`: {error}");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let front = Self {
            addr: listener.local_addr()?,
            ca_pem: identity.authority.as_ref().pem(),
            ca_der: identity.authority.as_ref().der().to_vec(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(identity.config));
        front.accept(listener, acceptor, upstream);
        Ok(front)
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate of the authority that signed the front's, as PEM text.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The same certificate as DER bytes.
    #[must_use]
    pub fn ca_der(&self) -> &[u8] {
        &self.ca_der
    }

    fn accept(&self, listener: TcpListener, acceptor: TlsAcceptor, upstream: Arc<str>) {
        let tasks = self.tasks.clone();
        let shutdown = self.shutdown.clone();
        let accept = async move {
            while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((client, _)) => {
                        let link = forward(client, acceptor.clone(), Arc::clone(&upstream));
                        let shutdown = shutdown.clone();
                        tasks.spawn(async move { shutdown.run_until_cancelled(link).await });
                    }
                    // Out of file descriptors: trying again at once would spin.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        self.tasks.spawn(accept);
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.tasks.close();
    }
}

impl fmt::Debug for TlsFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFront").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Identity {
    fn issued_for(server_name: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let authority = authority()?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new([server_name.to_owned()])?.signed_by(&key, &authority)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.into())?;
        Ok(Self { authority, config })
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "hydratecache test authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

/// Errors end the one connection, and both of its peers see that.
async fn forward(client: TcpStream, acceptor: TlsAcceptor, upstream: Arc<str>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = timeout(HANDSHAKE_LIMIT, acceptor.accept(client)).await??;
    let mut server = TcpStream::connect(&*upstream).await?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
