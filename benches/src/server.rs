//! The Redis server that a run uses.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use hydratecache_testkit::broker::{Broker, Kind};
use url::Url;

/// Names a server to use instead of one of our own.
pub const URL_VARIABLE: &str = "HYDRATECACHE_REDIS_URL";

/// A running Redis server.
#[derive(Debug)]
pub struct Server {
    url: Url,
    /// Ours ends with this.
    _own: Option<Broker>,
}

impl Server {
    /// The server that [`URL_VARIABLE`] names, or one of our own.
    ///
    /// # Errors
    /// If it cannot be started, or its URL is not `redis://`.
    pub async fn find() -> Result<Self> {
        let (url, own) = if let Ok(url) = std::env::var(URL_VARIABLE) {
            (url, None)
        } else {
            let broker = Broker::start(Kind::Redis).await.context("starting a Redis server")?;
            (broker.url().to_owned(), Some(broker))
        };
        let url = Url::parse(&url).context("the Redis URL is not legal")?;
        // A fault proxy has another name than a certificate says.
        ensure!(url.scheme() == "redis", "the benches need a server without TLS (redis://)");
        Ok(Self { url, _own: own })
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        let host = self.url.host_str().unwrap_or("127.0.0.1");
        format!("{host}:{}", self.url.port().unwrap_or(6379))
    }

    /// The URL of the same server behind a proxy.
    ///
    /// # Errors
    /// If the URL cannot have another host.
    pub fn url_through(&self, proxy: SocketAddr) -> Result<String> {
        let mut url = self.url.clone();
        url.set_ip_host(proxy.ip())
            .and_then(|()| url.set_port(Some(proxy.port())))
            .map_err(|()| anyhow::anyhow!("the Redis URL cannot have another host"))?;
        Ok(url.into())
    }
}
