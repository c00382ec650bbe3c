//! Settings of a [`NatsTransport`](crate::NatsTransport).

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{ConnectOptions, ServerAddr, ServerInfo};
use hydratecache::link::{Peer, Settings, Trust};
use hydratecache::{Error, ErrorKind, Key, Result, wire};
use percent_encoding::percent_decode_str;
use rand::seq::SliceRandom;
use url::Url;

use crate::NatsTransport;
use crate::life::Origin;

/// Settings of a [`NatsTransport`], which [`connect`](Self::connect) opens.
///
/// Shows no credentials in `Debug`.
#[derive(Clone)]
#[must_use = "settings do nothing until `connect` is called"]
pub struct NatsConfig {
    /// Without credentials.
    servers: Vec<ServerAddr>,
    pub(crate) address: Arc<str>,
    options: ConnectOptions,
    has_credentials: bool,
    trust: Trust,
    settings: Settings,
    max_payload_bytes: usize,
    /// What the server that was connected to last carries.
    server_limit: Arc<AtomicUsize>,
    /// Whether it belongs to a cluster.
    is_in_a_cluster: Arc<AtomicBool>,
    /// Further servers of the cluster, as the one that was connected to last told.
    discovered: Arc<Mutex<Vec<ServerAddr>>>,
}

const FORM: &str = "nats://[user:password@]host[:port], or tls:// for TLS, and further servers of \
                    the cluster behind commas";

fn invalid(what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the NATS URL {what}; it has the form {FORM}"))
}

impl NatsConfig {
    /// Settings for the server at `url`: `nats://[user:password@]host[:port]`, or `tls://` where
    /// TLS is a must. `nats://token@host` gives a token. Further servers of the same cluster follow
    /// behind commas; the first one's credentials are for all.
    ///
    /// # Errors
    /// `InvalidInput` if the URL is of another form; the error does not repeat it.
    pub fn from_url(url: &str) -> Result<Self> {
        let mut urls = url.split(',').map(server_url).collect::<Result<Vec<_>>>()?;
        let first = urls.first().ok_or_else(|| invalid("is empty"))?;
        let options = ConnectOptions::new();
        let (options, has_credentials) = match (user(first)?, password(first)?) {
            (None, _) => (options, false),
            (Some(token), None) => (options.token(token), true),
            (Some(user), Some(password)) => (options.user_and_password(user, password), true),
        };
        let requires_tls = urls.iter().any(|url| url.scheme() == "tls");
        for url in &mut urls {
            // async-nats shows its servers in traces.
            let bare = url.set_username("").and_then(|()| url.set_password(None));
            bare.map_err(|()| invalid("cannot be read"))?;
        }
        let servers = urls.into_iter().map(ServerAddr::from_url).collect::<Result<Vec<_>, _>>();
        let servers = servers.map_err(|_| invalid("cannot be read"))?;
        let options = options.require_tls(requires_tls);
        Ok(Self { options, has_credentials, ..Self::of(servers) })
    }

    fn of(servers: Vec<ServerAddr>) -> Self {
        let address: Vec<String> =
            servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
        Self {
            servers,
            address: address.join(",").into(),
            options: ConnectOptions::new(),
            has_credentials: false,
            trust: Trust::default(),
            settings: Settings::default(),
            max_payload_bytes: usize::MAX,
            server_limit: Arc::default(),
            is_in_a_cluster: Arc::default(),
            discovered: Arc::default(),
        }
    }

    /// Settings for a client that somebody else connects.
    pub(crate) fn of_client(client: &async_nats::Client) -> Self {
        let info = client.server_info();
        let address = format!("{}:{}", info.host, info.port).into();
        Self { address, ..Self::of(Vec::new()) }
    }

    /// Uses the credentials file at `path`, which holds a JWT and an NKey seed. It is read now.
    ///
    /// # Errors
    /// `InvalidInput` if it cannot be read or holds something else.
    pub fn with_credentials_file(self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let credentials = std::fs::read_to_string(path).map_err(|why| {
            let path = path.display();
            let what = format!("reading the NATS credentials file {path}: {why}");
            Error::new(ErrorKind::InvalidInput, what)
        })?;
        self.with_credentials(&credentials)
    }

    /// Uses the text of a credentials file, which holds a JWT and an NKey seed.
    ///
    /// # Errors
    /// `InvalidInput` if it holds something else.
    pub fn with_credentials(mut self, credentials: &str) -> Result<Self> {
        // The reason may quote it.
        self.options = self.options.credentials(credentials).map_err(|_| {
            let what = "the NATS credentials are not those of a file that `nsc` makes: a JWT and an \
                        NKey seed";
            Error::new(ErrorKind::InvalidInput, what)
        })?;
        self.has_credentials = true;
        Ok(self)
    }

    /// Uses the seed of an NKey, which begins with `SU`.
    ///
    /// # Errors
    /// `InvalidInput` if it is none.
    pub fn with_nkey(mut self, seed: &str) -> Result<Self> {
        if nkeys::KeyPair::from_seed(seed).is_err() {
            let what = "the NKey seed is none: it begins with SU and has 58 characters";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        self.options = self.options.nkey(seed.to_owned());
        self.has_credentials = true;
        Ok(self)
    }

    /// Trusts only these certificate authorities (default: those of the system). A server that
    /// offers TLS is spoken to over TLS, whatever the URL begins with.
    ///
    /// # Errors
    /// `InvalidInput` if `pem` holds no certificate.
    pub fn with_root_certificates(mut self, pem: &[u8]) -> Result<Self> {
        self.trust = Trust::only(pem)?;
        Ok(self)
    }

    /// Begins with TLS before the server has said anything, where it is set up for that
    /// (`handshake_first`, or a TLS proxy before it).
    pub fn with_tls_first(mut self) -> Self {
        self.options = self.options.tls_first();
        self
    }

    /// What the subjects of our own begin with (default `_INBOX`). The user must be permitted to
    /// publish to and to subscribe to what is below it.
    ///
    /// # Errors
    /// `InvalidInput` if it is no subject without wildcards.
    pub fn with_inbox_prefix(mut self, prefix: &str) -> Result<Self> {
        let legal = |token: &str| {
            !token.is_empty()
                && token.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte))
        };
        if !prefix.split('.').all(legal) {
            let what =
                "the inbox prefix is no subject without wildcards, as in _INBOX or app.inbox";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        self.options = self.options.custom_inbox_prefix(prefix);
        Ok(self)
    }

    hydratecache::link_setters!();

    /// The largest payload, in bytes, to send and to accept, where it is to be less than the server
    /// carries (default: what the server says, less the envelope; 1 MiB less 1.5 KiB unless its
    /// `max_payload` is set).
    pub fn with_max_payload_bytes(self, max_payload_bytes: usize) -> Self {
        Self { max_payload_bytes, ..self }
    }

    /// Connects.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout` or `Denied` within the connect limit, naming the address without
    /// the credentials; `InvalidInput` if TLS cannot be set up.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn connect(mut self) -> Result<NatsTransport> {
        // Of this transport alone.
        (self.server_limit, self.is_in_a_cluster, self.discovered) = <_>::default();
        // Whether a server wants TLS is known when it answers.
        self.options = self.options.tls_client_config(self.trust.client_if_needed()?);
        let name = "hydratecache subscriber";
        // Its future is large.
        Box::pin(NatsTransport::open(Origin::Own { config: self.clone(), name }, self)).await
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        self.options.clone()
    }

    /// The broker in metrics and traces.
    pub(crate) const SYSTEM: &str = "nats";

    pub(crate) fn peer(&self) -> Peer {
        Peer { name: "NATS", system: Self::SYSTEM, address: self.address.clone() }
    }

    /// The limits of the link.
    pub(crate) fn limits(&self) -> Settings {
        let mut limits = self.settings.clone().bounded();
        limits.max_body_bytes = self.max_payload_bytes.saturating_add(ENVELOPE_BYTES);
        limits
    }

    /// A server was connected to that says this of itself.
    pub(crate) fn server_said(&self, info: &ServerInfo) {
        self.server_limit.store(info.max_payload, Ordering::Relaxed);
        let scheme = self.servers.first().map_or("nats", ServerAddr::scheme);
        let urls = info.connect_urls.iter();
        let found = urls.filter_map(|url| format!("{scheme}://{url}").parse().ok());
        let found = found.filter(|server| !self.servers.contains(server)).collect();
        *self.discovered.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// The servers to try, in this order: those of the URL first, for those that a server tells of
    /// may have addresses that only servers can reach.
    pub(crate) fn servers(&self) -> Vec<ServerAddr> {
        let mut configured = self.servers.clone();
        configured.shuffle(&mut rand::rng());
        let mut discovered = self.discovered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        discovered.shuffle(&mut rand::rng());
        configured.append(&mut discovered);
        configured
    }

    /// The largest payload that the server carries in an envelope.
    pub(crate) fn max_payload_bytes(&self) -> usize {
        let server_limit = self.server_limit.load(Ordering::Relaxed);
        self.max_payload_bytes.min(server_limit.saturating_sub(ENVELOPE_BYTES))
    }
}

/// The most that is around a payload.
const ENVELOPE_BYTES: usize = Key::MAX_BYTES + wire::MAX_OVERHEAD_BYTES;

fn server_url(url: &str) -> Result<Url> {
    let parsed =
        Url::parse(url.trim()).map_err(|why| invalid(format_args!("is not legal: {why}")))?;
    if !["nats", "tls"].contains(&parsed.scheme()) {
        return Err(invalid(format_args!("has the scheme {}", parsed.scheme())));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(invalid("names no host"));
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
        return Err(invalid("has something behind its host and port"));
    }
    Ok(parsed)
}

fn user(url: &Url) -> Result<Option<String>> {
    (!url.username().is_empty()).then(|| decoded(url.username())).transpose()
}

fn password(url: &Url) -> Result<Option<String>> {
    url.password().map(decoded).transpose()
}

fn decoded(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid("has a user or password that is not UTF-8"))
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig")
            .field("address", &self.address)
            .field("has_credentials", &self.has_credentials)
            .field("publish_limit", &self.settings.publish_limit)
            .field("ping_interval", &self.settings.ping_interval)
            .field("ping_limit", &self.settings.ping_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_an_error_that_says_the_form_and_no_password() {
        for url in [
            "",
            "localhost",
            "http://user:hunter2@localhost",
            "redis://user:hunter2@localhost",
            "nats://user:hunter2@",
            "nats://user:hunter2@host:99999",
            "nats://user:hunter2@host/path",
            "nats://user:hunter2@host,nats://",
            "nats://user:hunter2%ff@host",
        ] {
            let error = NatsConfig::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("nats://[user") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn wrong_credentials_are_errors_that_do_not_repeat_them() {
        let config = NatsConfig::from_url("nats://example.test").expect("legal");
        for error in [
            config.clone().with_nkey("SUhunter2").map(drop).expect_err("no seed"),
            config.clone().with_credentials("hunter2").map(drop).expect_err("no credentials"),
            config.clone().with_credentials_file("/none").map(drop).expect_err("no file"),
            config.clone().with_inbox_prefix("a.*").map(drop).expect_err("a wildcard"),
            config.with_root_certificates(b"hunter2").map(drop).expect_err("no certificate"),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn debug_shows_the_addresses_and_no_password() {
        let url = "nats://user:hunter2@example.test,tls://other.test:4333";
        let config = NatsConfig::from_url(url).expect("legal");
        let shown = format!("{config:?}");
        assert!(shown.contains("example.test:4222,other.test:4333"), "{shown}");
        assert!(!format!("{shown}{:?}", config.servers).contains("hunter2"), "{shown}");
    }
}
