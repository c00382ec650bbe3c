//! Settings of a [`RedisTransport`](crate::RedisTransport).

use std::fmt;
use std::sync::Arc;

use fred::types::RespVersion;
use fred::types::config::{Config as FredConfig, TlsConnector};
use hydratecache::link::{Peer, Settings, Trust};
use hydratecache::{Error, ErrorKind, Key, Result, wire};
use url::Url;

use crate::RedisTransport;

/// Settings of a [`RedisTransport`], which [`connect`](Self::connect) opens.
///
/// Shows no credentials in `Debug`.
#[derive(Clone)]
#[must_use = "settings do nothing until `connect` is called"]
pub struct RedisConfig {
    pub(crate) fred: FredConfig,
    pub(crate) address: Arc<str>,
    tls: Option<Trust>,
    pub(crate) settings: Settings,
    pub(crate) max_payload_bytes: usize,
}

impl RedisConfig {
    /// Settings for the server at `url`: `redis://[user:password@]host[:port][/database]`, or
    /// `rediss://` for TLS.
    ///
    /// # Errors
    /// `InvalidInput` if the URL is of another form; the error does not repeat it.
    pub fn from_url(url: &str) -> Result<Self> {
        let invalid = |what: &str| {
            let form = "redis://[user:password@]host[:port][/database], or rediss:// for TLS";
            Error::new(
                ErrorKind::InvalidInput,
                format!("the Redis URL {what}; it has the form {form}"),
            )
        };
        let mut parsed = Url::parse(url).map_err(|why| invalid(&format!("is not legal: {why}")))?;
        let tls = match parsed.scheme() {
            "redis" => None,
            "rediss" => Some(Trust::default()),
            scheme => return Err(invalid(&format!("has the scheme {scheme}"))),
        };
        if parsed.host_str().is_none_or(str::is_empty) {
            return Err(invalid("names no host"));
        }
        if !matches!(parsed.path(), "" | "/") && parsed.path()[1..].parse::<u8>().is_err() {
            return Err(invalid("names a database that is not a number below 256"));
        }
        // fred would look for a process-wide TLS provider, of which there may be none or two.
        parsed.set_scheme("redis").map_err(|()| invalid("cannot be read"))?;
        let fred = FredConfig::from_url_centralized(parsed.as_str());
        // fred's own text may quote the URL, password included.
        let fred = fred.map_err(|_| invalid("cannot be read"))?;
        Ok(Self { tls, ..Self::from_fred(fred) })
    }

    pub(crate) fn from_fred(fred: FredConfig) -> Self {
        let hosts = fred.server.hosts();
        let address: Vec<String> =
            hosts.iter().map(|server| format!("{}:{}", server.host, server.port)).collect();
        Self {
            fred: FredConfig { version: RespVersion::RESP3, fail_fast: true, ..fred },
            address: address.join(",").into(),
            tls: None,
            settings: Settings::default(),
            max_payload_bytes: 4 << 20,
        }
    }

    /// Trusts only these certificate authorities (default, with `rediss://`: those of the system).
    ///
    /// # Errors
    /// `InvalidInput` if `pem` holds no certificate, or the URL is not `rediss://`.
    pub fn with_root_certificates(mut self, pem: &[u8]) -> Result<Self> {
        if self.tls.is_none() {
            let what = "root certificates need a URL that begins with rediss://";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        self.tls = Some(Trust::only(pem)?);
        Ok(self)
    }

    hydratecache::link_setters!();

    /// The largest payload, in bytes, to send and to accept (default 4 MiB: half of what Redis
    /// grants a slow subscriber before it cuts it off).
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
    pub async fn connect(self) -> Result<RedisTransport> {
        RedisTransport::open(self, None).await
    }

    /// The broker in metrics and traces.
    pub(crate) const SYSTEM: &str = "redis";

    pub(crate) fn peer(&self) -> Peer {
        Peer { name: "Redis", system: Self::SYSTEM, address: self.address.clone() }
    }

    /// The limits of the link.
    pub(crate) fn limits(&self) -> Settings {
        let max_body_bytes =
            self.max_payload_bytes.saturating_add(Key::MAX_BYTES + wire::MAX_OVERHEAD_BYTES);
        let mut limits = self.settings.clone().bounded();
        limits.max_body_bytes = max_body_bytes;
        limits
    }

    /// fred's settings, with the TLS that was asked for.
    pub(crate) fn fred_with_tls(&self) -> Result<FredConfig> {
        let Some(trust) = &self.tls else {
            return Ok(self.fred.clone());
        };
        let connector: TlsConnector = trust.client()?.into();
        Ok(FredConfig { tls: Some(connector.into()), ..self.fred.clone() })
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("address", &self.address)
            .field("is_tls", &self.tls.is_some())
            .field("has_password", &self.fred.password.is_some())
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
            "redis-cluster://user:hunter2@localhost",
            "redis://user:hunter2@",
            "redis://user:hunter2@host:99999",
            "redis://user:hunter2@host/many",
        ] {
            let error = RedisConfig::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("redis://[user") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn debug_shows_the_address_and_no_password() {
        let config = RedisConfig::from_url("redis://user:hunter2@example.test/3").expect("legal");
        let shown = format!("{config:?}");
        assert!(shown.contains("example.test:6379") && !shown.contains("hunter2"), "{shown}");
    }
}
