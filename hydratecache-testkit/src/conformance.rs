//! The suite that shows whether a transport keeps its promises.
//!
//! One function for each of the promises P1 to P13 of [`Transport`](hydratecache::Transport),
//! against a [`Subject`] that the transport's author writes: how to connect, and what can be done
//! to the link. A function panics with the promise's name and what was seen instead, and prints
//! which of its parts could not run, and why.
//!
//! ```
//! use std::sync::Arc;
//! use bytes::Bytes;
//! use hydratecache::memory::MemoryBroker;
//! use hydratecache::{Topic, Transport, fanout::Fanout};
//! use hydratecache_testkit::conformance::{Capability, Faults, Step, Subject};
//!
//! struct InProcess(MemoryBroker);
//!
//! impl Subject for InProcess {
//!     fn name(&self) -> &str {
//!         "the in-process transport"
//!     }
//!
//!     fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
//!         Box::pin(async { Ok(Arc::new(self.0.connect()) as Arc<dyn Transport>) })
//!     }
//!
//!     fn queue_bytes(&self) -> usize {
//!         Fanout::DEFAULT_QUEUE_BYTES
//!     }
//!
//!     fn faults(&self) -> Capability<&dyn Faults> {
//!         Capability::Absent("left out of this example")
//!     }
//!
//!     fn inject(&self, _: &Topic, _: Bytes) -> Capability<Step<'_>> {
//!         Capability::Absent("no envelope is written in-process")
//!     }
//!
//!     fn secret(&self) -> Capability<String> {
//!         Capability::Absent("there are no credentials in-process")
//!     }
//!
//!     fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
//!         Capability::Absent("there are no permissions in-process")
//!     }
//!
//!     fn connections(&self) -> Capability<Step<'_, usize>> {
//!         Capability::Absent("there are no connections in-process")
//!     }
//!
//!     fn subscriptions(&self, topic: &Topic) -> Capability<Step<'_, usize>> {
//!         let count = self.0.subscriptions(topic);
//!         Capability::Present(Box::pin(async move { Ok(count) }))
//!     }
//! }
//!
//! // Thirteen tests, each with a subject of its own; the expression may await:
//! hydratecache_testkit::conformance_tests!(InProcess(MemoryBroker::new()));
//!
//! # #[tokio::main] async fn main() {
//! use hydratecache_testkit::conformance::{Effort, p11_ttl_travels_with_the_message};
//! p11_ttl_travels_with_the_message(&InProcess(MemoryBroker::new()), Effort::Quick).await;
//! # }
//! ```
//!
//! # Waits
//! Nothing sleeps to let something else happen: every wait is for a condition, and has a limit. The
//! limits of the promises are those of [`Transport`](hydratecache::Transport); all others are
//! generous, because they only end a test that has failed.

mod close;
mod content;
mod delivery;
mod fence;
mod input;
mod ledger;
mod many;
mod outage;
mod proxied;
mod ready;
mod secrets;
mod slow;
mod subject;
mod traces;
mod trial;
mod truth;

use std::env;

use hydratecache::Topic;

pub use close::p08_close_is_quick_and_final;
pub use content::p11_ttl_travels_with_the_message;
pub use delivery::p02_no_silent_loss;
pub use fence::p13_a_fence_proves_the_past;
pub use input::p07_bad_input_is_an_error_or_a_rejection;
pub use many::{p09_one_connection_many_topics, p10_every_future_can_be_dropped};
pub use outage::{p03_disrupted_then_live_then_gap, p04_a_dead_peer_is_noticed};
pub use proxied::ProxiedLink;
pub use ready::p01_ready_means_ready;
pub use secrets::p12_no_secrets_are_shown;
pub use slow::p06_slow_readers_hurt_themselves_only;
pub use subject::{Capabilities, Capability, Faults, Step, Subject};
pub use truth::p05_publish_tells_the_truth;

/// How much a test tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Enough to catch a mistake, in seconds.
    Quick,
    /// Enough to catch a rare race, in minutes: the numbers of the fault table.
    Full,
}

impl Effort {
    /// The effort that `HYDRATECACHE_EFFORT` asks for: `quick` (the default) or `full`.
    ///
    /// # Panics
    /// If it has another value.
    #[must_use]
    pub fn from_env() -> Self {
        match env::var("HYDRATECACHE_EFFORT").as_deref() {
            Err(env::VarError::NotPresent) | Ok("" | "quick") => Self::Quick,
            Ok("full") => Self::Full,
            other => panic!("HYDRATECACHE_EFFORT is {other:?}; use quick or full"),
        }
    }

    /// `quick` or `full`, as the effort is.
    const fn pick(self, quick: usize, full: usize) -> usize {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// A topic that nothing else uses, for tests of one's own beside the suite.
#[must_use]
pub fn unique_topic(name: &str) -> Topic {
    let number: u64 = rand::random();
    Topic::new(format!("conformance.{name}.{number:016x}")).expect("the name is a legal token")
}

/// Thirteen tests, one for each promise, of the [`Subject`](crate::conformance::Subject) that the
/// expression makes. It is evaluated in each test, and may await.
///
/// The crate that uses it needs `tokio` with the features `macros` and `rt-multi-thread`.
/// The [module](crate::conformance) shows a use.
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr) => {
        $crate::conformance_tests! {
            @each $subject;
            p01_ready_means_ready
            p02_no_silent_loss
            p03_disrupted_then_live_then_gap
            p04_a_dead_peer_is_noticed
            p05_publish_tells_the_truth
            p06_slow_readers_hurt_themselves_only
            p07_bad_input_is_an_error_or_a_rejection
            p08_close_is_quick_and_final
            p09_one_connection_many_topics
            p10_every_future_can_be_dropped
            p11_ttl_travels_with_the_message
            p12_no_secrets_are_shown
            p13_a_fence_proves_the_past
        }
    };
    (@each $subject:expr; $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let subject = $subject;
                let effort = $crate::conformance::Effort::from_env();
                $crate::conformance::$promise(&subject, effort).await;
            }
        )*
    };
}
