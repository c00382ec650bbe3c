//! What was found, and how bad it is.

use std::fmt::Write;
use std::process::ExitCode;

use crate::text::is_harmful;

const UNREAD: &str = "not read";

/// How bad a finding is, from the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok,
    /// It works, and will not always.
    Warning,
    /// It does not work.
    Failure,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What was looked at, in a word or two.
    pub(super) what: &'static str,
    pub(super) says: String,
    /// What to do; empty where all is well.
    pub(super) advice: String,
}

impl Finding {
    pub(super) fn ok(what: &'static str, says: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, says: says.into(), advice: String::new() }
    }

    pub(super) fn warning(
        what: &'static str,
        says: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, what, says: says.into(), advice: advice.into() }
    }

    /// What was to be judged and could not be read, why, and what to grant or do.
    pub(super) fn unread(settings: &str, why: &str, advice: impl Into<String>) -> Self {
        Self::warning(UNREAD, format!("{settings}: {why}"), advice)
    }

    /// Whether it says what could not be read.
    pub(super) fn is_unread(&self) -> bool {
        self.what == UNREAD
    }

    pub(super) fn failure(
        what: &'static str,
        says: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Failure, what, says: says.into(), advice: advice.into() }
    }
}

/// 0 if all is well, 4 if there are warnings only, 1 if something does not work.
pub(super) fn exit_code(findings: &[Finding]) -> ExitCode {
    ExitCode::from(exit_number(findings))
}

fn exit_number(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.level).max() {
        None | Some(Level::Ok) => 0,
        Some(Level::Warning) => 4,
        Some(Level::Failure) => 1,
    }
}

/// Adds the report: a line for each finding, and what to do below it.
pub(super) fn show(output: &mut String, findings: &[Finding], is_json: bool) {
    for Finding { level, what, says, advice } in findings {
        let (word, says) = (word(*level), one_line(says));
        if is_json {
            let advice = (!advice.is_empty()).then_some(advice);
            let line = serde_json::json!({
                "level": word, "what": what, "says": says, "advice": advice,
            });
            let _ = writeln!(output, "{line}");
            continue;
        }
        let _ = writeln!(output, "{word:<8} {what}: {says}");
        if !advice.is_empty() {
            let _ = writeln!(output, "         -> {advice}");
        }
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Failure => "FAILURE",
    }
}

/// What a broker says may hold anything.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_the_exit_code_and_each_says_what_to_do() {
        let ok = Finding::ok("connection", "it stands");
        let warning = Finding::warning("buffer", "it is\nsmall", "raise it");
        let failure = Finding::failure("publish", "it is denied", "grant it");
        assert_eq!(exit_number(&[]), 0);
        assert_eq!(exit_number(std::slice::from_ref(&ok)), 0);
        assert_eq!(exit_number(&[warning.clone(), ok.clone()]), 4);
        assert_eq!(exit_number(&[failure.clone(), warning.clone()]), 1);
        let mut output = String::new();
        show(&mut output, &[ok, warning, failure.clone()], false);
        assert_eq!(
            output,
            "ok       connection: it stands\nwarning  buffer: it is small\n         -> raise it\n\
             FAILURE  publish: it is denied\n         -> grant it\n"
        );
        output.clear();
        show(&mut output, &[failure], true);
        let object: serde_json::Value = serde_json::from_str(&output).expect("JSON");
        assert_eq!((&object["level"], &object["advice"]), (&"FAILURE".into(), &"grant it".into()));
    }
}
