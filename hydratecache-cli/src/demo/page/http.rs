//! The page over HTTP: what it is made of, a stream of what there is, and one address for what its
//! users do.
//!
//! The page controls processes on this machine, so requests that other sites could make are
//! refused: the host must be an address or `localhost`, which no foreign name can be made to lead
//! to, and an action must come from the page itself.

use std::convert::Infallible;
use std::net::IpAddr;
use std::process::ExitCode;

use axum::body::Body;
use axum::extract::{Json, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, extract::DefaultBodyLimit};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{self, Stream};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::model::{Action, Asked};

/// Nothing but what this server gives, and nobody may show it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// An action has a few dozen bytes.
const MAX_ACTION_BYTES: usize = 1024;

/// Serves the page until this future is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    snapshots: watch::Receiver<Bytes>,
    ask: mpsc::Sender<Asked>,
) -> anyhow::Result<ExitCode> {
    axum::serve(listener, router(snapshots, ask)).await?;
    Ok(ExitCode::SUCCESS)
}

fn router(snapshots: watch::Receiver<Bytes>, ask: mpsc::Sender<Asked>) -> Router {
    let file = |content_type: &'static str, content: &'static str| {
        get(move || async move { ([(CONTENT_TYPE, content_type)], content) })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("page.html")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("page.css")))
        .route("/page.js", file("text/javascript; charset=utf-8", include_str!("page.js")))
        .route("/icon.svg", file("image/svg+xml", include_str!("icon.svg")))
        .route("/events", get(events).with_state(snapshots))
        .route("/act", post(act).with_state(ask))
        .layer(DefaultBodyLimit::max(MAX_ACTION_BYTES))
        .layer(middleware::from_fn(guard))
}

/// Each snapshot as an event. A reader that is slower than they come gets the latest.
async fn events(State(mut snapshots): State<watch::Receiver<Bytes>>) -> Response {
    snapshots.mark_changed();
    let events = Body::from_stream(each(snapshots));
    ([(CONTENT_TYPE, "text/event-stream")], events).into_response()
}

fn each(snapshots: watch::Receiver<Bytes>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(snapshots, |mut snapshots| async {
        snapshots.changed().await.ok()?;
        let mut event = BytesMut::new();
        // JSON of serde_json has no line breaks.
        event.put_slice(b"data: ");
        event.put_slice(&snapshots.borrow_and_update());
        event.put_slice(b"\n\n");
        Some((Ok(event.freeze()), snapshots))
    })
}

/// Does what is asked for, or says why not.
async fn act(State(ask): State<mpsc::Sender<Asked>>, Json(action): Json<Action>) -> Response {
    let (answer, answered) = oneshot::channel();
    let done = match ask.send((action, answer)).await {
        Ok(()) => answered.await,
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    match done {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(why)) => (StatusCode::CONFLICT, why).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Refuses what other sites may have caused, and says what browsers are to do with the rest.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = match check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => (StatusCode::FORBIDDEN, why).into_response(),
    };
    let same_origin = HeaderName::from_static("cross-origin-resource-policy");
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (same_origin, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(method: &Method, headers: &HeaderMap) -> Result<(), &'static str> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(HOST).filter(|host| is_unmistakable(host));
    let host = host.ok_or("open the page by an address or as localhost, not by another name\n")?;
    let is_own = || text(ORIGIN).and_then(|origin| origin.strip_prefix("http://")) == Some(host);
    if !method.is_safe() && !is_own() {
        return Err("only the page itself can act\n");
    }
    Ok(())
}

/// Whether `host` is an address, or `localhost`. A name of another site could be made to lead here.
fn is_unmistakable(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_localhost() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:7878", "[::1]:7878", "[fe80::1]"] {
            assert!(is_unmistakable(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com:80", "127.0.0.1.example.com", "a:b"]
        {
            assert!(!is_unmistakable(host), "{host}");
        }
    }

    #[test]
    fn actions_come_from_the_page_only() {
        let headers = |origin: Option<&'static str>| {
            let origin = origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin)));
            let host = (HOST, HeaderValue::from_static("127.0.0.1:1"));
            origin.into_iter().chain([host]).collect::<HeaderMap>()
        };
        assert!(check(&Method::GET, &headers(None)).is_ok());
        assert!(check(&Method::POST, &headers(Some("http://127.0.0.1:1"))).is_ok());
        for origin in [None, Some("null"), Some("http://127.0.0.1:2"), Some("https://127.0.0.1:1")]
        {
            assert!(check(&Method::POST, &headers(origin)).is_err(), "{origin:?}");
        }
        assert!(check(&Method::GET, &HeaderMap::new()).is_err());
    }

    #[test]
    fn an_action_is_exact() {
        let action = |json| serde_json::from_str::<Action>(json).ok();
        let link = r#"{"target":"link","number":3,"cut":true,"slow":false}"#;
        assert_eq!(action(link), Some(Action::Link { number: 3, cut: true, slow: false }));
        let broker = r#"{"target":"broker","lives":false}"#;
        assert_eq!(action(broker), Some(Action::Broker { lives: false }));
        for wrong in [
            "{}",
            r#"{"target":"link","number":-1,"cut":true,"slow":false}"#,
            r#"{"target":"writer","rate":1,"more":1}"#,
        ] {
            assert_eq!(action(wrong), None, "{wrong}");
        }
    }
}
