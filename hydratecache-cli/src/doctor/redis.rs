//! What a Redis says of itself.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::{CustomCommand, Value};
use tokio::time::timeout;

use super::finding::Finding;
use super::{ANSWER_LIMIT, Arguments, NO_ANSWER};
use crate::client;

/// What the library takes by default, with what is around it.
const LARGEST_MESSAGE_BYTES: u64 = (4 << 20) + 1536;
/// What Redis grants a subscriber by default for a minute, and what half of it carries.
const SMALLEST_BUFFER_BYTES: u64 = 8 << 20;

/// What is judged. What could not be read is none, or why not.
#[derive(Debug)]
struct Facts {
    info: Result<Info, String>,
    /// The hard and the soft limit of `pubsub`, in bytes; 0 is none.
    pubsub_buffer: Result<(u64, u64), String>,
    largest_bulk_bytes: Result<u64, String>,
}

#[derive(Debug, Default)]
struct Info {
    version: Option<String>,
    is_replica: Option<bool>,
    is_cluster: bool,
    connected_clients: Option<u64>,
    max_clients: Option<u64>,
}

/// What is judged of `INFO`.
const INFO: &str = "version, role, cluster and connections";
/// What is judged of `CONFIG`.
const BUFFER: &str = "client-output-buffer-limit";
const LARGEST: &str = "proto-max-bulk-len";

/// Asks the server.
pub(super) async fn inspect(arguments: &Arguments) -> Vec<Finding> {
    let connecting = client::redis::connect(&arguments.url, &arguments.access);
    let client = match timeout(ANSWER_LIMIT, connecting).await {
        Ok(Ok(client)) => client,
        Ok(Err(why)) => return vec![nothing_read(&format!("{why:#}"))],
        Err(_) => return vec![nothing_read(NO_ANSWER)],
    };
    let info = ask(&client, &["INFO"]).await;
    let setting = async |name: &str| {
        let answer = ask(&client, &["CONFIG", "GET", name]).await?;
        setting_of(&answer, name).ok_or_else(|| "the server does not tell it".to_owned())
    };
    let unknown = || "the server tells it in a form that is not known".to_owned();
    let buffer = setting(BUFFER).await;
    let largest = setting(LARGEST).await;
    let facts = Facts {
        info: info.map(|info| info_of(info.as_string().as_deref().unwrap_or_default())),
        pubsub_buffer: buffer.and_then(|text| pubsub_buffer(&text).ok_or_else(unknown)),
        largest_bulk_bytes: largest.and_then(|bytes| bytes.parse().map_err(|_| unknown())),
    };
    let _ = timeout(Duration::from_secs(1), client.quit()).await;
    judge(&facts)
}

fn nothing_read(why: &str) -> Finding {
    let settings = format!("{INFO}, {BUFFER}, {LARGEST}");
    Finding::unread(
        &settings,
        why,
        "let the user of the doctor connect once more, or look at the server",
    )
}

/// The answer, or why there is none.
async fn ask(client: &Client, words: &[&str]) -> Result<Value, String> {
    let (command, arguments) = words.split_first().expect("a command has a name");
    let command = CustomCommand::new((*command).to_owned(), None::<u16>, false);
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    match timeout(ANSWER_LIMIT, client.custom(command, arguments)).await {
        Ok(answer) => answer.map_err(|error| error.details().to_owned()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

/// The value beside its name, in an array or a map.
fn setting_of(answer: &Value, name: &str) -> Option<String> {
    if let Value::Map(map) = answer {
        return map.clone().inner().into_values().next()?.as_string();
    }
    let items = answer.clone().into_array();
    let at = items.iter().position(|item| item.as_str().is_some_and(|item| item == name))?;
    items.get(at + 1)?.as_string()
}

fn info_of(info: &str) -> Info {
    let field = |name: &str| {
        let value =
            |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        info.lines().find_map(value)
    };
    let number = |name: &str| field(name).and_then(|number| number.parse().ok());
    Info {
        version: field("redis_version"),
        is_replica: field("role").map(|role| role != "master"),
        is_cluster: field("cluster_enabled").is_some_and(|enabled| enabled == "1"),
        connected_clients: number("connected_clients"),
        max_clients: number("maxclients"),
    }
}

/// The limits of `pubsub` among `class hard soft seconds`, repeated.
fn pubsub_buffer(setting: &str) -> Option<(u64, u64)> {
    let words: Vec<&str> = setting.split_whitespace().collect();
    let limits = words.chunks(4).find(|words| words.first() == Some(&"pubsub"))?;
    Some((limits.get(1)?.parse().ok()?, limits.get(2)?.parse().ok()?))
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = match &facts.info {
        Ok(info) => of_info(info),
        Err(why) => {
            vec![Finding::unread(INFO, why, "grant +info to the user of the doctor: ACL SETUSER")]
        }
    };
    let grant = "grant +config|get to the user of the doctor (ACL SETUSER), or look at the server";
    match (&facts.pubsub_buffer, &facts.largest_bulk_bytes) {
        (Err(why), Err(other)) if why == other => {
            findings.push(Finding::unread(&format!("{BUFFER} and {LARGEST}"), why, grant));
        }
        (limits, bytes) => findings.extend([
            limits
                .as_ref()
                .map_or_else(|why| Finding::unread(BUFFER, why, grant), |limits| buffer(*limits)),
            bytes
                .as_ref()
                .map_or_else(|why| Finding::unread(LARGEST, why, grant), |bytes| payload(*bytes)),
        ]),
    }
    findings
}

fn of_info(info: &Info) -> Vec<Finding> {
    let silent = |what| Finding::unread(what, "the server does not tell it", "look at the server");
    let clients = info.connected_clients.zip(info.max_clients);
    let mut findings = vec![
        info.version.as_deref().map_or_else(|| silent("version"), version),
        info.is_replica.map_or_else(|| silent("role"), role),
    ];
    findings.extend(info.is_cluster.then(cluster));
    findings.extend(match clients {
        Some((connected, most)) => room(connected, most),
        None => Some(silent("connections")),
    });
    findings
}

fn version(version: &str) -> Finding {
    let what = "version";
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(6..) => Finding::ok(what, format!("Redis {version}")),
        _ => Finding::failure(
            what,
            format!("Redis {version} has no RESP3, on which proofs rest"),
            "use Redis 6 or later",
        ),
    }
}

fn role(is_replica: bool) -> Finding {
    if !is_replica {
        return Finding::ok("role", "it is a primary");
    }
    Finding::failure(
        "role",
        "it is a replica: what is published here reaches its own subscribers only",
        "use the URL of the primary",
    )
}

fn buffer(limits: (u64, u64)) -> Finding {
    let what = "output buffer";
    let setting = BUFFER;
    match limits {
        (0, _) => Finding::warning(
            what,
            "a slow subscriber may fill the server's memory: pubsub has no limit",
            format!("CONFIG SET {setting} 'pubsub 32mb 8mb 60'"),
        ),
        (hard, _) if hard < LARGEST_MESSAGE_BYTES => Finding::failure(
            what,
            format!("subscribers are cut off at {hard} bytes, before one large value has passed"),
            format!("CONFIG SET {setting} 'pubsub 32mb 8mb 60'"),
        ),
        (hard, soft) if hard.min(soft.wrapping_sub(1)) < SMALLEST_BUFFER_BYTES - 1 => {
            Finding::warning(
                what,
                format!("subscribers are cut off early: at {hard} bytes, or {soft} for a while"),
                format!("CONFIG SET {setting} 'pubsub 32mb 8mb 60'"),
            )
        }
        (hard, soft) => Finding::ok(what, format!("pubsub {hard} {soft}")),
    }
}

fn payload(largest_bulk_bytes: u64) -> Finding {
    let what = "payload limit";
    match largest_bulk_bytes {
        bytes if bytes < LARGEST_MESSAGE_BYTES => Finding::failure(
            what,
            format!(
                "the server cuts off who sends more than {bytes} bytes, and the library sends 4 MiB"
            ),
            "raise proto-max-bulk-len, or lower with_max_payload_bytes",
        ),
        _ => Finding::ok(what, "values of 4 MiB pass"),
    }
}

fn cluster() -> Finding {
    Finding::warning(
        "cluster",
        "it is a node of a Redis Cluster: a fence proves what this node has, not what others were given",
        "let all publishers and subscribers use the same node, or a single server",
    )
}

fn room(connected: u64, most: u64) -> Option<Finding> {
    // An instance takes two; this leaves room for a few.
    (connected + 10 > most).then(|| {
        Finding::warning(
            "connections",
            format!("{connected} of {most} are taken, and each instance takes two"),
            "raise maxclients",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn what_the_server_says_is_read() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrole:slave\r\ncluster_enabled:1\r\nmaxclients:20\r\nconnected_clients:15\r\n";
        let facts = info_of(info);
        assert_eq!(facts.version.as_deref(), Some("7.0.15"));
        assert!(facts.is_replica == Some(true) && facts.is_cluster);
        assert_eq!((facts.connected_clients, facts.max_clients), (Some(15), Some(20)));
        let setting = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(pubsub_buffer(setting), Some((33_554_432, 8_388_608)));
        assert_eq!(pubsub_buffer("normal 0 0 0"), None);
    }

    #[test]
    fn each_finding_has_its_threshold() {
        for (limits, level) in [
            ((32 << 20, 8 << 20), Level::Ok),
            ((32 << 20, 0), Level::Ok),
            ((32 << 20, 1 << 20), Level::Warning),
            ((6 << 20, 0), Level::Warning),
            ((64 << 10, 32 << 10), Level::Failure),
            ((0, 0), Level::Warning),
        ] {
            assert_eq!(buffer(limits).level, level, "{limits:?}");
        }
        for (says, level) in [("7.0.15", Level::Ok), ("5.0.1", Level::Failure)] {
            assert_eq!(version(says).level, level);
        }
        assert_eq!(payload(1 << 20).level, Level::Failure);
        assert_eq!(payload(512 << 20).level, Level::Ok);
        assert!(room(15, 20).is_some() && room(15, 10_000).is_none());
        assert_eq!(role(true).level, Level::Failure);
    }

    #[test]
    fn what_was_not_read_is_named_and_never_judged_to_be_well() {
        let denied = || "NOPERM".to_owned();
        let facts = Facts {
            info: Err(denied()),
            pubsub_buffer: Err(denied()),
            largest_bulk_bytes: Err(denied()),
        };
        let findings = judge(&facts);
        assert!(findings.iter().all(Finding::is_unread), "{findings:?}");
        for setting in ["version", "role", "cluster", "connections", BUFFER, LARGEST] {
            assert!(findings.iter().any(|finding| finding.says.contains(setting)), "{setting}");
        }
        let silent = Facts { info: Ok(Info::default()), ..facts };
        assert!(judge(&silent).iter().all(Finding::is_unread), "{silent:?}");
    }
}
