//! The command itself, as a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::feed::KEY;

const PROGRAM: &str = "hydratecache";
/// How often its memory is looked at.
const PAUSE: Duration = Duration::from_millis(10);
/// It takes no longer than this for what was published.
const LIMIT: Duration = Duration::from_secs(60);

/// A tail under way.
pub(super) struct Tail {
    child: Child,
    began: Instant,
    /// What it says on stderr.
    said: Receiver<String>,
}

/// What a tail did.
pub(super) struct Shown {
    /// From the start of the program to its end.
    pub(super) took: Duration,
    /// The most memory that was resident.
    pub(super) memory_mib: f64,
    /// The last thing that it said.
    summary: String,
}

impl Tail {
    /// Starts one that ends after so many messages and shows them to nobody.
    pub(super) fn start(url: &str, topic: &str, messages: u64, more: &[&str]) -> Result<Self> {
        let began = Instant::now();
        let mut command = command(url, topic, messages, more)?;
        let mut child = command.stdout(Stdio::null()).spawn().context("starting tail")?;
        let said = lines(child.stderr.take().context("it was asked for")?);
        Ok(Self { child, began, said })
    }

    /// Waits until nothing that is published is missed.
    pub(super) fn is_following(&self) -> Result<()> {
        let line = self.said.recv_timeout(LIMIT).context("waiting for tail to follow")?;
        ensure!(line.starts_with("following"), "tail says: {line}");
        Ok(())
    }

    /// Waits for its end, and interrupts it if that does not come.
    pub(super) fn ended(mut self) -> Result<Shown> {
        let mut memory_mib: f64 = 0.0;
        let mut is_interrupted = false;
        let status = loop {
            // Its peak, so that the last look before its end is near to all of it.
            memory_mib = memory_mib.max(peak_mib(self.child.id()).unwrap_or_default());
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if self.began.elapsed() > LIMIT && !std::mem::replace(&mut is_interrupted, true) {
                let id = Pid::from_child(&self.child);
                kill_process(id, Signal::INT).context("interrupting tail")?;
            }
            sleep(PAUSE);
        };
        let took = self.began.elapsed();
        let mut summary = String::new();
        loop {
            match self.said.recv_timeout(LIMIT) {
                Ok(line) => summary = line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("tail ended, and its stderr did not"),
            }
        }
        ensure!(status.success(), "tail failed: {summary}");
        Ok(Shown { took, memory_mib, summary })
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // It has ended, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shown {
    /// How many messages it showed.
    pub(super) fn messages(&self) -> Result<u64> {
        let count = self.summary.split(' ').next().and_then(|count| count.parse().ok());
        count.with_context(|| format!("tail was to say how many, and said {:?}", self.summary))
    }

    /// Every message was counted and shown, and none was lost.
    pub(super) fn is_all_of(&self, messages: u64) -> Result<()> {
        let all = format!("{messages} messages, 0 gaps, 0 disruptions, 0 rejected");
        ensure!(self.summary == all, "tail was to say {all:?}, and said {:?}", self.summary);
        Ok(())
    }
}

/// Follows the log into this process: each message has to be shown exactly once.
pub(super) fn check_that_each_is_shown_once(url: &str, topic: &str, messages: u64) -> Result<()> {
    let mut command = command(url, topic, messages, &["--from-beginning", "--json"])?;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = BufReader::new(child.stdout.take().context("it was asked for")?);
    let mut is_shown = vec![false; usize::try_from(messages)?];
    let before = format!("\"key\":\"{KEY}");
    for line in output.lines() {
        let line = line?;
        let Some((_, rest)) = line.split_once(&before) else {
            continue;
        };
        let number = rest.split('"').next().and_then(|number| number.parse::<usize>().ok());
        let seen = number.and_then(|number| is_shown.get_mut(number)).context("a strange key")?;
        ensure!(!std::mem::replace(seen, true), "tail showed a message twice: {line}");
    }
    ensure!(child.wait()?.success(), "tail failed");
    let missing = is_shown.iter().filter(|is_shown| !**is_shown).count();
    ensure!(missing == 0, "tail did not show {missing} of {messages} messages");
    Ok(())
}

fn command(url: &str, topic: &str, messages: u64, more: &[&str]) -> Result<Command> {
    let program = std::env::current_exe()?.with_file_name(PROGRAM);
    ensure!(
        program.is_file(),
        "{PROGRAM} is not beside this program; build it: cargo build --release -p hydratecache-cli \
         --features kafka"
    );
    let mut command = Command::new(program);
    command.env("HYDRATECACHE_TRANSPORT", url).args(["tail", topic, "--count"]);
    command.arg(messages.to_string()).args(more).stdin(Stdio::null()).stderr(Stdio::piped());
    Ok(command)
}

fn lines(stderr: ChildStderr) -> Receiver<String> {
    let (lines, said) = channel();
    std::thread::spawn(move || {
        let all = BufReader::new(stderr).lines().map_while(Result::ok);
        let _ = all.map(|line| lines.send(line)).take_while(Result::is_ok).count();
    });
    said
}

/// The most memory that was ever resident (`VmHWM`).
fn peak_mib(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
