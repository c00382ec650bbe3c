//! The topics of one link, each with its fan-out.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fanout::Fanout;
use crate::transport::Fence;
use crate::{Error, Topic};

/// The topics that one link is subscribed to, with the fan-out of each.
#[derive(Default)]
pub(crate) struct Hub(Mutex<HashMap<Topic, Arc<Fanout>, foldhash::fast::RandomState>>);

impl Hub {
    /// The fan-out of `topic`, if it is subscribed.
    #[must_use]
    pub(crate) fn topic(&self, topic: &Topic) -> Option<Arc<Fanout>> {
        self.lock().get(topic).cloned()
    }

    /// The fan-out of `topic`, made by `make` if there is none.
    pub(crate) fn topic_or_insert_with(
        &self,
        topic: &Topic,
        make: impl FnOnce() -> Fanout,
    ) -> Arc<Fanout> {
        self.lock().entry(topic.clone()).or_insert_with(|| Arc::new(make())).clone()
    }

    /// Removes the fan-out of `topic` if nobody reads it. `true`: it is gone.
    pub(crate) fn remove_if_unread(&self, topic: &Topic) -> bool {
        let mut topics = self.lock();
        let unread = topics.get(topic).is_some_and(|fanout| fanout.readers() == 0);
        if unread {
            topics.remove(topic);
        }
        unread
    }

    /// Tells every topic that the link is lost.
    pub(crate) fn disrupted(&self, why: &Error) {
        self.each(|fanout| fanout.disrupted(why));
    }

    /// Puts `fence` into every subscription.
    pub(crate) fn fenced(&self, fence: Fence) {
        self.each(|fanout| fanout.fenced(fence));
    }

    /// Ends every subscription.
    pub(crate) fn close(&self) {
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
