//! What one reader heard, against what was acknowledged: a message that is missing without a gap
//! where it is missing was lost in silence.
//!
//! A state machine without I/O. It trusts nothing of the tracker that it judges.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU64;

use hydratecache::{Origin, Signal};

/// The sequences that each origin's publishes were acknowledged with.
pub type Acknowledged = BTreeMap<Origin, BTreeSet<u64>>;

/// What one reader heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// In the order of their arrival, each with the number of gaps that came before it.
    messages: HashMap<Origin, Vec<(u64, u64)>>,
    gaps: u64,
    disruptions: u64,
    rejected: u64,
    count: u64,
}

/// What became of a reader's messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Messages that arrived.
    pub received: u64,
    /// Acknowledged messages that did not arrive.
    pub missing: u64,
    /// Those of them that no gap stands for.
    pub silent: u64,
    /// Messages that arrived twice, or behind a later one of their origin.
    pub disordered: u64,
    /// Messages that arrived and could not be read.
    pub rejected: u64,
    /// Times that the reader was told of a gap.
    pub gaps: u64,
    /// Times that the reader was told that its link is lost.
    pub disruptions: u64,
}

impl Heard {
    /// The next signal of the reader's subscription.
    pub fn signal(&mut self, signal: &Signal) {
        match signal {
            Signal::Message(message) => {
                self.count += 1;
                if let Some(position) = message.position() {
                    let sequence = position.sequence.get();
                    let messages = self.messages.entry(position.origin).or_default();
                    messages.push((sequence, self.gaps));
                }
            }
            Signal::Gap(_) => self.gaps += 1,
            Signal::Disrupted(_) => self.disruptions += 1,
            Signal::Rejected(_) => self.rejected += 1,
            _ => {}
        }
    }

    /// The sequence of the first message of `origin`.
    #[must_use]
    pub fn first(&self, origin: Origin) -> Option<u64> {
        self.messages.get(&origin)?.first().map(|(sequence, _)| *sequence)
    }

    /// Judges what was heard up to the end, when everything acknowledged must have arrived or be
    /// covered by a gap. All that `acknowledged` holds was published after the reader was ready.
    #[must_use]
    pub fn judge(&self, acknowledged: &Acknowledged) -> Verdict {
        let mut verdict = Verdict {
            received: self.count,
            rejected: self.rejected,
            gaps: self.gaps,
            disruptions: self.disruptions,
            ..Verdict::default()
        };
        for (origin, sequences) in acknowledged {
            let messages = self.messages.get(origin).map_or(&[][..], Vec::as_slice);
            self.judge_origin(sequences, messages, &mut verdict);
        }
        verdict
    }

    fn judge_origin(
        &self,
        acknowledged: &BTreeSet<u64>,
        messages: &[(u64, u64)],
        verdict: &mut Verdict,
    ) {
        let end = (u64::MAX, self.gaps);
        let (mut last, mut gaps_at_last) = (0, 0);
        for (sequence, gaps) in messages.iter().copied().chain([end]) {
            if sequence <= last {
                verdict.disordered += 1;
                continue;
            }
            let missing = acknowledged.range(last + 1..sequence).count() as u64;
            verdict.missing += missing;
            if gaps == gaps_at_last {
                verdict.silent += missing;
            }
            (last, gaps_at_last) = (sequence, gaps);
        }
    }
}

impl Verdict {
    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        (self.silent, self.disordered, self.rejected) == (0, 0, 0)
    }

    /// Both verdicts as one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            missing: self.missing + other.missing,
            silent: self.silent + other.silent,
            disordered: self.disordered + other.disordered,
            rejected: self.rejected + other.rejected,
            gaps: self.gaps + other.gaps,
            disruptions: self.disruptions + other.disruptions,
        }
    }
}

/// The rate of failures that `trials` without one exclude at 95 %: the `p` with `(1 - p)^trials =
/// 0.05`, some 3 / trials (the "rule of three").
#[must_use]
pub fn excluded_rate(trials: NonZeroU64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let trials = trials.get() as f64;
    1.0 - 0.05_f64.powf(1.0 / trials)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hydratecache::{Gap, Key, Message, Position};

    fn origin() -> Origin {
        Origin::from_u64(7).expect("not zero")
    }

    fn message(sequence: u64) -> Signal {
        let sequence = NonZeroU64::new(sequence).expect("not zero");
        let message = Message::put(Key::new("k").expect("legal"), Bytes::new());
        Signal::Message(message.with_position(Position { origin: origin(), sequence }))
    }

    fn judge(signals: impl IntoIterator<Item = Signal>, last: u64) -> Verdict {
        let mut heard = Heard::default();
        for signal in signals {
            heard.signal(&signal);
        }
        heard.judge(&Acknowledged::from([(origin(), (1..=last).collect())]))
    }

    #[test]
    fn nothing_is_missing_where_everything_arrived() {
        let verdict = judge((1..=5).map(message), 5);
        assert_eq!((verdict.received, verdict.missing, verdict.is_clean()), (5, 0, true));
    }

    #[test]
    fn a_loss_is_silent_wherever_its_gap_is_not() {
        let gap = || Signal::Gap(Gap::Unknown);
        for (signals, silent) in [
            (vec![message(1), gap(), message(4)], 0),
            (vec![message(1), message(4), gap()], 2),
            (vec![gap(), message(1), message(4)], 2),
            (vec![message(1), message(2), gap()], 0),
            (vec![message(1), gap(), message(2)], 2),
            (vec![message(3), message(4)], 2),
            (vec![gap(), message(3), message(4)], 0),
            (vec![], 4),
            (vec![gap()], 0),
        ] {
            let shown = format!("{signals:?}");
            assert_eq!(judge(signals, 4).silent, silent, "{shown}");
        }
    }

    #[test]
    fn what_was_not_acknowledged_may_be_missing() {
        let mut heard = Heard::default();
        heard.signal(&message(1));
        heard.signal(&message(4));
        let acknowledged = Acknowledged::from([(origin(), BTreeSet::from([1, 4]))]);
        assert!(heard.judge(&acknowledged).is_clean());
    }

    #[test]
    fn duplicates_and_disorder_are_counted() {
        let verdict = judge([message(1), message(2), message(2), message(1), message(3)], 3);
        assert_eq!((verdict.disordered, verdict.silent, verdict.is_clean()), (2, 0, false));
    }

    #[test]
    fn the_excluded_rate_follows_the_rule_of_three() {
        let rate = excluded_rate(NonZeroU64::new(300).expect("not zero"));
        assert!((rate * 300.0 - 3.0).abs() < 0.05, "{rate}");
    }
}
