//! The broker under test, and the links to it that can be broken.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use hydratecache::Transport;
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache_kafka::KafkaTransport;
use hydratecache_nats::NatsTransport;
use hydratecache_postgres::PostgresTransport;
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::broker::{self, Broker};
use hydratecache_testkit::kafka::behind_proxies;
use hydratecache_testkit::proxy::FaultProxy;
use url::Url;

use crate::options::Kind;

/// A broker of its own, killed and frozen at will.
#[derive(Debug)]
pub enum Arena {
    /// In this process.
    Memory(MemoryBroker),
    /// A real one.
    Real {
        /// The broker.
        broker: Broker,
        /// Which transport connects to it.
        kind: Kind,
        /// Those before it that are not in use yet, where it has to know them.
        proxies: Mutex<Vec<FaultProxy>>,
    },
}

/// One connection to the broker, over a link that can be broken.
#[derive(Debug)]
pub struct Link {
    /// The transport whose connections go over the link.
    pub transport: Arc<dyn Transport>,
    /// What breaks it.
    pub breaker: Breaker,
}

/// What breaks a link.
#[derive(Debug)]
pub enum Breaker {
    /// The transport itself.
    Memory(MemoryTransport),
    /// A proxy before the broker.
    Proxy(FaultProxy),
}

impl Arena {
    /// Starts a broker for so many links.
    ///
    /// # Errors
    /// If it does not start; the error says what to do.
    pub async fn start(kind: Kind, links: usize) -> Result<Self> {
        let started = match kind {
            Kind::Memory => return Ok(Self::Memory(MemoryBroker::new())),
            Kind::Kafka => behind_proxies(links, "PLAINTEXT", []).await,
            Kind::Redis => Broker::start(broker::Kind::Redis).await.map(alone),
            Kind::Nats => Broker::start(broker::Kind::Nats).await.map(alone),
            Kind::Postgres => Broker::start(broker::Kind::Postgres).await.map(alone),
        };
        let (broker, proxies) = started.with_context(|| format!("starting {kind}"))?;
        Ok(Self::Real { broker, kind, proxies: Mutex::new(proxies) })
    }

    /// A connection over a link of its own.
    ///
    /// # Errors
    /// If it cannot connect, or if there are more links than the broker was started for.
    pub async fn link(&self, seed: u64) -> Result<Link> {
        let (broker, kind, proxies) = match self {
            Self::Memory(broker) => {
                let transport = broker.connect();
                let breaker = Breaker::Memory(transport.clone());
                return Ok(Link { transport: Arc::new(transport), breaker });
            }
            Self::Real { broker, kind, proxies } => (broker, *kind, proxies),
        };
        let proxy = match kind {
            Kind::Kafka => {
                let mut left = proxies.lock().unwrap_or_else(PoisonError::into_inner);
                left.pop().context("the broker was started for fewer links")?
            }
            _ => FaultProxy::start(broker.addr(), seed).context("starting a proxy")?,
        };
        let url = through(broker.url(), &proxy)?;
        let transport: Arc<dyn Transport> = match kind {
            Kind::Redis => Arc::new(RedisTransport::connect(&url).await?),
            Kind::Nats => Arc::new(NatsTransport::connect(&url).await?),
            Kind::Postgres => Arc::new(PostgresTransport::connect(&url).await?),
            Kind::Kafka => Arc::new(KafkaTransport::connect(&url).await?),
            Kind::Memory => unreachable!("it has no broker of its own"),
        };
        Ok(Link { transport, breaker: Breaker::Proxy(proxy) })
    }

    /// The broker, where there is one that can be killed.
    #[must_use]
    pub fn broker(&self) -> Option<&Broker> {
        match self {
            Self::Memory(_) => None,
            Self::Real { broker, .. } => Some(broker),
        }
    }
}

/// A broker that need not know of proxies before it.
fn alone(broker: Broker) -> (Broker, Vec<FaultProxy>) {
    (broker, Vec::new())
}

/// The broker's URL with the proxy's address.
fn through(url: &str, proxy: &FaultProxy) -> Result<String> {
    let mut url = Url::parse(url).context("the broker's URL")?;
    let addr = proxy.addr();
    url.set_ip_host(addr.ip()).ok().context("the broker's URL takes no host")?;
    url.set_port(Some(addr.port())).ok().context("the broker's URL takes no port")?;
    Ok(url.into())
}

impl Breaker {
    /// Cuts the link and refuses a new one.
    pub fn cut(&self) {
        match self {
            Self::Memory(transport) => transport.cut(),
            Self::Proxy(proxy) => proxy.cut(),
        }
    }

    /// Everything flows again.
    ///
    /// # Errors
    /// If the proxy cannot listen again.
    pub fn heal(&self) -> Result<()> {
        match self {
            Self::Memory(transport) => transport.heal(),
            Self::Proxy(proxy) => proxy.heal().context("healing a link")?,
        }
        Ok(())
    }
}
