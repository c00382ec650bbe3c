//! The servers that a run uses.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use fred::interfaces::ClientLike;
use fred::types::InfoKind;
use hydratecache_testkit::broker::{Broker, Kind};
use url::Url;

use crate::raw;

/// What a server runs, and how one is named.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    name: &'static str,
    kind: Kind,
    /// Names a server to use instead of one of our own.
    pub variable: &'static str,
    /// What its URLs begin with, where there is no TLS.
    schemes: &'static [&'static str],
    default_port: u16,
}

/// Redis.
pub const REDIS: Service = Service {
    name: "Redis",
    kind: Kind::Redis,
    variable: "HYDRATECACHE_REDIS_URL",
    schemes: &["redis"],
    default_port: 6379,
};

/// NATS.
pub const NATS: Service = Service {
    name: "NATS",
    kind: Kind::Nats,
    variable: "HYDRATECACHE_NATS_URL",
    schemes: &["nats"],
    default_port: 4222,
};

/// PostgreSQL.
pub const POSTGRES: Service = Service {
    name: "PostgreSQL",
    kind: Kind::Postgres,
    variable: "HYDRATECACHE_POSTGRES_URL",
    schemes: &["postgres", "postgresql"],
    default_port: 5432,
};

/// Kafka.
pub const KAFKA: Service = Service {
    name: "Kafka",
    kind: Kind::Kafka,
    variable: "HYDRATECACHE_KAFKA_URL",
    schemes: &["kafka"],
    default_port: 9092,
};

/// A running server.
pub struct Server {
    service: Service,
    url: Url,
    /// Ours ends with this.
    own: Option<Broker>,
}

impl Server {
    /// The server that the service's variable names, or one of our own.
    ///
    /// # Errors
    /// If it cannot be started, or its URL is not one without TLS.
    pub async fn find(service: Service) -> Result<Self> {
        let Service { name, kind, variable, schemes, .. } = service;
        let (url, own) = if let Ok(url) = std::env::var(variable) {
            (url, None)
        } else {
            let starting = Broker::start(kind).await;
            let broker = starting.with_context(|| format!("starting a {name} server"))?;
            (broker.url().to_owned(), Some(broker))
        };
        let url = Url::parse(&url).with_context(|| format!("the {name} URL is not legal"))?;
        // A fault proxy has another name than a certificate says.
        ensure!(
            schemes.contains(&url.scheme()),
            "the benches need a {name} server without TLS: {variable} begins with {}://",
            schemes[0]
        );
        Ok(Self { service, url, own })
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Its name and version, as it says itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn version(&self) -> Result<String> {
        let name = self.service.name;
        let version = match self.service.kind {
            Kind::Redis => {
                let info: String =
                    raw::redis::client(self.url()).await?.info(Some(InfoKind::Server)).await?;
                let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
                version.map(str::to_owned)
            }
            Kind::Nats => Some(raw::nats::client(self.url()).await?.server_info().version),
            Kind::Postgres => {
                let client = raw::postgres::client(self.url(), || ()).await?;
                let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
                version.split(' ').next().map(str::to_owned)
            }
            Kind::Kafka => self.version_of_its_jars().await,
            _ => None,
        };
        Ok(format!("{name} {}", version.as_deref().unwrap_or("of an unknown version")))
    }

    /// Kafka tells nobody, but its class path does.
    async fn version_of_its_jars(&self) -> Option<String> {
        let process = self.own.as_ref()?.pid().await.ok()?;
        let command = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        let mut rest = command.split("kafka-").skip(1);
        rest.find(|rest| rest.starts_with(|first: char| first.is_ascii_digit())).map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            rest[..end].trim_end_matches('.').to_owned()
        })
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        let host = self.url.host_str().unwrap_or("127.0.0.1");
        format!("{host}:{}", self.url.port().unwrap_or(self.service.default_port))
    }

    /// The URL of the same server behind a proxy.
    ///
    /// # Errors
    /// If the URL cannot have another host.
    pub fn url_through(&self, proxy: SocketAddr) -> Result<String> {
        let mut url = self.url.clone();
        url.set_ip_host(proxy.ip()).and_then(|()| url.set_port(Some(proxy.port()))).map_err(
            |()| anyhow::anyhow!("the {} URL cannot have another host", self.service.name),
        )?;
        Ok(url.into())
    }
}

impl fmt::Debug for Server {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("service", &self.service.name)
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}
