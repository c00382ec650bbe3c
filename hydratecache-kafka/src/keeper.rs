//! The task that watches over the link: asks for signs of life, which are fences, tells readers when
//! the link is lost and when it is back, and looks for new partitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use hydratecache::{Error, Fence, Result};
use rdkafka::consumer::Consumer;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::blocking::{OffRuntime, blocking};
use crate::config::KafkaConfig;
use crate::context::CutOff;
use crate::error::Attempt;
use crate::opener::Opener;
use crate::publisher::Publisher;
use crate::reader::{AskingForFence, Command, Consuming, Inbox, Watched};
use crate::surveyor::{Ends, SIGN_OF_LIFE, Surveyor};
use crate::topic_name::kafka_name;

/// What the task works with.
pub(crate) struct Keeper {
    pub(crate) surveyor: Arc<OffRuntime<Surveyor>>,
    pub(crate) opener: Arc<Opener>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) consumer: Consuming,
    pub(crate) cut_off: CutOff,
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
    settling: Option<BoxFuture<'static, ()>>,
    /// When clients are looked after.
    check_at: Option<Instant>,
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
            settling: None,
            check_at: None,
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
            let (lookup_at, check_at) = (state.lookup_at, state.check_at);
            let surveyed = OptionFuture::from(state.survey.as_mut().map(|it| &mut it.ends));
            let looked_up = OptionFuture::from(state.lookup.as_mut());
            let settled = OptionFuture::from(state.settling.as_mut());
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
                Some(()) = settled => state.settling = None,
                () = self.cut_off.noted() => {
                    state.check_at.get_or_insert_with(|| Instant::now() + CHECK_INTERVAL);
                }
                () = sleep_until(check_at.unwrap_or(lookup_at)), if check_at.is_some() => {
                    self.check(state);
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
                if state.settling.is_none() && self.cut_off.take() {
                    state.settling = Some(self.settle());
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
                state.check_at.get_or_insert_with(|| Instant::now() + CHECK_INTERVAL);
                tracing::warn!(messaging.system = "kafka", %why, "link lost");
                state.link = Link::Down(backoff(), Instant::now());
            }
            Link::Down(pauses, retry_at) => {
                let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                *retry_at = Instant::now() + pause;
            }
        }
    }

    /// Replaces clients that are stranded: see [`Context::is_stranded`](crate::context::Context::is_stranded).
    fn check(&self, state: &mut State) {
        self.opener.renew();
        self.inbox.tell(Command::Renew);
        if self.surveyor.renew()
            && let Some(survey) = state.survey.take()
        {
            // It waits for an answer that does not come.
            state.waiting.extend(survey.waiting);
            if let Link::Down(_, retry_at) = &mut state.link {
                *retry_at = Instant::now();
            }
        }
        let is_up = matches!(state.link, Link::Up);
        state.check_at = (!is_up).then(|| Instant::now() + CHECK_INTERVAL);
    }

    /// Lets every client ask which brokers there are: see [`CutOff`].
    fn settle(&self) -> BoxFuture<'static, ()> {
        let (surveyor, consumer) = (self.surveyor.clone(), self.consumer.clone());
        let (producer, published) = (self.opener.producer().get(), self.publisher.any_topic());
        let ask = move || {
            surveyor.sign_of_life(Attempt::Fence, SETTLING_LIMIT)?;
            if let Some(consumer) = consumer.get() {
                surveyor.let_ask(consumer.client(), SIGN_OF_LIFE, SETTLING_LIMIT)?;
            }
            // This client's questions may make a topic, so it asks for one that it publishes to.
            if let (Ok(producer), Some(topic)) = (producer, published) {
                surveyor.let_ask(producer.client(), &kafka_name(&topic), SETTLING_LIMIT)?;
            }
            Ok(())
        };
        let cut_off = self.cut_off.clone();
        let settle = async move {
            sleep(SETTLING_PAUSE).await;
            if let Err(error) = blocking(ask).await {
                cut_off.note();
                tracing::debug!(messaging.system = "kafka", %error, "not told which brokers there are");
            }
        };
        settle.boxed()
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

/// How often clients are looked after while something is wrong.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Brokers that have just come back may name none for a moment, and a client would forget them all.
const SETTLING_PAUSE: Duration = Duration::from_secs(1);

/// How long each client may wait for the answer. It asks again after the next survey.
const SETTLING_LIMIT: Duration = Duration::from_secs(1);

/// Jitter adds up to as much again.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
