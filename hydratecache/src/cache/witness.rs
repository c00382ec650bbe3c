//! Knows whether a write is in the cache, for those who wait for it here and those who ask from
//! elsewhere.

use std::sync::Arc;

use tokio::sync::watch;

use super::fences::Fences;
use super::heads::Heads;
use super::hydration::{Status, stopped};
use crate::{Error, ErrorKind, Result, Token};

#[derive(Clone)]
pub(super) struct Witness {
    pub(super) heads: Arc<Heads>,
    pub(super) fences: Fences,
    pub(super) status: watch::Receiver<Status>,
}

impl Witness {
    /// Waits until the write of `token`, or one that replaced it, is in the cache.
    ///
    /// # Errors
    /// `Unproven` if a gap was ignored; those of fences; `Closed`.
    pub(super) async fn applied(&self, token: Token) -> Result<()> {
        if !self.heads.has(token) {
            let mut status = self.status.clone();
            let is_partial = status.borrow().is_partial;
            tokio::select! {
                () = self.heads.reached(token) => {}
                // Who has the token knows that the broker had the write: a fence comes behind it.
                fence = self.fences.ask(), if !is_partial => drop(fence?),
                _ = status.wait_for(|_| false) => return Err(stopped()),
            }
        }
        // A gap that stands for the write came before whatever showed that it is behind us.
        let mut status = self.status.clone();
        let settled = |status: &Status| {
            let is_whole = status.unrepaired_since.is_none() && status.missing_since.is_none();
            status.is_unproven || (status.is_warm && is_whole)
        };
        let is_unproven = status.wait_for(settled).await.map_err(|_| stopped())?.is_unproven;
        if is_unproven {
            let what =
                "a gap was ignored: whether the write was in it is not known; reload or trust";
            return Err(Error::new(ErrorKind::Unproven, what));
        }
        Ok(())
    }
}
