//! The demo as its users run it.

use std::process::{Command, Output};

/// Runs the command from the root of the repository.
fn hydratecache(arguments: &[&str]) -> Output {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let command =
        Command::new(env!("CARGO_BIN_EXE_hydratecache")).current_dir(root).args(arguments).output();
    command.expect("it runs")
}

fn assert_converged(output: &Output) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    let last = stdout.lines().last().expect("a last line");
    assert!(last.starts_with("converged: 3 of 3 replicas, "), "{last}");
    assert!(last.ends_with(" rows, 0 stale, 0 silent losses"), "{last}");
    let gaps = stdout.lines().filter(|line| line.contains(" suspect "));
    assert!(gaps.count() > 0, "nothing was lost, so nothing was shown:\n{stdout}");
    assert!(stdout.contains(" state   proven rows "), "{stdout}");
    let (_, end) = stdout.split_once("the writer is done").expect("it says so");
    assert!(end.contains("waiting until every replica has proven the last write"), "{stdout}");
}

#[test]
fn the_demo_converges_in_one_process() {
    assert_converged(&hydratecache(&["demo", "--seconds", "10", "--rows", "500", "--seed", "7"]));
}

#[cfg(feature = "redis")]
#[test]
fn the_demo_converges_over_a_redis_that_is_killed() {
    let arguments = ["demo", "--transport", "redis", "--seconds", "10", "--rows", "500"];
    assert_converged(&hydratecache(&arguments));
}

#[cfg(feature = "nats")]
#[test]
fn the_demo_converges_over_a_nats_that_is_killed() {
    let arguments = ["demo", "--transport", "nats", "--seconds", "10", "--rows", "500"];
    assert_converged(&hydratecache(&arguments));
}

#[cfg(feature = "postgres")]
#[test]
fn the_demo_converges_over_a_postgres_that_is_killed() {
    let arguments = ["demo", "--transport", "postgres", "--seconds", "10", "--rows", "500"];
    assert_converged(&hydratecache(&arguments));
}

#[cfg(feature = "kafka")]
#[test]
fn the_demo_converges_over_a_kafka_that_is_killed() {
    let arguments = ["demo", "--transport", "kafka", "--seconds", "10", "--rows", "500"];
    assert_converged(&hydratecache(&arguments));
}

#[cfg(feature = "redis")]
#[test]
fn an_unreachable_redis_is_an_error_that_names_it_without_its_password() {
    let url = "redis://user:secret@127.0.0.1:1";
    let output = hydratecache(&["demo", "--transport", "redis", "--url", url]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("127.0.0.1:1") && !stderr.contains("secret"), "{stderr}");
}

#[test]
fn wrong_usage_is_said_and_has_its_own_exit_code() {
    for arguments in [
        &["demo", "--rows", "0"][..],
        &["demo", "--transport", "pigeon"],
        &["demo", "--url", "redis://127.0.0.1"],
        &["dmo"],
    ] {
        let output = hydratecache(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
        assert!(output.stdout.is_empty(), "it is said before anything else: {output:?}");
    }
}

#[test]
fn a_closed_output_ends_it_quietly_and_without_success() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let mut command = Command::new(env!("CARGO_BIN_EXE_hydratecache"));
    command.args(["demo", "--seconds", "60", "--rows", "50"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
    stdout.read_line(&mut String::new()).expect("text");
    drop(stdout);
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_broker_that_was_not_built_in_is_named_with_its_feature() {
    let output = hydratecache(&["demo", "--transport", "kafka"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--features kafka"), "{stderr}");
}

/// A device that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_output_is_an_error_that_says_what_was_done() {
    for arguments in [&["demo", "--rows", "50"][..], &["completions", "bash"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydratecache"));
        let ended = command.args(arguments).stdout(full).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(3), "{arguments:?}: {stderr}");
        assert!(stderr.contains("writing to the output: "), "{arguments:?}: {stderr}");
    }
}
