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
    /// A fence that topics are about to be asked for. It is held until [`passed`](Self::passed) is
    /// told of it once more than topics await it.
    fn hold(&mut self, fence: Fence, asking: Vec<AskingForFence>) {
        self.0.insert(fence, Awaited { topics: 1, asking });
    }

    /// One more topic has to pass it.
    fn await_one_more(&mut self, fence: Fence) {
        if let Some(awaited) = self.0.get_mut(&fence) {
            awaited.topics += 1;
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
        // Held before any topic awaits it: one that is refused or made anew on the way gives it up.
        self.fences.hold(fence, asking);
        for Ends { topic, ends } in ends {
            match ends {
                Ok(ends) => self.await_fence_in(&topic, fence, ends),
                Err(why) => self.lose(&topic, Lost::Missing, &why),
            }
        }
        self.fences.passed(vec![fence]);
        self.pass_all_fences();
    }

    fn await_fence_in(&mut self, topic: &Topic, fence: Fence, ends: Vec<i64>) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        route.found_after(Lost::Missing);
        let partitions = ends.len();
        if route.progress.learn_ends(&ends) == Log::Other {
            self.restart(topic, partitions);
        }
        self.found(topic, partitions);
        // One that may not be read proves nothing, and its readers know.
        let Some(route) = self.routes.get_mut(topic).filter(|route| route.lost.is_none()) else {
            return;
        };
        route.progress.know_ends(&ends);
        self.fences.await_one_more(fence);
        if let Some(displaced) = route.progress.await_fence(fence, ends) {
            self.fences.displaced(displaced, &self.settings.address);
        }
    }

    pub(super) fn pass_all_fences(&mut self) {
        let topics: Vec<Topic> = self.routes.keys().cloned().collect();
        for topic in topics {
            self.pass_fences(&topic);
        }
    }

    /// Puts the fences that a topic has passed into its subscriptions: none before their link is told to
    /// be back.
    pub(super) fn pass_fences(&mut self, topic: &Topic) {
        let Some(route) = self.routes.get_mut(topic).filter(|route| !route.is_down()) else {
            return;
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    /// A fence that is held, and whether it was answered.
    fn held(fences: &mut Fences) -> (Fence, impl FnMut() -> bool + use<>) {
        let fence = Fence::new(1, Instant::now());
        let (reply, mut answer) = oneshot::channel();
        fences.hold(fence, vec![reply]);
        (fence, move || matches!(answer.try_recv(), Ok(Ok(_))))
    }

    #[test]
    fn a_fence_is_answered_once_every_topic_has_passed_it() {
        let mut fences = Fences::default();
        let (fence, mut is_answered) = held(&mut fences);
        fences.await_one_more(fence);
        fences.await_one_more(fence);
        fences.passed(vec![fence]);
        fences.passed(vec![fence]);
        assert!(!is_answered());
        fences.passed(vec![fence]);
        assert!(is_answered() && fences.0.is_empty());
    }

    #[test]
    fn a_topic_that_gives_a_fence_up_while_others_are_asked_leaves_nobody_waiting() {
        let mut fences = Fences::default();
        let (fence, mut is_answered) = held(&mut fences);
        fences.await_one_more(fence);
        // It was refused, and there are no others.
        fences.passed(vec![fence]);
        assert!(!is_answered(), "others may come");
        fences.passed(vec![fence]);
        assert!(is_answered() && fences.0.is_empty());
    }
}
