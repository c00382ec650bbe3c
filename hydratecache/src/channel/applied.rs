//! Asks the replicas of a topic whether they have a write.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

use super::Channel;
use crate::transport::Signal;
use crate::{Error, ErrorKind, Kind, Origin, Position, Request, Result, Token};

/// Which replicas have a write, and which do not, as far as they said: what
/// [`Channel::applied_by`] returns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppliedBy {
    /// How many were asked for.
    pub wanted: usize,
    /// Those that have it, in the order of their ids.
    pub applied: Vec<ReplicaId>,
    /// Those that answered that they do not have it, or cannot tell because a gap was ignored. One that
    /// is cut off answers nothing, so it is in neither list.
    pub lacking: Vec<ReplicaId>,
}

impl AppliedBy {
    /// Whether as many have it as were asked for.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.applied.len() >= self.wanted
    }
}

/// A replica, as it answers: by the origin of the channel that it is hydrated from, and by its
/// [name](crate::cache::Hydrate::with_name).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ReplicaId {
    /// The origin of its channel, which is another one in each process.
    pub origin: Origin,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
}

impl fmt::Display for ReplicaId {
    /// The name, if there is one, and the origin in 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.origin.get();
        match &self.name {
            Some(name) => write!(f, "{} ({origin:016x})", name.escape_debug()),
            None => write!(f, "{origin:016x}"),
        }
    }
}

/// Replicas that do not have the write say so when this part of the limit is over, so that their answers
/// come in time.
const LACKING_AFTER: f64 = 0.7;

/// A question or an answer may be lost: it is asked again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// So many replicas are remembered of one question, at some 100 bytes each.
const MOST_REPLICAS: usize = 65_536;

impl<T: Send + Sync + 'static> Channel<T> {
    /// Asks the replicas of this topic for the write that `token` names, and waits until `replicas` of them
    /// have it, or until `limit` is over. A replica has it when a read there gives that write or a later
    /// one, as [`wait_for`](crate::Hydrated::wait_for) waits for.
    ///
    /// Nobody keeps a list of replicas: whoever hears the question answers, this process's own replicas
    /// among them. Replicas that share a channel and a [name](crate::cache::Hydrate::with_name) count
    /// as one.
    ///
    /// It costs a subscription to the topic while it waits, one message, and an answer from somewhat more
    /// replicas than are asked for: each waits for a random time up to 20 ms, and is silent if enough have
    /// answered by then. Those messages go to every subscriber of the topic, so to ask for all of a
    /// thousand replicas is a million small deliveries: ask for as many as the promise at hand needs.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use hydratecache::cache::Replica;
    /// # use hydratecache::{Channel, Hydrated, memory::MemoryBroker};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
    /// # let broker = MemoryBroker::new();
    /// # let writer = Channel::<String>::new(broker.connect(), "users")?;
    /// # let reader = Channel::<String>::new(broker.connect(), "users")?;
    /// # let users = Hydrated::builder(reader, Replica::new()).start().await?;
    /// let receipt = writer.publish("user:1", &"Ada".to_owned()).await?;
    /// let asked = writer.applied_by(receipt, 1, Duration::from_secs(30)).await?;
    /// assert!(asked.is_enough(), "without it: {:?}", asked.lacking);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `InvalidInput`: no replica, or no time to wait, was asked for. As
    /// [`subscribe`](Self::subscribe). `Closed` if the transport is closed meanwhile. That too few have the
    /// write is no error: look at [`AppliedBy::is_enough`].
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    pub async fn applied_by(
        &self,
        token: impl Into<Token> + Send,
        replicas: usize,
        limit: Duration,
    ) -> Result<AppliedBy> {
        let begun = Instant::now();
        let invalid = |what| Err(Error::new(ErrorKind::InvalidInput, what));
        let Some(wanted) = NonZeroU64::new(replicas as u64) else {
            return invalid("no replica was asked for; ask for 1 or more");
        };
        if limit < Duration::from_millis(1) {
            return invalid("nobody answers in less than a millisecond; give a longer limit");
        }
        let mut subscription = self.0.transport.subscribe(self.0.topic.clone()).await?;
        let mut answers = Answers::new(self.0.lane.origin(), replicas);
        let position = token.into().position();
        let end = sleep_until(begun + limit.min(Duration::from_secs(86_400)));
        tokio::pin!(end);
        let mut again = interval(AGAIN);
        let mut asking = JoinSet::new();
        while !answers.are_enough() {
            tokio::select! {
                () = &mut end => break,
                _ = again.tick() => {
                    let left = limit.saturating_sub(begun.elapsed());
                    let request = answers.question(position, wanted, left.mul_f64(LACKING_AFTER));
                    asking.spawn(self.0.lane.ask(&request));
                }
                Some(Ok(Err(error))) = asking.join_next() => {
                    // The next one may be sent.
                    tracing::debug!(
                        messaging.system = self.0.system(),
                        messaging.destination.name = %self.0.topic,
                        %error,
                        "question not sent"
                    );
                }
                signal = subscription.next() => match signal {
                    Some(Signal::Message(message)) if message.kind() == Kind::Request => {
                        let request = Request::decode(message.payload());
                        answers.heard(message.origin(), request);
                    }
                    Some(_) => {}
                    None => return Err(Error::closed("the transport")),
                }
            }
        }
        Ok(answers.into_result())
    }
}

/// What was answered to one question.
struct Answers {
    asker: Origin,
    question: NonZeroU64,
    wanted: usize,
    replicas: BTreeMap<ReplicaId, bool>,
    applied: usize,
}

impl Answers {
    fn new(asker: Origin, wanted: usize) -> Self {
        let question = NonZeroU64::new(fastrand::u64(1..)).unwrap_or(NonZeroU64::MIN);
        Self { asker, question, wanted, replicas: BTreeMap::new(), applied: 0 }
    }

    fn question(&self, position: Position, wanted: NonZeroU64, limit: Duration) -> Request {
        // Whole milliseconds, and never none.
        let limit = limit.max(Duration::from_millis(1));
        Request::WhoHas { position, question: self.question, wanted, limit }
    }

    fn heard(&mut self, origin: Option<Origin>, request: Option<Request>) {
        let (Some(origin), Some(Request::Has { asker, question, is_applied, name })) =
            (origin, request)
        else {
            return;
        };
        if (asker, question) != (self.asker, self.question) || self.replicas.len() >= MOST_REPLICAS
        {
            return;
        }
        let has = self.replicas.entry(ReplicaId { origin, name }).or_default();
        self.applied += usize::from(is_applied && !*has);
        *has |= is_applied;
    }

    fn are_enough(&self) -> bool {
        self.applied >= self.wanted
    }

    fn into_result(self) -> AppliedBy {
        let (applied, lacking): (Vec<_>, Vec<_>) =
            self.replicas.into_iter().partition(|(_, has)| *has);
        let ids =
            |replicas: Vec<(ReplicaId, bool)>| replicas.into_iter().map(|(id, _)| id).collect();
        AppliedBy { wanted: self.wanted, applied: ids(applied), lacking: ids(lacking) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(number: u64) -> Origin {
        Origin::from_u64(number).expect("not zero")
    }

    #[test]
    fn each_replica_counts_once_and_answers_to_others_do_not() {
        let mut answers = Answers::new(origin(1), 2);
        let question = answers.question;
        let has = |asker, question, is_applied, name: &str| {
            let name = (!name.is_empty()).then(|| name.into());
            Some(Request::Has { asker: origin(asker), question, is_applied, name })
        };
        answers.heard(Some(origin(7)), has(1, question, false, ""));
        answers.heard(Some(origin(7)), has(1, question, true, ""));
        answers.heard(Some(origin(7)), has(1, question, true, ""));
        // A late answer takes nothing back.
        answers.heard(Some(origin(7)), has(1, question, false, ""));
        answers.heard(Some(origin(8)), has(2, question, true, ""));
        let other = NonZeroU64::new(question.get() ^ 1).unwrap_or(NonZeroU64::MAX);
        answers.heard(Some(origin(8)), has(1, other, true, ""));
        answers.heard(None, has(1, question, true, ""));
        answers.heard(Some(origin(9)), has(1, question, false, "api"));
        answers.heard(Some(origin(9)), None);
        assert!(!answers.are_enough());
        answers.heard(Some(origin(7)), has(1, question, true, "api"));
        assert!(answers.are_enough());
        let asked = answers.into_result();
        assert!(asked.is_enough());
        let shown = |ids: &[ReplicaId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&asked.applied), ["0000000000000007", "api (0000000000000007)"]);
        assert_eq!(shown(&asked.lacking), ["api (0000000000000009)"]);
    }
}
