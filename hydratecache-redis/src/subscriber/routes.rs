//! Which fan-out gets what arrives on which channel.

use std::collections::HashMap;
use std::num::NonZeroU64;

use hydratecache::fanout::Fanout;
use hydratecache::{Error, Gap, Topic};

use crate::channel_name::channel_name;

/// The topics that have readers in this process, by the name of their channel.
#[derive(Default)]
pub(super) struct Routes(HashMap<String, Route>);

struct Route {
    topic: Topic,
    fanout: Fanout,
}

impl Routes {
    pub(super) fn insert(&mut self, topic: &Topic, fanout: Fanout) {
        self.0.insert(channel_name(topic), Route { topic: topic.clone(), fanout });
    }

    pub(super) fn channel(&self, channel: &str) -> Option<(&Topic, &Fanout)> {
        self.0.get(channel).map(|route| (&route.topic, &route.fanout))
    }

    pub(super) fn fanout(&self, topic: &Topic) -> Option<&Fanout> {
        self.channel(&channel_name(topic)).map(|(_, fanout)| fanout)
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = Topic> {
        self.0.values().map(|route| route.topic.clone())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Topic, &Fanout)> {
        self.0.values().map(|route| (&route.topic, &route.fanout))
    }

    /// `true`: nobody read it, and it is gone.
    pub(super) fn remove_if_unread(&mut self, topic: &Topic) -> bool {
        let is_unread = self.fanout(topic).is_some_and(|fanout| fanout.readers() == 0);
        if is_unread {
            self.0.remove(&channel_name(topic));
        }
        is_unread
    }

    pub(super) fn disrupted(&self, why: &Error) {
        for (_, fanout) in self.iter() {
            fanout.disrupted(why);
        }
    }

    /// Our task fell behind fred's queue, which dropped the oldest messages. Which topics they
    /// were of is only known where there is one.
    pub(super) fn lagged(&self, missed: u64) {
        let gap = match NonZeroU64::new(missed) {
            Some(missed) if self.0.len() == 1 => Gap::Exact(missed),
            _ => Gap::Unknown,
        };
        for (_, fanout) in self.iter() {
            fanout.gap(gap);
        }
    }
}
