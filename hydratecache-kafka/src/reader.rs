//! The thread that reads all topics: it owns the consumer, and distributes what it fetches.
//!
//! Every partition has a queue of its own, so that its errors and its end can be told from another's;
//! the client library tells neither in the queue that partitions share. The library's threads announce
//! a queue that is no longer empty in the inbox, where commands come in as well: whatever there is to
//! do is one input.

mod consuming;
mod copies;
mod fences;
mod inbox;
mod progress;
mod renewal;
mod route;
mod watched;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use hydratecache::fanout::Fanout;
use hydratecache::{Error, ErrorKind, Fence, Gap, Result, Topic};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::{mpsc as tokio_mpsc, oneshot};

use crate::config::{KafkaConfig, Start};
use crate::context::{Context, CutOff};
use crate::error::{Attempt, from_code, from_kafka, is_missing};
use crate::record::{Arrived, decode};
use crate::topic_name::kafka_name;
use consuming::consumer;
use fences::Fences;
use inbox::Input;
use route::{Lost, Route, Slot};

pub(crate) use consuming::Consuming;
pub(crate) use inbox::{Asking, AskingForFence, Command, Inbox};
pub(crate) use watched::Watched;

/// How many records of one partition are distributed before others get their turn.
const ROUND: usize = 512;

/// While a reader catches up, a partition waits this long before it looks for room again.
const HOLD: Duration = Duration::from_millis(1);

/// A reader that takes nothing for so long is not catching up: it gets its gap.
const LONGEST_HOLD: Duration = Duration::from_secs(2);

/// What the thread needs, and whom it tells.
pub(crate) struct Settings {
    client: ClientConfig,
    address: Arc<str>,
    queue_bytes: usize,
    max_payload_bytes: usize,
    start: Start,
}

/// The thread, which ends with this.
pub(crate) struct Reader {
    consumer: Consuming,
    inbox: Inbox,
    watched: Watched,
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// An error of a connection to the brokers.
pub(crate) type Troubles = tokio_mpsc::UnboundedSender<Error>;

impl Reader {
    /// Starts the thread.
    pub(crate) fn start(
        config: &KafkaConfig,
        cut_off: &CutOff,
        troubles: Troubles,
    ) -> Result<Self> {
        let failed = |error: KafkaError| from_kafka(Attempt::Connect, &config.address, &error);
        let context = Context::new(config.shows_debug(), cut_off);
        let (inbox, inputs) = Inbox::new();
        let client = config.reader();
        let consumer = Arc::new(consumer(&client, context, &inbox).map_err(failed)?);
        let (ends, ended) = oneshot::channel();
        let watched = Watched::default();
        let shared = Consuming::of(&consumer);
        let reading = Reading {
            settings: Settings {
                client,
                address: config.address.clone(),
                queue_bytes: config.queue_bytes,
                max_payload_bytes: config.max_payload_bytes,
                start: config.start,
            },
            consumer,
            shared: shared.clone(),
            inbox: inbox.clone(),
            watched: watched.clone(),
            troubles,
            routes: HashMap::new(),
            slots: HashMap::new(),
            fences: Fences::default(),
            is_waiting_for_connection: false,
            held: Vec::new(),
        };
        let run = move || {
            reading.run(&inputs);
            let _ = ends.send(());
        };
        let thread = Builder::new().name("hydratecache-kafka".into()).spawn(run);
        let thread = thread.map_err(|why| {
            let what = format!("the reading thread cannot be started: {why}");
            Error::new(ErrorKind::Unavailable, what)
        })?;
        Ok(Self {
            consumer: shared,
            inbox,
            watched,
            thread: Mutex::new(Some(thread)),
            ended: Mutex::new(Some(ended)),
        })
    }

    pub(crate) fn consumer(&self) -> Consuming {
        self.consumer.clone()
    }

    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Ends every subscription at once, and the thread. Waits until it has ended.
    pub(crate) async fn close(&self) {
        self.inbox.tell(Command::Close);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            let _ = ended.await;
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // It ends with its next step.
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.inbox.tell(Command::Close);
    }
}

/// What the thread holds.
struct Reading {
    settings: Settings,
    consumer: Arc<BaseConsumer<Context>>,
    shared: Consuming,
    inbox: Inbox,
    watched: Watched,
    troubles: Troubles,
    routes: HashMap<Topic, Route>,
    /// Which partition a queue belongs to.
    slots: HashMap<Slot, (Topic, usize)>,
    fences: Fences,
    /// The brokers answered, and this client has no connection to them yet.
    is_waiting_for_connection: bool,
    /// Partitions that wait for their topic's readers to catch up, and since when.
    held: Vec<(Slot, Instant)>,
}

/// One thing that a partition's queue held.
enum Read {
    Record(i64, Arrived),
    End(i64),
    Failed(Code),
}

impl Reading {
    fn run(mut self, inputs: &mpsc::Receiver<Input>) {
        loop {
            let input = if self.held.is_empty() {
                inputs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inputs.recv_timeout(HOLD)
            };
            match input {
                Ok(Input::Readable(slot)) => self.readable(slot),
                Ok(Input::Events) => self.listen(),
                Ok(Input::Command(Command::Close)) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Input::Command(command)) => self.command(command),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.read_held();
        }
        for route in self.routes.values() {
            route.fanout.close();
        }
        // Queues before their consumer.
        self.routes.clear();
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(messaging.system = "kafka", %error, "not unassigned at the end");
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Subscribe { topic, ends, reply } => self.subscribe(&topic, &ends, reply),
            Command::Unread(topic) => self.unread(&topic),
            Command::Fence { fence, ends, asking } => self.await_fence(fence, ends, asking),
            Command::Found(topic, partitions) => self.found(&topic, partitions),
            Command::Down(why) => self.down(&why),
            Command::Up => self.up(),
            Command::Renew => self.renew(),
            Command::Close => {}
        }
    }

    fn subscribe(&mut self, topic: &Topic, ends: &[i64], reply: Asking) {
        if reply.is_closed() {
            return;
        }
        if let Some(route) = self.routes.get_mut(topic) {
            route.asking.push(reply);
            let partitions = ends.len();
            self.found(topic, partitions);
            return self.answer(topic);
        }
        let name = kafka_name(topic);
        let mut route = Route::new(name, Fanout::new(self.settings.queue_bytes));
        route.asking.push(reply);
        let starts = ends.iter().map(|end| match self.settings.start {
            Start::Now => Some(*end),
            Start::Beginning => None,
        });
        let starts: Vec<(usize, Option<i64>)> = starts.enumerate().collect();
        self.watched.insert(topic, &route.name, starts.len());
        self.routes.insert(topic.clone(), route);
        self.assign(topic, &starts, true);
        if let Some(route) = self.routes.get_mut(topic) {
            route.progress.know_ends(ends);
        }
    }

    /// Reads these partitions of a topic, each from its start or from the beginning; if it `probes`,
    /// from one record earlier than needed, whose arrival proves at once that reading is allowed.
    fn assign(&mut self, topic: &Topic, starts: &[(usize, Option<i64>)], probes: bool) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        let mut assigned = TopicPartitionList::with_capacity(starts.len());
        for (partition, start) in starts {
            let number = i32::try_from(*partition).unwrap_or(i32::MAX);
            let first =
                |start: i64| Offset::Offset(if probes { (start - 1).max(0) } else { start });
            let first = start.map_or(Offset::Beginning, first);
            if let Err(error) = assigned.add_partition(&route.name, number).set_offset(first) {
                tracing::error!(messaging.system = "kafka", %error, "an offset that is none");
            }
            // Before it is assigned, so that nothing of it goes elsewhere.
            let queue = self.consumer.split_partition_queue(&route.name, number);
            let Some(mut queue) = queue else { continue };
            let (slot, inbox) = (Slot::next(), self.inbox.clone());
            queue.set_nonempty_callback(move || inbox.announce(slot));
            self.slots.insert(slot, (topic.clone(), *partition));
            // The library announces a queue when it stops being empty; this one may hold what an
            // earlier reading left, and never be announced.
            self.inbox.announce(slot);
            route.read(*partition, *start, slot, queue, probes && start.is_some());
        }
        if let Err(error) = self.consumer.incremental_assign(&assigned) {
            let place = format!("{}, topic {}", self.settings.address, route.name);
            let error = from_kafka(Attempt::Subscribe, place, &error);
            self.refuse(topic, &error);
        }
    }

    fn unassign(&mut self, topic: &Topic, partitions: impl Iterator<Item = usize>) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        let mut gone = TopicPartitionList::new();
        for partition in partitions {
            let Some(slot) = route.stop(partition) else { continue };
            self.slots.remove(&slot);
            gone.add_partition(&route.name, i32::try_from(partition).unwrap_or(i32::MAX));
        }
        if gone.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.incremental_unassign(&gone) {
            tracing::warn!(messaging.system = "kafka", %error, "a partition is still read");
        }
    }

    /// Those who ask get their answer, if the topic is proven to be readable.
    fn answer(&mut self, topic: &Topic) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        if !route.is_proven {
            return;
        }
        for reply in route.asking.drain(..) {
            let (inbox, unread) = (self.inbox.clone(), topic.clone());
            let subscription = route.fanout.subscribe(move || inbox.tell(Command::Unread(unread)));
            // Nobody waits any more: dropping the subscription unsubscribes.
            let _ = reply.send(Ok(subscription));
        }
    }

    /// Reading the topic is not possible: those who ask are told, and those who read.
    fn refuse(&mut self, topic: &Topic, why: &Error) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        for reply in route.asking.drain(..) {
            let _ = reply.send(Err(why.clone()));
        }
        self.lose(topic, Lost::Denied, why);
        self.unread(topic);
    }

    /// Tells the readers of a topic that it cannot be read. Its fences hold up no others.
    fn lose(&mut self, topic: &Topic, lost: Lost, why: &Error) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        route.lose(lost, why);
        let abandoned: Vec<Fence> = route.progress.abandon_fences().collect();
        self.fences.passed(abandoned);
    }

    fn unread(&mut self, topic: &Topic) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        route.asking.retain(|reply| !reply.is_closed());
        if !route.asking.is_empty() || route.fanout.readers() > 0 {
            return;
        }
        self.watched.remove(topic);
        let partitions = 0..route.progress.partitions();
        self.unassign(topic, partitions);
        if let Some(mut route) = self.routes.remove(topic) {
            self.consumer.context().forget_topic(&route.name);
            let abandoned: Vec<Fence> = route.progress.abandon_fences().collect();
            self.fences.passed(abandoned);
        }
    }

    /// A topic has more partitions than were known: they are read from their beginning.
    fn found(&mut self, topic: &Topic, partitions: usize) {
        let Some(route) = self.routes.get(topic) else { return };
        let known = route.progress.partitions();
        if partitions <= known {
            return;
        }
        tracing::info!(
            messaging.system = "kafka",
            messaging.destination.name = route.name,
            partitions,
            "new partitions"
        );
        self.watched.insert(topic, &route.name, partitions);
        let starts: Vec<_> = (known..partitions).map(|partition| (partition, None)).collect();
        self.assign(topic, &starts, false);
    }

    fn down(&mut self, why: &Error) {
        // What had arrived before is delivered before the loss is told; what arrives later shows that
        // the link is back.
        let slots: Vec<Slot> = self.slots.keys().copied().collect();
        for slot in slots {
            while self.is_in_use(slot) && !self.read(slot) {}
        }
        self.is_waiting_for_connection = false;
        for route in self.routes.values_mut() {
            route.down(why);
        }
    }

    /// The brokers answer again. They kept what was published meanwhile, so there is no gap. Readers
    /// are told once this client is connected too: the question was another one's.
    fn up(&mut self) {
        self.is_waiting_for_connection = !self.consumer.context().is_connected();
        if !self.is_waiting_for_connection {
            self.routes.values_mut().for_each(Route::up);
            self.pass_all_fences();
        }
    }

    fn is_in_use(&self, slot: Slot) -> bool {
        self.slots.contains_key(&slot) && !self.held.iter().any(|(held, _)| *held == slot)
    }

    /// The topic was deleted and made anew, with so many partitions: what it held before is lost, as
    /// far as it was not read.
    fn restart(&mut self, topic: &Topic, partitions: usize) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        tracing::warn!(
            messaging.system = "kafka",
            messaging.destination.name = route.name,
            "made anew; read from its beginning"
        );
        route.made_anew();
        let before = route.progress.partitions();
        self.unassign(topic, 0..before);
        let Some(route) = self.routes.get_mut(topic) else { return };
        route.progress.restart(partitions);
        self.watched.insert(topic, &route.name, partitions);
        let starts: Vec<_> =
            (0..partitions.min(before)).map(|partition| (partition, None)).collect();
        self.assign(topic, &starts, false);
    }

    /// A partition does not have what comes next.
    fn reset(&mut self, topic: &Topic, partition: usize) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        let start = route.progress.next(partition).filter(|_| route.is_probing(partition));
        if start.is_none() {
            // Retention overtook it, or it was truncated.
            tracing::warn!(
                messaging.system = "kafka",
                messaging.destination.name = route.name,
                messaging.destination.partition.id = %partition,
                "what comes next is gone; read from the beginning"
            );
            route.lack();
        }
        self.unassign(topic, std::iter::once(partition));
        self.assign(topic, &[(partition, start)], false);
    }

    /// Serves what the library has to say.
    fn listen(&mut self) {
        loop {
            let events = self.consumer.context().events();
            let polled = self.consumer.poll(Duration::ZERO);
            if let Some(Ok(message)) = &polled {
                // Partitions have queues of their own; should this one ever be in use, nothing is lost.
                self.stray(message.topic(), message.partition());
            }
            if polled.is_none() && self.consumer.context().events() == events {
                break;
            }
        }
        let heard = self.consumer.context().take();
        if let Some(code) = heard.link {
            // Nobody hears it when the transport is being closed.
            let _ = self.troubles.send(from_code(Attempt::Read, &self.settings.address, code));
        } else if self.is_waiting_for_connection {
            self.up();
        }
        for name in heard.made_anew {
            let topic = self.routes.iter().find(|(_, route)| route.name == name);
            let topic = topic.map(|(topic, route)| (topic.clone(), route.progress.partitions()));
            if let Some((topic, partitions)) = topic {
                self.restart(&topic, partitions);
            }
        }
    }

    fn stray(&self, name: &str, partition: i32) {
        tracing::error!(
            messaging.system = "kafka",
            messaging.destination.name = name,
            messaging.destination.partition.id = %partition,
            "a record in the common queue"
        );
        if let Some(route) = self.routes.values().find(|route| route.name == name) {
            route.fanout.gap(Gap::Unknown);
        }
    }

    fn read_held(&mut self) {
        for (slot, since) in std::mem::take(&mut self.held) {
            if !self.read_since(slot, since) {
                self.inbox.announce(slot);
            }
        }
    }

    /// The queue was announced.
    fn readable(&mut self, slot: Slot) {
        if self.is_in_use(slot) && !self.read(slot) {
            self.inbox.announce(slot);
        }
    }

    /// Distributes some of what a partition's queue holds. `true`: there is no more, or it waits.
    fn read(&mut self, slot: Slot) -> bool {
        self.read_since(slot, Instant::now())
    }

    /// The same for a queue that waits since then for its readers, which are catching up, to have
    /// room.
    fn read_since(&mut self, slot: Slot, since: Instant) -> bool {
        let Some((topic, partition)) = self.slots.get(&slot).cloned() else { return true };
        let Some(route) = self.routes.get_mut(&topic) else { return true };
        if !route.progress.is_behind(partition) || !route.fanout.is_half_full() {
            route.gave_up_waiting = false;
        } else if since.elapsed() >= LONGEST_HOLD {
            route.gave_up_waiting = true;
        } else if !route.gave_up_waiting {
            self.held.push((slot, since));
            return true;
        }
        let most_bytes = self.settings.queue_bytes / 8;
        let limit = self.settings.max_payload_bytes;
        let arrived = |record: &BorrowedMessage<'_>| {
            decode(record.key(), record.payload(), record.headers(), limit)
        };
        let (read, is_drained) =
            route.take(partition, most_bytes, self.consumer.context(), arrived);
        // What the library knew when it fetched these is heard before they are believed.
        self.listen();
        if self.slots.contains_key(&slot) {
            self.distribute(&topic, partition, read);
        }
        is_drained
    }

    fn distribute(&mut self, topic: &Topic, partition: usize, read: Vec<Read>) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        if read.iter().any(|read| !matches!(read, Read::Failed(_))) {
            route.found_after(Lost::Denied);
            route.up();
            if !std::mem::replace(&mut route.is_proven, true) {
                // Those who ask hear the first record, too.
                self.answer(topic);
            }
        }
        let Some(route) = self.routes.get_mut(topic) else { return };
        let mut failed = None;
        route.distribute(partition, read, |code| failed = Some(code));
        self.pass_fences(topic);
        if let Some(code) = failed {
            self.failed(topic, partition, code);
        }
    }

    fn failed(&mut self, topic: &Topic, partition: usize, code: Code) {
        let Some(route) = self.routes.get_mut(topic) else { return };
        match code {
            Code::AutoOffsetReset => self.reset(topic, partition),
            Code::TopicAuthorizationFailed => {
                let place = format!("{}, topic {}", self.settings.address, route.name);
                self.refuse(topic, &from_code(Attempt::Subscribe, place, code));
            }
            _ if is_missing(code) => {
                let place = format!("{}, topic {}", self.settings.address, route.name);
                self.lose(topic, Lost::Missing, &from_code(Attempt::Read, place, code));
            }
            _ => {
                tracing::debug!(messaging.system = "kafka", messaging.destination.name = route.name, %code, "not fetched");
            }
        }
    }
}

/// Numbers for queues, so that what an old queue announced is not taken for the new one's.
pub(super) fn next_slot() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
