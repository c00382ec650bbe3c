//! What a NATS server says of itself: it does so to whoever connects, before it asks who that is.

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::finding::Finding;
use super::trial::authority;
use super::{ANSWER_LIMIT, Arguments, NO_ANSWER};

/// What is around a payload at most.
const ENVELOPE_BYTES: u64 = 1536;
/// What the server's makers advise against going beyond.
const MOST_PAYLOAD_BYTES: u64 = 8 << 20;

/// The part of the server's INFO that is judged.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    version: Option<String>,
    max_payload: Option<u64>,
    cluster: Option<String>,
    connect_urls: Vec<String>,
    ldm: bool,
}

/// Reads what the server says.
pub(super) async fn inspect(arguments: &Arguments) -> Vec<Finding> {
    let info = timeout(ANSWER_LIMIT, info(arguments.url.expose())).await;
    match info.unwrap_or_else(|_| Err(NO_ANSWER.to_owned())) {
        Ok(info) => judge(&info),
        Err(why) => vec![Finding::unread(
            "version, max_payload, cluster and lame duck mode",
            &why,
            "let the machine of the doctor connect to the server itself, without a proxy between; one \
             that tells this behind TLS only (handshake_first) has it in its configuration",
        )],
    }
}

/// What the server says, or why that is not known.
async fn info(url: &str) -> Result<Info, String> {
    const MOST_BYTES: u64 = 1 << 20;
    let authority = authority(url);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:4222") };
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let mut line = String::new();
    let reading = BufReader::new(stream.take(MOST_BYTES)).read_line(&mut line).await;
    reading.map_err(|error| error.to_string())?;
    let info = line.strip_prefix("INFO ").ok_or("the server does not begin with INFO")?;
    serde_json::from_str(info.trim()).map_err(|error| format!("its INFO cannot be read: {error}"))
}

fn judge(info: &Info) -> Vec<Finding> {
    let silent = |what| Finding::unread(what, "the server does not tell it", "look at the server");
    let mut findings = vec![
        info.version.as_deref().map_or_else(|| silent("version"), version),
        info.max_payload.map_or_else(|| silent("max_payload"), payload),
    ];
    if info.cluster.is_some() || !info.connect_urls.is_empty() {
        findings.push(Finding::warning(
            "cluster",
            "it is a server of a cluster: a fence proves what this server has, not what others \
             were given, so that no read is proven fresh",
            "nothing, if gaps and repairs are enough; else let all use the same single server",
        ));
    }
    if info.ldm {
        findings.push(Finding::warning(
            "lame duck",
            "the server is about to end, and sends its clients away",
            "use another server of the cluster",
        ));
    }
    findings
}

fn version(version: &str) -> Finding {
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    if (parts.next(), parts.next()) >= (Some(2), Some(2)) {
        return Finding::ok("version", format!("NATS {version}"));
    }
    Finding::failure(
        "version",
        format!("NATS {version} does not say that nobody answers, on which proofs rest"),
        "use NATS 2.2 or later",
    )
}

fn payload(max_payload: u64) -> Finding {
    let what = "payload limit";
    let room = max_payload.saturating_sub(ENVELOPE_BYTES);
    match max_payload {
        0..4096 => Finding::failure(
            what,
            format!("max_payload is {max_payload}, which leaves {room} bytes for a value"),
            "raise max_payload in the server's configuration; its default is 1MB",
        ),
        4096..65_536 => Finding::warning(
            what,
            format!("max_payload is {max_payload}, so that values of {room} bytes pass"),
            "raise max_payload if values may be larger; its default is 1MB",
        ),
        _ if max_payload > MOST_PAYLOAD_BYTES => Finding::warning(
            what,
            format!("max_payload is {max_payload}: few such messages fill a server's buffers"),
            "lower max_payload to 8MB or less, and keep large values elsewhere",
        ),
        _ => Finding::ok(what, format!("values of {room} bytes pass")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn each_finding_has_its_threshold() {
        for (max_payload, level) in [
            (1 << 20, Level::Ok),
            (8 << 20, Level::Ok),
            (1000, Level::Failure),
            (10_000, Level::Warning),
            (32 << 20, Level::Warning),
        ] {
            assert_eq!(payload(max_payload).level, level, "{max_payload}");
        }
        for (says, level) in [
            ("2.15.0", Level::Ok),
            ("2.2.0-beta", Level::Ok),
            ("3.0.0", Level::Ok),
            ("2.1.9", Level::Failure),
            ("1.4.1", Level::Failure),
            ("", Level::Failure),
        ] {
            assert_eq!(version(says).level, level, "{says}");
        }
    }

    #[test]
    fn a_cluster_and_a_server_that_ends_are_warnings() {
        let text = r#"{"version":"2.15.0","max_payload":1048576,"cluster":"c","ldm":true,"x":1}"#;
        let info: Info = serde_json::from_str(text).expect("legal");
        let levels: Vec<Level> = judge(&info).iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Ok, Level::Warning, Level::Warning]);
    }

    #[test]
    fn what_the_server_does_not_tell_is_named() {
        let findings = judge(&Info::default());
        let says: Vec<&str> = findings.iter().map(|finding| finding.says.as_str()).collect();
        assert!(findings.iter().all(Finding::is_unread), "{findings:?}");
        assert!(says[0].starts_with("version") && says[1].starts_with("max_payload"), "{says:?}");
    }

    #[tokio::test]
    async fn a_server_that_waits_for_tls_or_is_none_is_no_silence() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
        let url = format!("nats://{}", listener.local_addr().expect("bound"));
        let other = async {
            let (mut stream, _) = listener.accept().await.expect("connected");
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400\r\n").await
        };
        let (read, written) = tokio::join!(info(&url), other);
        written.expect("written");
        assert!(read.expect_err("it is none").contains("INFO"));
    }
}
