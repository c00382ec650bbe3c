//! One topic that is published to: how many partitions it has, what its publishers counted, and who
//! waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hydratecache::{Kind, Message, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::delivery::{Outcome, Producer};
use crate::blocking::OffRuntime;
use crate::numbering::{Mark, Numbering};
use crate::partition::partition_of;
use crate::record::{Addressed, Record, encode};

pub(super) struct Lane {
    pub(super) name: String,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Zero: not known yet.
    partitions: usize,
    leaders_were_awaited: bool,
    numbering: Numbering,
    waiting: VecDeque<Waiting>,
    is_served: bool,
}

pub(super) struct Waiting {
    pub(super) batch: Vec<Message>,
    pub(super) reply: oneshot::Sender<Result<Handed>>,
    deadline: Instant,
}

/// A batch that the client library has.
pub(super) struct Handed {
    pub(super) outcome: oneshot::Receiver<Outcome>,
    /// What it numbered, to be confirmed.
    pub(super) marks: Vec<Mark>,
    /// Which client has it.
    pub(super) client: Arc<OffRuntime<Producer>>,
}

/// A record with its partition.
pub(super) struct AddressedRecord {
    pub(super) record: Record,
    pub(super) partition: usize,
    pub(super) mark: Option<Mark>,
}

type Turn = oneshot::Receiver<Result<Handed>>;

impl Lane {
    pub(super) fn of(name: String) -> Self {
        Self { name, state: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here can panic half-way; a poisoned lock would only spread somebody's panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a batch can be handed over at once: nobody came before it.
    pub(super) fn is_open(&self) -> bool {
        self.is_known() && self.waiting.is_empty() && !self.is_served
    }

    pub(super) fn is_known(&self) -> bool {
        self.partitions > 0
    }

    /// Whether the topic is known, with fewer partitions than this.
    pub(super) fn has_fewer(&self, partitions: usize) -> bool {
        self.is_known() && self.partitions < partitions
    }

    /// Whether those who lead the partitions were waited for, even if the topic was forgotten since. That is not
    /// done twice: a partition without a leader would hold up all others.
    pub(super) fn leaders_were_awaited(&self) -> bool {
        self.leaders_were_awaited
    }

    /// The topic has so many partitions, and never fewer than before. Whoever finds the first ones has waited for
    /// those who lead them.
    pub(super) fn grow(&mut self, partitions: usize) {
        self.partitions = self.partitions.max(partitions);
        self.leaders_were_awaited = true;
    }

    /// The topic may have been made anew.
    pub(super) fn forget(&mut self) {
        self.partitions = 0;
    }

    /// Queues behind those who wait. The second answer: nobody serves them yet.
    pub(super) fn wait_in_turn(&mut self, batch: Vec<Message>, deadline: Instant) -> (Turn, bool) {
        let (reply, turn) = oneshot::channel();
        self.waiting.push_back(Waiting { batch, reply, deadline });
        (turn, !std::mem::replace(&mut self.is_served, true))
    }

    /// Until when the first who still waits does so, and for how many bytes. Nobody: the one who
    /// serves is done.
    pub(super) fn first_in_turn(&mut self) -> Option<(Instant, usize)> {
        while self.waiting.front().is_some_and(|waiting| waiting.reply.is_closed()) {
            self.waiting.pop_front();
        }
        let first = self.waiting.front().map(|it| (it.deadline, super::bytes_of(&it.batch)));
        self.is_served = first.is_some();
        first
    }

    pub(super) fn take_first(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    /// Sends everyone away; whoever comes later waits anew.
    pub(super) fn dismiss(&mut self) {
        self.waiting.clear();
        self.is_served = false;
    }

    /// The records of `batch`, numbered.
    pub(super) fn address(&mut self, batch: &[Message]) -> Vec<AddressedRecord> {
        let mut records = Vec::with_capacity(batch.len());
        for message in batch {
            self.address_one(message, &mut records);
        }
        records
    }

    fn address_one(&mut self, message: &Message, records: &mut Vec<AddressedRecord>) {
        let mut add = |partition: usize, mark: Option<Mark>, copy: Option<u64>| {
            let addressed = Addressed { number: mark.map(|mark| mark.number), copy };
            records.push(AddressedRecord { record: encode(message, addressed), partition, mark });
        };
        match (message.kind(), message.position()) {
            (Kind::Heartbeat, Some(position)) => {
                for mark in self.numbering.heartbeat(position) {
                    add(mark.partition, Some(mark), None);
                }
            }
            // A probe of the way, which ends at the broker; or what is asked of all who read.
            (Kind::Heartbeat, None) | (Kind::Request, _) => add(0, None, None),
            (Kind::Clear, position) => {
                let copy = (self.partitions > 1).then(rand::random);
                match position {
                    None => (0..self.partitions).for_each(|partition| add(partition, None, copy)),
                    Some(position) => {
                        for mark in self.numbering.number_in_all(position, self.partitions) {
                            add(mark.partition, Some(mark), copy);
                        }
                    }
                }
            }
            (_, position) => {
                let key = message.key().map(|key| key.as_str().as_bytes()).unwrap_or_default();
                let partition = partition_of(key, self.partitions);
                let mark = position.map(|position| self.numbering.number(position, partition));
                add(partition, mark, None);
            }
        }
    }

    /// The broker has all of these.
    pub(super) fn confirm(&mut self, marks: &[Mark]) {
        for mark in marks {
            self.numbering.confirm(*mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydratecache::{Key, Origin, Position};
    use std::num::NonZeroU64;

    fn put(key: &str, sequence: u64) -> Message {
        let origin = Origin::from_u64(1).expect("not zero");
        let sequence = NonZeroU64::new(sequence).expect("not zero");
        let key = Key::new(key).expect("legal");
        Message::put(key, b"value".to_vec().into()).with_position(Position { origin, sequence })
    }

    #[test]
    fn all_that_a_key_gets_goes_to_one_partition_and_a_clear_to_all() {
        let mut state = State::default();
        state.grow(4);
        let key = Key::new("21").expect("legal");
        let ttl = hydratecache::Ttl::starting_now(std::time::Duration::from_secs(1));
        let batch = [
            put("21", 1),
            Message::remove(key.clone()),
            Message::touch(key, ttl.expect("legal")),
            Message::clear(),
        ];
        let partitions: Vec<usize> =
            state.address(&batch).iter().map(|record| record.partition).collect();
        assert_eq!(partitions, [0, 0, 0, 0, 1, 2, 3], "murmur2 of 21 is -973932308");
    }

    #[test]
    fn a_topic_that_is_not_known_is_waited_for_in_order() {
        let mut state = State::default();
        assert!(!state.is_open());
        let deadline = Instant::now();
        let (first, is_first) = state.wait_in_turn(vec![put("a", 1)], deadline);
        let (_second, is_second) = state.wait_in_turn(vec![put("b", 2)], deadline);
        assert!(is_first && !is_second, "one task serves all");
        drop(first);
        assert!(state.first_in_turn().is_some());
        let served = state.take_first().expect("the second");
        assert_eq!(served.batch[0].key().map(Key::as_str), Some("b"), "the first gave up");
        state.grow(1);
        assert!(!state.is_open(), "the second is just being handed over");
        assert!(state.first_in_turn().is_none() && state.is_open());
    }
}
