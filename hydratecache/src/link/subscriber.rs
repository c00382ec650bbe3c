//! The subscribing side: one task owns the connection, proves every subscription on it, and
//! distributes what arrives.

mod arrivals;
mod probes;
mod routes;
mod session;

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::OptionFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Pauses;
use super::{Connector, Peer, Settings, Subscribing};
use crate::fanout::Fanout;
use crate::{Error, ErrorKind, Fence, Result, Subscription, Topic};
use arrivals::ROUND;
use probes::Probes;
use routes::Routes;
use session::{Asking, DENIED_PAUSE, Echo, Handover, Outcome, PATIENCE, Session};

/// How long an old connection is kept beside the one that takes its place, so that every server of
/// a cluster has heard of the new one's subscriptions.
const OVERLAP: Duration = Duration::from_secs(1);

/// How long closing waits for the task to end by itself.
const CLOSE_LIMIT: Duration = Duration::from_millis(1500);

/// A handle to the task that subscribes; dropping it ends the task.
pub struct Subscriber {
    peer: Peer,
    subscribe_limit: Duration,
    fence_limit: Duration,
    commands: mpsc::UnboundedSender<Command>,
    task: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Subscribe {
        topic: Topic,
        reply: oneshot::Sender<Result<Subscription>>,
    },
    /// A reader is gone; perhaps it was the last of its topic.
    Unread(Topic),
    Fence(oneshot::Sender<Result<Fence>>),
    Close,
}

impl Subscriber {
    /// Subscribes over `connection`, and over new ones of `connector` once it is lost.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start<C>(peer: Peer, settings: Settings, connector: C, connection: C::Connection) -> Self
    where
        C: Connector<Connection: Subscribing>,
    {
        let (commands, receiver) = mpsc::unbounded_channel();
        let subscribe_limit = settings.subscribe_limit;
        let fence_limit = settings.ping_limit * PATIENCE;
        let task = Task {
            peer: peer.clone(),
            settings,
            connector: Arc::new(connector),
            sender: commands.downgrade(),
            commands: receiver,
            routes: Routes::new(C::Connection::name),
            asking: Vec::new(),
            fences: 0,
            probes: Arc::default(),
        };
        let task = Mutex::new(Some(tokio::spawn(task.run(connection))));
        Self { peer, subscribe_limit, fence_limit, commands, task }
    }

    /// Subscribes and proves it; `None`: closed meanwhile.
    pub(super) async fn subscribe(&self, topic: Topic) -> Option<Result<Subscription>> {
        let command = |reply| Command::Subscribe { topic, reply };
        self.ask("subscribing", self.subscribe_limit, command).await
    }

    /// Asks for a fence; `None`: closed meanwhile.
    pub(super) async fn fence(&self) -> Option<Result<Fence>> {
        self.ask("asking for a fence", self.fence_limit, Command::Fence).await
    }

    pub(super) async fn close(&self) {
        // A task that is gone already has ended.
        let _ = self.commands.send(Command::Close);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(CLOSE_LIMIT, &mut task).await.is_err()
        {
            task.abort();
        }
    }

    /// Asks the task and waits for its answer, within a limit.
    async fn ask<T>(
        &self,
        what: &str,
        limit: Duration,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Option<Result<T>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).ok()?;
        tokio::select! {
            biased;
            answer = answer => answer.ok(),
            // What is sent while the task ends may lie in its queue as long as the queue is there.
            () = self.commands.closed() => None,
            () = sleep(limit) => Some(Err(Error::new(
                ErrorKind::Unavailable,
                format!("{what} on {}: no connection or no answer within {limit:?}", self.peer),
            ))),
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The task that owns the subscribing connection.
struct Task<C> {
    peer: Peer,
    settings: Settings,
    connector: Arc<C>,
    sender: mpsc::WeakUnboundedSender<Command>,
    commands: mpsc::UnboundedReceiver<Command>,
    routes: Routes,
    asking: Vec<Asking>,
    fences: u64,
    probes: Arc<Probes>,
}

/// Why the task stopped serving a connection.
enum End {
    Lost(Error),
    Closed,
}

impl<C> Task<C>
where
    C: Connector<Connection: Subscribing>,
{
    async fn run(mut self, mut connection: C::Connection) {
        loop {
            let unproven = self.routes.topics().collect();
            let mut session = Session::on(connection, unproven, self.settings.ping_interval);
            let end = self.serve(&mut session).await;
            // What had arrived before the end is delivered before the end is told.
            self.drain(&mut session);
            let End::Lost(why) = end else { return };
            tracing::warn!(messaging.system = self.peer.system, %why, "subscribing connection lost");
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

    /// Serves one connection until it is lost or the transport is closed.
    async fn serve(&mut self, session: &mut Session<C::Connection>) -> End {
        // One timer, set anew only when the next deadline changes: setting one for each of them and
        // for each message costs as much as distributing it.
        let mut alarm = pin!(sleep_until(session.ping_at));
        loop {
            self.change_next(session);
            self.echo_next(session);
            let due_at = session.due_at(self.settings.ping_limit);
            if alarm.deadline() != due_at {
                alarm.as_mut().reset(due_at);
            }
            let making = OptionFuture::from(session.handover.making());
            let changing = OptionFuture::from(session.changing.as_mut());
            let echo = OptionFuture::from(session.echo.as_mut().map(|echo| &mut echo.reply));
            tokio::select! {
                incoming = session.connection.next() => {
                    if let Err(end) = self.came(incoming, session) {
                        return end;
                    }
                }
                command = self.commands.recv() => {
                    if let Some(end) = self.command(command, session) {
                        return end;
                    }
                }
                Some(outcome) = changing => {
                    if let Err(why) = self.changed(outcome, session) {
                        return End::Lost(why);
                    }
                }
                Some(reply) = echo => match reply {
                    Ok(()) => self.echoed(session),
                    Err(why) => return End::Lost(why),
                },
                Some((connection, outcome)) = making => {
                    let leave_at = Instant::now() + OVERLAP;
                    session.handover = Handover::Made(connection, outcome, leave_at);
                }
                () = &mut alarm => {
                    if let Err(why) = self.due(session) {
                        return End::Lost(why);
                    }
                }
            }
        }
    }

    fn command(
        &mut self,
        command: Option<Command>,
        session: &mut Session<C::Connection>,
    ) -> Option<End> {
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

    /// Begins the next change of subscriptions. One at a time: a broker that only counts them
    /// could not tell whose the count is.
    fn change_next(&mut self, session: &mut Session<C::Connection>) {
        let proven = self.proven_asking(session);
        session.confirming.extend(proven);
        if session.changing.is_some() {
            return;
        }
        if matches!(session.handover, Handover::Wanted) {
            self.begin_handover(session);
        }
        // Subscriptions that are made in between would be missing on the other connection.
        if session.handover.is_under_way() {
            return;
        }
        if !session.surplus.is_empty() {
            let surplus = std::mem::take(&mut session.surplus);
            let unsubscribing = session.connection.unsubscribe(surplus);
            session.changing = Some(unsubscribing.map(|done| done.map(|()| Vec::new())).boxed());
            return;
        }
        self.asking.retain(|(_, reply)| !reply.is_closed());
        let mut topics: BTreeSet<Topic> =
            self.asking.iter().map(|(topic, _)| topic.clone()).collect();
        if session.retry_at.is_none() {
            topics.extend(session.unproven.iter().cloned());
        }
        if !topics.is_empty() {
            session.changing_since = Instant::now();
            let subscribing = session.connection.subscribe(topics.into_iter().collect());
            let proving = self.probes.clone().decide(subscribing, self.peer.clone());
            session.changing = Some(proving.boxed());
        }
    }

    /// Takes out who asks for what is proven.
    fn proven_asking(&mut self, session: &Session<C::Connection>) -> Vec<Asking> {
        let routes = &self.routes;
        let is_proven =
            |topic: &Topic| !session.unproven.contains(topic) && routes.fanout(topic).is_some();
        self.asking.extract_if(.., |(topic, _)| is_proven(topic)).collect()
    }

    fn answer_proven(&mut self, session: &Session<C::Connection>) {
        for (topic, reply) in self.proven_asking(session) {
            if let Some(fanout) = self.routes.fanout(&topic) {
                // Nobody waits any more: dropping the subscription unsubscribes.
                let _ = reply.send(Ok(read(fanout, topic, self.sender.clone())));
            }
        }
    }

    /// A change is over: those who asked get their answer, those who were disrupted are live.
    fn changed(
        &mut self,
        outcome: Result<Outcome>,
        session: &mut Session<C::Connection>,
    ) -> Result<()> {
        session.changing = None;
        for (topic, proof) in outcome? {
            match proof {
                Ok(()) => self.subscribed(&topic, session),
                Err(why) => self.refused(&topic, &why, session),
            }
        }
        self.answer_proven(session);
        Ok(())
    }

    fn subscribed(&mut self, topic: &Topic, session: &mut Session<C::Connection>) {
        if let Some(fanout) = self.routes.fanout(topic) {
            session.revive(topic, fanout);
        } else if self.asking.iter().any(|(asked, _)| asked == topic) {
            let fanout = Fanout::new(self.settings.queue_bytes);
            fanout.accepted_since(session.changing_since);
            self.routes.insert(topic, fanout);
            session.surplus.retain(|surplus| surplus != topic);
        } else {
            session.surplus.push(topic.clone());
        }
    }

    fn refused(&mut self, topic: &Topic, why: &Error, session: &mut Session<C::Connection>) {
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
    fn echo_next(&mut self, session: &mut Session<C::Connection>) {
        let is_awaited = !(session.waiting_for_fence.is_empty() && session.confirming.is_empty());
        if session.echo.is_none() && is_awaited {
            self.echo(session);
        }
    }

    /// One echo answers all who asked before it was sent, and is the sign of life too.
    fn echo(&mut self, session: &mut Session<C::Connection>) {
        self.fences += 1;
        let fence = Fence::new(self.fences, Instant::now());
        let reply = session.connection.echo();
        session.ping_at = Instant::now() + self.settings.ping_interval;
        let waiting = std::mem::take(&mut session.waiting_for_fence);
        let confirming = std::mem::take(&mut session.confirming);
        session.echo = Some(Echo { fence, waiting, confirming, reply });
    }

    /// A deadline has come.
    fn due(&mut self, session: &mut Session<C::Connection>) -> Result<()> {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        session.retry_at.take_if(|at| *at <= now);
        if session.echo.is_some() {
            if is_due(session.overdue_at(self.settings.ping_limit)) {
                return self.overdue(session);
            }
        } else if is_due(session.handover.leave_at()) {
            session.handover.leave();
            self.echo(session);
        } else if session.ping_at <= now {
            self.echo(session);
        }
        Ok(())
    }

    /// The echo takes too long, unless what it is behind has come and is only not taken yet: then
    /// this task was late, and not the server.
    fn overdue(&mut self, session: &mut Session<C::Connection>) -> Result<()> {
        let limit = self.settings.ping_limit;
        if self.take(session, ROUND) > 0 {
            session.arrived_at = Instant::now();
        }
        match session.overdue_at(limit) {
            Some(overdue_at) if overdue_at <= Instant::now() => {
                Err(session.overdue(&self.peer, limit))
            }
            _ => Ok(()),
        }
    }

    /// The echo is back: what the broker sent before it waits in the connection and goes first.
    fn echoed(&mut self, session: &mut Session<C::Connection>) {
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
        self.hand_over(session);
    }

    /// The server asks its clients to go: makes the connection that takes this one's place.
    fn begin_handover(&mut self, session: &mut Session<C::Connection>) {
        let (connector, peer) = (self.connector.clone(), self.peer.clone());
        let (probes, topics) = (self.probes.clone(), self.routes.topics().collect::<Vec<_>>());
        let making = async move {
            let mut pauses = Pauses::new();
            loop {
                let made = async {
                    let mut connection = connector.connect().await?;
                    let subscribing = connection.subscribe(topics.clone());
                    let outcome = probes.clone().decide(subscribing, peer.clone()).await?;
                    Ok::<_, Error>((connection, outcome))
                };
                match made.await {
                    Ok(made) => return made,
                    Err(error) => {
                        let system = peer.system;
                        tracing::debug!(messaging.system = system, %error, "nowhere to go yet");
                    }
                }
                sleep(pauses.next()).await;
            }
        };
        session.handover = Handover::Making(making.boxed());
    }

    /// Everything that the old connection was to bring has come: goes over to the other one.
    fn hand_over(&mut self, session: &mut Session<C::Connection>) {
        let Handover::Leaving(connection, outcome) =
            std::mem::replace(&mut session.handover, Handover::None)
        else {
            return;
        };
        session.connection = connection;
        for (topic, proof) in outcome {
            let Some(fanout) = self.routes.fanout(&topic) else { continue };
            match proof {
                Ok(()) => session.revive(&topic, fanout),
                Err(why) => session.revoke(&topic, fanout, &why),
            }
        }
    }

    /// Makes a new connection, without end; `None` if the transport is closed meanwhile.
    async fn reconnect(&mut self, why: &Error) -> Option<C::Connection> {
        let mut pauses = Pauses::new();
        loop {
            let (connector, pause) = (self.connector.clone(), pauses.next());
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
                    let system = self.peer.system;
                    tracing::debug!(messaging.system = system, %error, "not connected yet");
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

/// A reader of `fanout` that tells the task when it is gone.
fn read(fanout: &Fanout, topic: Topic, sender: mpsc::WeakUnboundedSender<Command>) -> Subscription {
    fanout.subscribe(move || {
        if let Some(sender) = sender.upgrade() {
            let _ = sender.send(Command::Unread(topic));
        }
    })
}
