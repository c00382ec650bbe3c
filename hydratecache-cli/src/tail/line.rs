//! A line, for people or as a JSON object.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hydratecache::{
    Error, Gap, Kind, Message, Rejection, Remaining, Topic, Version, VersionDomain,
};
use tokio::time::Instant;

use crate::payload;
use crate::text::{escape, quote};

/// How lines are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) is_json: bool,
    pub(super) shows_topic: bool,
    /// The most that is shown of a payload.
    pub(super) payload_bytes: usize,
}

/// What is shown, and when it arrived.
pub(super) struct Shown<'a> {
    pub(super) topic: &'a Topic,
    pub(super) event: &'a Event<'a>,
    pub(super) at: SystemTime,
}

/// What a line says.
pub(super) enum Event<'a> {
    Message { message: &'a Message, is_late: bool },
    Gap(Gap),
    Disrupted(&'a Error),
    Live,
    Rejected(&'a Rejection),
}

// Writing to a string does not fail.
impl Format {
    /// Adds the line.
    pub(super) fn line(&self, output: &mut String, shown: &Shown<'_>) {
        if self.is_json {
            self.object(output, shown);
        } else {
            self.words(output, shown);
        }
        output.push('\n');
    }

    fn words(&self, output: &mut String, shown: &Shown<'_>) {
        time_of_day(output, shown.at);
        if self.shows_topic {
            let _ = write!(output, " {}", shown.topic);
        }
        output.push(' ');
        match shown.event {
            Event::Message { message, is_late } => {
                self.message(output, message, *is_late, shown.at);
            }
            Event::Gap(gap) => {
                let _ = write!(output, "GAP {gap}");
                if let Gap::Known(positions) = gap {
                    let _ = write!(output, ": {positions:?}");
                }
            }
            Event::Disrupted(why) => {
                output.push_str("DISRUPTED ");
                escape(output, &why.to_string());
            }
            Event::Live => output.push_str("LIVE the link is back"),
            Event::Rejected(rejection) => {
                output.push_str("REJECTED ");
                escape(output, &why(rejection));
            }
        }
    }

    fn message(&self, output: &mut String, message: &Message, is_late: bool, now: SystemTime) {
        output.push_str(kind_name(message.kind()));
        if let Some(key) = message.key() {
            output.push(' ');
            quote(output, key.as_str());
        }
        if is_late {
            output.push_str(" late");
        }
        if let Some(age) = age_millis(message, now) {
            output.push_str(" age ");
            human_millis(output, age);
        }
        if let Some(ttl) = message.ttl() {
            output.push_str(" ttl ");
            human(output, ttl.duration());
            match remaining(message, now) {
                None => output.push_str(" expired"),
                Some(left) => {
                    output.push_str(", ");
                    human(output, left);
                    output.push_str(" left");
                }
            }
        }
        if let Some(version) = message.version() {
            output.push_str(" version ");
            version_text(output, version);
        }
        if let Some(origin) = message.origin() {
            let _ = write!(output, " origin {origin}");
        }
        if let Some(sequence) = message.sequence() {
            let _ = write!(output, " #{sequence}");
        }
        if let Some(content_type) = message.content_type() {
            let _ = write!(output, " {}", content_type.as_str());
        }
        if let Some(schema) = message.schema() {
            let _ = write!(output, " schema {schema:016x}");
        }
        if let Some(trace) = message.trace_parent() {
            let _ = write!(output, " trace {}", trace.as_str());
        }
        if has_payload(message) {
            output.push(' ');
            let form = payload::form(message.content_type(), message.payload());
            payload::show(output, message.payload(), form, self.payload_bytes);
        }
    }

    fn object(&self, output: &mut String, shown: &Shown<'_>) {
        output.push_str("{\"type\":\"");
        output.push_str(match shown.event {
            Event::Message { .. } => "message",
            Event::Gap(_) => "gap",
            Event::Disrupted(_) => "disrupted",
            Event::Live => "live",
            Event::Rejected(_) => "rejected",
        });
        let _ = write!(output, "\",\"topic\":\"{}\",\"at_ms\":{}", shown.topic, millis(shown.at));
        match shown.event {
            Event::Message { message, is_late } => {
                self.members(output, message, *is_late, shown.at);
            }
            Event::Gap(gap) => gap_members(output, *gap),
            Event::Disrupted(why) => {
                output.push_str(",\"why\":");
                quote(output, &why.to_string());
            }
            Event::Live => (),
            Event::Rejected(rejection) => {
                output.push_str(",\"why\":");
                quote(output, &why(rejection));
            }
        }
        output.push('}');
    }

    fn members(&self, output: &mut String, message: &Message, is_late: bool, now: SystemTime) {
        let _ = write!(output, ",\"kind\":\"{}\"", kind_name(message.kind()));
        if let Some(key) = message.key() {
            output.push_str(",\"key\":");
            quote(output, key.as_str());
        }
        if is_late {
            output.push_str(",\"late\":true");
        }
        if let Some(age) = age_millis(message, now) {
            let _ = write!(output, ",\"age_ms\":{age}");
        }
        if let Some(ttl) = message.ttl() {
            let left = remaining(message, now).unwrap_or_default().as_millis();
            let _ = write!(output, ",\"ttl_ms\":{}", ttl.duration().as_millis());
            let _ = write!(output, ",\"remaining_ms\":{left}");
        }
        if let Some(version) = message.version() {
            output.push_str(",\"version\":\"");
            version_text(output, version);
            output.push('"');
        }
        if let Some(origin) = message.origin() {
            let _ = write!(output, ",\"origin\":\"{origin}\"");
        }
        if let Some(sequence) = message.sequence() {
            let _ = write!(output, ",\"sequence\":{sequence}");
        }
        if let Some(content_type) = message.content_type() {
            output.push_str(",\"content_type\":");
            quote(output, content_type.as_str());
        }
        if let Some(schema) = message.schema() {
            let _ = write!(output, ",\"schema\":\"{schema:016x}\"");
        }
        if let Some(trace) = message.trace_parent() {
            let _ = write!(output, ",\"trace_parent\":\"{}\"", trace.as_str());
        }
        if has_payload(message) {
            self.payload_members(output, message);
        }
    }

    fn payload_members(&self, output: &mut String, message: &Message) {
        let (payload, most) = (message.payload(), self.payload_bytes);
        let _ = write!(output, ",\"payload_bytes\":{}", payload.len());
        let form = payload::form(message.content_type(), message.payload());
        let start = output.len();
        output.push_str(",\"payload\":");
        if !payload::json_value(output, payload, form, most) {
            output.truncate(start);
            output.push_str(",\"payload_text\":");
            let mut text = String::new();
            payload::show(&mut text, payload, form, most);
            quote(output, &text);
        }
    }
}

/// Why a message was rejected, and whose it was, without saying once more that it was.
fn why(rejection: &Rejection) -> String {
    rejection.to_string().replacen("rejected a message: ", "", 1)
}

fn gap_members(output: &mut String, gap: Gap) {
    if let Some(count) = gap.exact() {
        let _ = write!(output, ",\"lost\":{count}");
    }
    output.push_str(",\"what\":");
    quote(output, &gap.to_string());
}

/// Whether the message carries a value, though that may be empty.
fn has_payload(message: &Message) -> bool {
    matches!(message.kind(), Kind::Put | Kind::Request)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Put => "put",
        Kind::Remove => "remove",
        Kind::Clear => "clear",
        Kind::Touch => "touch",
        Kind::Heartbeat => "heartbeat",
        Kind::Request => "request",
        _ => "unknown",
    }
}

/// `clock:` or `caller:`, and the number.
fn version_text(output: &mut String, version: Version) {
    let domain = match version.domain() {
        VersionDomain::Clock => "clock",
        VersionDomain::Caller => "caller",
    };
    let _ = write!(output, "{domain}:{}", version.number());
}

/// How old the value is, by the two wall clocks: since its source data was born, or else since the
/// publisher's clock gave its version. Negative where the publisher's clock is ahead.
fn age_millis(message: &Message, now: SystemTime) -> Option<i64> {
    let clock = message.version().filter(|version| version.domain() == VersionDomain::Clock);
    let born = match message.ttl() {
        Some(ttl) => ttl.to_micros().0 / 1000,
        // The upper 48 bits of the clock's number are milliseconds since 1970.
        None => clock?.number() >> 16,
    };
    Some(millis(now).saturating_sub(i64::try_from(born).unwrap_or(i64::MAX)))
}

/// What is left of the value's life; none if it is over.
fn remaining(message: &Message, now: SystemTime) -> Option<Duration> {
    if let Some(ends_at) = message.ends_at() {
        return ends_at.checked_duration_since(Instant::now());
    }
    match message.ttl()?.remaining(now) {
        Remaining::Alive { left, .. } => Some(left),
        Remaining::Expired => None,
    }
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Hours, minutes, seconds and milliseconds, UTC.
fn time_of_day(output: &mut String, time: SystemTime) {
    let millis = millis(time).unsigned_abs() % 86_400_000;
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(output, "{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z");
}

fn human_millis(output: &mut String, millis: i64) {
    if millis < 0 {
        output.push('-');
    }
    human(output, Duration::from_millis(millis.unsigned_abs()));
}

/// As `2d3h`, `1h30m`, `29m59s`, `59.1s` or `7ms`.
fn human(output: &mut String, duration: Duration) {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let _ = match seconds {
        0 => write!(output, "{millis}ms"),
        1..60 => write!(output, "{seconds}.{}s", millis / 100),
        60..3600 => write!(output, "{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => write!(output, "{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => write!(output, "{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hydratecache::{ContentType, ErrorKind, Key, Origin, Position, RejectionReason, Ttl};
    use std::num::NonZeroU64;

    const NOW_MS: u64 = 1_700_000_000_123;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(NOW_MS)
    }

    fn line(is_json: bool, event: &Event<'_>) -> String {
        let topic = Topic::new("users").expect("legal");
        let format = Format { is_json, shows_topic: is_json, payload_bytes: 1000 };
        let mut output = String::new();
        format.line(&mut output, &Shown { topic: &topic, event, at: now() });
        assert_eq!(output.pop(), Some('\n'));
        assert!(!output.contains('\n'));
        output
    }

    fn message() -> Message {
        let origin = Origin::from_u64(0xabc).expect("not zero");
        let ttl = Ttl::new(now() - Duration::from_millis(1500), Duration::from_secs(60));
        Message::put(Key::new("user:1").expect("legal"), Bytes::from_static(b"\xa1\x61a\x01"))
            .with_ttl(ttl.expect("legal"))
            .with_version(Version::caller(7))
            .with_position(Position { origin, sequence: NonZeroU64::MIN })
            .with_content_type(ContentType::CBOR)
            .with_trace_parent(
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().expect("legal"),
            )
    }

    #[test]
    fn a_message_is_shown_with_all_that_it_says() {
        let event = Event::Message { message: &message(), is_late: false };
        assert_eq!(
            line(false, &event),
            "22:13:20.123Z put \"user:1\" age 1.5s ttl 1m0s, 58.5s left version caller:7 \
             origin 0000000000000abc #1 application/cbor \
             trace 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 {\"a\": 1}"
        );
        let object: serde_json::Value =
            serde_json::from_str(&line(true, &event)).expect("a JSON object");
        assert_eq!(
            object,
            serde_json::json!({
                "type": "message", "topic": "users", "at_ms": NOW_MS, "kind": "put",
                "key": "user:1", "age_ms": 1500, "ttl_ms": 60_000, "remaining_ms": 58_500,
                "version": "caller:7", "origin": "0000000000000abc", "sequence": 1,
                "content_type": "application/cbor",
                "trace_parent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "payload_bytes": 4, "payload": {"a": 1},
            })
        );
    }

    #[test]
    fn a_version_of_the_clock_says_how_old_a_message_is_even_from_the_future() {
        let key = Key::new("k").expect("legal");
        for (at, age) in [(NOW_MS - 2500, "2.5s"), (NOW_MS + 90_000, "-1m30s")] {
            let message = Message::remove(key.clone()).with_version(Version::clock(at << 16, None));
            let shown = line(false, &Event::Message { message: &message, is_late: true });
            assert!(
                shown.contains(&format!("remove \"k\" late age {age} version clock:")),
                "{shown}"
            );
        }
    }

    #[test]
    fn what_cannot_be_a_json_value_is_text_and_keys_cannot_write_to_the_terminal() {
        let key = Key::new("a\u{1b}[2J\nb").expect("legal");
        let message = Message::put(key, Bytes::from_static(b"\xffhello"));
        for is_json in [false, true] {
            let event = Event::Message { message: &message, is_late: false };
            let shown = line(is_json, &event);
            assert!(shown.contains("\"a\\u001b[2J\\nb\""), "{shown}");
            assert!(shown.contains("h'ff68656c6c6f'"), "{shown}");
        }
    }

    #[test]
    fn losses_have_lines_of_their_own() {
        let why = Error::new(ErrorKind::Unavailable, "the link \"x\" is cut");
        let rejection = Rejection::new(RejectionReason::NotAnEnvelope);
        let three = Gap::Exact(NonZeroU64::MIN.saturating_add(2));
        for (event, words, json) in [
            (Event::Gap(three), "GAP 3 messages", "\"lost\":3"),
            (Event::Gap(Gap::Unknown), "GAP messages may", "\"type\":\"gap\""),
            (Event::Disrupted(&why), "DISRUPTED broker unavailable", "\"type\":\"disrupted\""),
            (Event::Live, "LIVE", "\"type\":\"live\""),
            (Event::Rejected(&rejection), "REJECTED it is not an", "\"type\":\"rejected\""),
        ] {
            assert!(line(false, &event).contains(words), "{}", line(false, &event));
            let object = line(true, &event);
            assert!(object.contains(json), "{object}");
            serde_json::from_str::<serde_json::Value>(&object).expect("a JSON object");
        }
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0.0, "0ms"),
            (0.35, "350ms"),
            (59.99, "59.9s"),
            (1799.0, "29m59s"),
            (5400.0, "1h30m"),
            (180_000.0, "2d2h"),
        ] {
            let mut output = String::new();
            human(&mut output, Duration::from_secs_f64(seconds));
            assert_eq!(output, text);
        }
    }
}
