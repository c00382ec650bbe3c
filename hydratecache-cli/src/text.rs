//! Text from others, made harmless.

/// Adds `text` in quotes, as a JSON string. What a terminal could obey is escaped: control
/// characters, and those that turn the direction of writing.
pub(crate) fn quote(output: &mut String, text: &str) {
    output.push('"');
    escape(output, text);
    output.push('"');
}

/// The same without the quotes.
pub(crate) fn escape(output: &mut String, text: &str) {
    let mut rest = text;
    while let Some(plain) = rest.bytes().position(|byte| !is_plain_ascii(byte)) {
        let (before, behind) = rest.split_at(plain);
        output.push_str(before);
        let mut chars = behind.chars();
        if let Some(c) = chars.next() {
            if is_plain(c) { output.push(c) } else { escape_char(output, c) }
        }
        rest = chars.as_str();
    }
    output.push_str(rest);
}

/// Almost all text consists of these, and a look at its bytes is cheaper than one at its characters.
fn is_plain_ascii(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

/// The text itself, made harmless.
pub(crate) fn escaped(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { escape_char(&mut output, c) } else { output.push(c) }
    }
    output
}

fn is_plain(c: char) -> bool {
    !matches!(c, '"' | '\\') && !is_harmful(c)
}

/// Whether a terminal may obey it instead of showing it.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

pub(crate) fn escape_char(output: &mut String, c: char) {
    use std::fmt::Write;
    match c {
        '"' | '\\' => output.extend(['\\', c]),
        '\n' => output.push_str("\\n"),
        '\r' => output.push_str("\\r"),
        '\t' => output.push_str("\\t"),
        // All that is escaped lies in the basic plane, so that four digits do.
        _ => {
            let _ = write!(output, "\\u{:04x}", u32::from(c));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_could_obey_is_escaped_and_json_reads_it_back() {
        let text = "a\u{1b}[2J\"\\\n\u{9b}\u{202e}é😀\u{7f}\0";
        let mut output = String::new();
        quote(&mut output, text);
        assert!(!output.chars().any(is_harmful), "{output:?}");
        assert!(output.contains("é😀"), "{output}");
        assert_eq!(serde_json::from_str::<String>(&output).expect("JSON"), text);
    }
}
