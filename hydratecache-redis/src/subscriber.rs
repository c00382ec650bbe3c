//! The subscribing connection: one task owns it, proves every subscription on it, and distributes
//! what arrives.

mod exchange;
mod proof;
mod routes;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::EventInterface;
use fred::types::{Message as Push, Value};
use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use hydratecache::fanout::{Arrival, Fanout};
use hydratecache::wire::{self, Rejection, RejectionReason};
use hydratecache::{Error, ErrorKind, Fence, Gap, Kind, Result, Subscription, Topic};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::channel_name::channel_name;
use crate::connection::{Connection, Connector, LONGEST_PAUSE, backoff, no_sign_of_life};
use crate::error::{Attempt, from_fred};
use crate::publisher::Publisher;
use exchange::Exchange;
use proof::{Outcome, Probes, Proving, Way};
use routes::Routes;

/// How many messages may wait between fred's reader and our task, which drains it all the time.
/// fred allocates this many places for each of its nine event queues: about 6 MiB in all.
pub(crate) const EVENT_QUEUE: usize = 8192;

/// How often a topic that was denied after a reconnect is tried again.
const DENIED_PAUSE: Duration = Duration::from_secs(5);

/// How many messages are distributed before others get their turn.
const ROUND: usize = 512;

pub(crate) enum Command {
    Subscribe {
        topic: Topic,
        reply: oneshot::Sender<Result<Subscription>>,
    },
    /// A reader is gone; perhaps it was the last of its topic.
    Unread(Topic),
    Fence(oneshot::Sender<Result<Fence>>),
    Close,
}

pub(crate) struct Settings {
    pub(crate) connector: Connector,
    pub(crate) address: Arc<str>,
    pub(crate) ping_interval: Duration,
    pub(crate) ping_limit: Duration,
    pub(crate) subscribe_limit: Duration,
    pub(crate) queue_bytes: usize,
    pub(crate) max_payload_bytes: usize,
}

/// The task that owns the subscribing connection.
pub(crate) struct Subscriber {
    settings: Settings,
    publisher: Arc<Publisher>,
    sender: mpsc::WeakUnboundedSender<Command>,
    commands: mpsc::UnboundedReceiver<Command>,
    routes: Routes,
    asking: Vec<Asking>,
    fences: u64,
    probes: Arc<Probes>,
}

/// Who waits for a subscription.
type Asking = (Topic, oneshot::Sender<Result<Subscription>>);

/// Why the task stopped serving a connection.
enum End {
    Lost(Error),
    Closed,
}

/// What belongs to one connection and ends with it.
struct Session {
    connection: Connection,
    exchange: Arc<Exchange>,
    pushes: broadcast::Receiver<Push>,
    /// How many subscriptions the server counts on this connection.
    count: usize,
    /// Topics that are to be proven again, after a reconnect or a denial.
    unproven: HashSet<Topic>,
    retry_at: Option<Instant>,
    surplus: Vec<Topic>,
    proving: Option<Proving>,
    echo: Option<Echo>,
    waiting_for_fence: Vec<oneshot::Sender<Result<Fence>>>,
    /// Who asks for a topic that was proven before: an echo shows that the link is still there.
    confirming: Vec<Asking>,
    /// The latest that was echoed: topics that were not proven then get it once they are.
    passed: Option<Fence>,
    ping_at: Instant,
}

/// A fence under way.
struct Echo {
    fence: Fence,
    waiting: Vec<oneshot::Sender<Result<Fence>>>,
    confirming: Vec<Asking>,
    reply: BoxFuture<'static, Result<()>>,
}

impl Subscriber {
    pub(crate) fn new(
        settings: Settings,
        publisher: Arc<Publisher>,
        sender: mpsc::WeakUnboundedSender<Command>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self {
            settings,
            publisher,
            sender,
            commands,
            routes: Routes::default(),
            asking: Vec::new(),
            fences: 0,
            probes: Arc::default(),
        }
    }

    pub(crate) async fn run(mut self, mut connection: Connection) {
        loop {
            let mut session = self.session(connection);
            let end = self.serve(&mut session).await;
            // What had arrived before the end is delivered before the end is told.
            self.drain(&mut session);
            let End::Lost(why) = end else { return };
            tracing::warn!(messaging.system = "redis", %why, "subscribing connection lost");
            session.fail_fences(&why);
            self.asking.append(&mut session.confirming);
            drop(session);
            self.routes.disrupted(&why);
            match self.reconnect(&why).await {
                Some(made) => connection = made,
                None => return,
            }
        }
    }

    fn session(&self, connection: Connection) -> Session {
        Session {
            // Before anything is subscribed, so that no message is missed.
            pushes: connection.client.message_rx(),
            exchange: Arc::new(Exchange::on(connection.client.clone())),
            connection,
            count: 0,
            unproven: self.routes.topics().collect(),
            retry_at: None,
            surplus: Vec::new(),
            proving: None,
            echo: None,
            waiting_for_fence: Vec::new(),
            confirming: Vec::new(),
            passed: None,
            ping_at: Instant::now() + self.settings.ping_interval,
        }
    }

    /// Serves one connection until it is lost or the transport is closed.
    async fn serve(&mut self, session: &mut Session) -> End {
        loop {
            self.prove_next(session);
            self.echo_next(session);
            let (retry_at, ping_at) = (session.retry_at, session.ping_at);
            let is_echoing = session.echo.is_some();
            let proving = session.proving.as_mut().map(|proving| &mut proving.outcome);
            let proving = OptionFuture::from(proving);
            let echo = OptionFuture::from(session.echo.as_mut().map(|echo| &mut echo.reply));
            tokio::select! {
                why = session.connection.ended() => return End::Lost(why),
                push = session.pushes.recv() => {
                    if let Err(end) = self.pushed(push, session) {
                        return end;
                    }
                }
                command = self.commands.recv() => {
                    if let Some(end) = self.command(command, session) {
                        return end;
                    }
                }
                Some(outcome) = proving => {
                    if let Err(why) = self.proven(outcome, session) {
                        return End::Lost(why);
                    }
                }
                Some(reply) = echo => match reply {
                    Ok(()) => self.echoed(session),
                    Err(why) => return End::Lost(why),
                },
                () = sleep_until(ping_at), if !is_echoing => self.echo(session),
                () = sleep_until(retry_at.unwrap_or(ping_at)), if retry_at.is_some() => {
                    session.retry_at = None;
                }
            }
        }
    }

    fn command(&mut self, command: Option<Command>, session: &mut Session) -> Option<End> {
        match command {
            None | Some(Command::Close) => return Some(End::Closed),
            Some(Command::Subscribe { topic, reply }) => self.asking.push((topic, reply)),
            Some(Command::Fence(reply)) => session.waiting_for_fence.push(reply),
            Some(Command::Unread(topic)) => {
                if self.routes.remove_if_unread(&topic) && !session.unproven.remove(&topic) {
                    session.surplus.push(topic);
                }
            }
        }
        None
    }

    /// Begins the next proof. One at a time: the server's count of subscriptions is the proof, and
    /// two at once could not tell whose it is.
    fn prove_next(&mut self, session: &mut Session) {
        let proven = self.proven_asking(session);
        session.confirming.extend(proven);
        if session.proving.is_some() {
            return;
        }
        if !session.surplus.is_empty() {
            let surplus = std::mem::take(&mut session.surplus);
            session.proving = Some(Proving::unsubscribe(self.way(session), surplus));
            return;
        }
        self.asking.retain(|(_, reply)| !reply.is_closed());
        let mut topics: HashSet<Topic> =
            self.asking.iter().map(|(topic, _)| topic.clone()).collect();
        if session.retry_at.is_none() {
            topics.extend(session.unproven.iter().cloned());
        }
        if !topics.is_empty() {
            let topics = topics.into_iter().collect();
            session.proving = Some(Proving::subscribe(self.way(session), topics, session.count));
        }
    }

    fn way(&self, session: &Session) -> Way {
        Way {
            exchange: session.exchange.clone(),
            publisher: self.publisher.clone(),
            probes: self.probes.clone(),
            address: self.settings.address.clone(),
            limit: self.settings.subscribe_limit,
        }
    }

    fn answer_proven(&mut self, session: &Session) {
        for (topic, reply) in self.proven_asking(session) {
            if let Some(fanout) = self.routes.fanout(&topic) {
                // Nobody waits any more: dropping the subscription unsubscribes.
                let _ = reply.send(Ok(read(fanout, topic, self.sender.clone())));
            }
        }
    }

    /// Takes out who asks for what is proven.
    fn proven_asking(&mut self, session: &Session) -> Vec<Asking> {
        let routes = &self.routes;
        let is_proven =
            |topic: &Topic| !session.unproven.contains(topic) && routes.fanout(topic).is_some();
        self.asking.extract_if(.., |(topic, _)| is_proven(topic)).collect()
    }

    /// A proof is over: those who asked get their answer, those who were disrupted are live.
    fn proven(&mut self, outcome: Result<Outcome>, session: &mut Session) -> Result<()> {
        session.proving = None;
        let Outcome { count, topics } = outcome?;
        session.count = count;
        for (topic, proof) in topics {
            match proof {
                Ok(()) => self.subscribed(&topic, session),
                Err(why) => self.refused(&topic, &why, session),
            }
        }
        self.answer_proven(session);
        Ok(())
    }

    fn subscribed(&mut self, topic: &Topic, session: &mut Session) {
        if let Some(fanout) = self.routes.fanout(topic) {
            session.revive(topic, fanout);
        } else if self.asking.iter().any(|(asked, _)| asked == topic) {
            self.routes.insert(topic, Fanout::new(self.settings.queue_bytes));
            session.surplus.retain(|surplus| surplus != topic);
        } else {
            session.surplus.push(topic.clone());
        }
    }

    fn refused(&mut self, topic: &Topic, why: &Error, session: &mut Session) {
        for (_, reply) in self.asking.extract_if(.., |(asked, _)| asked == topic) {
            let _ = reply.send(Err(why.clone()));
        }
        if session.unproven.contains(topic) {
            session.retry_at = Some(Instant::now() + DENIED_PAUSE);
            if let Some(fanout) = self.routes.fanout(topic) {
                fanout.disrupted(why);
            }
        }
    }

    /// Begins the echo that somebody waits for.
    fn echo_next(&mut self, session: &mut Session) {
        let is_awaited = !(session.waiting_for_fence.is_empty() && session.confirming.is_empty());
        if session.echo.is_none() && is_awaited {
            self.echo(session);
        }
    }

    /// One echo answers all who asked before it was sent, and is the sign of life too.
    fn echo(&mut self, session: &mut Session) {
        self.fences += 1;
        let fence = Fence::new(self.fences, Instant::now());
        let (address, limit) = (self.settings.address.clone(), self.settings.ping_limit);
        let exchange = session.exchange.clone();
        let reply = async move {
            match timeout(limit, exchange.echo()).await {
                Ok(echo) => echo.map_err(|error| from_fred(Attempt::Fence, &address, &error)),
                Err(_) => Err(no_sign_of_life(&address, limit)),
            }
        };
        session.ping_at = Instant::now() + self.settings.ping_interval;
        let waiting = std::mem::take(&mut session.waiting_for_fence);
        let confirming = std::mem::take(&mut session.confirming);
        session.echo = Some(Echo { fence, waiting, confirming, reply: reply.boxed() });
    }

    /// The echo is back: what the server sent before it waits in `pushes` and goes first.
    fn echoed(&mut self, session: &mut Session) {
        let Some(echo) = session.echo.take() else {
            return;
        };
        self.drain(session);
        session.passed = Some(echo.fence);
        for (topic, fanout) in self.routes.iter() {
            if !session.unproven.contains(topic) {
                fanout.fenced(echo.fence);
            }
        }
        for reply in echo.waiting {
            let _ = reply.send(Ok(echo.fence));
        }
        self.asking.extend(echo.confirming);
        self.answer_proven(session);
    }

    /// Distributes one message and those behind it.
    fn pushed(&mut self, push: Result<Push, RecvError>, session: &mut Session) -> Result<(), End> {
        match push {
            Ok(push) => self.distribute(push, session),
            Err(RecvError::Lagged(missed)) => self.routes.lagged(missed),
            Err(RecvError::Closed) => {
                let why = "lost the connection to Redis: its client was closed";
                return Err(End::Lost(Error::new(ErrorKind::Unavailable, why)));
            }
        }
        self.take(session, ROUND);
        Ok(())
    }

    /// Distributes all that waits now.
    fn drain(&mut self, session: &mut Session) {
        self.take(session, session.pushes.len());
    }

    fn take(&mut self, session: &mut Session, most: usize) {
        for _ in 0..most {
            match session.pushes.try_recv() {
                Ok(push) => self.distribute(push, session),
                Err(TryRecvError::Lagged(missed)) => self.routes.lagged(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn distribute(&self, push: Push, session: &mut Session) {
        let Some(arrival) = self.arrival(push.value) else {
            return;
        };
        if let Some((topic, fanout)) = self.routes.channel(&push.channel) {
            // What arrives proves the subscription, and comes behind the gap before it.
            session.revive(topic, fanout);
            fanout.arrived([arrival]);
        }
    }

    /// What a body is; nothing, if it is a probe of ours.
    fn arrival(&self, body: Value) -> Option<Arrival> {
        let limit = self.settings.max_payload_bytes
            + hydratecache::Key::MAX_BYTES
            + wire::MAX_OVERHEAD_BYTES;
        let reject = |reason| Some(Err(Rejection::new(reason)));
        let Some(bytes) = body.into_bytes() else {
            return reject(RejectionReason::NotAnEnvelope);
        };
        if bytes.len() > limit {
            return reject(RejectionReason::TooLarge { bytes: bytes.len(), limit });
        }
        match wire::decode(&bytes) {
            Ok(envelope) => {
                let message = envelope.message;
                let is_probe = message.kind() == Kind::Heartbeat && message.sequence().is_none();
                if is_probe {
                    self.probes.arrived(message.origin()?);
                    return None;
                }
                Some(Ok(message))
            }
            Err(rejection) => Some(Err(rejection)),
        }
    }

    /// Makes a new connection, without end; `None` if the transport is closed meanwhile.
    async fn reconnect(&mut self, why: &Error) -> Option<Connection> {
        let mut pauses = backoff();
        loop {
            let connector = self.settings.connector.clone();
            let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
            let attempt = async move {
                sleep(pause).await;
                connector.connect().await
            };
            tokio::pin!(attempt);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut attempt => break outcome,
                    command = self.commands.recv() => self.command_while_down(command, why)?,
                }
            };
            match outcome {
                Ok(connection) => return Some(connection),
                Err(error) => {
                    tracing::debug!(messaging.system = "redis", %error, "not connected yet");
                }
            }
        }
    }

    fn command_while_down(&mut self, command: Option<Command>, why: &Error) -> Option<()> {
        match command? {
            Command::Close => return None,
            Command::Subscribe { topic, reply } => {
                // Those who asked wait within limits of their own, an outage may have none.
                self.asking.retain(|(_, reply)| !reply.is_closed());
                self.asking.push((topic, reply));
            }
            Command::Fence(reply) => {
                let _ = reply.send(Err(why.clone()));
            }
            Command::Unread(topic) => {
                self.routes.remove_if_unread(&topic);
            }
        }
        Some(())
    }
}

impl Session {
    /// A topic that was disrupted is proven again.
    fn revive(&mut self, topic: &Topic, fanout: &Fanout) {
        if !self.unproven.is_empty() && self.unproven.remove(topic) {
            fanout.live(Some(Gap::Unknown));
            if let Some(fence) = self.passed {
                fanout.fenced(fence);
            }
        }
    }

    fn fail_fences(&mut self, why: &Error) {
        let under_way = self.echo.take().map(|echo| {
            self.confirming.extend(echo.confirming);
            echo.waiting
        });
        let under_way = under_way.unwrap_or_default();
        for reply in self.waiting_for_fence.drain(..).chain(under_way) {
            let _ = reply.send(Err(why.clone()));
        }
    }
}

/// A reader of `fanout` that tells the task when it is gone.
fn read(fanout: &Fanout, topic: Topic, sender: mpsc::WeakUnboundedSender<Command>) -> Subscription {
    fanout.subscribe(move || {
        if let Some(sender) = sender.upgrade() {
            let _ = sender.send(Command::Unread(topic));
        }
    })
}

/// The name under which `topic` is subscribed.
fn name(topic: &Topic) -> String {
    channel_name(topic)
}
