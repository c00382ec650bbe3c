//! The simulated broker: it keeps nothing, like Redis, NATS and LISTEN/NOTIFY, and can be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use fastrand::Rng;
use hydratecache::{Kind, Message, Origin, Request as Asked, wire};
use tokio_util::sync::CancellationToken;

use crate::network::{Pipe, pipe};
use crate::node::{Site, TOPIC};
use crate::oracle::Oracle;

/// How much may be under way to one connection before the broker gives it up, as Redis does with its
/// output buffers.
const MOST_UNDER_WAY: usize = 2_000;

/// What a node asks for, with the number that the answer carries.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) id: u64,
    pub(crate) request: Request,
}

/// What a node can ask for.
#[derive(Debug)]
pub(crate) enum Request {
    Subscribe(String),
    Unsubscribe(String),
    Publish(String, Vec<Bytes>),
    Echo,
}

/// What the broker sends.
#[derive(Debug)]
pub(crate) enum Answer {
    Done(u64),
    Body { topic: String, body: Bytes },
}

/// The broker. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Broker(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    is_up: bool,
    connections: BTreeMap<u64, Peer>,
    next: u64,
    oracle: Oracle,
    /// How often a delivery is lost or doubled on its way, in a network of brokers.
    loss: f64,
    doubling: f64,
    /// How often that happens to what nobody relies on: to requests, and to chunks of copies.
    copy_loss: f64,
    rng: Rng,
    /// Questions of replicas that say what they lost.
    questions: BTreeSet<Origin>,
    /// How many of them were answered.
    answered: u64,
}

#[derive(Debug)]
struct Peer {
    node: usize,
    topics: BTreeSet<String>,
    answers: Pipe<Answer>,
    cut: CancellationToken,
}

impl Broker {
    pub(crate) fn new(oracle: Oracle, copy_loss: f64, rng: Rng) -> Self {
        let state = State {
            is_up: true,
            connections: BTreeMap::new(),
            next: 0,
            oracle,
            loss: 0.0,
            doubling: 0.0,
            copy_loss,
            rng,
            questions: BTreeSet::new(),
            answered: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// How many questions that say what was lost were asked and not answered, and how many were answered.
    pub(crate) fn questions(&self) -> (u64, u64) {
        let state = self.lock();
        (state.questions.len() as u64, state.answered)
    }

    /// A new connection from `site`: what it asks goes into the returned pipe. `None`: the broker is
    /// down.
    pub(crate) fn connected(
        &self,
        site: &Arc<Site>,
        cut: &CancellationToken,
        take: impl FnMut(Answer) + Send + 'static,
        end: impl FnOnce() + Send + 'static,
    ) -> Option<Pipe<Ask>> {
        let mut state = self.lock();
        if !state.is_up {
            return None;
        }
        let id = state.next;
        state.next += 1;
        let answers = pipe(site.road.clone(), cut.clone(), take, end);
        let (node, topics, cut) = (site.node, BTreeSet::new(), cut.clone());
        state.connections.insert(id, Peer { node, topics, answers, cut: cut.clone() });
        let (broker, forgetting) = (self.clone(), self.clone());
        let handle = move |ask| broker.lock().handle(id, ask);
        let forget = move || drop(forgetting.lock().connections.remove(&id));
        Some(pipe(site.road.clone(), cut, handle, forget))
    }

    /// Resets every connection of `node`; both ends know.
    pub(crate) fn cut(&self, node: usize) {
        self.lock().end(|peer| peer.node == node);
    }

    /// Kills the broker: all that it knows is gone.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        state.is_up = false;
        state.end(|_| true);
    }

    /// Starts it again.
    pub(crate) fn start(&self) {
        self.lock().is_up = true;
    }

    /// From now on so many deliveries are lost, and so many arrive twice.
    pub(crate) fn set_faults(&self, loss: f64, doubling: f64) {
        let mut state = self.lock();
        (state.loss, state.doubling) = (loss, doubling);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

impl State {
    fn handle(&mut self, connection: u64, ask: Ask) {
        let Some(peer) = self.connections.get_mut(&connection) else {
            return;
        };
        match ask.request {
            Request::Subscribe(topic) => drop(peer.topics.insert(topic)),
            Request::Unsubscribe(topic) => drop(peer.topics.remove(&topic)),
            Request::Echo => {}
            Request::Publish(topic, bodies) => {
                for body in bodies {
                    self.accept(&topic, &body);
                }
            }
        }
        if let Some(peer) = self.connections.get(&connection) {
            peer.answers.send(Answer::Done(ask.id));
        }
    }

    /// The order point: from here on the message is accepted.
    fn accept(&mut self, topic: &str, body: &Bytes) {
        let message = wire::decode(body).expect("nobody here writes what cannot be read").message;
        let is_write = message.kind().is_write() && topic == TOPIC;
        if is_write {
            self.oracle.accepted(&message);
        }
        match Asked::decode(message.payload()).filter(|_| message.kind() == Kind::Request) {
            Some(Asked::Wanted { question, lost } | Asked::Compare { question, lost })
                if !lost.is_empty() =>
            {
                self.questions.insert(question);
            }
            Some(Asked::Offered { to, .. }) => {
                self.answered += u64::from(self.questions.remove(&to));
            }
            _ => {}
        }
        let (loss, doubling) =
            if is_write { (self.loss, self.doubling) } else { self.of_no_write(&message) };
        for peer in self.connections.values().filter(|peer| peer.topics.contains(topic)) {
            let copies = match self.rng.f64() {
                chance if chance < loss => 0,
                chance if chance < loss + doubling => 2,
                _ => 1,
            };
            for _ in 0..copies {
                peer.answers.send(Answer::Body { topic: topic.to_owned(), body: body.clone() });
            }
        }
        self.end(|peer| peer.answers.under_way() > MOST_UNDER_WAY);
    }

    /// How often a message that says nothing of a write itself is lost, and doubled.
    fn of_no_write(&self, message: &Message) -> (f64, f64) {
        if message.kind() == Kind::Heartbeat {
            return (self.loss, self.doubling);
        }
        (self.loss.max(self.copy_loss), self.doubling.max(self.copy_loss))
    }

    fn end(&mut self, which: impl Fn(&Peer) -> bool) {
        self.connections.retain(|_, peer| {
            let ends = which(peer);
            if ends {
                peer.cut.cancel();
            }
            !ends
        });
    }
}
