//! Time spans as people write them.

use std::time::Duration;

/// A number and its unit, as `500ms`, `90s`, `30m`, `12h` or `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no time; write a number and ms, s, m, h or d, as 90s or 1.5h");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let unit_seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    seconds(number * unit_seconds)
}

/// So many seconds.
pub(crate) fn seconds(seconds: f64) -> Result<Duration, String> {
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| time.as_micros() > 0);
    time.ok_or_else(|| "a time to live is at least a microsecond, and has an end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("1.5h", 5_400_000),
            ("30m", 1_800_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "0s", "-1s", "1.2.3s", "1 s", "1w", "1e9s", "inf", ".s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for number in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e30] {
            assert!(seconds(number).is_err(), "{number}");
        }
    }
}
