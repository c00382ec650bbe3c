//! What the reading thread is asked and told.

use std::sync::mpsc;

use hydratecache::{Error, Fence, Result, Subscription, Topic};
use tokio::sync::oneshot;

use super::route::Slot;
use crate::surveyor::Ends;

pub(crate) type Asking = oneshot::Sender<Result<Subscription>>;
pub(crate) type AskingForFence = oneshot::Sender<Result<Fence>>;

pub(crate) enum Command {
    /// Where each partition of the topic ended when the subscription was asked for.
    Subscribe {
        topic: Topic,
        ends: Vec<i64>,
        reply: Asking,
    },
    /// A reader is gone, or gave up asking; perhaps it was the last of its topic.
    Unread(Topic),
    /// A fence, and where the topics ended when it was asked for; answered when all have passed it.
    Fence {
        fence: Fence,
        ends: Vec<Ends>,
        asking: Vec<AskingForFence>,
    },
    /// The topic has so many partitions now.
    Found(Topic, usize),
    Down(Error),
    Up,
    /// The client may be stranded.
    Renew,
    Close,
}

pub(super) enum Input {
    /// The queue of a partition is not empty.
    Readable(Slot),
    /// The library has something to say.
    Events,
    Command(Command),
}

/// Where inputs go.
#[derive(Clone)]
pub(crate) struct Inbox(mpsc::Sender<Input>);

impl Inbox {
    /// An inbox, and the end that the thread reads.
    pub(super) fn new() -> (Self, mpsc::Receiver<Input>) {
        let (sender, inputs) = mpsc::channel();
        (Self(sender), inputs)
    }

    /// The queue of a partition is not empty.
    pub(super) fn announce(&self, slot: Slot) {
        let _ = self.0.send(Input::Readable(slot));
    }

    /// The library has something to say.
    pub(super) fn events(&self) {
        let _ = self.0.send(Input::Events);
    }

    /// Asks or tells the thread. One that has ended hears nothing, and has nothing left to do.
    pub(crate) fn tell(&self, command: Command) {
        let _ = self.0.send(Input::Command(command));
    }
}
