//! What a PostgreSQL says of itself.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Row;

use super::finding::Finding;
use super::{ANSWER_LIMIT, Arguments};
use crate::client;

/// How often the library asks its connections for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// What is judged.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// As 180006 for 18.6.
    version: i32,
    is_standby: bool,
    /// How full the queue of notifications is, from 0 to 1.
    queue_usage: f64,
    /// The most pages of that queue; none before PostgreSQL 17, where it is 8 GB.
    queue_pages: Option<i64>,
    /// 0 is none.
    idle_session_timeout: Duration,
    statement_timeout: Duration,
    connections: i64,
    max_connections: i64,
}

const QUESTION: &str = "SELECT
    current_setting('server_version_num')::int,
    pg_is_in_recovery(),
    pg_notification_queue_usage()::float8,
    (SELECT setting::bigint FROM pg_settings WHERE name = 'max_notify_queue_pages'),
    coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'idle_session_timeout'), 0),
    (SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'),
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    (SELECT setting::bigint FROM pg_settings WHERE name = 'max_connections')";

/// Asks the server; nothing if it cannot be reached, which the trial says.
pub(super) async fn inspect(arguments: &Arguments) -> Vec<Finding> {
    match timeout(ANSWER_LIMIT, facts(arguments)).await {
        Ok(Some(facts)) => judge(&facts),
        _ => Vec::new(),
    }
}

async fn facts(arguments: &Arguments) -> Option<Facts> {
    let connecting = client::postgres::connect(&arguments.url, &arguments.access, |_| ());
    let connected = connecting.await.ok()?;
    let row = connected.client.query_one(QUESTION, &[]).await.ok()?;
    facts_of(&row)
}

fn facts_of(row: &Row) -> Option<Facts> {
    let millis = |column: usize| {
        let millis: i64 = row.try_get(column).ok()?;
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or_default()))
    };
    Some(Facts {
        version: row.try_get(0).ok()?,
        is_standby: row.try_get(1).ok()?,
        queue_usage: row.try_get(2).ok()?,
        queue_pages: row.try_get(3).ok()?,
        idle_session_timeout: millis(4)?,
        statement_timeout: millis(5)?,
        connections: row.try_get(6).ok()?,
        max_connections: row.try_get(7).ok()?,
    })
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![version(facts.version)];
    if facts.is_standby {
        findings.push(Finding::failure(
            "role",
            "it is a standby, where nothing can be published or listened to",
            "use the URL of the primary",
        ));
    }
    findings.push(queue(facts.queue_usage));
    findings.extend(facts.queue_pages.and_then(queue_size));
    findings.extend(idle_sessions(facts.idle_session_timeout));
    findings.extend(statements(facts.statement_timeout));
    findings.push(room(facts.connections, facts.max_connections));
    findings
}

fn version(number: i32) -> Finding {
    let says = format!("PostgreSQL {}.{}", number / 10_000, number % 10_000);
    match number {
        130_000.. => Finding::ok("version", says),
        _ => Finding::failure("version", says, "use PostgreSQL 13 or later"),
    }
}

fn queue(usage: f64) -> Finding {
    let what = "notification queue";
    let says = format!("{:.1} % of it is used", usage * 100.0);
    let advice = "a session that listens and stays in a transaction holds it back: find it with SELECT \
                  pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start, and end it; when \
                  the queue is full, every publish fails";
    match usage {
        _ if usage >= 0.5 => Finding::failure(what, says, advice),
        _ if usage >= 0.05 => Finding::warning(what, says, advice),
        _ => Finding::ok(what, says),
    }
}

fn queue_size(pages: i64) -> Option<Finding> {
    const PAGE_BYTES: i64 = 8192;
    // The default is 1,048,576 pages, 8 GiB.
    (pages < 65_536).then(|| {
        Finding::warning(
            "notification queue size",
            format!("it holds {} KiB, which one slow listener may fill", pages * PAGE_BYTES / 1024),
            "raise max_notify_queue_pages; its default is 1048576",
        )
    })
}

fn idle_sessions(limit: Duration) -> Option<Finding> {
    let what = "idle sessions";
    let says = format!("idle_session_timeout cuts connections that say nothing for {limit:?}");
    let advice = "ALTER ROLE ... SET idle_session_timeout = 0 for the role that listens";
    match limit {
        Duration::ZERO => None,
        _ if limit <= PING_INTERVAL => Some(Finding::failure(what, says, advice)),
        _ if limit < PING_INTERVAL * 4 => Some(Finding::warning(what, says, advice)),
        _ => None,
    }
}

fn statements(limit: Duration) -> Option<Finding> {
    (limit > Duration::ZERO && limit < Duration::from_secs(1)).then(|| {
        Finding::warning(
            "statements",
            format!(
                "statement_timeout breaks off what takes {limit:?}, publishes of much among it"
            ),
            "ALTER ROLE ... SET statement_timeout = '5s' for the role that publishes",
        )
    })
}

fn room(connections: i64, most: i64) -> Finding {
    let what = "connections";
    let says = format!("{connections} of {most} are taken, and each instance takes two");
    // Three are kept for administrators by default; this leaves room for a few instances.
    if connections + 3 + 10 > most {
        return Finding::warning(what, says, "raise max_connections, or let others use a pooler");
    }
    Finding::ok(what, says)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn level(finding: Option<Finding>) -> Level {
        finding.map_or(Level::Ok, |finding| finding.level)
    }

    #[test]
    fn each_finding_has_its_threshold() {
        assert_eq!(version(180_006), Finding::ok("version", "PostgreSQL 18.6"));
        assert_eq!(version(120_022).level, Level::Failure);
        for (usage, expected) in
            [(0.0, Level::Ok), (0.04, Level::Ok), (0.05, Level::Warning), (0.6, Level::Failure)]
        {
            assert_eq!(queue(usage).level, expected, "{usage}");
        }
        for (seconds, expected) in [
            (0, Level::Ok),
            (2, Level::Failure),
            (3, Level::Failure),
            (10, Level::Warning),
            (600, Level::Ok),
        ] {
            assert_eq!(level(idle_sessions(Duration::from_secs(seconds))), expected, "{seconds}");
        }
        assert_eq!(level(queue_size(1_048_576)), Level::Ok);
        assert_eq!(level(queue_size(64)), Level::Warning);
        assert_eq!(level(statements(Duration::from_millis(100))), Level::Warning);
        assert_eq!(level(statements(Duration::ZERO)), Level::Ok);
        assert_eq!(room(5, 100).level, Level::Ok);
        assert_eq!(room(5, 12).level, Level::Warning);
    }

    #[test]
    fn a_standby_is_a_failure() {
        let facts = Facts {
            version: 180_000,
            is_standby: true,
            queue_usage: 0.0,
            queue_pages: None,
            idle_session_timeout: Duration::ZERO,
            statement_timeout: Duration::ZERO,
            connections: 1,
            max_connections: 100,
        };
        assert!(judge(&facts).iter().any(|finding| finding.what == "role"));
        let primary = Facts { is_standby: false, ..facts };
        assert!(judge(&primary).iter().all(|finding| finding.level == Level::Ok));
    }
}
