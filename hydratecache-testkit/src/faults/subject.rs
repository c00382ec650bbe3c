//! What the suite of faults asks of a transport's author.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use hydratecache::{Result, Topic, Transport};

use crate::broker::Broker;
use crate::conformance::Capability;
use crate::proxy::{Direction, FaultProxy, Needle};

/// A transport under test, with a broker that no other test disturbs.
///
/// What cannot be done is the test's end: a method panics and says why.
pub trait Subject: Send + Sync {
    /// The broker, which the suite kills, pauses and restarts.
    fn broker(&self) -> &Broker;

    /// A transport as another process would have, to the broker, or to what is at `addr`
    /// (`host:port`) on the way to it.
    fn connect<'a>(
        &'a self,
        addr: &'a str,
        setup: Setup,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>>>;

    /// A proxy before the broker, on a way of its own (default: a new one to its address).
    fn proxy(&self) -> FaultProxy {
        FaultProxy::start(self.broker().addr(), 1).expect("a proxy")
    }

    /// The shortest limits that the transport keeps (default: [`Patience::default`]).
    fn least_patience(&self) -> Patience {
        Patience::default()
    }

    /// What becomes of what a subscriber misses while its link is lost (default: it is gone).
    fn missed(&self) -> Missed {
        Missed::Gone
    }

    /// How many connections one transport has.
    fn connections_of_one(&self) -> usize;

    /// How many connections of transports the broker counts.
    fn connections(&self) -> BoxFuture<'_, usize>;

    /// How many subscriptions of topics the broker counts, over all transports; or why nobody can
    /// ask it, and which other test shows that none is left behind.
    fn subscriptions(&self) -> Capability<BoxFuture<'_, usize>>;

    /// Publishes `bodies` in order, each exactly as it is (or as its text form, where the broker
    /// carries text only), as somebody would who knows nothing of envelopes.
    fn inject<'a>(&'a self, topic: &'a Topic, bodies: Vec<Bytes>) -> BoxFuture<'a, ()>;

    /// Lets the broker hang up on every transport's connection of this kind.
    fn kill(&self, connection: Connection) -> BoxFuture<'_, ()>;

    /// Where to cut a link while a subscription to topic `users` is proven, each of a moment of
    /// its own.
    fn cuts_of_a_subscription(&self) -> Vec<Cut>;

    /// Where to cut a link so that a subscription to topic `users` is never proven.
    fn cut_of_every_proof(&self) -> Cut;

    /// Where to cut a link while a message is published to topic `users`, and whether it arrives
    /// nevertheless.
    fn cuts_of_a_publish(&self) -> Vec<(Cut, bool)>;

    /// Payload limits to try, in bytes.
    fn payload_limits(&self) -> Vec<usize>;
}

/// What becomes of what a subscriber misses while its link is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nobody has it any more: there is a gap behind every outage.
    Gone,
    /// The broker kept it: it comes behind the outage, and there is no gap.
    Replayed,
}

/// Settings that a test asks for; the transport's defaults where it does not.
#[derive(Debug, Default, Clone, Copy)]
pub struct Setup {
    /// How long a publish may take.
    pub publish_limit: Option<Duration>,
    /// How long a subscription's proof may take.
    pub subscribe_limit: Option<Duration>,
    /// How often a sign of life is asked for, and how long the answer may take.
    pub liveness: Option<(Duration, Duration)>,
    /// How much may wait for one reader, in bytes.
    pub queue_bytes: Option<usize>,
    /// The largest payload, in bytes.
    pub max_payload_bytes: Option<usize>,
}

/// Short limits, and how long an answer may take that keeps them.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The limits.
    pub setup: Setup,
    /// The longest that a publish or a fence may take then.
    pub answer: Duration,
}

impl Default for Patience {
    /// 300 ms for a publish and a subscription. A busy machine may be late by seconds; whoever takes no notice of
    /// these limits keeps a transport's default, which is longer than that.
    fn default() -> Self {
        let limit = Duration::from_millis(300);
        let setup =
            Setup { publish_limit: Some(limit), subscribe_limit: Some(limit), ..Setup::default() };
        Self { setup, answer: Duration::from_secs(4) }
    }
}

/// A transport's configuration as a [`Setup`](crate::faults::Setup) asks for it. It has the setters of
/// [`link_setters!`](hydratecache::link_setters) and `with_max_payload_bytes`.
#[macro_export]
macro_rules! set_up {
    ($config:expr, $setup:expr) => {{
        let (mut config, setup): (_, $crate::faults::Setup) = ($config, $setup);
        if let Some(limit) = setup.publish_limit {
            config = config.with_publish_limit(limit);
        }
        if let Some(limit) = setup.subscribe_limit {
            config = config.with_subscribe_limit(limit);
        }
        if let Some((interval, limit)) = setup.liveness {
            config = config.with_liveness(interval, limit);
        }
        if let Some(bytes) = setup.queue_bytes {
            config = config.with_queue_bytes(bytes);
        }
        if let Some(bytes) = setup.max_payload_bytes {
            config = config.with_max_payload_bytes(bytes);
        }
        config
    }};
}

/// A connection of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// The one that subscribes.
    Subscribing,
    /// The one that publishes.
    Publishing,
}

/// A moment at which a proxy cuts a link.
#[derive(Debug, Clone)]
pub struct Cut {
    /// When this passes by.
    pub needle: &'static str,
    /// Which way.
    pub direction: Direction,
    /// Whether it still arrives.
    pub fate: Needle,
}

impl Cut {
    /// The moment at which `needle` passes by in `direction`.
    #[must_use]
    pub const fn at(needle: &'static str, direction: Direction, fate: Needle) -> Self {
        Self { needle, direction, fate }
    }

    /// Lets `proxy` cut at that moment.
    pub(super) fn arm(&self, proxy: &FaultProxy) {
        proxy.cut_when_seen(self.needle.as_bytes(), self.direction, self.fate);
    }
}
