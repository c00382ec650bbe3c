//! Fences: each is awaited in every topic that is read, and answered when all of them have passed it.

use std::collections::HashMap;

use hydratecache::{Error, ErrorKind, Fence, Topic};

use super::progress::Log;
use super::route::Lost;
use super::{AskingForFence, Reading};
use crate::surveyor::Ends;

/// Who waits for which fence.
#[derive(Default)]
pub(super) struct Fences(HashMap<Fence, Awaited>);

struct Awaited {
    /// In how many topics it was not passed yet.
    topics: usize,
    asking: Vec<AskingForFence>,
}

impl Fences {
    /// A fence that so many topics have to pass; without any, it is passed at once.
    fn insert(&mut self, fence: Fence, topics: usize, asking: Vec<AskingForFence>) {
        self.0.insert(fence, Awaited { topics, asking });
        if topics == 0 {
            self.passed_everywhere(fence);
        }
    }

    /// One topic has passed these, or is not read any more.
    pub(super) fn passed(&mut self, fences: Vec<Fence>) {
        for fence in fences {
            let Some(awaited) = self.0.get_mut(&fence) else { continue };
            awaited.topics -= 1;
            if awaited.topics == 0 {
                self.passed_everywhere(fence);
            }
        }
    }

    fn passed_everywhere(&mut self, fence: Fence) {
        for reply in self.take(fence) {
            // Whoever asked may have given up.
            let _ = reply.send(Ok(fence));
        }
    }

    /// The oldest fence of a topic is given up, because too many are awaited.
    fn displaced(&mut self, fence: Fence, address: &str) {
        for reply in self.take(fence) {
            let what = format!(
                "asking for a fence on Kafka at {address}: reading is more than a thousand fences \
                 behind"
            );
            let _ = reply.send(Err(Error::new(ErrorKind::Timeout, what)));
        }
    }

    fn take(&mut self, fence: Fence) -> Vec<AskingForFence> {
        self.0.remove(&fence).map(|awaited| awaited.asking).unwrap_or_default()
    }
}

impl Reading {
    pub(super) fn await_fence(
        &mut self,
        fence: Fence,
        ends: Vec<Ends>,
        asking: Vec<AskingForFence>,
    ) {
        let mut awaiting = 0;
        for Ends { topic, ends } in ends {
            let Some(route) = self.routes.get_mut(&topic) else { continue };
            let ends = match ends {
                Ok(ends) => ends,
                Err(why) => {
                    route.lose(Lost::Missing, &why);
                    continue;
                }
            };
            let partitions = ends.len();
            route.found_after(Lost::Missing);
            awaiting += 1;
            let (log, displaced) = route.progress.await_fence(fence, ends);
            if let Some(fence) = displaced {
                self.fences.displaced(fence, &self.settings.address);
            }
            if log == Log::Other {
                self.restart(&topic);
            }
            self.found(&topic, partitions);
        }
        self.fences.insert(fence, awaiting, asking);
        let topics: Vec<Topic> = self.routes.keys().cloned().collect();
        for topic in topics {
            self.pass_fences(&topic);
        }
    }

    /// Puts the fences that a topic has passed into its subscriptions.
    pub(super) fn pass_fences(&mut self, topic: &Topic) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        let mut passed = Vec::new();
        while let Some(fence) = route.progress.passed() {
            if route.lost.is_none() {
                route.fanout.fenced(fence);
            }
            passed.push(fence);
        }
        self.fences.passed(passed);
    }
}
