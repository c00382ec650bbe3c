//! The broker of the page, as far as it can be killed and started.

#[cfg(feature = "broker")]
use std::sync::Arc;

use futures::future::pending;
use hydratecache::memory::MemoryBroker;
use tokio_util::task::AbortOnDropHandle;

use super::link::{MemoryRoad, Road};
use super::snapshot::{BrokerState, Phase};
use crate::demo::Arguments;
#[cfg(feature = "broker")]
use crate::demo::broker::{Broker as Kind, Server};

/// What carries the messages.
pub(super) struct Broker {
    what: What,
    is_up: bool,
    changing: Option<AbortOnDropHandle<anyhow::Result<bool>>>,
    trouble: Option<String>,
}

enum What {
    /// It has no process: its death is that of every link.
    InProcess(MemoryBroker),
    /// One that the demo started.
    #[cfg(feature = "broker")]
    Own { server: Arc<Server>, kind: Kind },
    /// One of the user's.
    #[cfg(feature = "broker")]
    Theirs { kind: Kind, url: Arc<str> },
}

impl Broker {
    /// The one that `arguments` ask for, up.
    #[cfg_attr(
        not(feature = "broker"),
        expect(unused_variables, reason = "only brokers are chosen")
    )]
    pub(super) async fn up(arguments: &Arguments) -> anyhow::Result<Self> {
        #[cfg(feature = "broker")]
        if let Some(kind) = arguments.transport.broker() {
            let what = match &arguments.url {
                Some(url) => What::Theirs { kind, url: url.as_str().into() },
                None => What::Own { server: Arc::new(Server::up(kind).await?), kind },
            };
            return Ok(Self::new(what));
        }
        Ok(Self::new(What::InProcess(MemoryBroker::new())))
    }

    fn new(what: What) -> Self {
        Self { what, is_up: true, changing: None, trouble: None }
    }

    /// A way to it, for one process.
    pub(super) async fn road(&self) -> anyhow::Result<Road> {
        match &self.what {
            What::InProcess(broker) => Ok(Road::Memory(MemoryRoad::to(broker))),
            #[cfg(feature = "broker")]
            What::Own { server, kind } if !kind.names_its_own_address() => {
                let door = super::link::Door::of(server.url())?;
                Ok(Road::Tcp(super::link::TcpRoad::to(*kind, door).await?))
            }
            #[cfg(feature = "broker")]
            What::Own { server, kind } => Ok(Road::Direct(*kind, server.url().into())),
            #[cfg(feature = "broker")]
            What::Theirs { kind, url } => Ok(Road::Direct(*kind, url.clone())),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match &self.what {
            What::InProcess(_) => "the in-process broker",
            #[cfg(feature = "broker")]
            What::Own { kind, .. } | What::Theirs { kind, .. } => kind.name,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    pub(super) fn is_in_process(&self) -> bool {
        matches!(self.what, What::InProcess(_))
    }

    /// Begins to kill or to start it; `false`: it is so already.
    ///
    /// # Errors
    /// Why it cannot be done now, for people.
    pub(super) fn set(&mut self, lives: bool) -> Result<bool, String> {
        if self.changing.is_some() {
            return Err(format!("{} is being killed or started; wait for that", self.name()));
        }
        if lives == self.is_up {
            return Ok(false);
        }
        let change: futures::future::BoxFuture<'static, anyhow::Result<()>> = match &self.what {
            What::InProcess(_) => Box::pin(async { Ok(()) }),
            #[cfg(feature = "broker")]
            What::Own { server, .. } => {
                let server = server.clone();
                Box::pin(
                    async move { if lives { server.start().await } else { server.kill().await } },
                )
            }
            #[cfg(feature = "broker")]
            What::Theirs { kind, .. } => {
                return Err(format!("this {} is yours, and is not killed", kind.name));
            }
        };
        let change = tokio::spawn(async move { change.await.map(|()| lives) });
        self.changing = Some(AbortOnDropHandle::new(change));
        Ok(true)
    }

    /// Waits for the end of the change that was begun, if there is one.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing: the next call waits on.
    pub(super) async fn changed(&mut self) -> anyhow::Result<()> {
        let Some(changing) = &mut self.changing else {
            return pending().await;
        };
        let changed = changing.await;
        self.changing = None;
        let changed = changed.map_err(anyhow::Error::from).flatten();
        self.trouble = changed.as_ref().err().map(|error| format!("{error:#}"));
        self.is_up = changed?;
        Ok(())
    }

    pub(super) fn state(&self, links_can_fail: bool) -> BrokerState {
        #[cfg(feature = "broker")]
        let can_be_killed = !matches!(self.what, What::Theirs { .. });
        #[cfg(not(feature = "broker"))]
        let can_be_killed = true;
        BrokerState {
            name: self.name(),
            phase: match (self.is_up, self.changing.is_some()) {
                (true, false) => Phase::Up,
                (true, true) => Phase::Dying,
                (false, false) => Phase::Dead,
                (false, true) => Phase::Starting,
            },
            can_be_killed,
            links_can_fail,
            trouble: self.trouble.clone(),
        }
    }
}
