//! What a PostgreSQL says of itself.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::FromSqlOwned;

use super::finding::Finding;
use super::{ANSWER_LIMIT, Arguments, NO_ANSWER};
use crate::client;

/// How often the library asks its connections for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// What is judged of an answer.
type Judge<T> = fn(T) -> Option<Finding>;

/// Something that the server is asked of itself.
struct Question<T> {
    /// What it is about.
    what: &'static str,
    /// One row with one column, or no row where the server does not know of it.
    sql: &'static str,
    judge: Judge<T>,
    /// What lets the user of the doctor ask it.
    grant: &'static str,
}

const GRANT_SETTINGS: &str =
    "GRANT SELECT ON pg_catalog.pg_settings to the role of the doctor, or look at the server";

const NUMBERS: [Question<i64>; 6] = [
    Question {
        what: "version",
        // As 180006 for 18.6.
        sql: "SELECT current_setting('server_version_num')::bigint",
        judge: |number| Some(version(number)),
        grant: "look at the server",
    },
    Question {
        what: "role",
        sql: "SELECT pg_is_in_recovery()::int::bigint",
        judge: |is_standby| role(is_standby != 0),
        grant: "GRANT EXECUTE ON FUNCTION pg_is_in_recovery() to the role of the doctor",
    },
    Question {
        what: "max_notify_queue_pages",
        // None before PostgreSQL 17, where it is 8 GB.
        sql: "SELECT setting::bigint FROM pg_settings WHERE name = 'max_notify_queue_pages'",
        judge: queue_size,
        grant: GRANT_SETTINGS,
    },
    Question {
        what: "idle_session_timeout",
        sql: "SELECT setting::bigint FROM pg_settings WHERE name = 'idle_session_timeout'",
        judge: |limit| idle_sessions(millis(limit)),
        grant: GRANT_SETTINGS,
    },
    Question {
        what: "statement_timeout",
        sql: "SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'",
        judge: |limit| statements(millis(limit)),
        grant: GRANT_SETTINGS,
    },
    Question {
        what: "connections",
        // As far as pg_stat_activity goes, who may not see the sessions of others sees that there are
        // none; this tells everybody. There are at most 2^18 of each.
        sql: "SELECT (current_setting('max_connections')::bigint << 32) \
              + (SELECT sum(numbackends)::bigint FROM pg_stat_database)",
        judge: |both| Some(room(both & 0xffff_ffff, both >> 32)),
        grant: "GRANT SELECT ON pg_catalog.pg_stat_database to the role of the doctor",
    },
];

const QUEUE: Question<f64> = Question {
    what: "notification queue",
    // How full it is, from 0 to 1.
    sql: "SELECT pg_notification_queue_usage()::float8",
    judge: |usage| Some(queue(usage)),
    grant: "GRANT EXECUTE ON FUNCTION pg_notification_queue_usage() to the role of the doctor",
};

/// Asks the server.
pub(super) async fn inspect(arguments: &Arguments) -> Vec<Finding> {
    let connecting = client::postgres::connect(&arguments.url, &arguments.access, |_| ());
    let connected = match timeout(ANSWER_LIMIT, connecting).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(why)) => return vec![nothing_read(&format!("{why:#}"))],
        Err(_) => return vec![nothing_read(NO_ANSWER)],
    };
    let mut findings = Vec::new();
    for question in &NUMBERS {
        findings.extend(question.ask(&connected.client).await);
    }
    findings.extend(QUEUE.ask(&connected.client).await);
    findings
}

fn nothing_read(why: &str) -> Finding {
    let asked = NUMBERS.iter().map(|question| question.what).chain([QUEUE.what]);
    let settings = asked.collect::<Vec<_>>().join(", ");
    Finding::unread(
        &settings,
        why,
        "see that one connection more is to be had, or look at the server",
    )
}

impl<T: FromSqlOwned> Question<T> {
    async fn ask(&self, client: &Client) -> Option<Finding> {
        match timeout(ANSWER_LIMIT, self.answer(client)).await {
            Ok(Ok(answer)) => answer.and_then(self.judge),
            Ok(Err(why)) => Some(Finding::unread(self.what, &why, self.grant)),
            Err(_) => Some(Finding::unread(self.what, NO_ANSWER, "look at the server")),
        }
    }

    /// None where the server does not know of it.
    async fn answer(&self, client: &Client) -> Result<Option<T>, String> {
        let row = client.query_opt(self.sql, &[]).await;
        row.and_then(|row| row.map(|row| row.try_get(0)).transpose()).map_err(|error| {
            let said = error.as_db_error().map(|error| error.message().to_owned());
            said.unwrap_or_else(|| error.to_string())
        })
    }
}

fn millis(setting: i64) -> Duration {
    Duration::from_millis(u64::try_from(setting).unwrap_or_default())
}

fn role(is_standby: bool) -> Option<Finding> {
    is_standby.then(|| {
        Finding::failure(
            "role",
            "it is a standby, where nothing can be published or listened to",
            "use the URL of the primary",
        )
    })
}

fn version(number: i64) -> Finding {
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
        assert_eq!(level(role(true)), Level::Failure);
        assert_eq!(role(false), None);
    }
}
