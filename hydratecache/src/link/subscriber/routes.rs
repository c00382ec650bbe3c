//! Which fan-out gets what arrives under which name.

use std::collections::HashMap;

use crate::fanout::Fanout;
use crate::{Error, Gap, Topic};

/// The topics that have readers in this process, by the broker's name of each.
pub(super) struct Routes {
    name: fn(&Topic) -> String,
    /// Hashed alike in every run, so that a simulation of several topics repeats: the names are this
    /// process's own, and nobody else's to choose.
    by_name: HashMap<String, Route, foldhash::fast::FixedState>,
}

struct Route {
    topic: Topic,
    fanout: Fanout,
}

impl Routes {
    pub(super) fn new(name: fn(&Topic) -> String) -> Self {
        Self { name, by_name: HashMap::default() }
    }

    pub(super) fn insert(&mut self, topic: &Topic, fanout: Fanout) {
        let route = Route { topic: topic.clone(), fanout };
        self.by_name.insert((self.name)(topic), route);
    }

    pub(super) fn named(&self, name: &str) -> Option<(&Topic, &Fanout)> {
        self.by_name.get(name).map(|route| (&route.topic, &route.fanout))
    }

    pub(super) fn fanout(&self, topic: &Topic) -> Option<&Fanout> {
        self.named(&(self.name)(topic)).map(|(_, fanout)| fanout)
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = Topic> {
        self.by_name.values().map(|route| route.topic.clone())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Topic, &Fanout)> {
        self.by_name.values().map(|route| (&route.topic, &route.fanout))
    }

    /// `true`: nobody read it, and it is gone.
    pub(super) fn remove_if_unread(&mut self, topic: &Topic) -> bool {
        let is_unread = self.fanout(topic).is_some_and(|fanout| fanout.readers() == 0);
        if is_unread {
            self.by_name.remove(&(self.name)(topic));
        }
        is_unread
    }

    pub(super) fn disrupted(&self, why: &Error) {
        for (_, fanout) in self.iter() {
            fanout.disrupted(why);
        }
    }

    /// Messages were dropped on this side. How many of them were writes, and of which topic, is only known
    /// by their numbers, when their publishers are heard again.
    pub(super) fn lagged(&self) {
        for (_, fanout) in self.iter() {
            fanout.gap(Gap::Unknown);
        }
    }
}
