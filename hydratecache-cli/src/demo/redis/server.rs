//! A Redis of the demo's own, which it may kill.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, bail};
use tokio::process::Command;

/// What brings up brokers, from the root of the repository.
const SCRIPT: &str = "scripts/services.sh";

/// A Redis of the demo's own, which goes when this is dropped.
pub(in crate::demo) struct Server {
    instance: String,
    url: String,
}

impl Server {
    /// Starts a Redis and waits until it answers.
    pub(super) async fn up() -> anyhow::Result<Self> {
        if !Path::new(SCRIPT).exists() {
            bail!(
                "{SCRIPT} is not here: run the demo from the root of the repository, or give the \
                 URL of a Redis with --url"
            );
        }
        let process = std::process::id().to_string();
        let mut server = Self { instance: format!("demo-{process}"), url: String::new() };
        server.script(&["up", "redis", "--owner", &process]).await?;
        let url = server.script(&["url", "redis"]).await?;
        url.trim().clone_into(&mut server.url);
        Ok(server)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Kills it with SIGKILL.
    pub(in crate::demo) async fn kill(&self) -> anyhow::Result<()> {
        self.script(&["kill9", "redis"]).await.map(drop)
    }

    /// Starts it again, at the same address.
    pub(in crate::demo) async fn start(&self) -> anyhow::Result<()> {
        self.script(&["start", "redis"]).await.map(drop)
    }

    /// What the script prints. What it says of its progress is shown only if it fails.
    async fn script(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(SCRIPT)
            .args(arguments)
            .args(["--instance", &self.instance])
            .stdin(Stdio::null())
            .output()
            .await;
        let Output { status, stdout, stderr } =
            output.with_context(|| format!("running {SCRIPT}"))?;
        if !status.success() {
            let said = String::from_utf8_lossy(&stderr);
            bail!("{SCRIPT} {} ended with {status}: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}

impl Drop for Server {
    /// Stops it and removes its data, also where the demo fails or is interrupted. If this fails
    /// too, the script's next `up` does it, because it knows the owner.
    fn drop(&mut self) {
        let _ = std::process::Command::new(SCRIPT)
            .args(["down", "redis", "--wipe", "--instance", &self.instance])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
