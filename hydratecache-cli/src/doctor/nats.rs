//! What a NATS server says of itself: it does so to whoever connects, before it asks who that is.

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::finding::Finding;
use super::trial::authority;
use super::{ANSWER_LIMIT, Arguments};

/// What is around a payload at most.
const ENVELOPE_BYTES: u64 = 1536;
/// What the server's makers advise against going beyond.
const MOST_PAYLOAD_BYTES: u64 = 8 << 20;

/// The part of the server's INFO that is judged.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    version: String,
    max_payload: u64,
    cluster: Option<String>,
    connect_urls: Vec<String>,
    ldm: bool,
}

/// Reads what the server says; nothing if it cannot be reached, which the trial says.
pub(super) async fn inspect(arguments: &Arguments) -> Vec<Finding> {
    match timeout(ANSWER_LIMIT, info(arguments.url.expose())).await {
        Ok(Some(info)) => judge(&info),
        _ => Vec::new(),
    }
}

async fn info(url: &str) -> Option<Info> {
    const MOST_BYTES: u64 = 1 << 20;
    let authority = authority(url);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:4222") };
    let stream = TcpStream::connect(address).await.ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(MOST_BYTES)).read_line(&mut line).await.ok()?;
    serde_json::from_str(line.strip_prefix("INFO ")?.trim()).ok()
}

fn judge(info: &Info) -> Vec<Finding> {
    let mut findings = vec![version(&info.version), payload(info.max_payload)];
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
}
