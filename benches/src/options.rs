//! What a run is asked for, and what its figures share.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use clap::builder::PossibleValuesParser;
use tokio::runtime::Runtime;

use crate::figures;
use crate::report::Figure;
use crate::rounds::Plan;
use crate::server::{KAFKA, NATS, POSTGRES, REDIS, Server, Service};

/// Measures hydratecache beside the raw client, one line a figure.
#[derive(Debug, Parser)]
pub struct Options {
    /// Only these figures.
    #[arg(long, num_args = 1.., value_name = "NAME", value_parser = PossibleValuesParser::new(figures::names()))]
    only: Vec<String>,
    /// Fewer and shorter rounds: to see that everything works, not to judge by.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Adds the figures to the record in this folder: figures.csv, figures.md and plots. Those that are
    /// not measured stay as they are.
    #[arg(long, value_name = "FOLDER", conflicts_with = "quick")]
    pub write: Option<PathBuf>,
}

/// What figures need: how to measure, where to run, and the servers.
#[derive(Debug)]
pub struct Bench {
    /// How often and how long.
    pub plan: Plan,
    /// How long after an outage staleness is counted.
    pub patience: Duration,
    only: Vec<String>,
    is_quick: bool,
    redis: OnceCell<Server>,
    nats: OnceCell<Server>,
    postgres: OnceCell<Server>,
    kafka: OnceCell<Server>,
    /// Two workers, for everything that talks to a server: ours and raw.
    runtime: Runtime,
}

impl Options {
    /// Whether a figure was asked for.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// What the figures need.
    ///
    /// # Errors
    /// If no runtime can be made.
    pub fn bench(&self) -> Result<Bench> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().context("making a runtime")?;
        let (rounds, millis, patience) = if self.quick { (3, 100, 2) } else { (9, 500, 10) };
        Ok(Bench {
            plan: Plan { rounds, round: Duration::from_millis(millis) },
            patience: Duration::from_secs(patience),
            only: self.only.clone(),
            is_quick: self.quick,
            redis: OnceCell::new(),
            nats: OnceCell::new(),
            postgres: OnceCell::new(),
            kafka: OnceCell::new(),
            runtime,
        })
    }
}

impl Bench {
    /// Measures these in a process of their own, unless this one measures nothing else: what was measured before leaves
    /// memory behind, which is used again and seems to cost nothing.
    ///
    /// # Errors
    /// Those of `measure`, or if that process fails.
    pub fn apart(
        &self,
        names: &[&str],
        measure: impl FnOnce(&Self) -> Result<Vec<Figure>>,
    ) -> Result<Vec<Figure>> {
        let is_of_these = |only: &String| names.contains(&only.as_str());
        if !self.only.is_empty() && self.only.iter().all(is_of_these) {
            return measure(self);
        }
        let mut program = Command::new(std::env::current_exe()?);
        program.args(["--json", "--only"]).args(names).stderr(Stdio::inherit());
        let output = program.args(self.is_quick.then_some("--quick")).output()?;
        ensure!(output.status.success(), "measuring {names:?} in a process of its own failed");
        let lines = str::from_utf8(&output.stdout)?.lines();
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The Redis server, started when it is first needed.
    ///
    /// # Errors
    /// As [`Server::find`].
    pub fn redis(&self) -> Result<&Server> {
        self.server(&self.redis, REDIS)
    }

    /// The NATS server, started when it is first needed.
    ///
    /// # Errors
    /// As [`Server::find`].
    pub fn nats(&self) -> Result<&Server> {
        self.server(&self.nats, NATS)
    }

    /// The PostgreSQL server, started when it is first needed.
    ///
    /// # Errors
    /// As [`Server::find`].
    pub fn postgres(&self) -> Result<&Server> {
        self.server(&self.postgres, POSTGRES)
    }

    /// The Kafka server, started when it is first needed.
    ///
    /// # Errors
    /// As [`Server::find`].
    pub fn kafka(&self) -> Result<&Server> {
        self.server(&self.kafka, KAFKA)
    }

    /// The brokers that were used so far, with their versions.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn brokers(&self) -> Result<Vec<String>> {
        let servers = [&self.redis, &self.nats, &self.postgres, &self.kafka];
        let servers = servers.into_iter().filter_map(OnceCell::get);
        servers.map(|server| self.runtime.block_on(server.version())).collect()
    }

    fn server<'a>(&self, found: &'a OnceCell<Server>, service: Service) -> Result<&'a Server> {
        if let Some(server) = found.get() {
            return Ok(server);
        }
        let server = self.runtime.block_on(Server::find(service))?;
        Ok(found.get_or_init(|| server))
    }

    /// Runs `work` on a worker, as a service does: the thread outside the runtime pays more for
    /// being woken.
    ///
    /// # Errors
    /// Those of `work`, or if it panicked.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.runtime.block_on(self.runtime.spawn(work)).context("a measurement panicked")?
    }
}
