//! Settings of a [`PostgresTransport`](crate::PostgresTransport).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hydratecache::link::{Peer, Settings, Trust};
use hydratecache::{Error, ErrorKind, Result};
use tokio_postgres::Config as PgConfig;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::PostgresTransport;
use crate::text;

/// Settings of a [`PostgresTransport`], which [`connect`](Self::connect) opens.
///
/// Shows no credentials in `Debug`.
#[derive(Clone)]
#[must_use = "settings do nothing until `connect` is called"]
pub struct PostgresConfig {
    postgres: PgConfig,
    pub(crate) address: Arc<str>,
    trust: Trust,
    settings: Settings,
    pub(crate) max_payload_bytes: usize,
}

/// The largest payload by default: in pieces it takes twelve notifications.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 64 << 10;

impl PostgresConfig {
    /// Settings for the database at `url`: `postgres://[user[:password]@]host[:port]/database`, with
    /// `?sslmode=require` or `?sslmode=disable`, or `key=value` pairs as libpq takes them.
    ///
    /// Without `sslmode`, the connection is encrypted unless the server is on this machine; it never
    /// falls back to plain text by itself. With TLS the server's certificate is always verified.
    ///
    /// # Errors
    /// `InvalidInput` if the URL is of another form; the error does not repeat it.
    pub fn from_url(url: &str) -> Result<Self> {
        // The driver's own text may quote a part of the URL.
        let parsed = url.parse::<PgConfig>().map_err(|_| {
            invalid(
                "the PostgreSQL URL cannot be read; it has the form \
                 postgres://[user[:password]@]host[:port]/database[?sslmode=require]",
            )
        })?;
        Self::from_postgres(parsed)
    }

    /// Settings for what tokio-postgres is configured for. Limits and keep-alives are this crate's.
    ///
    /// # Errors
    /// `InvalidInput` if it names no host.
    pub fn from_postgres(mut postgres: PgConfig) -> Result<Self> {
        if postgres.get_hosts().is_empty() && postgres.get_hostaddrs().is_empty() {
            return Err(invalid("the PostgreSQL URL names no host"));
        }
        if postgres.get_ssl_mode() == SslMode::Prefer {
            let is_local = postgres.get_hosts().iter().all(is_local);
            postgres.ssl_mode(if is_local { SslMode::Disable } else { SslMode::Require });
        }
        Ok(Self {
            address: address(&postgres).into(),
            postgres,
            trust: Trust::default(),
            settings: Settings::default(),
            max_payload_bytes: MAX_PAYLOAD_BYTES,
        })
    }

    /// Trusts only these certificate authorities (default: those of the system).
    ///
    /// # Errors
    /// `InvalidInput` if `pem` holds no certificate, or the connection is not encrypted.
    pub fn with_root_certificates(mut self, pem: &[u8]) -> Result<Self> {
        if self.postgres.get_ssl_mode() == SslMode::Disable {
            return Err(invalid("root certificates need a URL with ?sslmode=require"));
        }
        self.trust = Trust::only(pem)?;
        Ok(self)
    }

    hydratecache::link_setters!();

    /// The largest payload, in bytes, to send and to accept (default 64 KiB). What does not fit into
    /// one notification, some 5,900 bytes, travels in pieces: a megabyte takes 180 of them, in one
    /// transaction, which is a lot for a queue that all databases of the server share.
    pub fn with_max_payload_bytes(self, max_payload_bytes: usize) -> Self {
        Self { max_payload_bytes, ..self }
    }

    /// Connects.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout` or `Denied` within the connect limit, naming the address without
    /// the credentials; `InvalidInput` if TLS cannot be set up, or if notifications do not arrive,
    /// as behind a pooler that gives each transaction another connection.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn connect(self) -> Result<PostgresTransport> {
        PostgresTransport::open(self).await
    }

    /// The broker in metrics and traces.
    pub(crate) const SYSTEM: &str = "postgresql";

    pub(crate) fn peer(&self) -> Peer {
        Peer { name: "PostgreSQL", system: Self::SYSTEM, address: self.address.clone() }
    }

    /// The limits of the link.
    pub(crate) fn limits(&self) -> Settings {
        self.settings.clone().bounded()
    }

    /// The longest text that is put together from pieces, in bytes.
    pub(crate) fn longest_text(&self) -> usize {
        text::longest_text(self.max_payload_bytes)
    }

    /// The driver's settings. Its own defaults wait for minutes, or for ever. A connection that the
    /// URL gives no name is named by its purpose, for whoever looks into `pg_stat_activity`.
    pub(crate) fn driver(&self, purpose: &str) -> PgConfig {
        let limits = self.limits();
        let mut postgres = self.postgres.clone();
        if postgres.get_application_name().is_none() {
            postgres.application_name(format!("hydratecache {purpose}"));
        }
        postgres
            .connect_timeout(limits.connect_limit)
            .keepalives_idle(limits.ping_interval.max(Duration::from_secs(1)))
            .tcp_user_timeout(limits.ping_interval + limits.ping_limit);
        postgres
    }

    pub(crate) fn tls(&self) -> Result<MakeRustlsConnect> {
        let client = if self.is_encrypted() {
            self.trust.client()?
        } else {
            Trust::nobody().client_if_needed()?
        };
        Ok(MakeRustlsConnect::new(client))
    }

    fn is_encrypted(&self) -> bool {
        self.postgres.get_ssl_mode() != SslMode::Disable
    }
}

fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

/// Where it is, without credentials.
fn address(postgres: &PgConfig) -> String {
    const PORT: u16 = 5432;
    let ports = postgres.get_ports();
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
    let named = postgres.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(folder) => folder.display().to_string(),
    });
    let hosts: Vec<String> = if postgres.get_hosts().is_empty() {
        postgres.get_hostaddrs().iter().map(IpAddr::to_string).collect()
    } else {
        named.collect()
    };
    let each = hosts.iter().enumerate().map(|(index, host)| format!("{host}:{}", port(index)));
    each.collect::<Vec<_>>().join(",")
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("address", &self.address)
            .field("database", &self.postgres.get_dbname())
            .field("is_tls", &self.is_encrypted())
            .field("has_password", &self.postgres.get_password().is_some())
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
            "postgres://user:hunter2@host:99999/",
            "postgres://user:hunter2@host/?sslmode=hunter2",
            "http://user:hunter2@localhost",
            "host password=hunter2",
        ] {
            let error = PostgresConfig::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("PostgreSQL URL") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn debug_shows_the_address_and_no_password() {
        let url = "postgres://user:hunter2@example.test/shop";
        let shown = format!("{:?}", PostgresConfig::from_url(url).expect("legal"));
        assert!(shown.contains("example.test:5432") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn plain_text_is_for_this_machine_or_for_those_who_ask_for_it() {
        for (url, is_encrypted) in [
            ("postgres://localhost/", false),
            ("postgres://127.0.0.2/", false),
            ("postgres://example.test/", true),
            ("postgres://localhost,example.test/", true),
            ("postgres://example.test/?sslmode=disable", false),
            ("postgres://localhost/?sslmode=require", true),
        ] {
            let config = PostgresConfig::from_url(url).expect("legal");
            assert_eq!(config.is_encrypted(), is_encrypted, "{url}");
        }
    }
}
