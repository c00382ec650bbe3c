//! The way from one process of the fleet to the broker, which can be cut and slowed down.

mod memory;
#[cfg(feature = "broker")]
mod tcp;

use std::sync::Arc;
use std::time::Duration;

use hydratecache::Transport;
use serde::Serialize;

pub(super) use memory::MemoryRoad;
#[cfg(feature = "broker")]
pub(super) use tcp::{Door, TcpRoad};

#[cfg(feature = "broker")]
use crate::demo::broker::Broker;

/// How much later everything arrives over a slow link, each way.
pub(super) const SLOW_BY: Duration = Duration::from_millis(500);

/// A link with what is wrong with it.
pub(super) struct Link {
    road: Road,
    harm: Harm,
    /// The broker is gone, and nothing but the link shows it: the in-process one has no process.
    is_broker_down: bool,
}

/// What the link leads over. Clones are the same road.
#[derive(Clone)]
pub(super) enum Road {
    /// To the in-process broker.
    Memory(MemoryRoad),
    /// Over a TCP port of our own to a broker of our own.
    #[cfg(feature = "broker")]
    Tcp(TcpRoad),
    /// To a broker as it is: links to it cannot be harmed.
    #[cfg(feature = "broker")]
    Direct(Broker, Arc<str>),
}

/// What was done to a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Harm {
    pub(super) cut: bool,
    pub(super) slow: bool,
}

impl Link {
    pub(super) fn new(road: Road) -> Self {
        Self { road, harm: Harm::default(), is_broker_down: false }
    }

    pub(super) fn road(&self) -> &Road {
        &self.road
    }

    pub(super) fn harm(&self) -> Harm {
        self.harm
    }

    /// Replaces what is wrong with the link, at once and also for connections that are open.
    pub(super) fn set(&mut self, harm: Harm) {
        self.harm = harm;
        self.obey();
    }

    /// The same for the broker behind it, where nothing else shows that.
    pub(super) fn set_broker_down(&mut self, is_broker_down: bool) {
        self.is_broker_down = is_broker_down;
        self.obey();
    }

    fn obey(&self) {
        let is_cut = self.harm.cut || self.is_broker_down;
        let delay = if self.harm.slow { SLOW_BY } else { Duration::ZERO };
        match &self.road {
            Road::Memory(road) => road.obey(is_cut, delay),
            #[cfg(feature = "broker")]
            Road::Tcp(road) => road.obey(is_cut, delay),
            #[cfg(feature = "broker")]
            Road::Direct(..) => {}
        }
    }
}

impl Road {
    /// A connection of one process.
    pub(super) async fn connect(&self) -> hydratecache::Result<Arc<dyn Transport>> {
        match self {
            Self::Memory(road) => Ok(Arc::new(road.connect())),
            #[cfg(feature = "broker")]
            Self::Tcp(road) => road.connect().await,
            #[cfg(feature = "broker")]
            Self::Direct(broker, url) => (broker.connect)(url).await,
        }
    }

    /// Whether it can be cut and slowed down.
    pub(super) fn can_fail(&self) -> bool {
        #[cfg(feature = "broker")]
        if matches!(self, Self::Direct(..)) {
            return false;
        }
        true
    }
}
