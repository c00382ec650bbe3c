//! The task that watches over the link: asks for signs of life, which are fences, tells readers when
//! the link is lost and when it is back, and looks for new partitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use hydratecache::{Error, Fence, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::blocking::{OffRuntime, blocking};
use crate::config::KafkaConfig;
use crate::error::Attempt;
use crate::opener::Opener;
use crate::publisher::Publisher;
use crate::reader::{AskingForFence, Command, Inbox, Watched};
use crate::surveyor::{Ends, Surveyor};
use crate::topic_name::kafka_name;

/// What the task works with.
pub(crate) struct Keeper {
    pub(crate) surveyor: Arc<OffRuntime<Surveyor>>,
    pub(crate) opener: Arc<Opener>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) inbox: Inbox,
    pub(crate) watched: Watched,
    pub(crate) requests: mpsc::UnboundedReceiver<AskingForFence>,
    pub(crate) troubles: mpsc::UnboundedReceiver<Error>,
    pub(crate) closing: CancellationToken,
}

/// When the task acts by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    ping_interval: Duration,
    ping_limit: Duration,
    lookup_interval: Duration,
}

impl From<&KafkaConfig> for Rhythm {
    fn from(config: &KafkaConfig) -> Self {
        let KafkaConfig { ping_interval, ping_limit, lookup_interval, .. } = *config;
        Self { ping_interval, ping_limit, lookup_interval }
    }
}

/// A survey under way.
struct Survey {
    fence: Fence,
    waiting: Vec<AskingForFence>,
    ends: BoxFuture<'static, Result<Vec<Ends>>>,
    /// The link failed after the survey began: it proves nothing about the link.
    is_overtaken: bool,
}

/// Whether the brokers can be reached, as far as is known.
enum Link {
    Up,
    /// With the pauses between attempts, and the end of this one.
    Down(ExponentialBackoff, Instant),
}

struct State {
    rhythm: Rhythm,
    link: Link,
    fences: u64,
    waiting: Vec<AskingForFence>,
    survey: Option<Survey>,
    lookup: Option<BoxFuture<'static, ()>>,
    ping_at: Instant,
    lookup_at: Instant,
}

impl Keeper {
    pub(crate) async fn run(mut self, rhythm: Rhythm) {
        let now = Instant::now();
        let mut state = State {
            rhythm,
            link: Link::Up,
            fences: 0,
            waiting: Vec::new(),
            survey: None,
            lookup: None,
            ping_at: now + rhythm.ping_interval,
            lookup_at: now + rhythm.lookup_interval,
        };
        let closing = self.closing.clone();
        tokio::select! {
            biased;
            () = closing.cancelled() => {}
            () = self.keep(&mut state) => {}
        }
    }

    async fn keep(&mut self, state: &mut State) {
        loop {
            if state.survey.is_none() && state.is_survey_due() {
                state.survey = Some(self.survey(state));
            }
            let next = state.next_survey_at();
            let (is_surveying, is_looking_up) = (state.survey.is_some(), state.lookup.is_some());
            let lookup_at = state.lookup_at;
            let surveyed = OptionFuture::from(state.survey.as_mut().map(|it| &mut it.ends));
            let looked_up = OptionFuture::from(state.lookup.as_mut());
            tokio::select! {
                biased;
                trouble = self.troubles.recv() => match trouble {
                    Some(why) => self.down(state, &why),
                    None => return,
                },
                request = self.requests.recv() => match request {
                    Some(request) => state.waiting.push(request),
                    None => return,
                },
                Some(ends) = surveyed => self.surveyed(state, ends),
                Some(()) = looked_up => {
                    state.lookup = None;
                    state.lookup_at = Instant::now() + state.rhythm.lookup_interval;
                }
                () = sleep_until(lookup_at), if !is_looking_up => {
                    state.lookup = Some(self.look_up(state.rhythm.ping_limit));
                }
                () = sleep_until(next), if !is_surveying => {}
            }
        }
    }

    fn survey(&self, state: &mut State) -> Survey {
        state.fences += 1;
        state.waiting.retain(|reply| !reply.is_closed());
        let fence = Fence::new(state.fences, Instant::now());
        let (surveyor, topics) = (self.surveyor.clone(), self.watched.all());
        let limit = state.rhythm.ping_limit;
        let survey = move || surveyor.survey(Attempt::Fence, &topics, limit);
        let waiting = std::mem::take(&mut state.waiting);
        Survey { fence, waiting, ends: blocking(survey).boxed(), is_overtaken: false }
    }

    fn surveyed(&self, state: &mut State, ends: Result<Vec<Ends>>) {
        let Some(survey) = state.survey.take() else { return };
        state.ping_at = Instant::now() + state.rhythm.ping_interval;
        match ends {
            Ok(ends) => {
                if !survey.is_overtaken {
                    state.link = Link::Up;
                    self.inbox.tell(Command::Up);
                }
                let Survey { fence, waiting: asking, .. } = survey;
                self.inbox.tell(Command::Fence { fence, ends, asking });
            }
            Err(why) => {
                for reply in survey.waiting {
                    let _ = reply.send(Err(why.clone()));
                }
                self.down(state, &why);
            }
        }
    }

    fn down(&self, state: &mut State, why: &Error) {
        if let Some(survey) = &mut state.survey {
            survey.is_overtaken = true;
        }
        // Told each time: topics of which something arrived meanwhile took the link for up again.
        self.inbox.tell(Command::Down(why.clone()));
        match &mut state.link {
            Link::Up => {
                tracing::warn!(messaging.system = "kafka", %why, "link lost");
                state.link = Link::Down(backoff(), Instant::now());
            }
            Link::Down(pauses, retry_at) => {
                let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                *retry_at = Instant::now() + pause;
            }
        }
    }

    /// Looks for new partitions of what is read and of what is published to.
    fn look_up(&self, limit: Duration) -> BoxFuture<'static, ()> {
        let read: HashMap<String, _> =
            self.watched.all().into_iter().map(|it| (it.name, it.topic)).collect();
        let written: HashMap<String, _> =
            self.publisher.topics().into_iter().map(|topic| (kafka_name(&topic), topic)).collect();
        let mut names: Vec<String> = read.keys().chain(written.keys()).cloned().collect();
        names.sort_unstable();
        names.dedup();
        let surveyor = self.surveyor.clone();
        let (opener, publisher) = (self.opener.clone(), self.publisher.clone());
        let inbox = self.inbox.clone();
        let look_up = async move {
            let found = match blocking(move || surveyor.look_up(&names, limit)).await {
                Ok(found) => found,
                // The next one finds the same.
                Err(error) => {
                    return tracing::debug!(messaging.system = "kafka", %error, "no lookup");
                }
            };
            for (name, partitions) in found {
                if let Some(topic) = read.get(&name) {
                    inbox.tell(Command::Found(topic.clone(), partitions));
                }
                let Some(topic) = written.get(&name) else { continue };
                if publisher.has_fewer_partitions(topic, partitions) {
                    // The publishing client has to know them, too.
                    if let Ok(partitions) = opener.open(&name, Instant::now() + limit).await {
                        publisher.grow(topic, partitions);
                    }
                }
            }
        };
        look_up.boxed()
    }
}

impl State {
    fn is_survey_due(&self) -> bool {
        self.next_survey_at() <= Instant::now()
    }

    fn next_survey_at(&self) -> Instant {
        match &self.link {
            Link::Down(_, retry_at) => *retry_at,
            Link::Up if self.waiting.is_empty() => self.ping_at,
            Link::Up => Instant::now(),
        }
    }
}

/// The pauses between attempts to reach the brokers, without end: from 50 ms to half a second, so that
/// a restarted broker is noticed within a second, and with jitter, so that a fleet does not knock all
/// at once.
fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_PAUSE / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Jitter adds up to as much again.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
