//! Many locks of one owner: what they cost others while they are held, and while their owner ends.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vmlockd::lock::Mode;
use vmlockd::lock::ofd;

use super::guest::Guest;
use super::server::Server;

/// The number of the owner, which no other guest has.
const NUMBER: u32 = 1_000_000;
/// The time limit for the end of the owner.
const DEADLINE: Duration = Duration::from_secs(60);

/// Creates the files that are locked.
pub(crate) fn files(directory: &Path, count: usize) -> Vec<PathBuf> {
    let files: Vec<_> = (0..count).map(|n| directory.join(format!("many-{n}"))).collect();
    for file in &files {
        File::create_new(file).unwrap();
    }
    files
}

/// An owner that holds many locks.
pub(crate) struct Holder(Guest);

impl Holder {
    /// Acquires a lock on each file.
    pub(crate) fn lock(server: &Server, files: &[PathBuf]) -> Holder {
        let (guest, mut rpc) = (Guest::start(server.socket(), NUMBER), server.connect());
        rpc.register(&guest.owner).granted();
        for file in files {
            rpc.acquire("", file.as_os_str().as_bytes(), 0).granted();
        }
        Holder(guest)
    }

    /// Ends the process of the owner, and its connection with it, so that its locks are released.
    pub(crate) fn end(self) {
        drop(self.0);
    }
}

/// Returns a function that returns whether all files are unlocked, or it takes too long.
pub(crate) fn unlocked(files: &[PathBuf]) -> impl FnMut() -> bool {
    // The order in which they are unlocked is not known.
    let samples = files.iter().step_by((files.len() / 16).max(1));
    let mut samples: Vec<_> =
        samples.map(|path| File::options().read(true).write(true).open(path).unwrap()).collect();
    let begun = Instant::now();
    move || {
        samples.retain(|file| {
            let is_free = ofd::try_lock(file, Mode::Exclusive).unwrap();
            !is_free
        });
        assert!(begun.elapsed() < DEADLINE, "the locks of an owner are not released");
        samples.is_empty()
    }
}
