//! `hydratecache publish`, `remove`, `clear` and `touch`: one message from arguments, or many from
//! the lines of a file or of standard input.

mod orders;
mod progress;

use std::fmt;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::error::ErrorKind as UsageError;
use futures::future::{BoxFuture, maybe_done, ready};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use hydratecache::channel::ChannelBuilder;
use hydratecache::codec::Codec;
use hydratecache::{
    Channel, ContentType, Error, ErrorKind, Key, Publish, Receipt, Token, Ttl, VersionDomain,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};

use crate::lines::Input;
use crate::output;
use crate::text::escaped;
use crate::transport::{Purpose, Way, failure, usage};
use crate::ttl::duration;
pub(crate) use orders::Encoding;
use orders::Shape;
use progress::Progress;

/// So many messages are under way at once: enough for a round trip to carry full batches.
const WINDOW: usize = 1024;
/// So many bytes of payload are.
const WINDOW_BYTES: usize = 32 << 20;
/// So many complaints are shown one by one; the rest is counted.
const COMPLAINTS: u64 = 20;
/// How long the transport may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Where to publish, and how to say what became of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    #[command(flatten)]
    way: Way,
    /// Print the outcome as one JSON object
    #[arg(long, env = "HYDRATECACHE_JSON")]
    json: bool,
    /// The version of the write, a number that grows with every write of the key: for channels whose
    /// caller gives versions (default: the clock gives them)
    #[arg(long, env = "HYDRATECACHE_PUBLISH_VERSION", value_name = "NUMBER")]
    version: Option<u64>,
}

/// Where lines are read from.
#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// Read lines from this file, each a JSON object with "key" and, as they apply, "value", "ttl"
    /// and "version"; - is standard input
    #[arg(long, env = "HYDRATECACHE_PUBLISH_FROM", value_name = "FILE")]
    from: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PublishArguments {
    /// The topic to publish on
    topic: String,
    /// The key of one value
    #[arg(requires = "value")]
    key: Option<String>,
    /// The value, as JSON; text stands in quotes, and a floating-point number has a point (1.0)
    value: Option<String>,
    #[command(flatten)]
    from: From,
    /// How long the value may live, as 500ms, 90s, 30m, 12h or 7d (default: for ever)
    #[arg(long, env = "HYDRATECACHE_PUBLISH_TTL", value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// What the payload is: what channels read by default, or what those with the JSON codec read
    #[arg(long, env = "HYDRATECACHE_PUBLISH_CODEC", value_enum, default_value = "cbor")]
    codec: Encoding,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArguments {
    /// The topic to publish on
    topic: String,
    /// The key that has no value any more
    key: Option<String>,
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClearArguments {
    /// The topic that has no value any more
    topic: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TouchArguments {
    /// The topic to publish on
    topic: String,
    /// The key of the value
    key: Option<String>,
    #[command(flatten)]
    from: From,
    /// How long the value may live from now on, as 500ms, 90s, 30m, 12h or 7d; lines may give their own
    #[arg(long, env = "HYDRATECACHE_PUBLISH_TTL", value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    target: Target,
}

/// One write.
#[derive(Debug)]
pub(crate) struct Operation {
    what: What,
    version: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Put { key: String, payload: Bytes, ttl: Option<Ttl> },
    Remove { key: String },
    Clear,
    Touch { key: String, ttl: Ttl },
}

impl What {
    fn key(&self) -> Option<&str> {
        match self {
            Self::Put { key, .. } | Self::Remove { key } | Self::Touch { key, .. } => Some(key),
            Self::Clear => None,
        }
    }
}

impl Operation {
    fn payload_bytes(&self) -> usize {
        match &self.what {
            What::Put { payload, .. } => payload.len(),
            _ => 0,
        }
    }
}

/// A line that was read, or what is wrong with it.
#[derive(Debug)]
struct Order {
    /// From 1; none for what arguments say.
    line: Option<u64>,
    /// Where the line ends in its input.
    end_bytes: u64,
    operation: Result<Operation, String>,
}

pub(crate) async fn publish(arguments: PublishArguments) -> anyhow::Result<ExitCode> {
    let PublishArguments { topic, key, value, from, ttl, codec, target } = arguments;
    let shape = Shape::Put { encoding: codec, ttl };
    let one = key.zip(value).map(|(key, value)| {
        shape.put(key, &value, None).map_err(|what| format!("the value cannot be used: {what}"))
    });
    run(&topic, one, from, shape, target).await
}

pub(crate) async fn remove(arguments: RemoveArguments) -> anyhow::Result<ExitCode> {
    let RemoveArguments { topic, key, from, target } = arguments;
    let one = key.map(|key| Ok(What::Remove { key }));
    run(&topic, one, from, Shape::Remove, target).await
}

pub(crate) async fn clear(arguments: ClearArguments) -> anyhow::Result<ExitCode> {
    let ClearArguments { topic, target } = arguments;
    run(&topic, Some(Ok(What::Clear)), From { from: None }, Shape::Remove, target).await
}

pub(crate) async fn touch(arguments: TouchArguments) -> anyhow::Result<ExitCode> {
    let TouchArguments { topic, key, from, ttl, target } = arguments;
    let shape = Shape::Touch { ttl };
    let one = key.map(|key| shape.touch(key, None));
    run(&topic, one, from, shape, target).await
}

/// Publishes the one write of the arguments, or what the lines say.
async fn run(
    topic: &str,
    one: Option<Result<What, String>>,
    From { from }: From,
    shape: Shape,
    target: Target,
) -> anyhow::Result<ExitCode> {
    let (input, orders) = match (one, from) {
        (Some(_), Some(_)) => {
            let what = "--from reads keys from lines; leave it or the key out";
            return Err(usage(UsageError::ArgumentConflict, what));
        }
        (None, None) => {
            let what =
                "there is nothing to publish; give a key, or --from FILE (- is standard input)";
            return Err(usage(UsageError::MissingRequiredArgument, what));
        }
        (Some(what), None) => {
            let what = what.map_err(|what| usage(UsageError::ValueValidation, &what))?;
            if let Some(key) = what.key() {
                Key::new(key).map_err(failure)?;
            }
            let operation = Operation { what, version: target.version };
            let order = Order { line: None, end_bytes: 0, operation: Ok(operation) };
            (None, Orders::One(Some(order)))
        }
        (None, Some(path)) => {
            let input =
                Input::open(&path).map_err(|what| usage(UsageError::ValueValidation, &what))?;
            (Some(input), Orders::None)
        }
    };
    hydratecache::Topic::new(topic).map_err(failure)?;
    let transport = tokio::select! {
        connected = target.way.connect(Purpose::Publish) => connected?,
        () = crate::interruption() => return Ok(ExitCode::from(130)),
    };
    let size_bytes = input.as_ref().and_then(Input::size_bytes);
    let mut orders = match input {
        Some(input) => Orders::Lines(orders::read(input.lines(), shape, target.version)),
        None => orders,
    };
    let first = orders.until_write().await;
    // All versions of a channel are of one domain: the first write says which.
    let is_callers = match first.last().map(|order| &order.operation) {
        Some(Ok(operation)) => operation.version.is_some(),
        _ => target.version.is_some(),
    };
    let domain = if is_callers { VersionDomain::Caller } else { VersionDomain::Clock };
    let codec = Ready(shape.content_type());
    let builder: ChannelBuilder<Bytes> =
        Channel::builder_with_codec(transport.clone(), topic, codec);
    let channel = builder.with_versions(domain).build().map_err(failure)?;
    let mut publishing = Publishing::new(channel, Progress::new(size_bytes));
    publishing.run(first, orders).await;
    let _ = timeout(CLOSE_LIMIT, transport.close()).await;
    publishing.finish(target.json)
}

/// Where orders come from.
enum Orders {
    None,
    One(Option<Order>),
    Lines(mpsc::Receiver<Order>),
}

impl Orders {
    async fn next(&mut self) -> Option<Order> {
        match self {
            Self::None => None,
            Self::One(order) => order.take(),
            Self::Lines(lines) => lines.recv().await,
        }
    }

    /// Those up to the first write, or some that are none.
    async fn until_write(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        while orders.len() < WINDOW
            && let Some(order) = self.next().await
        {
            let is_write = order.operation.is_ok();
            orders.push(order);
            if is_write {
                break;
            }
        }
        orders
    }
}

/// Payloads that are encoded already.
struct Ready(Option<ContentType>);

impl Codec<Bytes> for Ready {
    fn encode(&self, payload: &Bytes) -> hydratecache::Result<Bytes> {
        Ok(payload.clone())
    }

    fn decode(&self, payload: &Bytes) -> hydratecache::Result<Bytes> {
        Ok(payload.clone())
    }

    fn content_type(&self) -> Option<ContentType> {
        self.0.clone()
    }
}

/// Why no more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All was.
    Read,
    /// The broker does not take more.
    Failed,
    Interrupted,
}

/// The writes under way, and what became of the others.
struct Publishing {
    channel: Channel<Bytes>,
    progress: Progress,
    /// Of each one that is under way: its payload's bytes.
    under_way_bytes: usize,
    published: u64,
    /// Not published, because they cannot be.
    refused: u64,
    /// Not published, or nobody knows, because of the broker.
    failed: u64,
    complaints: u64,
    last_line: Option<u64>,
    receipt: Option<Receipt>,
    end: End,
    began: Instant,
}

/// What became of one write.
struct Outcome {
    line: Option<u64>,
    payload_bytes: usize,
    answer: Result<Receipt, Refusal>,
}

/// Why something was not published.
enum Refusal {
    /// The line says no write.
    Line(String),
    Write(Error),
}

impl Publishing {
    fn new(channel: Channel<Bytes>, progress: Progress) -> Self {
        Self {
            channel,
            progress,
            under_way_bytes: 0,
            published: 0,
            refused: 0,
            failed: 0,
            complaints: 0,
            last_line: None,
            receipt: None,
            end: End::Read,
            began: Instant::now(),
        }
    }

    /// Publishes in order until there is nothing more, the broker fails, or Ctrl-C, and waits for
    /// every answer.
    async fn run(&mut self, first: Vec<Order>, mut orders: Orders) {
        let mut next = None;
        let mut is_reading = true;
        let mut under_way = FuturesOrdered::new();
        for order in first {
            self.begin(order, &mut under_way).await;
        }
        let mut looks = interval(Duration::from_millis(200));
        let mut interruption = pin!(crate::interruption().fuse());
        loop {
            if let Some(order) = next.take() {
                self.begin(order, &mut under_way).await;
            }
            is_reading &= self.end == End::Read;
            if !is_reading && under_way.is_empty() {
                return self.progress.finish();
            }
            let has_room = under_way.len() < WINDOW && self.under_way_bytes < WINDOW_BYTES;
            tokio::select! {
                biased;
                () = &mut interruption, if self.end == End::Read => self.end = End::Interrupted,
                Some(outcome) = under_way.next(), if !under_way.is_empty() => self.ended(outcome),
                _ = looks.tick() => self.progress.show(self.published, self.refused),
                order = orders.next(), if is_reading && has_room => match order {
                    Some(order) => next = Some(order),
                    None => is_reading = false,
                },
            }
        }
    }

    /// Begins a write, behind those that began before.
    async fn begin(&mut self, order: Order, under_way: &mut UnderWay) {
        let Order { line, end_bytes, operation } = order;
        self.last_line = line.or(self.last_line);
        self.progress.has_read(end_bytes);
        let operation = match operation {
            Ok(operation) => operation,
            // In its place among the writes, so that lines are named in order.
            Err(what) => {
                let answer = Err(Refusal::Line(what));
                let outcome = Outcome { line, payload_bytes: 0, answer };
                return under_way.push_back(ready(outcome).boxed());
            }
        };
        let payload_bytes = operation.payload_bytes();
        self.under_way_bytes += payload_bytes;
        let mut publish = maybe_done(self.write(operation));
        // The first poll is what puts it in its place among the others.
        let _ = futures::poll!(&mut publish);
        let outcome = async move {
            (&mut publish).await;
            let answer = Pin::new(&mut publish).take_output();
            let answer = answer.expect("it was awaited, and its output is taken once");
            Outcome { line, payload_bytes, answer: answer.map_err(Refusal::Write) }
        };
        under_way.push_back(outcome.boxed());
    }

    fn write(&self, operation: Operation) -> Publish {
        let write = match operation.what {
            What::Put { key, payload, ttl } => {
                let write = self.channel.put(key, &payload);
                match ttl {
                    Some(ttl) => write.ttl(ttl),
                    None => write,
                }
            }
            What::Remove { key } => self.channel.remove(key),
            What::Clear => self.channel.clear(),
            What::Touch { key, ttl } => self.channel.touch(key, ttl),
        };
        let write = match operation.version {
            Some(version) => write.version(version),
            None => write,
        };
        write.into_future()
    }

    fn ended(&mut self, outcome: Outcome) {
        let Outcome { line, payload_bytes, answer } = outcome;
        self.under_way_bytes -= payload_bytes;
        match answer {
            Ok(receipt) => {
                self.published += 1;
                self.receipt = Some(receipt);
            }
            Err(Refusal::Line(what)) => {
                self.refused += 1;
                self.complain(line, &what);
            }
            Err(Refusal::Write(error)) => {
                if is_of_the_write(error.kind()) {
                    self.refused += 1;
                } else {
                    self.failed += 1;
                    // The rest would fare no better, and would take its time limit to say so.
                    if self.end == End::Read {
                        self.end = End::Failed;
                    }
                }
                self.complain(line, &error.to_string());
            }
        }
    }

    fn complain(&mut self, line: Option<u64>, what: &str) {
        self.complaints += 1;
        if self.complaints <= COMPLAINTS {
            let what = &escaped(what);
            self.progress.aside(|| match line {
                Some(line) => eprintln!("line {line}: {what}"),
                None => eprintln!("error: {what}"),
            });
        }
    }

    fn finish(&self, is_json: bool) -> anyhow::Result<ExitCode> {
        if self.complaints > COMPLAINTS {
            eprintln!("and {} more lines like these", self.complaints - COMPLAINTS);
        }
        if let (End::Failed | End::Interrupted, Some(line)) = (self.end, self.last_line) {
            eprintln!("stopped: nothing behind line {line} was published");
        }
        let summary = if is_json { self.json() } else { self.to_string() };
        output::write(format!("{summary}\n").as_bytes())?;
        Ok(ExitCode::from(match self.end {
            End::Interrupted => 130,
            _ if self.failed > 0 => 3,
            _ if self.refused > 0 => 1,
            _ => 0,
        }))
    }

    fn json(&self) -> String {
        let token = self.receipt.map(|receipt| Token::from(receipt).to_string());
        serde_json::json!({
            "published": self.published,
            "refused": self.refused,
            "failed": self.failed,
            "is_interrupted": self.end == End::Interrupted,
            "seconds": self.began.elapsed().as_secs_f64(),
            "last_token": token,
        })
        .to_string()
    }
}

impl fmt::Display for Publishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} published", self.published)?;
        if self.refused > 0 {
            write!(f, ", {} refused", self.refused)?;
        }
        if self.failed > 0 {
            write!(f, ", {} failed", self.failed)?;
        }
        if let Some(receipt) = self.receipt {
            write!(f, "; the last one's token is {}", Token::from(receipt))?;
        }
        Ok(())
    }
}

type UnderWay = FuturesOrdered<BoxFuture<'static, Outcome>>;

/// Whether the write itself cannot be published; others can.
fn is_of_the_write(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidKey
            | ErrorKind::InvalidTtl
            | ErrorKind::InvalidVersion
            | ErrorKind::PayloadTooLarge
            | ErrorKind::Encode
    )
}
