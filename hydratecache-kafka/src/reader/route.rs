//! One topic that is read: its fan-out, its partitions' queues, and who asks for it.

use std::time::Duration;

use hydratecache::fanout::{Arrival, Fanout};
use hydratecache::{Error, Gap, Message};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::copies::Copies;
use super::inbox::Asking;
use super::progress::{Place, Progress};
use super::{ROUND, Read, next_slot};
use crate::context::Context;
use crate::record::Arrived;

/// Which queue it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot(u64);

impl Slot {
    pub(super) fn next() -> Self {
        Self(next_slot())
    }
}

pub(super) struct Route {
    pub(super) name: String,
    pub(super) fanout: Fanout,
    pub(super) progress: Progress,
    pub(super) asking: Vec<Asking>,
    /// Something of it was fetched: reading it is allowed.
    pub(super) is_proven: bool,
    /// Its readers were told that it cannot be read, and why not.
    pub(super) lost: Option<Lost>,
    /// Its readers were told that the link is lost.
    is_down: bool,
    /// Something was lost meanwhile, which readers are told of once the link is back.
    owed: Option<Gap>,
    /// A reader took nothing for long: the others do not wait for it, until it does.
    pub(super) gave_up_waiting: bool,
    copies: Copies,
    queues: Vec<Option<Queue>>,
}

/// Why a topic cannot be read while the brokers can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It does not exist.
    Missing,
    /// Reading it is not allowed.
    Denied,
}

struct Queue {
    slot: Slot,
    records: PartitionQueue<Context>,
    /// The record before the start is fetched first, and may be gone.
    is_probing: bool,
}

impl Route {
    pub(super) fn new(name: String, fanout: Fanout) -> Self {
        Self {
            name,
            fanout,
            progress: Progress::default(),
            asking: Vec::new(),
            is_proven: false,
            lost: None,
            is_down: false,
            owed: None,
            gave_up_waiting: false,
            copies: Copies::default(),
            queues: Vec::new(),
        }
    }

    /// Reads `partition` from `start`, or from its beginning, out of `queue`.
    pub(super) fn read(
        &mut self,
        partition: usize,
        start: Option<i64>,
        slot: Slot,
        queue: PartitionQueue<Context>,
        is_probing: bool,
    ) {
        self.progress.start(partition, start);
        if self.queues.len() <= partition {
            self.queues.resize_with(partition + 1, || None);
        }
        self.queues[partition] = Some(Queue { slot, records: queue, is_probing });
    }

    /// Stops reading `partition`.
    pub(super) fn stop(&mut self, partition: usize) -> Option<Slot> {
        self.queues.get_mut(partition)?.take().map(|queue| queue.slot)
    }

    /// Whether nothing was fetched of `partition` yet but the record before its start, if that.
    pub(super) fn is_probing(&self, partition: usize) -> bool {
        matches!(self.queues.get(partition), Some(Some(queue)) if queue.is_probing)
    }

    /// The link is lost.
    pub(super) fn down(&mut self, why: &Error) {
        if !self.is_down && self.lost.is_none() {
            self.fanout.disrupted(why);
        }
        self.is_down = true;
    }

    /// Whether readers take the link for lost.
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    /// The link is back. The brokers kept what was published meanwhile, unless a gap is owed.
    pub(super) fn up(&mut self) {
        if std::mem::take(&mut self.is_down) {
            self.progress.resume();
            self.live();
        }
    }

    fn live(&mut self) {
        if !self.is_down && self.lost.is_none() {
            self.fanout.live(self.owed.take());
        }
    }

    /// Something that readers should have heard is gone.
    pub(super) fn lack(&mut self) {
        if self.is_down || self.lost.is_some() {
            self.owed = Some(Gap::Unknown);
        } else {
            self.fanout.gap(Gap::Unknown);
        }
    }

    /// Tells the readers that the topic cannot be read, once.
    pub(super) fn lose(&mut self, lost: Lost, why: &Error) {
        if self.lost.replace(lost).is_none() && !self.is_down {
            self.fanout.disrupted(why);
        }
    }

    /// Tells readers who were told that the topic cannot be read, for this reason, that it can be.
    pub(super) fn found_after(&mut self, lost: Lost) {
        if self.lost == Some(lost) {
            self.lost = None;
            self.live();
        }
    }

    /// The topic is another one than was read so far.
    pub(super) fn made_anew(&mut self) {
        self.lack();
        if self.lost.take().is_some() {
            self.live();
        }
    }

    /// Takes out what the queue of `partition` holds, up to so many bytes. The second answer: that
    /// was all.
    pub(super) fn take(
        &self,
        partition: usize,
        most_bytes: usize,
        context: &Context,
        arrived: impl Fn(&BorrowedMessage<'_>) -> Arrived,
    ) -> (Vec<Read>, bool) {
        let mut read = Vec::new();
        let mut bytes = 0;
        let Some(Some(Queue { records, .. })) = self.queues.get(partition) else {
            return (read, true);
        };
        while read.len() < ROUND && bytes <= most_bytes {
            match records.poll(Duration::ZERO) {
                None => return (read, true),
                Some(Ok(record)) => {
                    // As its message will count in a reader's queue.
                    bytes += size_of::<Message>() + record.payload_len() + record.key_len();
                    read.push(Read::Record(record.offset(), arrived(&record)));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    read.extend(context.take_end().map(Read::End));
                }
                Some(Err(error)) => {
                    read.push(Read::Failed(error.rdkafka_error_code().unwrap_or(Code::Unknown)));
                }
            }
        }
        (read, false)
    }

    /// Gives readers what was read of `partition`, in order.
    pub(super) fn distribute(
        &mut self,
        partition: usize,
        read: Vec<Read>,
        mut failed: impl FnMut(Code),
    ) {
        let mut waiting: Vec<Arrival> = Vec::with_capacity(read.len());
        for read in read {
            let place = match &read {
                Read::Record(offset, _) => self.progress.record(partition, *offset),
                Read::End(offset) => self.progress.end(partition, *offset),
                Read::Failed(code) => {
                    failed(*code);
                    continue;
                }
            };
            if let Some(Some(queue)) = self.queues.get_mut(partition) {
                queue.is_probing = false;
            }
            if let Place::BehindAHole(records) = place {
                self.fanout.arrived_in(partition, waiting.drain(..));
                self.fanout.compacted_in(partition, records);
            }
            match read {
                Read::Record(_, arrived) if place != Place::Before => {
                    self.take_in(partition, arrived, &mut waiting);
                }
                _ => {}
            }
        }
        self.fanout.arrived_in(partition, waiting);
    }

    fn take_in(&mut self, partition: usize, arrived: Arrived, waiting: &mut Vec<Arrival>) {
        let is_repeated = arrived.copy.is_some_and(|copy| !self.copies.is_first(copy));
        if is_repeated {
            self.fanout.arrived_in(partition, waiting.drain(..));
            let position = match &arrived.arrival {
                Ok(message) => message.position(),
                Err(rejection) => rejection.position(),
            };
            self.fanout.copied_in(partition, position);
        } else {
            waiting.push(arrived.arrival);
        }
    }
}
