//! What a tail saw, in numbers.

use std::fmt;
use std::fmt::Write;

use hydratecache::{Kind, Signal};
use tokio::time::Instant;

/// What was seen since the beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    /// Messages that write: put, remove, clear and touch; late ones included.
    pub(super) messages: u64,
    /// Of these and of requests, those that were wanted.
    pub(super) shown: u64,
    pub(super) requests: u64,
    pub(super) gaps: u64,
    /// Messages that gaps stand for, as far as that is known.
    pub(super) lost: u64,
    /// Gaps of which nobody knows how many messages they stand for.
    pub(super) unknown_gaps: u64,
    /// Messages that a gap stood for and that came after all.
    pub(super) late: u64,
    pub(super) disruptions: u64,
    pub(super) rejected: u64,
    began: Instant,
    last: (Instant, u64),
}

impl Counts {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            messages: 0,
            shown: 0,
            requests: 0,
            gaps: 0,
            lost: 0,
            unknown_gaps: 0,
            late: 0,
            disruptions: 0,
            rejected: 0,
            began: now,
            last: (now, 0),
        }
    }

    pub(super) fn saw(&mut self, signal: &Signal) {
        match signal {
            Signal::Message(message) if message.kind() == Kind::Request => self.requests += 1,
            Signal::Message(_) => self.messages += 1,
            Signal::Late(_) => {
                self.messages += 1;
                self.late += 1;
            }
            Signal::Gap(gap) => {
                self.gaps += 1;
                match gap.exact() {
                    Some(count) => self.lost = self.lost.saturating_add(count),
                    None => self.unknown_gaps += 1,
                }
            }
            Signal::Disrupted(_) => self.disruptions += 1,
            Signal::Rejected(_) => self.rejected += 1,
            _ => (),
        }
    }

    /// Adds a line for the second that is over.
    pub(super) fn second(&mut self, output: &mut String, now: Instant, is_json: bool) {
        let (then, before) = std::mem::replace(&mut self.last, (now, self.messages));
        let seconds = now.duration_since(then).as_secs_f64().max(1e-3);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 come in a second")]
        let rate = (self.messages - before) as f64 / seconds;
        if is_json {
            output.push_str(&self.object("counts", rate));
        } else {
            let _ = writeln!(output, "{rate:.0} messages/s; {self}");
        }
    }

    /// The object that ends a tail.
    pub(super) fn json(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-3);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 come in a lifetime")]
        let rate = self.messages as f64 / seconds;
        self.object("end", rate)
    }

    fn object(&self, name: &str, rate: f64) -> String {
        format!(
            "{{\"type\":\"{name}\",\"messages\":{},\"shown\":{},\"requests\":{},\"gaps\":{},\
             \"lost\":{},\"unknown_gaps\":{},\"late\":{},\"disruptions\":{},\"rejected\":{},\
             \"messages_per_second\":{rate:.1}}}\n",
            self.messages,
            self.shown,
            self.requests,
            self.gaps,
            self.lost,
            self.unknown_gaps,
            self.late,
            self.disruptions,
            self.rejected,
        )
    }
}

impl fmt::Display for Counts {
    /// One line for people: losses are always part of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages", self.messages)?;
        if self.shown != self.messages {
            write!(f, " ({} shown)", self.shown)?;
        }
        write!(f, ", {} gaps", self.gaps)?;
        match (self.gaps, self.unknown_gaps) {
            (0, _) => (),
            (_, 0) => write!(f, " ({} messages lost)", self.lost)?,
            (_, unknown) => {
                write!(f, " ({} messages lost, and unknown in {unknown} of them)", self.lost)?;
            }
        }
        if self.late > 0 {
            write!(f, ", {} came late", self.late)?;
        }
        write!(f, ", {} disruptions, {} rejected", self.disruptions, self.rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydratecache::{Error, ErrorKind, Gap, Key, Message};
    use std::num::NonZeroU64;
    use std::time::Duration;

    #[test]
    fn every_signal_is_counted_and_no_loss_is_left_out() {
        let now = Instant::now();
        let mut counts = Counts::new(now);
        let message = Message::remove(Key::new("a").expect("legal"));
        let why = Error::new(ErrorKind::Unavailable, "cut");
        for signal in [
            Signal::Message(message.clone()),
            Signal::Gap(Gap::Exact(NonZeroU64::MIN.saturating_add(2))),
            Signal::Late(message),
            Signal::Disrupted(why),
            Signal::Live,
            Signal::Gap(Gap::Unknown),
        ] {
            counts.saw(&signal);
        }
        counts.shown = 2;
        let said = "2 messages, 2 gaps (3 messages lost, and unknown in 1 of them), 1 came late, \
                    1 disruptions, 0 rejected";
        assert_eq!(counts.to_string(), said);
        let mut output = String::new();
        counts.second(&mut output, now + Duration::from_secs(2), false);
        assert_eq!(output, format!("1 messages/s; {said}\n"));
        let end: serde_json::Value = serde_json::from_str(&counts.json()).expect("JSON");
        assert_eq!((&end["lost"], &end["unknown_gaps"]), (&3.into(), &1.into()));
    }
}
