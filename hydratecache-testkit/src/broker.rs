//! Real brokers that a test may kill, freeze and restart.
//!
//! Each [`Broker`] is an instance of its own, on a free port and with a data folder of its own, so that
//! tests of faults run side by side. It is driven by the repository's `scripts/services.sh`, which is found
//! through `HYDRATECACHE_SERVICES_SCRIPT` or, where that is not set, in the folders above the crate under
//! test.
//!
//! ```
//! use hydratecache_testkit::broker::{Broker, Kind};
//!
//! # #[tokio::main] async fn main() -> std::io::Result<()> {
//! let redis = Broker::builder(Kind::Redis).with_setting("maxmemory 10mb").start().await?;
//! redis.kill9().await?;
//! redis.start_again().await?; // on the same port
//! redis.pause().await?;
//! redis.resume().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Errors are [`io::Error`]s: `NotFound` when the script is missing, `TimedOut` when a step took too long,
//! `Other` when the script failed; each says what was tried and what to do. Nothing is ever skipped.
//!
//! A step whose future is dropped is carried out nevertheless: the drop waits for the script, at most 10 s,
//! because a script that ended halfway could leave a broker that nobody knows of.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// Names the script, for a crate outside the repository.
const SCRIPT_VARIABLE: &str = "HYDRATECACHE_SERVICES_SCRIPT";
/// Where the script lies in the repository.
const SCRIPT: &str = "scripts/services.sh";
/// A first start may have to install the broker, and another one is a JVM's on a busy machine. More than the script's
/// own limits: a minute to start by default, and half a minute more for another call.
const STEP_LIMIT: Duration = Duration::from_secs(240);
/// A drop blocks its thread, so it gives up early.
const DROP_LIMIT: Duration = Duration::from_secs(10);
/// So much of the script's complaint goes into an error.
const COMPLAINT_BYTES: usize = 2000;

/// A kind of broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Redis 7.
    Redis,
    /// NATS 2.
    Nats,
    /// `PostgreSQL` 17 or later.
    Postgres,
    /// Kafka 4.
    Kafka,
}

/// One running broker that belongs to one test.
///
/// Dropping it stops the broker, paused or not, and removes its data. That blocks the thread for as long as
/// the script takes, some 0.1 s: a drop cannot wait otherwise, and a task left behind for it would be lost
/// with a test's runtime, and the broker would outlive the test. [`down`](Self::down) does not block.
pub struct Broker {
    instance: Instance,
    url: String,
    addr: String,
}

/// How a [`Broker`] is to be set up.
#[derive(Clone, Debug)]
#[must_use]
pub struct BrokerBuilder {
    kind: Kind,
    settings: Vec<String>,
}

impl Broker {
    /// Starts a broker with default settings and waits until it answers.
    ///
    /// # Errors
    /// See the [module](self). Takes at most 180 s, because a first start may have to install the broker.
    pub async fn start(kind: Kind) -> io::Result<Self> {
        Self::builder(kind).start().await
    }

    /// Starts to set up a broker.
    pub fn builder(kind: Kind) -> BrokerBuilder {
        BrokerBuilder { kind, settings: Vec::new() }
    }

    /// What a client is to be given, credentials included where the broker wants any.
    ///
    /// It stays the same for the broker's whole life.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `host:port` of the broker, as a [`FaultProxy`](crate::proxy::FaultProxy) takes it.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Kills the broker with SIGKILL; when this returns, its port refuses connections.
    pub async fn kill9(&self) -> io::Result<()> {
        self.step("kill9").await
    }

    /// Starts a killed broker on the same port with the same data, and waits until it answers.
    pub async fn start_again(&self) -> io::Result<()> {
        self.step("start").await
    }

    /// Freezes the broker with SIGSTOP: its port accepts connections, and nothing answers.
    pub async fn pause(&self) -> io::Result<()> {
        self.step("pause").await
    }

    /// Lets a frozen broker run on with SIGCONT.
    pub async fn resume(&self) -> io::Result<()> {
        self.step("resume").await
    }

    /// The process id of its server, for those who want to watch or signal it themselves.
    pub async fn pid(&self) -> io::Result<u32> {
        let pid = self.instance.run("pid", &[], STEP_LIMIT).await?;
        pid.parse().map_err(|_| self.instance.failed("pid", "no number in its answer"))
    }

    /// Stops the broker and removes its data, as dropping it does, but without blocking the thread.
    ///
    /// If the future is dropped, the broker is taken down by the drop.
    pub async fn down(mut self) -> io::Result<()> {
        self.instance.run("down", &["--wipe"], STEP_LIMIT).await?;
        self.instance.is_up = false;
        Ok(())
    }

    async fn step(&self, verb: &str) -> io::Result<()> {
        self.instance.run(verb, &[], STEP_LIMIT).await?;
        Ok(())
    }
}

impl fmt::Debug for Broker {
    /// Without the URL, which may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("kind", &self.instance.kind)
            .field("instance", &self.instance.name)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl BrokerBuilder {
    /// Adds one line to the broker's own configuration, in its own syntax, such as `maxmemory 10mb`
    /// or, for `PostgreSQL`, `max_connections=500`.
    ///
    /// In Kafka's, `@CLIENT_PORT@` and `@CONTROLLER_PORT@` stand for the broker's own ports.
    pub fn with_setting(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }

    /// Starts the broker and waits until it answers.
    ///
    /// If the future is dropped, whatever has been started is taken down again, before the drop returns.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub async fn start(self) -> io::Result<Broker> {
        let owner = process::id().to_string();
        let settings = self.settings.iter().flat_map(|line| ["--set", line]);
        let options: Vec<&str> = settings.chain(["--owner", &owner]).collect();
        // From here on the drop of `instance` cleans up.
        let instance = Instance::new(self.kind)?;
        instance.run("up", &options, STEP_LIMIT).await?;
        let url = instance.run("url", &[], STEP_LIMIT).await?;
        let addr =
            host_and_port(&url).ok_or_else(|| instance.failed("url", "no host:port in it"))?;
        Ok(Broker { addr: addr.to_owned(), instance, url })
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Nats => "nats",
            Self::Postgres => "postgres",
            Self::Kafka => "kafka",
        }
    }
}

/// A named instance that the script knows, or is about to; dropping it takes it down.
struct Instance {
    kind: Kind,
    name: String,
    script: PathBuf,
    is_up: bool,
}

impl Instance {
    fn new(kind: Kind) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            kind,
            name: format!("test-{}-{number}", process::id()),
            script: script()?,
            is_up: true,
        })
    }

    /// Runs one verb of the script and returns what it printed.
    ///
    /// Errors leave the options out: a setting may hold a password. What the script says is passed on.
    async fn run(&self, verb: &str, options: &[&str], limit: Duration) -> io::Result<String> {
        let mut running = Running::new(self.command(verb, options))
            .map_err(|error| self.failed(verb, &error.to_string()))?;
        let output = timeout(limit, running.output())
            .await
            .map_err(|_| self.timed_out(verb, limit))?
            .map_err(|error| self.failed(verb, &error.to_string()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(self.failed(verb, &complaint(&output)))
        }
    }

    fn command(&self, verb: &str, options: &[&str]) -> process::Command {
        let mut command = process::Command::new(&self.script);
        command
            .args([verb, self.kind.name(), "--instance", &self.name])
            .args(options)
            .stdin(Stdio::null());
        command
    }

    fn failed(&self, verb: &str, reason: &str) -> io::Error {
        io::Error::other(self.message(verb, reason))
    }

    fn timed_out(&self, verb: &str, limit: Duration) -> io::Error {
        let message = self.message(verb, &format!("not done after {limit:?}"));
        io::Error::new(io::ErrorKind::TimedOut, message)
    }

    fn message(&self, verb: &str, reason: &str) -> String {
        let (kind, name, script) = (self.kind.name(), &self.name, self.script.display());
        format!(
            "`{script} {verb} {kind} --instance {name}` failed: {reason}\n\
             See whether `make services-up` works, and `make services-status`; faults need a broker \
             that is started here, so HYDRATECACHE_{}_URL does not help",
            kind.to_uppercase()
        )
    }

    /// Runs `down` and waits for it, but not longer than [`DROP_LIMIT`].
    fn take_down(&self) -> io::Result<()> {
        let mut command = self.command("down", &["--wipe"]);
        let mut script = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        match wait_in_drop(|| script.try_wait())? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed("down", &status.to_string())),
            None => Err(self.timed_out("down", DROP_LIMIT)),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.is_up {
            return;
        }
        if let Err(error) = self.take_down() {
            tracing::error!(%error, "a test broker was left behind");
        }
    }
}

/// A script under way. Dropping it waits for its end, with the pipes open, which it may still write to.
struct Running {
    script: Child,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Running {
    fn new(command: process::Command) -> io::Result<Self> {
        let mut command = Command::from(command);
        let mut script = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self {
            stdout: script.stdout.take().expect("it was asked for"),
            stderr: script.stderr.take().expect("it was asked for"),
            script,
        })
    }

    async fn output(&mut self) -> io::Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        tokio::try_join!(
            self.stdout.read_to_end(&mut stdout),
            self.stderr.read_to_end(&mut stderr),
        )?;
        Ok(Output { status: self.script.wait().await?, stdout, stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = wait_in_drop(|| self.script.try_wait()) {
            tracing::error!(%error, "nobody knows how a script that controls a broker ended");
        }
    }
}

/// Blocks until the process has ended, but not longer than [`DROP_LIMIT`].
fn wait_in_drop(
    mut try_wait: impl FnMut() -> io::Result<Option<ExitStatus>>,
) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        let status = try_wait()?;
        if status.is_some() || start.elapsed() > DROP_LIMIT {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The script that the environment names, or the repository's.
fn script() -> io::Result<PathBuf> {
    // Cargo sets it at run time for the crate under test, and at build time for this one.
    let tested = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let start = tested.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    script_from(env::var_os(SCRIPT_VARIABLE).map(PathBuf::from), &start)
}

fn script_from(named: Option<PathBuf>, start: &Path) -> io::Result<PathBuf> {
    match named {
        Some(named) if named.is_file() => Ok(named),
        Some(named) => Err(missing(&format!(
            "{SCRIPT_VARIABLE} names {}, which is not a file",
            named.display()
        ))),
        None => found_above(start).ok_or_else(|| {
            missing(&format!(
                "{SCRIPT} was looked for in {} and the folders above it",
                start.display()
            ))
        }),
    }
}

fn found_above(start: &Path) -> Option<PathBuf> {
    start.ancestors().map(|folder| folder.join(SCRIPT)).find(|script| script.is_file())
}

fn missing(tried: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!(
            "no script to start brokers with: {tried}. Run the tests in a checkout of the repository, or set \
             {SCRIPT_VARIABLE} to the path of its {SCRIPT}"
        ),
    )
}

/// How the script ended, and the end of what it said on stderr.
fn complaint(output: &Output) -> String {
    let said = &output.stderr;
    let tail = &said[said.len().saturating_sub(COMPLAINT_BYTES)..];
    let tail = String::from_utf8_lossy(tail);
    format!("{}\n{}", output.status, tail.trim())
}

/// The first `host:port` of a broker's URL.
fn host_and_port(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', ',']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (_, port) = host.rsplit_once(':')?;
    port.parse::<u16>().is_ok().then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_first_host_and_port_of_a_url() {
        for (url, addr) in [
            ("redis://127.0.0.1:6379", Some("127.0.0.1:6379")),
            ("rediss://user:p%40ss@localhost:6379/0", Some("localhost:6379")),
            ("postgres://a:b@127.0.0.1:5432/db?sslmode=off", Some("127.0.0.1:5432")),
            ("127.0.0.1:9092,127.0.0.1:9093", Some("127.0.0.1:9092")),
            ("nats://[::1]:4222", Some("[::1]:4222")),
            ("redis://localhost", None),
            ("", None),
        ] {
            assert_eq!(host_and_port(url), addr, "{url}");
        }
    }

    #[test]
    fn the_script_is_found_in_the_folders_above_or_the_error_says_where_it_was_looked_for() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = script_from(None, &here.join("src")).unwrap();
        assert!(found.ends_with(SCRIPT) && found.is_file());
        assert_eq!(script_from(Some(found.clone()), Path::new("/")).unwrap(), found);

        let nowhere = script_from(None, Path::new("/no/such/folder")).unwrap_err();
        let misnamed = script_from(Some("/no/such/script".into()), here).unwrap_err();
        for (error, tried) in [(nowhere, "/no/such/folder"), (misnamed, "/no/such/script")] {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            let message = error.to_string();
            assert!(message.contains(tried) && message.contains(SCRIPT_VARIABLE), "{message}");
        }
    }

    #[tokio::test]
    async fn a_start_that_is_dropped_leaves_no_broker_behind() {
        let ours = format!("test-{}-", process::id());
        let script = script().unwrap();
        let is_up = || {
            let status = process::Command::new(&script).args(["status", "redis", "--all"]).output();
            String::from_utf8_lossy(&status.unwrap().stdout).contains(&ours)
        };
        let redis = Broker::start(Kind::Redis).await.unwrap();
        assert!(is_up());
        drop(redis);
        for millis in [0, 1, 10, 30, 60, 90, 120] {
            let start = Broker::start(Kind::Redis);
            drop(timeout(Duration::from_millis(millis), start).await);
            assert!(!is_up(), "dropped after {millis} ms");
        }
    }

    #[test]
    fn an_error_names_the_step_and_the_way_out_but_no_setting() {
        let instance = Instance {
            kind: Kind::Redis,
            name: "x".to_owned(),
            script: "services.sh".into(),
            is_up: false,
        };
        let message = instance.failed("up", "exit status: 1: no redis-server").to_string();
        assert!(message.contains("`services.sh up redis --instance x`"), "{message}");
        assert!(message.contains("no redis-server"), "{message}");
        assert!(message.contains("make services-up"), "{message}");
    }
}
