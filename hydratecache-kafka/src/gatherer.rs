//! Subscribes. Whoever asks at the same time is gathered, and the brokers are asked once for all of them:
//! a thousand topics take hardly longer than one.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join, join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hydratecache::{Error, Result, Topic};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::blocking::{OffRuntime, blocking};
use crate::error::Attempt;
use crate::opener::Opener;
use crate::reader::{Asking, Command, Consuming, Inbox, Watched};
use crate::surveyor::{Ends, Surveyed, Surveyor};
use crate::topic_name::kafka_name;

/// Somebody who wants a subscription, and until when.
pub(crate) struct Wanted {
    pub(crate) topic: Topic,
    pub(crate) deadline: Instant,
    pub(crate) reply: Asking,
}

/// The task, which ends with the transport.
pub(crate) struct Gatherer {
    pub(crate) wanted: mpsc::UnboundedReceiver<Wanted>,
    pub(crate) closing: CancellationToken,
    pub(crate) asked: Asked,
}

/// Whom it asks.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) opener: Arc<Opener>,
    pub(crate) surveyor: Arc<OffRuntime<Surveyor>>,
    pub(crate) consumer: Consuming,
    pub(crate) watched: Watched,
    pub(crate) inbox: Inbox,
}

/// A topic, and all who want it.
struct Group {
    topic: Topic,
    name: String,
    deadline: Instant,
    replies: Vec<Asking>,
}

impl Gatherer {
    pub(crate) async fn run(mut self) {
        let closing = self.closing.clone();
        tokio::select! {
            biased;
            () = closing.cancelled() => {}
            () = self.gather() => {}
        }
    }

    async fn gather(&mut self) {
        let mut rounds = FuturesUnordered::new();
        let mut waiting = Vec::new();
        let mut next_round = Instant::now();
        loop {
            tokio::select! {
                biased;
                count = self.wanted.recv_many(&mut waiting, MOST_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                }
                () = sleep_until(next_round), if !waiting.is_empty() => {
                    next_round = Instant::now() + GATHERING;
                    rounds.push(self.asked.clone().subscribe(grouped(mem::take(&mut waiting))));
                }
                Some(()) = rounds.next() => {}
            }
        }
    }
}

/// Who comes so soon after a round began is gathered for the next. Rounds do not wait for each other: a
/// topic that is out of reach holds up only those who asked together with it.
const GATHERING: Duration = Duration::from_millis(20);

const MOST_AT_ONCE: usize = 10_000;

impl Asked {
    /// Subscribes to topics, which may have to be made.
    async fn subscribe(self, groups: Vec<Group>) {
        self.prove_those_there(groups, |missing| self.make(missing)).await;
    }

    /// Subscribes to topics that have to be made, or are out of reach.
    async fn make(&self, groups: Vec<Group>) {
        if groups.len() < 2 {
            return self.open_each(groups).await;
        }
        let names = groups.iter().map(|group| group.name.clone()).collect();
        self.opener.prepare(names, last(&groups)).await;
        self.prove_those_there(groups, |missing| self.open_each(missing)).await;
    }

    /// Subscribes to those topics that are there, and does meanwhile what is to be done with the
    /// missing: they hold up no others.
    async fn prove_those_there<F: Future<Output = ()> + Send>(
        &self,
        groups: Vec<Group>,
        with_missing: impl FnOnce(Vec<Group>) -> F + Send,
    ) {
        match self.look(&groups).await {
            Ok(partitions) => {
                let (there, missing) = split(groups, &partitions);
                join(self.prove(there), with_missing(missing)).await;
            }
            Err(why) => refuse(groups, &why),
        }
    }

    /// Subscribes to each topic by itself, so that one that is late holds up no other.
    async fn open_each(&self, groups: Vec<Group>) {
        let opening = groups.into_iter().map(async |group| {
            match self.opener.open(&group.name, group.deadline).await {
                Ok(partitions) => self.prove(vec![(group, partitions)]).await,
                Err(why) => refuse([group], &why),
            }
        });
        join_all(opening).await;
    }

    /// How many partitions the topics have, of those that are there.
    async fn look(&self, groups: &[Group]) -> Result<HashMap<String, usize>> {
        let surveyor = self.surveyor.clone();
        let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
        let deadline = last(groups).into_std();
        blocking(move || surveyor.look(&names, deadline)).await
    }

    /// Lets the reader read the topics from where they end now.
    fn prove(&self, there: Vec<(Group, usize)>) -> BoxFuture<'_, ()> {
        async move {
            if there.is_empty() {
                return;
            }
            let surveyed = there.iter().map(|(group, partitions)| Surveyed {
                topic: group.topic.clone(),
                name: group.name.clone(),
                partitions: *partitions,
            });
            let surveyed: Vec<Surveyed> = surveyed.collect();
            let deadline = last(there.iter().map(|(group, _)| group));
            let ends = match self.survey(surveyed, deadline).await {
                Ok(ends) => ends,
                // One of them may spoil the answer for all.
                Err(_) if there.len() > 1 && Instant::now() < deadline => {
                    join_all(there.into_iter().map(|one| self.prove(vec![one]))).await;
                    return;
                }
                Err(why) => return refuse(there.into_iter().map(|(group, _)| group), &why),
            };
            let groups: Vec<Group> = there.into_iter().map(|(group, _)| group).collect();
            let unknown = groups.iter().filter(|group| !self.watched.has(&group.topic));
            let unknown: Vec<String> = unknown.map(|group| group.name.clone()).collect();
            if !unknown.is_empty() {
                self.consumer.learn(unknown, deadline).await;
            }
            let mut ends: HashMap<Topic, Result<Vec<i64>, Error>> =
                ends.into_iter().map(|it| (it.topic, it.ends)).collect();
            for group in groups {
                match ends.remove(&group.topic) {
                    Some(Ok(ends)) => self.read(group, &ends),
                    Some(Err(why)) => refuse([group], &why),
                    None => {}
                }
            }
        }
        .boxed()
    }

    async fn survey(&self, surveyed: Vec<Surveyed>, deadline: Instant) -> Result<Vec<Ends>> {
        let surveyor = self.surveyor.clone();
        let left = deadline.saturating_duration_since(Instant::now());
        blocking(move || surveyor.survey(Attempt::Subscribe, &surveyed, left)).await
    }

    fn read(&self, group: Group, ends: &[i64]) {
        for reply in group.replies {
            let (topic, ends) = (group.topic.clone(), ends.to_vec());
            self.inbox.tell(Command::Subscribe { topic, ends, reply });
        }
    }
}

/// Those who still wait, by topic.
fn grouped(waiting: Vec<Wanted>) -> Vec<Group> {
    let mut groups: HashMap<Topic, Group> = HashMap::new();
    for Wanted { topic, deadline, reply } in waiting {
        if reply.is_closed() {
            continue;
        }
        let group = groups.entry(topic).or_insert_with_key(|topic| Group {
            topic: topic.clone(),
            name: kafka_name(topic),
            deadline,
            replies: Vec::new(),
        });
        group.deadline = group.deadline.max(deadline);
        group.replies.push(reply);
    }
    groups.into_values().collect()
}

/// The topics that are there, with how many partitions they have, and the others.
fn split(
    groups: Vec<Group>,
    partitions: &HashMap<String, usize>,
) -> (Vec<(Group, usize)>, Vec<Group>) {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for group in groups {
        match partitions.get(&group.name) {
            Some(partitions) => there.push((group, *partitions)),
            None => missing.push(group),
        }
    }
    (there, missing)
}

/// Every caller has a limit of its own; the brokers are asked until the last one's.
fn last<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Instant {
    groups.into_iter().map(|group| group.deadline).max().unwrap_or_else(Instant::now)
}

fn refuse(groups: impl IntoIterator<Item = Group>, why: &Error) {
    for reply in groups.into_iter().flat_map(|group| group.replies) {
        // Whoever gave up does not hear it.
        let _ = reply.send(Err(why.clone()));
    }
}
