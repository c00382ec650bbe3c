//! What the tests share: a PostgreSQL of their own, and its notifications as they travel.

#![allow(dead_code)] // each test file uses its part

use std::future::poll_fn;
use std::time::Duration;

use hydratecache_testkit::broker::{Broker, Kind};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use tokio_util::task::AbortOnDropHandle;

pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn postgres() -> Broker {
    Broker::start(Kind::Postgres).await.expect("a PostgreSQL of its own")
}

/// Waits for `future`, but not for ever.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> F::Output {
    timeout(limit, future).await.unwrap_or_else(|_| panic!("not done within {limit:?}"))
}

/// A connection of the test's own.
pub(crate) struct Session {
    pub(crate) client: Client,
    notifications: mpsc::UnboundedReceiver<(String, String)>,
    _task: AbortOnDropHandle<()>,
}

impl Session {
    pub(crate) async fn open(url: &str) -> Self {
        let (client, mut connection) =
            tokio_postgres::connect(url, NoTls).await.expect("connects to the test's server");
        let (sender, notifications) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let pair = (notification.channel().into(), notification.payload().into());
                    if sender.send(pair).is_err() {
                        return;
                    }
                }
            }
        });
        let session = Self { client, notifications, _task: AbortOnDropHandle::new(task) };
        // The test's role is named as our schema, which would therefore come first.
        session.run("SET search_path = public").await;
        session
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// What was published since the last call, in its JSON form.
    pub(crate) async fn published(&mut self) -> Vec<Value> {
        // Notifications that were committed before it come before its own.
        self.run("LISTEN \"=mark\"; SELECT pg_notify('=mark', '')").await;
        let mut published = Vec::new();
        loop {
            let next = within(LIMIT, self.notifications.recv()).await;
            let (channel, payload) = next.expect("the connection is up");
            if channel == "=mark" {
                return published;
            }
            published.push(serde_json::from_str(&payload).expect("the JSON form"));
        }
    }
}

/// The members of each message that say what it does: kind, key and value.
pub(crate) fn said(published: &[Value]) -> Vec<String> {
    let text = |message: &Value| {
        let members = ["kind", "key", "value"].map(|name| match &message[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        members.join(" ").trim().to_owned()
    };
    published.iter().map(text).collect()
}

/// A text as notifications carry it, written after docs/WIRE.md.
pub(crate) fn in_pieces(text: &str) -> Vec<String> {
    if text.len() <= 7999 {
        return vec![text.to_owned()];
    }
    let count = text.len().div_ceil(7900);
    let piece = |index| &text[index * 7900..text.len().min((index + 1) * 7900)];
    (0..count).map(|index| format!("~5eed.{index}.{count}.{}", piece(index))).collect()
}
