//! The command as its users run it.

// Not every test file uses all of it.
#![allow(dead_code, unused_imports)]

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

pub(crate) use hydratecache_testkit::broker::{Broker, Kind};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

/// What `future` yields, if it does so within `limit`.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> F::Output {
    timeout(limit, future).await.unwrap_or_else(|_| panic!("took longer than {limit:?}"))
}

/// A broker of the test's own.
pub(crate) async fn broker(kind: Kind) -> Broker {
    Broker::start(kind).await.expect("a broker of the test's own")
}

/// The URL of a Kafka, as the command takes it.
pub(crate) fn kafka_url(kafka: &Broker) -> String {
    format!("kafka://{}", kafka.addr())
}

/// The command, without what the environment of the test says.
pub(crate) fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydratecache"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("HYDRATECACHE_")) {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// Runs the command to its end.
pub(crate) fn hydratecache<A: AsRef<OsStr>>(arguments: &[A], input: Stdio) -> Output {
    command(arguments).stdin(input).output().expect("it runs")
}

/// The lines of an output.
pub(crate) fn lines(output: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(output).expect("text").lines()
}

/// A command under way.
pub(crate) struct Following {
    child: Child,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    stderr: Lines<BufReader<ChildStderr>>,
    shown: Vec<u8>,
    said: Vec<u8>,
}

impl Following {
    /// Starts the command with the URL in its environment, as users are told to give it.
    pub(crate) fn start(arguments: &[&str], url: &str) -> Self {
        let mut command = tokio::process::Command::from(command(arguments));
        command.env("HYDRATECACHE_TRANSPORT", url).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
        let stderr = BufReader::new(child.stderr.take().expect("it was asked for")).lines();
        Self { child, stdout: Some(stdout), stderr, shown: Vec::new(), said: Vec::new() }
    }

    /// Waits until it says that it follows.
    pub(crate) async fn is_following(&mut self) {
        within(LIMIT, async {
            while let Some(line) = self.stderr.next_line().await.expect("text") {
                self.said.extend_from_slice(format!("{line}\n").as_bytes());
                if line.contains("Ctrl-C ends it") {
                    return;
                }
            }
            panic!("it ended: {}", String::from_utf8_lossy(&self.said));
        })
        .await;
    }

    /// Waits until it shows a line with this in it.
    pub(crate) async fn shows(&mut self, part: &str) {
        let stdout = self.stdout.as_mut().expect("open");
        within(LIMIT, async {
            while let Some(line) = stdout.next_line().await.expect("text") {
                self.shown.extend_from_slice(format!("{line}\n").as_bytes());
                if line.contains(part) {
                    return;
                }
            }
            panic!("it ended without {part}: {}", String::from_utf8_lossy(&self.shown));
        })
        .await;
    }

    /// Nobody reads what it shows any more.
    pub(crate) fn close_output(&mut self) {
        self.stdout = None;
    }

    /// Presses Ctrl-C.
    pub(crate) fn interrupt(&self) {
        self.signal("INT");
    }

    /// Sends the signal of this name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs");
        let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for its end, and returns all that it showed and said.
    pub(crate) async fn ended(&mut self) -> Output {
        within(LIMIT, async {
            let (mut shown, mut said) = (Vec::new(), Vec::new());
            let stdout = async {
                if let Some(stdout) = self.stdout.as_mut() {
                    while let Some(line) = stdout.next_line().await.expect("text") {
                        shown.extend_from_slice(format!("{line}\n").as_bytes());
                    }
                }
            };
            let stderr = async {
                while let Some(line) = self.stderr.next_line().await.expect("text") {
                    said.extend_from_slice(format!("{line}\n").as_bytes());
                }
            };
            tokio::join!(stdout, stderr);
            self.shown.append(&mut shown);
            self.said.append(&mut said);
            let status = self.child.wait().await.expect("it ends");
            Output {
                status,
                stdout: std::mem::take(&mut self.shown),
                stderr: std::mem::take(&mut self.said),
            }
        })
        .await
    }
}
