//! The broker under test, and the links to it that can be broken.

use std::sync::Arc;

use anyhow::{Context, Result};
use hydratecache::Transport;
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache_nats::NatsTransport;
use hydratecache_postgres::PostgresTransport;
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::broker::{self, Broker};
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
    /// Starts a broker.
    ///
    /// # Errors
    /// If it does not start; the error says what to do.
    pub async fn start(kind: Kind) -> Result<Self> {
        let broker = match kind {
            Kind::Memory => return Ok(Self::Memory(MemoryBroker::new())),
            Kind::Redis => Broker::start(broker::Kind::Redis).await,
            Kind::Nats => Broker::start(broker::Kind::Nats).await,
            Kind::Postgres => Broker::start(broker::Kind::Postgres).await,
        };
        Ok(Self::Real { broker: broker.with_context(|| format!("starting {kind}"))?, kind })
    }

    /// A connection over a link of its own.
    ///
    /// # Errors
    /// If it cannot connect.
    pub async fn link(&self, seed: u64) -> Result<Link> {
        let (broker, kind) = match self {
            Self::Memory(broker) => {
                let transport = broker.connect();
                let breaker = Breaker::Memory(transport.clone());
                return Ok(Link { transport: Arc::new(transport), breaker });
            }
            Self::Real { broker, kind } => (broker, *kind),
        };
        let proxy = FaultProxy::start(broker.addr(), seed).context("starting a proxy")?;
        let url = through(broker.url(), &proxy)?;
        let transport: Arc<dyn Transport> = match kind {
            Kind::Redis => Arc::new(RedisTransport::connect(&url).await?),
            Kind::Nats => Arc::new(NatsTransport::connect(&url).await?),
            Kind::Postgres => Arc::new(PostgresTransport::connect(&url).await?),
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
