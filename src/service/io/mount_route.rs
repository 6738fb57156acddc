//! Follows the names of a request to the mounts that they lead to, while the request counts.
//!
//! A lookup may hang in a local file system as well: one that is frozen, one whose disk does not
//! answer, an overlay with a layer on a server that is dead. So a request counts ([`crate::service::io::local_gate`])
//! before its first lookup, for the mounts that its names are on as they are spelt. Where a link leads
//! to another mount, the request counts there before anything is looked up beyond the link.

use std::sync::Arc;

use crate::lock::mount::{Mount, Mounts};
use crate::lock::path::walk::Walk;
use crate::lock::request::Asked;
use crate::service::io::local_gate::Entered;
use crate::service::io::mount_gate::{mount_of, mounts};

/// The names and files of a request, as far as the names have been followed.
#[derive(Debug)]
pub(in crate::service) struct Route {
    names: Vec<Walk>,
    files: Vec<Mount>,
    /// What was mounted when the names had been followed so far.
    mounts: Arc<Mounts>,
}

/// What has come of following the names of a request.
#[derive(Debug)]
pub(in crate::service) enum Followed {
    /// All of them lead to local mounts, for which the request counts.
    Local,
    /// Some lead to remote mounts. These have to answer.
    Remote(Vec<Mount>),
    /// There are too many requests on a local mount that the next lookup would ask.
    Full,
}

impl Route {
    /// The route of a request that asks for these. Looks up nothing.
    pub(in crate::service) fn new(asked: &[Asked<'_>]) -> Self {
        let (mounts, mut names, mut files) = (mounts(), Vec::new(), Vec::new());
        for asked in asked {
            match asked {
                Asked::Path(path) => names.push(Walk::new(path)),
                Asked::File(fd) => files.extend(mount_of(&mounts, *fd).cloned()),
            }
        }
        Self { names, files, mounts }
    }

    /// Returns the local mounts that a request asks as it goes on from here, each once. Looks up
    /// nothing.
    pub(in crate::service) fn local(&self) -> Vec<Mount> {
        let files = self.files.iter().filter(|mount| !mount.is_far());
        let names = self.names.iter().filter_map(|walk| walk.local(&self.mounts));
        in_order(files.chain(names))
    }

    /// Follows the names of a request that counts for [`Self::local`]. For a storage thread, which may
    /// hang meanwhile.
    pub(in crate::service) fn follow(&mut self, entered: &mut Entered) -> Followed {
        loop {
            for walk in &mut self.names {
                walk.advance(&self.mounts);
            }
            if self.names.iter().all(Walk::has_ended) {
                break;
            }
            self.mounts = mounts();
            if !entered.move_to(&self.local()) {
                return Followed::Full;
            }
        }
        let files = self.files.iter().filter(|mount| mount.is_far());
        let remote = files.chain(self.names.iter().filter_map(Walk::remote));
        let serving = in_order(remote.flat_map(|mount| self.mounts.served_by(mount)));
        if serving.is_empty() { Followed::Local } else { Followed::Remote(serving) }
    }
}

/// Mounts in one order for all requests, since one may need several; each once.
fn in_order<'m>(mounts: impl Iterator<Item = &'m Mount>) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = mounts.cloned().collect();
    mounts.sort_by_key(|mount| mount.id);
    mounts.dedup_by_key(|mount| mount.id);
    mounts
}
