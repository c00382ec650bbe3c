//! pgbench's own binary and its own workload.

use hydratecache_testkit::broker::Broker;
use tokio::process::Child;

use crate::Outcome;
use crate::pgbench::{command, setting};

/// How much pgbench does.
pub(crate) struct Workload {
    pub(crate) seconds: u64,
    pub(crate) scale: u64,
    clients: u64,
}

/// A pgbench under way; dropping it ends it.
pub(crate) struct Running(Child);

/// What pgbench measured.
pub(crate) struct Measured {
    pub(crate) transactions: u64,
    pub(crate) per_second: f64,
}

impl Workload {
    pub(crate) fn from_environment() -> Outcome<Self> {
        Ok(Self {
            seconds: setting("PGBENCH_SECONDS", 20)?,
            scale: setting("PGBENCH_SCALE", 2)?,
            clients: setting("PGBENCH_CLIENTS", 8)?,
        })
    }

    pub(crate) fn start(&self, broker: &Broker) -> Outcome<Running> {
        self.start_for(broker, self.seconds)
    }

    pub(crate) fn start_for(&self, broker: &Broker, seconds: u64) -> Outcome<Running> {
        let (clients, seconds) = (self.clients.to_string(), seconds.to_string());
        let mut command = command(broker);
        command.args(["-n", "-j", "2", "-c", &clients, "-T", &seconds]);
        Ok(Running(command.spawn()?))
    }
}

impl Running {
    pub(crate) async fn transactions(self) -> Outcome<u64> {
        Ok(self.measured().await?.transactions)
    }

    pub(crate) async fn measured(self) -> Outcome<Measured> {
        let output = self.0.wait_with_output().await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let word = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label))?;
            line.split([' ', '/']).find(|word| !word.is_empty())
        };
        let transactions = word("number of transactions actually processed:");
        let per_second = word("tps =").and_then(|word| word.parse().ok());
        match (output.status.success(), transactions.and_then(|word| word.parse().ok()), per_second)
        {
            (true, Some(transactions), Some(per_second)) => {
                Ok(Measured { transactions, per_second })
            }
            _ => Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}
