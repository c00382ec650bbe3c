//! The topics that are read now, which other tasks ask about.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hydratecache::Topic;

use crate::surveyor::Surveyed;

/// The topics that are read, for those who ask about them.
#[derive(Clone, Default)]
pub(crate) struct Watched(Arc<Mutex<HashMap<Topic, Surveyed>>>);

impl Watched {
    /// The topics that are read now.
    pub(crate) fn all(&self) -> Vec<Surveyed> {
        self.lock().values().cloned().collect()
    }

    /// Whether the topic is read now.
    pub(crate) fn has(&self, topic: &Topic) -> bool {
        self.lock().contains_key(topic)
    }

    pub(super) fn insert(&self, topic: &Topic, name: &str, partitions: usize) {
        let surveyed = Surveyed { topic: topic.clone(), name: name.to_owned(), partitions };
        self.lock().insert(topic.clone(), surveyed);
    }

    pub(super) fn remove(&self, topic: &Topic) {
        self.lock().remove(topic);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Topic, Surveyed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
