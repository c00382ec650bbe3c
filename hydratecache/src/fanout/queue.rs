//! The queue of one reader: bounded in bytes, and truthful about what did not fit.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::Stream;

use crate::transport::{Gap, Signal};
use crate::{Kind, Positions};

/// How many control signals may gather behind a message before they are summed up: more than any
/// reader meets that still reads.
const LONGEST_TAIL: usize = 16;

/// How many gaps of known messages among them are told one by one. Of more the numbers are lost, and another
/// replica, which may not have been told of all that, repairs them: this reader has not read for long.
const MOST_NAMED: usize = 256;

/// What waits for one reader.
pub(super) struct Queue(Mutex<Waiting>);

pub(super) struct Waiting {
    signals: VecDeque<Signal>,
    held_bytes: usize,
    limit_bytes: usize,
    waker: Option<Waker>,
    ended: bool,
    abandoned: bool,
}

impl Queue {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self(Mutex::new(Waiting {
            signals: VecDeque::new(),
            held_bytes: 0,
            // A reader takes what waits in one go: half may be in its hands, half wait here.
            limit_bytes: limit_bytes / 2,
            waker: None,
            ended: false,
            abandoned: false,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self) {
        let mut waiting = self.lock();
        waiting.ended = true;
        waiting.wake();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    pub(super) fn is_half_full(&self) -> bool {
        let waiting = self.lock();
        !waiting.abandoned && waiting.held_bytes > waiting.limit_bytes / 2
    }
}

impl Waiting {
    pub(super) fn push(&mut self, signal: Signal) {
        match signal {
            control if is_control(&control) => self.push_control(control),
            data => self.push_data(data),
        }
        self.wake();
    }

    fn push_data(&mut self, signal: Signal) {
        let bytes = held_bytes(&signal);
        // One message of any size fits into an empty queue, or it could never be read.
        if self.held_bytes > 0 && self.held_bytes + bytes > self.limit_bytes {
            // Whoever sent a request does not rely on its arrival.
            let is_request = matches!(&signal, Signal::Message(it) if it.kind() == Kind::Request);
            if !is_request {
                self.lost_one();
            }
            return;
        }
        self.held_bytes += bytes;
        self.signals.push_back(signal);
    }

    /// Counts in the gap at the end, if one is there already. A fence behind that gap stays true:
    /// the gap is now reported before it, not after.
    fn lost_one(&mut self) {
        let one = Gap::Exact(NonZeroU64::MIN);
        let reported = self.tail().find_map(|signal| match signal {
            // Of what has a name, the name is not to be lost.
            Signal::Gap(gap) if !matches!(gap, Gap::Known(_)) => Some(gap),
            _ => None,
        });
        match reported {
            Some(gap) => *gap = gap.and(one),
            None => self.signals.push_back(Signal::Gap(one)),
        }
    }

    fn push_control(&mut self, signal: Signal) {
        self.signals.push_back(signal);
        let all = self.tail().count();
        let named = self.tail().filter(|signal| named(signal).is_some()).count();
        if all - named > LONGEST_TAIL || named > MOST_NAMED {
            self.summarise_tail();
        }
    }

    /// Keeps what has gathered since the last message short however often the link flaps, so that
    /// a reader who never reads holds a bounded amount. What is left says the same: where the link
    /// stands, one gap for all that have no name, those that have one, and the latest fence if no gap came
    /// behind it.
    fn summarise_tail(&mut self) {
        let begin = self.signals.len() - self.tail().count();
        let (mut down, mut live, mut gap, mut fence) = (None, None, None::<Gap>, None);
        let mut known: Vec<Positions> = Vec::new();
        let and = |gap: Option<Gap>, more: Gap| Some(gap.map_or(more, |gap| gap.and(more)));
        for signal in self.signals.drain(begin..) {
            match signal {
                Signal::Disrupted(_) => (down, live) = (Some(signal), None),
                Signal::Live => live = Some(signal),
                Signal::Gap(Gap::Known(more)) => {
                    fence = None;
                    append(&mut known, more);
                }
                Signal::Gap(more) => (gap, fence) = (and(gap, more), None),
                _ => fence = Some(signal),
            }
        }
        if known.len() > MOST_NAMED {
            gap = known.drain(..).map(Gap::Known).fold(gap, and);
        }
        let gaps = gap.into_iter().chain(known.into_iter().map(Gap::Known)).map(Signal::Gap);
        if live.is_some() {
            self.signals.extend(down.into_iter().chain(live).chain(gaps).chain(fence));
        } else {
            self.signals.extend(gaps.chain(fence).chain(down));
        }
    }

    /// The control signals since the last message, latest first.
    fn tail(&mut self) -> impl Iterator<Item = &mut Signal> {
        self.signals.iter_mut().rev().take_while(|signal| is_control(signal))
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Which messages the signal says are missing, where it names them.
fn named(signal: &Signal) -> Option<Positions> {
    if let Signal::Gap(Gap::Known(positions)) = signal { Some(*positions) } else { None }
}

/// Adds `more` to what is `known` to be missing: as part of what comes right before it, if that is there.
fn append(known: &mut Vec<Positions>, more: Positions) {
    let is_before = |known: &&mut Positions| {
        known.origin == more.origin && known.last.checked_add(1) == Some(more.first)
    };
    match known.iter_mut().find(is_before) {
        Some(before) => before.last = more.last,
        None => known.push(more),
    }
}

fn is_control(signal: &Signal) -> bool {
    !matches!(signal, Signal::Message(_) | Signal::Late(_) | Signal::Heard(_) | Signal::Rejected(_))
}

fn held_bytes(signal: &Signal) -> usize {
    match signal {
        Signal::Message(message) | Signal::Late(message) => message.held_bytes(),
        Signal::Rejected(rejection) => {
            2 * size_of::<Signal>() + rejection.key().map_or(0, |key| key.as_str().len())
        }
        _ => size_of::<Signal>(),
    }
}

/// The stream of one reader.
pub(super) struct Reader<F: FnOnce()> {
    queue: Arc<Queue>,
    /// Taken from the queue in one go, so that its lock is taken once for many signals.
    taken: VecDeque<Signal>,
    on_drop: Option<F>,
}

impl<F: FnOnce()> Reader<F> {
    pub(super) fn new(queue: Arc<Queue>, on_drop: F) -> Self {
        Self { queue, taken: VecDeque::new(), on_drop: Some(on_drop) }
    }
}

/// A burst's room is given back once it is over.
const KEPT_CAPACITY: usize = 1024;

/// Nothing in a reader is ever pinned.
impl<F: FnOnce()> Unpin for Reader<F> {}

impl<F: FnOnce()> Stream for Reader<F> {
    type Item = Signal;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Signal>> {
        if let Some(signal) = self.taken.pop_front() {
            return Poll::Ready(Some(signal));
        }
        let mut taken = std::mem::take(&mut self.taken);
        if taken.capacity() > KEPT_CAPACITY {
            taken = VecDeque::new();
        }
        let mut waiting = self.queue.lock();
        std::mem::swap(&mut waiting.signals, &mut taken);
        waiting.held_bytes = 0;
        let ended = waiting.ended;
        if taken.is_empty() && !ended {
            waiting.waker = Some(cx.waker().clone());
        }
        drop(waiting);
        self.taken = taken;
        match self.taken.pop_front() {
            None if !ended => Poll::Pending,
            next => Poll::Ready(next),
        }
    }
}

impl<F: FnOnce()> Drop for Reader<F> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.abandoned = true;
        waiting.signals = VecDeque::new();
        drop(waiting);
        if let Some(on_drop) = self.on_drop.take() {
            on_drop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind, Key, Message};
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt};
    use proptest::prelude::*;
    use tokio::time::Instant;

    fn message() -> Signal {
        Signal::Message(Message::put(Key::new("k").expect("legal"), Bytes::from_static(&[0; 100])))
    }

    fn reader(limit_bytes: usize) -> (Arc<Queue>, Reader<fn()>) {
        let queue = Arc::new(Queue::new(limit_bytes));
        (queue.clone(), Reader::new(queue, || {}))
    }

    fn drain(reader: &mut Reader<fn()>) -> Vec<Signal> {
        std::iter::from_fn(|| reader.next().now_or_never().flatten()).collect()
    }

    fn lost(signals: &[Signal]) -> u64 {
        let gap = |signal: &Signal| match signal {
            Signal::Gap(gap) => gap.exact(),
            _ => None,
        };
        signals.iter().filter_map(gap).sum()
    }

    #[test]
    fn a_message_larger_than_the_limit_fits_into_an_empty_queue() {
        let (queue, mut reader) = reader(1);
        queue.lock().push(message());
        queue.lock().push(message());
        let signals = drain(&mut reader);
        assert!(matches!(signals[..], [Signal::Message(_), Signal::Gap(Gap::Exact(_))]));
    }

    #[test]
    fn a_request_that_does_not_fit_is_no_gap() {
        let (queue, mut reader) = reader(1);
        let request = Message::request(crate::Origin::random(), Bytes::from_static(b"\xa0"));
        queue.lock().push(message());
        queue.lock().push(Signal::Message(request.expect("a map")));
        assert!(matches!(drain(&mut reader)[..], [Signal::Message(_)]));
    }

    #[test]
    fn a_flapping_link_fills_no_queue() {
        let (queue, mut reader) = reader(1 << 20);
        let down = Error::new(ErrorKind::Unavailable, "test");
        for number in 0..100_000 {
            let mut waiting = queue.lock();
            waiting.push(Signal::Disrupted(down.clone()));
            waiting.push(Signal::Live);
            waiting.push(Signal::Gap(Gap::Unknown));
            waiting.push(Signal::Fenced(crate::Fence::new(number, Instant::now())));
            assert!(waiting.signals.len() <= LONGEST_TAIL);
        }
        let signals = drain(&mut reader);
        assert!(matches!(
            signals[..],
            [.., Signal::Live, Signal::Gap(Gap::Unknown), Signal::Fenced(_)]
        ));
    }

    fn known(origin: u64, first: u64, last: u64) -> Signal {
        let origin = crate::Origin::from_u64(origin).expect("not zero");
        Signal::Gap(Gap::Known(Positions::new(origin, first, last).expect("in order")))
    }

    #[test]
    fn what_has_a_name_keeps_it_beside_what_does_not_fit_and_amid_a_flapping_link() {
        let (queue, mut reader) = reader(1);
        for signal in [message(), known(1, 6, 6), message()] {
            queue.lock().push(signal);
        }
        let signals = drain(&mut reader);
        let [Signal::Message(_), one, Signal::Gap(Gap::Exact(_))] = &signals[..] else {
            panic!("{signals:?}");
        };
        assert_eq!(named(one), named(&known(1, 6, 6)));
        for number in 1..=100 {
            let mut waiting = queue.lock();
            for signal in [Signal::Live, Signal::Gap(Gap::Unknown), known(7, number, number)] {
                waiting.push(signal);
            }
            waiting.push(known(1_000 + number, 3, 3));
            waiting.push(Signal::Fenced(crate::Fence::new(number, Instant::now())));
        }
        let signals = drain(&mut reader);
        let all: Vec<Positions> = signals.iter().filter_map(named).collect();
        assert!(signals.len() < 100 + 2 * LONGEST_TAIL, "{}", signals.len());
        assert_eq!(all.iter().map(|positions| positions.count().get()).sum::<u64>(), 200);
        assert!((1..=100).all(|n| all.iter().any(|it| it.origin.get() == 1_000 + n)));
        assert!(matches!(signals.last(), Some(Signal::Fenced(_))));
    }

    #[test]
    fn a_reader_that_never_reads_holds_only_so_many_names() {
        let (queue, mut reader) = reader(1);
        for origin in 1..=10_000 {
            queue.lock().push(known(origin, 5, 6));
            assert!(queue.lock().signals.len() <= MOST_NAMED + LONGEST_TAIL);
        }
        assert_eq!(lost(&drain(&mut reader)), 20_000);
    }

    proptest! {
        #[test]
        fn received_and_lost_are_all_that_was_sent_and_memory_is_bounded(
            steps in prop::collection::vec(0_u8..6, 0..500),
        ) {
            const LIMIT: usize = 4096;
            let (queue, mut reader) = reader(LIMIT);
            let (mut sent, mut seen, mut fences) = (0_u64, Vec::new(), 0);
            for step in steps {
                match step {
                    0 => seen.extend(drain(&mut reader)),
                    1 => {
                        fences += 1;
                        queue.lock().push(Signal::Fenced(crate::Fence::new(fences, Instant::now())));
                    }
                    _ => {
                        sent += 1;
                        queue.lock().push(message());
                    }
                }
                prop_assert!(queue.lock().held_bytes <= LIMIT / 2);
            }
            seen.extend(drain(&mut reader));
            let received = seen.iter().filter(|s| matches!(s, Signal::Message(_))).count() as u64;
            prop_assert_eq!(received + lost(&seen), sent);
        }
    }
}
