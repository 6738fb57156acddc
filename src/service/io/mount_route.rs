//! Follows the names of a request to the mounts that they lead to, while the request is admitted
//! there.
//!
//! A lookup may hang in a local file system as well: it is frozen, its disk does not respond, or it
//! is an overlay with a layer on a dead server. So a request is admitted
//! ([`crate::service::io::local_gate`]) before its first lookup, to the mounts that its names are
//! on as they are spelt. Where a link leads to another mount, the request is admitted there before
//! anything beyond the link is looked up.

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
    /// The mount table at the time of the last lookup.
    mounts: Arc<Mounts>,
}

/// The outcome of following the names of a request.
#[derive(Debug)]
pub(in crate::service) enum Followed {
    /// All names lead to local mounts, to which the request is admitted.
    Local,
    /// Some names lead to these remote mounts, which must respond first.
    Remote(Vec<Mount>),
    /// The local mount of the next lookup has too many requests in progress.
    Full,
}

impl Route {
    /// Creates the route of a request for `asked`. Looks up nothing.
    pub(in crate::service) fn new(asked: &[Asked<'_>]) -> Self {
        let (mounts, mut names, mut files) = (mounts(), Vec::new(), Vec::new());
        for asked in asked {
            match asked {
                Asked::Path(path) => names.push(Walk::new(path)),
                Asked::Lookup(path, found) => names.push(Walk::storing(path, found)),
                Asked::File(fd) => files.extend(mount_of(&mounts, *fd).cloned()),
            }
        }
        Self { names, files, mounts }
    }

    /// Returns the local mounts that the next lookups of the request access, each once. Looks up
    /// nothing.
    pub(in crate::service) fn local(&self) -> Vec<Mount> {
        let files = self.files.iter().filter(|mount| !mount.is_remote());
        let names = self.names.iter().filter_map(|walk| walk.local(&self.mounts));
        in_order(files.chain(names))
    }

    /// Follows the names of a request that is admitted to [`Self::local`]. Call it on a worker
    /// thread: a lookup may hang.
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
        let files = self.files.iter().filter(|mount| mount.is_remote());
        let remote = files.chain(self.names.iter().filter_map(Walk::remote));
        let serving = in_order(remote.flat_map(|mount| self.mounts.served_by(mount)));
        if serving.is_empty() { Followed::Local } else { Followed::Remote(serving) }
    }
}

/// Returns mounts, each once, in one order for all requests: a request may need several of them,
/// and a common order excludes a deadlock.
fn in_order<'m>(mounts: impl Iterator<Item = &'m Mount>) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = mounts.cloned().collect();
    mounts.sort_by_key(|mount| mount.id);
    mounts.dedup_by_key(|mount| mount.id);
    mounts
}
