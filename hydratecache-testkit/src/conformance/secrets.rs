//! P12: no secrets are shown.

use std::error::Error as StdError;
use std::fmt::{Debug, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hydratecache::{Key, Message, Signal, Transport};

use super::subject::{Faults, Subject};
use super::traces::Traces;
use super::trial::{ANSWER, PATIENCE, Trial};
use super::{Effort, unique_topic};

/// What every payload of this test contains.
const PAYLOAD: &str = "the-payload-of-conformance-p12";

/// P12: no secrets in `Debug`, errors or traces; payloads are never shown.
///
/// Looks for the subject's secret and for a payload in the `Debug` and `Display` of transports,
/// subscriptions, signals and errors with all their sources, over links that work, are cut and are
/// denied, and in every trace of the process meanwhile (of other crates than ours, down to `DEBUG`).
pub async fn p12_no_secrets_are_shown(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P12 (no secrets are shown)", subject, effort);
    let mut needles = vec![PAYLOAD.to_owned(), format!("{:?}", PAYLOAD.as_bytes())];
    // As `Debug` shows bytes in a list, without the brackets: part of a longer list too.
    needles.push(needles[1].trim_matches(['[', ']']).to_owned());
    needles.extend(trial.able("looking for a secret", subject.secret()));
    let watching = Traces::watch(&needles);
    if watching.is_none() {
        println!("P12: not run: looking into traces (the process has another subscriber for them)");
    }
    let mut shown = Shown(String::new());
    a_working_link(&trial, &mut shown).await;
    if let Some(faults) = trial.able("looking at errors of a cut link", subject.faults()) {
        a_cut_link(&trial, faults, &mut shown).await;
    }
    if let Some(denied) = trial.able("looking at errors without permission", subject.denied()) {
        let denied = trial.step("connecting without permission", denied).await;
        shown.debug(&denied);
        every_error(&denied, &mut shown).await;
        trial.promise.close(&denied).await;
    }
    let traced = watching.map(Traces::end).unwrap_or_default();
    for (place, text) in [("Debug or an error", &shown.0), ("a trace", &traced)] {
        let leak = needles.iter().find(|needle| text.contains(needle.as_str()));
        // The needle itself is not repeated: this message is shown too.
        trial.promise.require(leak.is_none(), || {
            let line =
                text.lines().find(|line| leak.is_some_and(|leak| line.contains(leak.as_str())));
            let line = leak.and_then(|leak| Some(line?.replace(leak.as_str(), "<here>")));
            format!("{place} shows a secret or a payload: {line:?}")
        });
    }
}

/// All that was shown, a line each.
struct Shown(String);

impl Shown {
    fn debug(&mut self, what: &impl Debug) {
        writeln!(self.0, "{what:?}").expect("writing to a String cannot fail");
        writeln!(self.0, "{}", format!("{what:#?}").replace('\n', " "))
            .expect("writing to a String cannot fail");
    }

    fn error(&mut self, error: &hydratecache::Error) {
        self.debug(error);
        let mut next: Option<&dyn StdError> = Some(error);
        while let Some(error) = next {
            writeln!(self.0, "{error} {error:?}").expect("writing to a String cannot fail");
            next = error.source();
        }
    }

    fn signal(&mut self, signal: &Signal) {
        self.debug(signal);
        match signal {
            Signal::Disrupted(error) => self.error(error),
            Signal::Rejected(rejection) => {
                writeln!(self.0, "{rejection}").expect("writing to a String cannot fail");
            }
            _ => {}
        }
    }
}

fn secret_message() -> Message {
    let payload = format!("{{\"before\":0,\"value\":\"{PAYLOAD}\",\"after\":0}}");
    Message::put(Key::new("k").expect("legal"), Bytes::from(payload))
}

async fn a_working_link(trial: &Trial<'_>, shown: &mut Shown) {
    let (here, there) = (trial.connect().await, trial.connect().await);
    let topic = unique_topic("p12");
    let mut listener = trial.promise.subscribe(&here, &topic).await;
    trial.promise.publish(&there, &topic, vec![secret_message()]).await;
    shown.signal(&listener.signal(PATIENCE, "a message").await);
    let garbage = Bytes::from(format!("{PAYLOAD} is no envelope"));
    if let Some(step) = trial.able("looking at rejections", trial.subject.inject(&topic, garbage)) {
        trial.step("injecting garbage", step).await;
        shown.signal(&listener.signal(PATIENCE, "a rejection").await);
    }
    shown.debug(listener.stream());
    shown.debug(&here);
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
    shown.debug(&here);
    every_error(&here, shown).await;
}

async fn a_cut_link(trial: &Trial<'_>, faults: &dyn Faults, shown: &mut Shown) {
    let victim = trial.step("connecting", faults.connect()).await;
    let topic = unique_topic("p12.cut");
    let mut listener = trial.promise.subscribe(&victim, &topic).await;
    trial.step("cutting the link", faults.cut()).await;
    let disrupted = |signal: &Signal| matches!(signal, Signal::Disrupted(_));
    for signal in listener.until(PATIENCE, "Disrupted, after a cut", disrupted).await {
        shown.signal(&signal);
    }
    shown.debug(&victim);
    every_error(&victim, shown).await;
    trial.step("healing the link", faults.heal()).await;
    trial.promise.close(&victim).await;
}

/// The errors of every call, where there are any.
async fn every_error(transport: &Arc<dyn Transport>, shown: &mut Shown) {
    let topic = unique_topic("p12.errors");
    let mut oversize = vec![b'x'; transport.limits().max_payload_bytes + 1];
    oversize[..PAYLOAD.len()].copy_from_slice(PAYLOAD.as_bytes());
    let oversize = Message::put(Key::new("k").expect("legal"), Bytes::from(oversize));
    for batch in [vec![secret_message()], vec![oversize]] {
        for call in super::close::every_call(transport, &topic, batch) {
            // P5 and P8 judge how long an answer takes; here only its text matters.
            if let Ok(Err(error)) =
                tokio::time::timeout(ANSWER + Duration::from_secs(1), call).await
            {
                shown.error(&error);
            }
        }
    }
}
