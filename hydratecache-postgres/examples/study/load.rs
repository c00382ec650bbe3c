//! What is written and read: pgbench's own workload, and readers with the same taste.

use std::io::Write;
use std::time::Duration;

use hydratecache_testkit::broker::Broker;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};
use tempfile::NamedTempFile;
use tokio::process::Child;

use crate::Outcome;
use crate::pgbench::{command, setting};

/// pgbench's own parameter must lie between 1.001 and 1,000; from about 1.1 on, a percent of the accounts gets
/// most of the accesses.
const SKEW: f64 = 1.1;

/// Which accounts are asked for and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    Uniform,
    Zipfian,
}

impl Distribution {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian 1.1",
        }
    }
}

pub(crate) struct Load {
    pub(crate) time: Duration,
    pub(crate) replicas: usize,
    /// A second and replica.
    pub(crate) reads: u32,
    /// A second, in all.
    pub(crate) writes: u32,
    pub(crate) scale: u32,
}

impl Load {
    pub(crate) fn from_environment() -> Outcome<Self> {
        let load = Self {
            time: Duration::from_secs(setting("STUDY_SECONDS", 60)?),
            replicas: setting("STUDY_REPLICAS", 4)?,
            reads: setting("STUDY_READS", 200)?,
            writes: setting("STUDY_WRITES", 200)?,
            scale: setting("STUDY_SCALE", 1)?,
        };
        let least = load.reads.min(load.writes).min(load.scale);
        if least == 0 || load.replicas == 0 || load.time < Duration::from_secs(10) {
            return Err("STUDY_SECONDS is 10 or more, and everything else 1 or more".into());
        }
        Ok(load)
    }

    pub(crate) fn accounts(&self) -> u32 {
        self.scale.saturating_mul(100_000)
    }

    /// Begins to write.
    pub(crate) fn write(&self, broker: &Broker, distribution: Distribution) -> Outcome<Writing> {
        let (rate, seconds) = (self.writes.to_string(), self.time.as_secs().to_string());
        let mut command = command(broker);
        command.args(["-n", "-c", "4", "-R", &rate, "-T", &seconds]);
        let mut script = None;
        match distribution {
            Distribution::Uniform => command.args(["-b", "simple-update"]),
            Distribution::Zipfian => {
                let mut file = NamedTempFile::new()?;
                write!(
                    file,
                    "\\set aid random_zipfian(1, {}, {SKEW})\n\
                     \\set delta random(-5000, 5000)\n\
                     UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n",
                    self.accounts()
                )?;
                command.arg("-f").arg(file.path());
                script = Some(file);
                &mut command
            }
        };
        Ok(Writing { running: command.spawn()?, _script: script })
    }

    /// Which accounts a reader asks for, one after the other.
    pub(crate) fn accounts_read(
        &self,
        distribution: Distribution,
        seed: u64,
    ) -> Outcome<impl Iterator<Item = u32> + Send + use<>> {
        let mut random = StdRng::seed_from_u64(seed);
        let accounts = self.accounts();
        let zipf = Zipf::new(f64::from(accounts), SKEW)?;
        Ok(std::iter::repeat_with(move || match distribution {
            Distribution::Uniform => random.random_range(1..=accounts),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Distribution::Zipfian => zipf.sample(&mut random) as u32,
        }))
    }
}

/// A pgbench under way; dropping it ends it.
pub(crate) struct Writing {
    running: Child,
    _script: Option<NamedTempFile>,
}

impl Writing {
    /// How many writes there were, once it is over.
    pub(crate) async fn transactions(self) -> Outcome<u64> {
        let output = self.running.wait_with_output().await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let label = "number of transactions actually processed:";
        let count = text.lines().find_map(|line| line.strip_prefix(label));
        let count = count.and_then(|count| count.split('/').next()?.trim().parse().ok());
        match count {
            Some(count) if output.status.success() => Ok(count),
            _ => Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}
