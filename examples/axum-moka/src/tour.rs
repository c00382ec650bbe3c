//! Two instances of the service, as processes of their own, and what their clients see.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_postgres::NoTls;

use crate::service::SCHEMA;

/// The end of every wait: only something that is broken takes so long.
const LIMIT: Duration = Duration::from_secs(20);

/// Asks for nothing older than the question.
const PROVEN: &str = "Cache-Control: no-cache\r\n";

/// Tells the tour, and ends both instances.
pub(crate) async fn run(database: &str) -> anyhow::Result<()> {
    prepare(database).await?;
    let (one, two) = tokio::try_join!(Instance::start("one"), Instance::start("two"))?;

    one.ask("PUT", "/users/1", "", r#"{"name":"Ada"}"#, "writes a row").await?;
    two.ask("GET", "/users/1", PROVEN, "", "has it in its cache").await?;
    two.ask("PUT", "/users/1", "", r#"{"name":"Grace"}"#, "writes it anew").await?;
    one.ask("GET", "/users/1", PROVEN, "", "has that").await?;
    one.ask("GET", "/users/1", "", "", "without asking for a proof: from memory").await?;
    two.ask("PUT", "/users/1", "", r#"{"name":""}"#, "is refused by the table").await?;
    one.ask("GET", "/users/1", PROVEN, "", "hears nothing of it").await?;
    for instance in [&one, &two] {
        instance.ask("GET", "/loads", "", "", "how many reads waited for the table").await?;
    }
    two.ask("DELETE", "/users/1", "", "", "removes it").await?;
    one.ask("GET", "/users/1", PROVEN, "", "has it no more, looks into the table").await?;
    one.ask("GET", "/users/1", "", "", "knows by now that it is not there").await?;
    one.ask("GET", "/loads", "", "", "so one read waited").await
}

/// An empty table.
async fn prepare(database: &str) -> anyhow::Result<()> {
    let (client, connection) =
        tokio_postgres::connect(database, NoTls).await.context("connecting to DATABASE_URL")?;
    tokio::spawn(connection);
    client.batch_execute(SCHEMA).await?;
    Ok(client.batch_execute("TRUNCATE axum_moka_users").await?)
}

/// An instance, which ends with this.
struct Instance {
    name: &'static str,
    address: SocketAddr,
    _process: Child,
}

impl Instance {
    async fn start(name: &'static str) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("it is piped")?).lines();
        let line = timeout(LIMIT, lines.next_line()).await??.context("the instance ended")?;
        let address = line.strip_prefix("listening on ").context("where does it listen?")?;
        println!("{name}: {line}");
        Ok(Self { name, address: address.parse()?, _process: process })
    }

    /// Asks, and prints question and answer.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
        note: &str,
    ) -> anyhow::Result<()> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            self.address,
            body.len()
        );
        let (status, answer) = timeout(LIMIT, exchange(self.address, &request)).await??;
        let question = format!("{method} {path} {body}");
        println!("{}: {question:31} {status} {answer:23}  # {note}", self.name);
        Ok(())
    }
}

/// One request on a connection of its own: the status, and the body of the answer.
async fn exchange(address: SocketAddr, request: &str) -> anyhow::Result<(u16, String)> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer that is no HTTP")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?;
    ensure!(!head.contains("chunked"), "a body in chunks, which this client does not read");
    Ok((status.parse()?, body.to_owned()))
}
