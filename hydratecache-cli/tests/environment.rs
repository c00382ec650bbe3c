//! What environment variables and missing arguments do, as users meet them.
#![cfg(all(feature = "redis", feature = "nats"))]

mod support;

use std::process::{Output, Stdio};

use support::command;

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Output, String) {
    let mut command = command(arguments);
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

/// Nobody listens there.
const NOBODY: (&str, &str) = ("HYDRATECACHE_TRANSPORT", "redis://127.0.0.1:1");

#[test]
fn a_flag_is_switched_on_and_off_by_its_variable() {
    for (value, is_json) in [("1", true), ("yes", true), ("true", true), ("0", false), ("", false)]
    {
        let (output, stderr) = run(&["doctor"], &[NOBODY, ("HYDRATECACHE_JSON", value)]);
        assert_eq!(output.status.code(), Some(1), "{value}: {stderr}");
        assert_eq!(output.stdout.starts_with(b"{"), is_json, "{value}: {output:?}");
    }
    let (output, _) = run(&["doctor"], &[NOBODY, ("HYDRATECACHE_JSON", "perhaps")]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn an_empty_variable_says_nothing() {
    let publish = ["publish", "users", "user:1", "1"];
    let (output, stderr) = run(&publish, &[NOBODY, ("HYDRATECACHE_PUBLISH_FROM", "")]);
    assert_eq!(output.status.code(), Some(3), "it is not lines that are read: {stderr}");
    assert!(stderr.contains("127.0.0.1:1"), "{stderr}");
}

#[test]
fn a_broker_that_is_missing_is_asked_for_by_its_variable_too() {
    for arguments in [&["tail", "users"][..], &["doctor"]] {
        for variables in [&[][..], &[("HYDRATECACHE_TRANSPORT", "")]] {
            let (output, stderr) = run(arguments, variables);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(
                stderr.contains("URL") && stderr.contains("HYDRATECACHE_TRANSPORT"),
                "{stderr}"
            );
        }
    }
}

#[test]
fn what_arguments_are_is_said_and_help_is_the_same_short_or_long() {
    for subcommand in ["publish", "remove", "clear", "touch", "snapshot"] {
        let (output, _) = run(&[subcommand, "-h"], &[]);
        let help = String::from_utf8(output.stdout).expect("text");
        let bare = help.lines().find(|line| ["<TOPIC>", "[KEY]"].contains(&line.trim()));
        assert_eq!(bare, None, "{subcommand}");
    }
    let first = |flag| {
        let help = String::from_utf8(run(&[flag], &[]).0.stdout).expect("text");
        // clap leaves the full stop out of the short one.
        help.lines().next().map(|line| line.trim_end_matches('.').to_owned())
    };
    assert_eq!(first("-h"), first("--help"));
}
