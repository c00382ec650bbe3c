//! The link of a subject whose broker is behind the fault proxy.

use std::fmt;
use std::future::ready;
use std::sync::Arc;

use futures::FutureExt;
use hydratecache::Transport;

use super::{Capability, Faults, Step};
use crate::proxy::{Direction, FaultProxy};

/// [`Faults`] made by a [`FaultProxy`]: it cuts and heals, and freezes by letting nothing through.
pub struct ProxiedLink {
    proxy: FaultProxy,
    connect: Box<dyn Fn() -> Step<'static, Arc<dyn Transport>> + Send + Sync>,
}

impl ProxiedLink {
    /// The link through `proxy`, over which `connect` makes a transport.
    pub fn new(
        proxy: FaultProxy,
        connect: impl Fn() -> Step<'static, Arc<dyn Transport>> + Send + Sync + 'static,
    ) -> Self {
        Self { proxy, connect: Box::new(connect) }
    }

    /// The proxy, for faults of one's own.
    #[must_use]
    pub fn proxy(&self) -> &FaultProxy {
        &self.proxy
    }
}

impl Faults for ProxiedLink {
    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        (self.connect)()
    }

    fn cut(&self) -> Step<'_> {
        self.proxy.cut();
        ready(Ok(())).boxed()
    }

    fn heal(&self) -> Step<'_> {
        async { Ok(self.proxy.heal()?) }.boxed()
    }

    fn freeze(&self) -> Capability<Step<'_>> {
        let freeze = async {
            self.proxy.black_hole(Direction::Both);
            Ok(())
        };
        Capability::Present(freeze.boxed())
    }

    fn thaw(&self) -> Step<'_> {
        self.heal()
    }
}

impl fmt::Debug for ProxiedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxiedLink").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}
