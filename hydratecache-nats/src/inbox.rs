//! The client's queues, one for each subscription, as one.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use async_nats::{Message, Subject, Subscriber};
use futures::StreamExt;
use futures::task::AtomicWaker;
use hydratecache::link::Incoming;
use tokio::task::coop::unconstrained;

use crate::life::QUEUE;

/// How many messages are taken from one subscription before another one's turn.
const TURN: usize = 64;

/// The subscriptions of one connection.
///
/// A queue is either in the list of those that may hold something, or it was found empty and puts
/// itself on the list when something comes. So what has come is found without asking every queue.
#[derive(Default)]
pub(crate) struct Inbox {
    slots: HashMap<u64, Slot>,
    by_name: HashMap<Box<str>, u64>,
    last_id: u64,
    list: Arc<List>,
    /// Whose turn it is, and how much of it is left.
    turn: Option<(u64, usize)>,
    /// What was taken out for an echo.
    pulled: VecDeque<Incoming<Subject>>,
    /// Whether a queue may have been full since that was asked last.
    may_have_overflowed: bool,
}

struct Slot {
    subscriber: Subscriber,
    call: Arc<Call>,
    waker: Waker,
    /// How much was taken since it was last empty: it cannot have held more at once.
    taken: usize,
    is_proven: bool,
}

/// What is to be looked at.
#[derive(Default)]
struct List {
    ids: Mutex<VecDeque<u64>>,
    task: AtomicWaker,
}

/// Puts one queue on the list.
struct Call {
    id: u64,
    is_listed: AtomicBool,
    list: Arc<List>,
}

impl Inbox {
    /// Adds a subscription.
    pub(crate) fn insert(&mut self, name: &str, subscriber: Subscriber) {
        self.last_id += 1;
        let id = self.last_id;
        let call =
            Arc::new(Call { id, is_listed: AtomicBool::new(false), list: self.list.clone() });
        let waker = Waker::from(call.clone());
        waker.wake_by_ref();
        self.slots.insert(id, Slot { subscriber, call, waker, taken: 0, is_proven: false });
        if let Some(before) = self.by_name.insert(name.into(), id) {
            self.slots.remove(&before);
        }
    }

    /// Removes a subscription, which unsubscribes.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let id = self.by_name.remove(name);
        id.is_some_and(|id| self.slots.remove(&id).is_some())
    }

    pub(crate) fn prove(&mut self, name: &str) {
        let slot = self.by_name.get(name).and_then(|id| self.slots.get_mut(id));
        if let Some(slot) = slot {
            slot.is_proven = true;
        }
    }

    pub(crate) fn is_proven(&self, name: &str) -> bool {
        let slot = self.by_name.get(name).and_then(|id| self.slots.get(id));
        slot.is_some_and(|slot| slot.is_proven)
    }

    /// Puts `incoming` behind what was taken out for an echo.
    pub(crate) fn push(&mut self, incoming: Incoming<Subject>) {
        self.pulled.push_back(incoming);
    }

    /// The next message that has come; the task is woken when another one comes.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Incoming<Subject>> {
        if let Some(incoming) = self.try_next() {
            return Poll::Ready(incoming);
        }
        self.list.task.register(cx.waker());
        // Something may have come before it was registered.
        self.try_next().map_or(Poll::Pending, Poll::Ready)
    }

    /// The next message that has come.
    pub(crate) fn try_next(&mut self) -> Option<Incoming<Subject>> {
        self.pulled.pop_front().or_else(|| self.take_next().map(incoming))
    }

    /// How much was taken out for an echo and not yet taken.
    pub(crate) fn pulled(&self) -> usize {
        self.pulled.len()
    }

    /// Takes out all that has come by now, so that what comes later is behind it. Returns whether
    /// the client may have dropped something meanwhile.
    pub(crate) fn pull(&mut self) -> bool {
        let turn = self.turn.take().map(|(id, _)| id);
        let ids: Vec<u64> = turn.into_iter().chain(self.list.ids().drain(..)).collect();
        for id in ids {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            slot.call.is_listed.store(false, Ordering::SeqCst);
            // Not without end: what comes meanwhile comes behind the echo.
            let mut left = QUEUE;
            while let Some(message) = slot.next() {
                self.may_have_overflowed |= slot.taken >= QUEUE;
                self.pulled.push_back(incoming(message));
                left -= 1;
                if left == 0 {
                    slot.waker.wake_by_ref();
                    break;
                }
            }
        }
        std::mem::take(&mut self.may_have_overflowed)
    }

    fn take_next(&mut self) -> Option<Message> {
        loop {
            let (id, left) = match self.turn.take() {
                Some(turn) => turn,
                None => (self.list.ids().pop_front()?, TURN),
            };
            // Gone meanwhile, or on the list twice.
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            // Whatever comes from here on puts it on the list again.
            slot.call.is_listed.store(false, Ordering::SeqCst);
            let Some(message) = slot.next() else { continue };
            self.may_have_overflowed |= slot.taken >= QUEUE;
            if left > 1 {
                self.turn = Some((id, left - 1));
            } else {
                slot.waker.wake_by_ref();
            }
            return Some(message);
        }
    }
}

fn incoming(message: Message) -> Incoming<Subject> {
    Incoming::Body { name: message.subject, body: message.payload }
}

impl Slot {
    fn next(&mut self) -> Option<Message> {
        let mut cx = Context::from_waker(&self.waker);
        // Tokio's budget would make a full queue look empty.
        let next = std::pin::pin!(unconstrained(self.subscriber.next())).poll(&mut cx);
        match next {
            Poll::Ready(Some(message)) => {
                self.taken += 1;
                Some(message)
            }
            // Ended with its client, of which the connection's end tells.
            Poll::Ready(None) => None,
            Poll::Pending => {
                self.taken = 0;
                None
            }
        }
    }
}

impl List {
    fn ids(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_listed.swap(true, Ordering::SeqCst) {
            self.list.ids().push_back(self.id);
        }
        self.list.task.wake();
    }
}
