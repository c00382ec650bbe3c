//! `hydratecache tail`: follows topics and shows all that arrives, losses included.

mod counts;
mod line;

use std::num::NonZeroU64;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::future::maybe_done;
use futures::{FutureExt, Stream, StreamExt};
use hydratecache::{Key, Kind, Message, Signal, Subscription, Topic, Transport};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::output::{self, Reader};
use crate::transport::{Purpose, Way, failure};
use counts::Counts;
use line::{Event, Format, Shown};

/// So many signals are shown between two looks at the clock and at Ctrl-C, and written at once.
const ROUND: usize = 256;
/// How long the output may take what is left after Ctrl-C, before it is given up.
const OUTPUT_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Arguments {
    /// What to follow
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    #[command(flatten)]
    way: Way,
    /// Show only keys that begin with this (a clear has no key, and is shown)
    #[arg(long, env = "HYDRATECACHE_TAIL_KEY_PREFIX", value_name = "PREFIX", default_value = "")]
    key_prefix: String,
    /// End after so many messages that were shown
    #[arg(long, env = "HYDRATECACHE_TAIL_COUNT", value_name = "N")]
    count: Option<NonZeroU64>,
    /// One JSON object a line
    #[arg(long, env = "HYDRATECACHE_JSON")]
    json: bool,
    /// Whole payloads (default: the first 200 characters of a line, 64 KiB of an object)
    #[arg(long, env = "HYDRATECACHE_TAIL_FULL", conflicts_with = "counts")]
    full: bool,
    /// Show only how many messages came, once a second, and gaps and disruptions
    #[arg(long, env = "HYDRATECACHE_TAIL_COUNTS")]
    counts: bool,
    /// Show requests too, which replicas send to one another and which write nothing
    #[arg(long, env = "HYDRATECACHE_TAIL_REQUESTS")]
    requests: bool,
    /// Begin with what the broker still keeps (Kafka)
    #[arg(long, env = "HYDRATECACHE_TAIL_FROM_BEGINNING", hide = !cfg!(feature = "kafka"))]
    from_beginning: bool,
}

/// Follows until `--count` is reached, the output is closed, or Ctrl-C.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let mut interruption = Box::pin(maybe_done(crate::interruption()));
    // From here on it is heard, whenever the task below gets its turn.
    let _ = futures::poll!(&mut interruption);
    let interrupted = AbortOnDropHandle::new(tokio::spawn({
        let stop = stop.clone();
        async move {
            interruption.await;
            stop.cancel();
        }
    }));
    let topics = arguments.topics.iter().map(Topic::new).collect::<Result<Vec<_>, _>>();
    let topics = topics.map_err(failure)?;
    let purpose =
        if arguments.from_beginning { Purpose::FollowFromBeginning } else { Purpose::Follow };
    let is_json = arguments.json;
    let opening = open(&arguments, topics, purpose);
    let opened = tokio::select! {
        opened = opening => opened?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    let (transport, followed) = opened;
    let tail = Tail::new(&arguments, followed);
    // A task of its own: an output that takes nothing must not keep Ctrl-C from being heard.
    let mut following = AbortOnDropHandle::new(tokio::spawn(tail.follow(stop.clone())));
    let ended = tokio::select! {
        ended = &mut following => Some(ended),
        () = async { stop.cancelled().await; tokio::time::sleep(OUTPUT_LIMIT).await } => None,
    };
    drop(interrupted);
    let Some(ended) = ended else {
        eprintln!("interrupted; the output took nothing more, so not all was shown");
        // A thread may be stuck in a write for ever.
        std::process::exit(130);
    };
    let counts = ended??;
    // It would wait for the brokers up to 2 s; whatever is left goes with the process.
    let _ = timeout(OUTPUT_LIMIT, transport.close()).await;
    if is_json {
        // Behind the last object, so that whoever reads them finds it.
        write_all(counts.json().as_bytes()).map(drop)?;
    }
    eprintln!("{counts}");
    Ok(ExitCode::SUCCESS)
}

async fn open(
    arguments: &Arguments,
    topics: Vec<Topic>,
    purpose: Purpose,
) -> anyhow::Result<(Arc<dyn Transport>, Vec<Followed>)> {
    let transport = arguments.way.connect(purpose).await?;
    let subscribing = topics.into_iter().map(|topic| {
        let transport = transport.clone();
        async move {
            let subscription = transport.subscribe(topic.clone()).await.map_err(failure)?;
            Ok::<_, anyhow::Error>(Followed { topic, subscription })
        }
    });
    let followed = futures::future::try_join_all(subscribing).await?;
    for Followed { topic, .. } in &followed {
        eprintln!("following {topic}; Ctrl-C ends it");
    }
    Ok((transport, followed))
}

/// One topic and its subscription.
struct Followed {
    topic: Topic,
    subscription: Subscription,
}

/// The signals of all topics, taking turns.
struct Signals {
    followed: Vec<Followed>,
    /// Whose turn is next.
    turn: usize,
}

impl Stream for Signals {
    /// Which topic, and what it yielded.
    type Item = (usize, Signal);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let count = self.followed.len();
        for index in (self.turn..self.turn + count).map(|index| index % count) {
            match self.followed[index].subscription.poll_next_unpin(cx) {
                Poll::Ready(Some(signal)) => {
                    self.turn = index + 1;
                    return Poll::Ready(Some((index, signal)));
                }
                // A transport ends all its streams together.
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => (),
            }
        }
        Poll::Pending
    }
}

/// What is followed, how it is shown and what was seen.
struct Tail {
    signals: Signals,
    key_prefix: String,
    left: Option<u64>,
    requests: bool,
    form: Form,
    counts: Counts,
    /// What is not yet written.
    output: String,
}

/// What is shown of messages.
enum Form {
    Lines(Format),
    Counts { is_json: bool },
}

/// Why following goes on or ends.
#[derive(PartialEq, Eq)]
enum Next {
    Follow,
    End,
}

impl Tail {
    fn new(arguments: &Arguments, followed: Vec<Followed>) -> Self {
        let most = match (arguments.full, arguments.json) {
            (true, _) => usize::MAX,
            (false, true) => 64 << 10,
            (false, false) => 200,
        };
        let form = if arguments.counts {
            Form::Counts { is_json: arguments.json }
        } else {
            Form::Lines(Format {
                is_json: arguments.json,
                shows_topic: arguments.json || followed.len() > 1,
                payload_bytes: most,
            })
        };
        Self {
            signals: Signals { followed, turn: 0 },
            key_prefix: arguments.key_prefix.clone(),
            left: arguments.count.map(NonZeroU64::get),
            requests: arguments.requests,
            form,
            counts: Counts::new(Instant::now()),
            output: String::new(),
        }
    }

    async fn follow(mut self, stop: CancellationToken) -> anyhow::Result<Counts> {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            if self.round() == Next::End || self.write()? == Next::End {
                self.write()?;
                return Ok(self.counts);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(self.counts),
                now = ticks.tick() => self.second(now),
                next = self.signals.next() => match next {
                    Some((topic, signal)) => if self.take(topic, &signal) == Next::End {
                        self.write()?;
                        return Ok(self.counts);
                    },
                    None => anyhow::bail!("the transport was closed"),
                },
            }
        }
    }

    /// Takes what is there already, up to a limit.
    fn round(&mut self) -> Next {
        for _ in 0..ROUND {
            // An end is met once more, where it is waited for.
            let Some(Some((topic, signal))) = self.signals.next().now_or_never() else {
                break;
            };
            if self.take(topic, &signal) == Next::End {
                return Next::End;
            }
        }
        Next::Follow
    }

    fn take(&mut self, topic: usize, signal: &Signal) -> Next {
        self.counts.saw(signal);
        let event = match signal {
            Signal::Message(message) | Signal::Late(message) if !self.wants(message) => {
                return Next::Follow;
            }
            Signal::Message(message) => Event::Message { message, is_late: false },
            Signal::Late(message) => Event::Message { message, is_late: true },
            Signal::Gap(gap) => Event::Gap(*gap),
            Signal::Disrupted(why) => Event::Disrupted(why),
            Signal::Live => Event::Live,
            Signal::Rejected(rejection) => Event::Rejected(rejection),
            // Fences, and publishers that said how far they are.
            _ => return Next::Follow,
        };
        let is_message = matches!(event, Event::Message { .. });
        if is_message {
            self.counts.shown += 1;
        }
        self.show(topic, &event);
        match &mut self.left {
            Some(left) if is_message => {
                *left -= 1;
                if *left == 0 { Next::End } else { Next::Follow }
            }
            _ => Next::Follow,
        }
    }

    fn wants(&self, message: &Message) -> bool {
        let is_request = message.kind() == Kind::Request;
        let key = message.key().map(Key::as_str);
        (self.requests || !is_request) && key.is_none_or(|key| key.starts_with(&self.key_prefix))
    }

    fn show(&mut self, topic: usize, event: &Event<'_>) {
        let topic = &self.signals.followed[topic].topic;
        let shown = Shown { topic, event, at: SystemTime::now() };
        match &self.form {
            Form::Lines(format) => format.line(&mut self.output, &shown),
            Form::Counts { .. } if matches!(event, Event::Message { .. }) => (),
            Form::Counts { is_json } => {
                Format { is_json: *is_json, shows_topic: true, payload_bytes: 0 }
                    .line(&mut self.output, &shown);
            }
        }
    }

    /// A second is over.
    fn second(&mut self, now: Instant) {
        if let Form::Counts { is_json } = self.form {
            self.counts.second(&mut self.output, now, is_json);
        }
    }

    fn write(&mut self) -> anyhow::Result<Next> {
        if self.output.is_empty() {
            return Ok(Next::Follow);
        }
        let written = tokio::task::block_in_place(|| write_all(self.output.as_bytes()));
        self.output.clear();
        // One long payload must not hold its memory for ever.
        self.output.shrink_to(1 << 20);
        written
    }
}

/// Writes to the output; [`Next::End`] if nobody reads it any more.
fn write_all(bytes: &[u8]) -> anyhow::Result<Next> {
    Ok(match output::write(bytes)? {
        Reader::Reads => Next::Follow,
        Reader::Gone => Next::End,
    })
}
