//! A broker of the demo's own, which it may kill.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, bail};
use tokio::process::Command;

use super::Broker;

/// What brings up brokers, from the root of the repository.
const SCRIPT: &str = "scripts/services.sh";

/// A broker of the demo's own, which goes when this is dropped.
pub(in crate::demo) struct Server {
    broker: Broker,
    instance: String,
    url: String,
}

impl Server {
    /// Starts one and waits until it answers.
    pub(in crate::demo) async fn up(broker: Broker) -> anyhow::Result<Self> {
        if !Path::new(SCRIPT).exists() {
            bail!(
                "{SCRIPT} is not here: run the demo from the root of the repository, or give the \
                 URL of a broker with --url"
            );
        }
        let process = std::process::id().to_string();
        let mut server = Self { broker, instance: format!("demo-{process}"), url: String::new() };
        server.script("up", &["--owner", &process]).await?;
        let url = server.script("url", &[]).await?;
        url.trim().clone_into(&mut server.url);
        Ok(server)
    }

    pub(in crate::demo) fn broker(&self) -> Broker {
        self.broker
    }

    pub(in crate::demo) fn url(&self) -> &str {
        &self.url
    }

    /// Kills it with SIGKILL.
    pub(in crate::demo) async fn kill(&self) -> anyhow::Result<()> {
        self.script("kill9", &[]).await.map(drop)
    }

    /// Starts it again, at the same address.
    pub(in crate::demo) async fn start(&self) -> anyhow::Result<()> {
        self.script("start", &[]).await.map(drop)
    }

    /// What the script prints. What it says of its progress is shown only if it fails.
    async fn script(&self, verb: &str, options: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(SCRIPT)
            .args([verb, self.broker.service, "--instance", &self.instance])
            .args(options)
            .stdin(Stdio::null())
            .output()
            .await;
        let Output { status, stdout, stderr } =
            output.with_context(|| format!("running {SCRIPT}"))?;
        if !status.success() {
            let said = String::from_utf8_lossy(&stderr);
            bail!("{SCRIPT} {verb} ended with {status}: {}", said.trim());
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}

impl Drop for Server {
    /// Stops it and removes its data, also where the demo fails or is interrupted. If this fails
    /// too, the script's next `up` does it, because it knows the owner.
    fn drop(&mut self) {
        let _ = std::process::Command::new(SCRIPT)
            .args(["down", self.broker.service, "--wipe", "--instance", &self.instance])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
