//! Payloads for people: JSON, CBOR diagnostic notation (RFC 8949, section 8), or hex.
//!
//! Whoever publishes decides what arrives, so nothing here trusts it: what nests too deep or is
//! broken is shown as hex, and what is written is bounded.

use std::fmt::Write;

use hydratecache::ContentType;
use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};

use crate::text::{escape_char, is_harmful, quote};

/// As deep as the library decodes.
const MAX_DEPTH: usize = 32;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Cbor,
    Other,
}

/// What a payload is: what its content type says, if it is that. Without one it is CBOR, or what
/// somebody sent who does not say, which is often JSON.
pub(crate) fn form(content_type: Option<&ContentType>, payload: &[u8]) -> Form {
    if content_type == Some(&ContentType::JSON) {
        return if is_json(payload) { Form::Json } else { Form::Other };
    }
    match () {
        () if is_cbor(payload) => Form::Cbor,
        () if is_json(payload) => Form::Json,
        () => Form::Other,
    }
}

/// Adds the payload as one line of text. What is longer than `most` bytes is cut.
pub(crate) fn show(output: &mut String, payload: &[u8], form: Form, most: usize) {
    let end = output.len().saturating_add(most);
    match form {
        Form::Json => json(output, payload, end),
        Form::Cbor => {
            let mut notation = Notation { output, end, is_json: false };
            // It was found well-formed; where its writing ends early, it was cut.
            let _ = notation.item(&mut Decoder::new(payload), 0);
        }
        Form::Other => hex(output, payload, end),
    }
    cut(output, end, payload.len());
}

/// Adds the payload as a JSON value. `false`: it has no such form, or is longer than `most` bytes;
/// then nothing is added.
pub(crate) fn json_value(output: &mut String, payload: &[u8], form: Form, most: usize) -> bool {
    let start = output.len();
    let end = start.saturating_add(most);
    let is_whole = match form {
        Form::Json => {
            json(output, payload, end);
            output.len() <= end
        }
        Form::Cbor => {
            let mut notation = Notation { output, end, is_json: true };
            notation.item(&mut Decoder::new(payload), 0).is_ok() && output.len() <= end
        }
        Form::Other => false,
    };
    if !is_whole {
        output.truncate(start);
    }
    is_whole
}

fn is_json(payload: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok()
}

/// Whether it is one well-formed item that is not too deep.
fn is_cbor(payload: &[u8]) -> bool {
    let mut decoder = Decoder::new(payload);
    well_formed(&mut decoder, 0).is_ok() && decoder.position() == payload.len()
}

fn well_formed(decoder: &mut Decoder<'_>, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::message("too deep"));
    }
    match decoder.datatype()? {
        Type::Array | Type::ArrayIndef => {
            each(decoder.array()?, decoder, |decoder| well_formed(decoder, depth + 1))
        }
        Type::Map | Type::MapIndef => each(decoder.map()?, decoder, |decoder| {
            well_formed(decoder, depth + 1)?;
            well_formed(decoder, depth + 1)
        }),
        Type::Tag => {
            decoder.tag()?;
            well_formed(decoder, depth + 1)
        }
        Type::BytesIndef => decoder.bytes_iter()?.try_for_each(|part| part.map(drop)),
        Type::StringIndef => decoder.str_iter()?.try_for_each(|part| part.map(drop)),
        // It checks that text is UTF-8.
        Type::String => decoder.str().map(drop),
        _ => decoder.skip(),
    }
}

/// Calls `item` for each item of a container of this length, or up to the break.
fn each<'b>(
    length: Option<u64>,
    decoder: &mut Decoder<'b>,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut left = length;
    loop {
        match &mut left {
            Some(0) => return Ok(()),
            Some(left) => *left -= 1,
            None if decoder.datatype()? == Type::Break => return decoder.skip(),
            None => (),
        }
        item(decoder)?;
    }
}

/// The payload without line breaks, and nothing that a terminal obeys.
fn json(output: &mut String, payload: &[u8], end: usize) {
    let Ok(text) = std::str::from_utf8(payload) else {
        return hex(output, payload, end);
    };
    let mut last_was_break = false;
    for c in text.trim().chars() {
        if output.len() > end {
            return;
        }
        match c {
            // Between values; within strings they are escaped already.
            '\n' | '\r' | '\t' | ' ' if last_was_break => (),
            '\n' | '\r' | '\t' => output.push(' '),
            c if is_harmful(c) => escape_char(output, c),
            c => output.push(c),
        }
        last_was_break = matches!(c, '\n' | '\r' | '\t') || (last_was_break && c == ' ');
    }
}

fn hex(output: &mut String, payload: &[u8], end: usize) {
    output.push_str("h'");
    for byte in payload {
        if output.len() > end {
            return;
        }
        let _ = write!(output, "{byte:02x}");
    }
    output.push('\'');
}

fn cut(output: &mut String, end: usize, payload_bytes: usize) {
    if output.len() > end {
        let boundary = (0..=end).rev().find(|at| output.is_char_boundary(*at)).unwrap_or(0);
        output.truncate(boundary);
        let _ = write!(output, "… ({payload_bytes} bytes)");
    }
}

/// Writes CBOR as text until `end`.
struct Notation<'o> {
    output: &'o mut String,
    end: usize,
    /// JSON, or an error where there is no such form; else diagnostic notation.
    is_json: bool,
}

impl Notation<'_> {
    fn item(&mut self, decoder: &mut Decoder<'_>, depth: usize) -> Result<(), Error> {
        if self.output.len() > self.end || depth > MAX_DEPTH {
            return Err(Error::message("cut"));
        }
        match decoder.datatype()? {
            Type::Bool => self.put(if decoder.bool()? { "true" } else { "false" }),
            Type::Null => {
                decoder.null()?;
                self.put("null");
            }
            Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int => {
                let int = decoder.int()?;
                let _ = write!(self.output, "{int}");
            }
            Type::F16 | Type::F32 | Type::F64 => self.float(decoder)?,
            Type::String => {
                let text = decoder.str()?;
                self.text(text);
            }
            Type::Array | Type::ArrayIndef => self.array(decoder, depth)?,
            Type::Map | Type::MapIndef => self.map(decoder, depth)?,
            _ if self.is_json => return Err(Error::message("JSON has no such type")),
            Type::Undefined => {
                decoder.undefined()?;
                self.put("undefined");
            }
            Type::Simple => {
                let number = decoder.simple()?;
                let _ = write!(self.output, "simple({number})");
            }
            Type::Bytes => {
                let bytes = decoder.bytes()?;
                hex(self.output, bytes, self.end);
            }
            Type::BytesIndef => {
                self.put("(_ ");
                for (index, part) in decoder.bytes_iter()?.enumerate() {
                    self.comma(index);
                    hex(self.output, part?, self.end);
                }
                self.put(")");
            }
            Type::StringIndef => {
                self.put("(_ ");
                for (index, part) in decoder.str_iter()?.enumerate() {
                    self.comma(index);
                    let part = part?;
                    self.text(part);
                }
                self.put(")");
            }
            Type::Tag => {
                let tag = decoder.tag()?.as_u64();
                let _ = write!(self.output, "{tag}(");
                self.item(decoder, depth + 1)?;
                self.put(")");
            }
            Type::Break | Type::Unknown(_) => return Err(Error::message("no item")),
        }
        Ok(())
    }

    fn array(&mut self, decoder: &mut Decoder<'_>, depth: usize) -> Result<(), Error> {
        let length = decoder.array()?;
        self.put(if length.is_none() && !self.is_json { "[_ " } else { "[" });
        let mut index = 0;
        each(length, decoder, |decoder| {
            self.comma(index);
            index += 1;
            self.item(decoder, depth + 1)
        })?;
        self.put("]");
        Ok(())
    }

    fn map(&mut self, decoder: &mut Decoder<'_>, depth: usize) -> Result<(), Error> {
        let length = decoder.map()?;
        self.put(if length.is_none() && !self.is_json { "{_ " } else { "{" });
        let mut index = 0;
        each(length, decoder, |decoder| {
            self.comma(index);
            index += 1;
            if self.is_json && decoder.datatype()? != Type::String {
                return Err(Error::message("JSON has text as keys only"));
            }
            self.item(decoder, depth + 1)?;
            self.put(": ");
            self.item(decoder, depth + 1)
        })?;
        self.put("}");
        Ok(())
    }

    fn float(&mut self, decoder: &mut Decoder<'_>) -> Result<(), Error> {
        let number = match decoder.datatype()? {
            Type::F16 => f64::from(decoder.f16()?),
            Type::F32 => f64::from(decoder.f32()?),
            _ => decoder.f64()?,
        };
        match number {
            _ if number.is_finite() => {
                let _ = write!(self.output, "{number:?}");
            }
            _ if self.is_json => return Err(Error::message("JSON has finite numbers only")),
            _ if number.is_nan() => self.put("NaN"),
            _ if number > 0.0 => self.put("Infinity"),
            _ => self.put("-Infinity"),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        // What is cut off anyway need not be escaped first.
        let room = self.end.saturating_add(8).saturating_sub(self.output.len()).min(text.len());
        let boundary = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        quote(self.output, &text[..boundary]);
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.put(", ");
        }
    }

    fn put(&mut self, text: &str) {
        self.output.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(payload: &[u8], most: usize) -> String {
        let mut output = String::new();
        show(&mut output, payload, form(None, payload), most);
        output
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        (0..hex.len()).step_by(2).map(digits).collect()
    }

    #[test]
    fn cbor_is_shown_in_the_notation_of_the_rfc() {
        // Most are of RFC 8949, appendix A.
        for (hex, notation) in [
            ("00", "0"),
            ("1bffffffffffffffff", "18446744073709551615"),
            ("3bffffffffffffffff", "-18446744073709551616"),
            ("f93e00", "1.5"),
            ("fa47c35000", "100000.0"),
            ("f97c00", "Infinity"),
            ("f97e00", "NaN"),
            ("f9fc00", "-Infinity"),
            ("f4", "false"),
            ("f6", "null"),
            ("f7", "undefined"),
            ("f8ff", "simple(255)"),
            ("4401020304", "h'01020304'"),
            ("6449455446", "\"IETF\""),
            ("62225c", "\"\\\"\\\\\""),
            ("83010203", "[1, 2, 3]"),
            ("a201020304", "{1: 2, 3: 4}"),
            ("a26161016162820203", "{\"a\": 1, \"b\": [2, 3]}"),
            ("c074323031332d30332d32315432303a30343a30305a", "0(\"2013-03-21T20:04:00Z\")"),
            ("5f42010243030405ff", "(_ h'0102', h'030405')"),
            ("7f657374726561646d696e67ff", "(_ \"strea\", \"ming\")"),
            ("9f0102ff", "[_ 1, 2]"),
            ("bf61610161629f0203ffff", "{_ \"a\": 1, \"b\": [_ 2, 3]}"),
            ("611b", "\"\\u001b\""),
        ] {
            assert_eq!(shown(&bytes(hex), 1000), notation, "{hex}");
        }
    }

    #[test]
    fn json_is_shown_on_one_line_and_what_is_neither_as_hex() {
        assert_eq!(shown(b" {\n  \"a\": [1,\r\n 2]\n}\n", 1000), "{ \"a\": [1, 2] }");
        assert_eq!(
            shown("{\"a\": \"\u{202e}\u{9b}\"}".as_bytes(), 1000),
            "{\"a\": \"\\u202e\\u009b\"}"
        );
        let json = form(Some(&ContentType::JSON), b"17");
        assert_eq!((json, form(None, &[0x18, 17])), (Form::Json, Form::Cbor));
        for other in [&b"hello"[..], &[0xff, 0x00], &[0x61], &[0x00, 0x00], &[0x61, 0xff], b""] {
            assert_eq!(form(None, other), Form::Other, "{other:?}");
        }
        assert_eq!(shown(&[0xff, 0x00], 1000), "h'ff00'");
        assert_eq!(form(Some(&ContentType::JSON), b"{"), Form::Other);
    }

    #[test]
    fn bombs_and_lengths_beyond_the_end_are_hex() {
        for bomb in [vec![0x81; 100_000], vec![0x9f; 100_000], vec![0xc0; 100_000]] {
            assert_eq!(form(None, &bomb), Form::Other);
            assert!(shown(&bomb, 100).len() < 150);
        }
        for long in ["9bffffffffffffffff", "bbffffffffffffffff00", "7bffffffffffffffff61"] {
            assert_eq!(form(None, &bytes(long)), Form::Other, "{long}");
        }
    }

    #[test]
    fn a_long_payload_is_cut_at_the_limit_and_its_length_is_said() {
        let text = format!("\"{}\"", "é".repeat(1000));
        for payload in
            [text.as_bytes(), &[0xff; 2002], &[&[0x79, 0x07, 0xcf][..], &[b'a'; 1999]].concat()]
        {
            let shown = shown(payload, 101);
            assert!(shown.ends_with("… (2002 bytes)"), "{shown}");
            assert!((95..=120).contains(&shown.len()), "{shown}");
        }
    }

    #[test]
    fn cbor_with_a_json_form_is_a_json_value() {
        for (hex, json) in [
            ("a26161016162820203", Some("{\"a\": 1, \"b\": [2, 3]}")),
            ("bf61610161629f0203ffff", Some("{\"a\": 1, \"b\": [2, 3]}")),
            ("a10102", None),
            ("4401020304", None),
            ("f97e00", None),
            ("c001", None),
        ] {
            let (mut output, payload) = (String::new(), bytes(hex));
            let is_json = json_value(&mut output, &payload, Form::Cbor, 1000);
            assert_eq!(is_json.then_some(output.as_str()), json, "{hex}");
            assert!(is_json || output.is_empty());
        }
        let mut output = String::new();
        assert!(!json_value(&mut output, b"[1,2,3]", Form::Json, 3) && output.is_empty());
    }
}
