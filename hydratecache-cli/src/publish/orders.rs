//! Lines of JSON, read and turned into writes.

use std::borrow::Cow;
use std::io::BufRead;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use hydratecache::codec::{Cbor, Codec};
use hydratecache::{ContentType, Ttl};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{Operation, Order, What};
use crate::lines::Lines;
use crate::ttl::{duration, seconds};

/// So many lines are read ahead.
const AHEAD: usize = 64;

/// What payloads are made of values that are given as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Encoding {
    /// CBOR, the default of channels
    Cbor,
    /// The JSON text itself, for channels with the JSON codec
    Json,
}

impl Encoding {
    /// The media type that messages name; none is the default, CBOR.
    pub(crate) fn content_type(self) -> Option<ContentType> {
        match self {
            Self::Cbor => None,
            Self::Json => Some(ContentType::JSON),
        }
    }
}

/// What lines are turned into.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Put { encoding: Encoding, ttl: Option<Duration> },
    Remove,
    Touch { ttl: Option<Duration> },
}

/// A line of `publish`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueLine<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
    ttl: Option<Life>,
    version: Option<u64>,
}

/// A line of `remove` or `touch`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyLine<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    ttl: Option<Life>,
    version: Option<u64>,
}

/// A time to live: seconds, or text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Life {
    Seconds(f64),
    Text(String),
}

impl Life {
    fn duration(&self) -> Result<Duration, String> {
        match self {
            Self::Seconds(number) => seconds(*number),
            Self::Text(text) => duration(text),
        }
    }
}

impl Shape {
    /// The media type of the payloads; none is the default, CBOR.
    pub(super) fn content_type(self) -> Option<ContentType> {
        match self {
            Self::Put { encoding, .. } => encoding.content_type(),
            _ => None,
        }
    }

    /// A put of a JSON text.
    pub(super) fn put(
        self,
        key: String,
        value: &str,
        ttl: Option<Duration>,
    ) -> Result<What, String> {
        let Self::Put { encoding, ttl: default } = self else {
            return Err("only `publish` has values".to_owned());
        };
        let ttl = ttl.or(default).map(starting_now).transpose()?;
        Ok(What::Put { key, payload: encode(value, encoding)?, ttl })
    }

    /// A touch.
    pub(super) fn touch(self, key: String, ttl: Option<Duration>) -> Result<What, String> {
        let Self::Touch { ttl: default } = self else {
            return Err("only `touch` has no value and a time to live".to_owned());
        };
        let Some(ttl) = ttl.or(default) else {
            return Err(
                "a touch needs a time to live; give --ttl, or \"ttl\" in the line".to_owned()
            );
        };
        Ok(What::Touch { key, ttl: starting_now(ttl)? })
    }

    /// What a line says.
    fn parse(self, line: &str, version: Option<u64>) -> Result<Operation, String> {
        let wrong = |error: serde_json::Error| {
            let form = match self {
                Self::Put { .. } => r#"{"key": "...", "value": ..., "ttl": "30m", "version": 7}"#,
                Self::Remove => r#"{"key": "...", "version": 7}"#,
                Self::Touch { .. } => r#"{"key": "...", "ttl": "30m", "version": 7}"#,
            };
            format!("{}; a line has the form {form}", said(&error))
        };
        if let Self::Put { .. } = self {
            let line: ValueLine<'_> = serde_json::from_str(line).map_err(wrong)?;
            let ttl = line.ttl.map(|ttl| ttl.duration()).transpose()?;
            let what = self.put(line.key.into_owned(), line.value.get(), ttl)?;
            return Ok(Operation { what, version: line.version.or(version) });
        }
        let line: KeyLine<'_> = serde_json::from_str(line).map_err(wrong)?;
        let key = line.key.into_owned();
        let what = match (self, line.ttl) {
            (Self::Touch { .. }, ttl) => {
                self.touch(key, ttl.map(|ttl| ttl.duration()).transpose()?)?
            }
            (_, Some(_)) => return Err("a removal has no time to live".to_owned()),
            (_, None) => What::Remove { key },
        };
        Ok(Operation { what, version: line.version.or(version) })
    }
}

fn starting_now(duration: Duration) -> Result<Ttl, String> {
    Ttl::starting_now(duration).map_err(|error| error.to_string())
}

/// What is wrong with a JSON text. Of one line the column says where: which line of the input it is,
/// serde does not know.
fn said(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// The payload of a value that is given as JSON.
fn encode(json: &str, encoding: Encoding) -> Result<Bytes, String> {
    let value: serde_json::Value = serde_json::from_str(json).map_err(|error| {
        format!("it is no JSON: {}; text stands in quotes, as in '\"Ada\"'", said(&error))
    })?;
    match encoding {
        Encoding::Json => Ok(Bytes::copy_from_slice(json.trim().as_bytes())),
        // It would silently become a floating-point number.
        Encoding::Cbor if has_large_integer(json) => Err(
            "it holds an integer that does not fit into 64 bits; write it as text, or with a point"
                .to_owned(),
        ),
        Encoding::Cbor => Cbor.encode(&value).map_err(|error| error.to_string()),
    }
}

/// Whether a JSON text holds an integer beyond 64 bits.
fn has_large_integer(json: &str) -> bool {
    let (mut in_text, mut is_escaped) = (false, false);
    let mut number_from = None;
    // One more, so that a number at the end is looked at.
    for (at, byte) in json.bytes().chain([b' ']).enumerate() {
        if in_text {
            in_text = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E' if number_from.is_some() => (),
            b'0'..=b'9' | b'-' => number_from = Some(at),
            _ => {
                let number = number_from.take().map_or("0", |from| &json[from..at]);
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
                    return true;
                }
                in_text = byte == b'"';
            }
        }
    }
    false
}

/// Reads what the lines say on a thread of its own, which nothing waits for: a terminal may never say
/// more.
pub(super) fn read(
    mut lines: Lines<impl BufRead + Send + 'static>,
    shape: Shape,
    version: Option<u64>,
) -> mpsc::Receiver<Order> {
    let (orders, received) = mpsc::channel(AHEAD);
    thread::spawn(move || {
        for order in each(&mut lines, shape, version) {
            if orders.blocking_send(order).is_err() {
                return;
            }
        }
    });
    received
}

/// What the lines say.
fn each<R: BufRead>(
    lines: &mut Lines<R>,
    shape: Shape,
    version: Option<u64>,
) -> impl Iterator<Item = Order> {
    let mut buffer = Vec::new();
    std::iter::from_fn(move || {
        let line = lines.next(&mut buffer)?;
        let operation = line.text.and_then(|text| shape.parse(text, version));
        Some(Order { line: Some(line.number), end_bytes: line.end_bytes, operation })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: Shape = Shape::Put { encoding: Encoding::Cbor, ttl: None };

    fn orders(input: &[u8], shape: Shape) -> Vec<Order> {
        each(&mut Lines::new(input), shape, None).collect()
    }

    #[test]
    fn what_a_default_channel_publishes_is_what_a_json_value_becomes() {
        let json = r#"{"name":"Ada","age":36,"tags":[null,true,-1.5],"big":18446744073709551615}"#;
        let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let payload = encode(json, Encoding::Cbor).expect("encodes");
        assert_eq!(Codec::<serde_json::Value>::decode(&Cbor, &payload).expect("decodes"), value);
        assert_eq!(encode(" 1 ", Encoding::Json).expect("encodes"), "1");
        for wrong in ["Ada", "", "{", "1 2"] {
            assert!(encode(wrong, Encoding::Json).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_integer_beyond_64_bits_is_refused_and_not_rounded() {
        for json in
            ["18446744073709551616", "[1,-9223372036854775809]", "{\"a\":99999999999999999999}"]
        {
            assert!(encode(json, Encoding::Cbor).is_err(), "{json}");
            assert!(encode(json, Encoding::Json).is_ok(), "{json}");
        }
        for json in [
            "18446744073709551615",
            "-9223372036854775808",
            "99999999999999999999.0",
            "1e30",
            "\"99999999999999999999\"",
            "[\"\\\\\",\"a\\\"99999999999999999999\"]",
        ] {
            assert!(encode(json, Encoding::Cbor).is_ok(), "{json}");
        }
    }

    #[test]
    fn every_line_is_a_write_or_an_error_with_its_number() {
        let input = b"{\"key\":\"a\",\"value\":null,\"ttl\":\"30m\",\"version\":7}\n\n\
            {\"key\":\"b\"}\nnothing\n{\"key\":\"c\",\"value\":1,\"tll\":1}\n\xff\n\
            {\"key\":\"\\u0064\",\"value\":2,\"ttl\":0}\n{\"key\":\"e\",\"value\":[ 1 ]}";
        let orders = orders(input, PUT);
        let lines: Vec<_> = orders.iter().map(|order| order.line.expect("a line")).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8]);
        let is_good: Vec<_> = orders.iter().map(|order| order.operation.is_ok()).collect();
        assert_eq!(is_good, [true, false, false, false, false, false, true]);
        let first = orders[0].operation.as_ref().expect("good");
        assert_eq!(first.version, Some(7));
        let What::Put { key, payload, ttl } = &first.what else { panic!("{first:?}") };
        assert_eq!((key.as_str(), &payload[..]), ("a", &[0xf6][..]));
        assert_eq!(ttl.expect("given").duration(), Duration::from_secs(1800));
        assert_eq!(orders[6].end_bytes, input.len() as u64);
        let error = orders[2].operation.as_ref().expect_err("no JSON");
        assert!(error.starts_with("expected ident at column 2; a line has"), "{error}");
    }

    #[test]
    fn removals_and_touches_have_lines_of_their_own() {
        let removals = orders(b"{\"key\":\"a\"}\n{\"key\":\"b\",\"ttl\":1}\n", Shape::Remove);
        let removal = removals[0].operation.as_ref().expect("good");
        assert_eq!(removal.what, What::Remove { key: "a".to_owned() });
        assert!(removals[1].operation.is_err());
        let touches =
            orders(b"{\"key\":\"a\",\"ttl\":1.5}\n{\"key\":\"b\"}\n", Shape::Touch { ttl: None });
        let touch = touches[0].operation.as_ref().expect("good");
        assert!(
            matches!(&touch.what, What::Touch { ttl, .. } if ttl.duration().as_millis() == 1500)
        );
        assert!(touches[1].operation.is_err());
    }
}
