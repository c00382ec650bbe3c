//! How a replica that is to be filled comes to its copy, or to the decision to read the source. A state
//! machine without I/O.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

use super::chunk::Chunk;
use crate::{Key, Origin, Request};

/// How long somebody has to offer a copy, at least; as long again and more at random, so that of many
/// that begin together one is first.
const ASKING: Duration = Duration::from_millis(300);

/// The random part.
const JITTER: Duration = Duration::from_millis(700);

/// How long somebody has to object to a claim.
const CLAIMING: Duration = Duration::from_millis(250);

/// How long a replica that is reading, or is busy with others, counts as alive without a sign.
const SILENCE: Duration = Duration::from_secs(5);

/// How often it is asked again meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long the next chunk may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The longest wait without a single chunk, whatever others say.
const LONGEST: Duration = Duration::from_secs(300);

/// How many chunks are sent without a word of the receiver: what fits into its queue.
const WINDOW: NonZeroU64 = NonZeroU64::new(32).expect("not zero");

/// How often a copy may come to a halt in all.
const HALTS: usize = 8;

/// Where the search for a copy stands.
pub(super) struct Asking {
    id: Origin,
    state: State,
    /// What came so far; none: nothing.
    position: Option<Key>,
    /// With no chunk until then, the source is read.
    gives_up_at: Instant,
    halts: usize,
}

enum State {
    /// Somebody may offer a copy.
    Asked { until: Instant },
    /// The source is about to be read, unless somebody came first.
    Claimed { until: Instant },
    /// Somebody else is about to have what is wanted.
    Waiting { until: Instant, ask_at: Instant },
    /// Somebody sends.
    Taking { sender: Origin, left: u64, until: Instant, is_asked_again: bool },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Say(Request),
    ReadTheSource,
}

/// What a chunk is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The next one; then this is to be done.
    Next(Step),
    /// The last one.
    Last,
    /// One that came already, or that is not for now.
    Other(Step),
}

impl Asking {
    /// Begins to ask, as `id`.
    pub(super) fn begin(id: Origin, now: Instant) -> (Self, Request) {
        let state = Self::asked(now);
        let gives_up_at = now + LONGEST;
        (Self { id, state, position: None, gives_up_at, halts: 0 }, Request::Wanted(id))
    }

    fn asked(now: Instant) -> State {
        State::Asked { until: now + ASKING + JITTER.mul_f64(fastrand::f64()) }
    }

    /// When [`timeout`](Self::timeout) is due.
    pub(super) fn due(&self) -> Instant {
        match self.state {
            State::Asked { until } | State::Claimed { until } | State::Taking { until, .. } => {
                until
            }
            State::Waiting { until, ask_at } => until.min(ask_at),
        }
    }

    /// Another replica said something.
    pub(super) fn heard(&mut self, request: &Request, now: Instant) -> Step {
        match (request, &mut self.state) {
            (Request::Offered { to, .. }, State::Taking { .. }) if *to == self.id => Step::Nothing,
            (Request::Offered { to, by }, _) if *to == self.id => self.take(*by, now, false),
            (Request::Wait(by), _) if *by == self.id => Step::Nothing,
            (Request::Wait(_), State::Asked { .. }) => self.wait(now),
            (Request::Wait(by), State::Claimed { .. }) if *by < self.id => self.wait(now),
            (Request::Wait(_), State::Waiting { until, .. }) => {
                *until = now + SILENCE;
                Step::Nothing
            }
            _ => Step::Nothing,
        }
    }

    /// Nothing came until [`due`](Self::due).
    pub(super) fn timeout(&mut self, now: Instant) -> Step {
        if now >= self.gives_up_at {
            return Step::ReadTheSource;
        }
        match &mut self.state {
            State::Asked { .. } => {
                self.state = State::Claimed { until: now + CLAIMING };
                Step::Say(Request::Wait(self.id))
            }
            State::Claimed { .. } => Step::ReadTheSource,
            State::Waiting { until, ask_at } if now < *until => {
                *ask_at = now + ASK_AGAIN.mul_f64(0.5 + fastrand::f64());
                Step::Say(Request::Wanted(self.id))
            }
            State::Taking { .. } if self.halts >= HALTS => Step::ReadTheSource,
            State::Waiting { .. } | State::Taking { .. } => {
                self.halts += usize::from(matches!(self.state, State::Taking { .. }));
                self.state = Self::asked(now);
                Step::Say(Request::Wanted(self.id))
            }
        }
    }

    /// `chunk` arrived. Only the one that begins where the last one ended is the next one: whoever sent
    /// it, what it holds was asked for since this began.
    pub(super) fn received(&mut self, chunk: &Chunk, now: Instant) -> Received {
        let State::Taking { sender, left, until, is_asked_again } = &mut self.state else {
            return Received::Other(Step::Nothing);
        };
        if chunk.after != self.position {
            let is_ahead = chunk.after > self.position;
            if !is_ahead || *is_asked_again {
                return Received::Other(Step::Nothing);
            }
            // One was lost.
            let sender = *sender;
            return Received::Other(self.take(sender, now, true));
        }
        (*until, self.gives_up_at) = (now + PATIENCE, now + LONGEST);
        *is_asked_again = false;
        let Some(upto) = &chunk.upto else {
            return Received::Last;
        };
        self.position = Some(upto.clone());
        *left = left.saturating_sub(1);
        let (sender, is_over) = (*sender, *left == 0);
        Received::Next(if is_over { self.take(sender, now, false) } else { Step::Nothing })
    }

    /// Has `sender` go on from here.
    fn take(&mut self, sender: Origin, now: Instant, is_asked_again: bool) -> Step {
        let until = now + PATIENCE;
        self.state = State::Taking { sender, left: WINDOW.get(), until, is_asked_again };
        let after = self.position.clone();
        Step::Say(Request::Take { to: self.id, by: sender, chunks: WINDOW, after })
    }

    fn wait(&mut self, now: Instant) -> Step {
        let ask_at = now + ASK_AGAIN.mul_f64(0.5 + fastrand::f64());
        self.state = State::Waiting { until: now + SILENCE, ask_at };
        Step::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> Origin {
        Origin::from_u64(number).expect("not zero")
    }

    fn chunk(after: Option<&str>, upto: Option<&str>) -> Chunk {
        let key = |name: &str| Key::new(name).expect("legal");
        Chunk { after: after.map(key), upto: upto.map(key), items: Vec::new() }
    }

    fn take(by: u64, after: Option<&str>) -> Step {
        let after = after.map(|after| Key::new(after).expect("legal"));
        Step::Say(Request::Take { to: id(5), by: id(by), chunks: WINDOW, after })
    }

    fn begun() -> (Asking, Instant) {
        let now = Instant::now();
        let (asking, wanted) = Asking::begin(id(5), now);
        assert_eq!(wanted, Request::Wanted(id(5)));
        (asking, now)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_offer_is_taken_to_its_end() {
        let (mut asking, now) = begun();
        assert_eq!(asking.heard(&Request::Offered { to: id(4), by: id(9) }, now), Step::Nothing);
        assert_eq!(asking.heard(&Request::Offered { to: id(5), by: id(9) }, now), take(9, None));
        assert_eq!(asking.heard(&Request::Offered { to: id(5), by: id(8) }, now), Step::Nothing);
        let next = Received::Next(Step::Nothing);
        assert_eq!(asking.received(&chunk(None, Some("b")), now), next);
        assert_eq!(asking.received(&chunk(None, Some("b")), now), Received::Other(Step::Nothing));
        assert_eq!(asking.received(&chunk(Some("b"), Some("d")), now), next);
        assert_eq!(asking.received(&chunk(Some("d"), None), now), Received::Last);
    }

    #[test]
    fn a_lost_chunk_is_asked_for_once_and_a_dead_sender_is_replaced_where_it_stopped() {
        let (mut asking, now) = begun();
        asking.heard(&Request::Offered { to: id(5), by: id(9) }, now);
        asking.received(&chunk(None, Some("b")), now);
        let lost = asking.received(&chunk(Some("d"), Some("f")), now);
        assert_eq!(lost, Received::Other(take(9, Some("b"))));
        let ahead = asking.received(&chunk(Some("f"), Some("h")), now);
        assert_eq!(ahead, Received::Other(Step::Nothing));
        asking.received(&chunk(Some("b"), Some("d")), now);
        let later = asking.due();
        assert_eq!(asking.timeout(later), Step::Say(Request::Wanted(id(5))));
        let other = Request::Offered { to: id(5), by: id(8) };
        assert_eq!(asking.heard(&other, later), take(8, Some("d")));
        // What the first one sent last is as good.
        let late = asking.received(&chunk(Some("d"), Some("f")), later);
        assert_eq!(late, Received::Next(Step::Nothing));
    }

    #[test]
    fn a_window_that_is_full_is_followed_by_the_next() {
        let (mut asking, now) = begun();
        asking.heard(&Request::Offered { to: id(5), by: id(9) }, now);
        let mut after: Option<String> = None;
        for number in 1..=WINDOW.get() {
            let upto = format!("{number:03}");
            let expected = if number < WINDOW.get() { Step::Nothing } else { take(9, Some(&upto)) };
            let received = asking.received(&chunk(after.as_deref(), Some(&upto)), now);
            assert_eq!(received, Received::Next(expected));
            after = Some(upto);
        }
    }

    #[test]
    fn with_nobody_there_the_source_is_read_after_a_claim() {
        let (mut asking, now) = begun();
        let due = asking.due();
        assert!(due >= now + ASKING && due <= now + ASKING + JITTER);
        assert_eq!(asking.timeout(due), Step::Say(Request::Wait(id(5))));
        assert_eq!(asking.heard(&Request::Wait(id(5)), due), Step::Nothing, "its own echo");
        assert_eq!(asking.heard(&Request::Wait(id(6)), due), Step::Nothing, "that one yields");
        let due = asking.due();
        assert_eq!(asking.timeout(due), Step::ReadTheSource);
    }

    #[test]
    fn whoever_is_further_is_waited_for_as_long_as_it_lives() {
        for is_claimed in [false, true] {
            let (mut asking, mut now) = begun();
            if is_claimed {
                now = asking.due();
                asking.timeout(now);
            }
            assert_eq!(asking.heard(&Request::Wait(id(4)), now), Step::Nothing);
            for _ in 0..20 {
                now = asking.due();
                assert_eq!(asking.timeout(now), Step::Say(Request::Wanted(id(5))));
                asking.heard(&Request::Wait(id(4)), now);
            }
            let offer = Request::Offered { to: id(5), by: id(4) };
            assert_eq!(asking.heard(&offer, now), take(4, None));
        }
        let (mut asking, now) = begun();
        asking.heard(&Request::Wait(id(4)), now);
        let mut steps = Vec::new();
        while steps.last() != Some(&Step::ReadTheSource) {
            let due = asking.due();
            assert!(due < now + 10 * SECOND);
            steps.push(asking.timeout(due));
        }
        assert!(steps.contains(&Step::Say(Request::Wait(id(5)))), "it claims first");
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let (mut asking, mut now) = begun();
        let began = now;
        while asking.timeout(now) != Step::ReadTheSource {
            asking.heard(&Request::Wait(id(4)), now);
            now = asking.due();
        }
        assert!(now <= began + LONGEST + 2 * SILENCE);
        let (mut asking, mut now) = begun();
        while asking.timeout(now) != Step::ReadTheSource {
            asking.heard(&Request::Offered { to: id(5), by: id(9) }, now);
            now = asking.due();
        }
        assert!(now < began + 60 * SECOND, "one that offers and never sends");
    }
}
