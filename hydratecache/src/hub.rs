//! For authors of transports: the topics of one connection, each with its fan-out.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fanout::Fanout;
use crate::transport::{Fence, Gap};
use crate::{Error, Topic};

/// The topics that one connection is subscribed to, with the fan-out of each.
#[derive(Default)]
pub struct Hub(Mutex<HashMap<Topic, Arc<Fanout>, foldhash::fast::RandomState>>);

impl Hub {
    /// The fan-out of `topic`, if it is subscribed.
    #[must_use]
    pub fn topic(&self, topic: &Topic) -> Option<Arc<Fanout>> {
        self.lock().get(topic).cloned()
    }

    /// The fan-out of `topic`, made by `make` if there is none.
    pub fn topic_or_insert_with(&self, topic: &Topic, make: impl FnOnce() -> Fanout) -> Arc<Fanout> {
        self.lock().entry(topic.clone()).or_insert_with(|| Arc::new(make())).clone()
    }

    /// Removes the fan-out of `topic` if nobody reads it. `true`: it is gone.
    pub fn remove_if_unread(&self, topic: &Topic) -> bool {
        let mut topics = self.lock();
        let unread = topics.get(topic).is_some_and(|fanout| fanout.readers() == 0);
        if unread {
            topics.remove(topic);
        }
        unread
    }

    /// The topics that are subscribed.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        self.lock().keys().cloned().collect()
    }

    /// Tells every topic that the link is lost.
    pub fn disrupted(&self, why: &Error) {
        self.each(|fanout| fanout.disrupted(why));
    }

    /// Tells every topic that the link is back, and what may have been lost.
    pub fn live(&self, missed: Option<Gap>) {
        self.each(|fanout| fanout.live(missed));
    }

    /// Tells every topic that messages were, or may have been, lost.
    pub fn gap(&self, gap: Gap) {
        self.each(|fanout| fanout.gap(gap));
    }

    /// Puts `fence` into every subscription.
    pub fn fenced(&self, fence: Fence) {
        self.each(|fanout| fanout.fenced(fence));
    }

    /// Ends every subscription.
    pub fn close(&self) {
        self.each(Fanout::close);
        self.lock().clear();
    }

    fn each(&self, tell: impl Fn(&Fanout)) {
        let fanouts: Vec<Arc<Fanout>> = self.lock().values().cloned().collect();
        for fanout in fanouts {
            tell(&fanout);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Topic, Arc<Fanout>, foldhash::fast::RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("topics", &self.lock().len()).finish()
    }
}
