//! Who opens a file is seen. Who only looks where its name leads (`O_PATH`) is not.

use std::path::Path;

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

/// Files that are watched.
#[derive(Debug)]
pub(crate) struct Opened(Inotify);

impl Opened {
    /// Begins to watch.
    pub(crate) fn watch<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Opened {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        let inotify = inotify.expect("inotify is there");
        for path in paths {
            inotify
                .add_watch(path, AddWatchFlags::IN_OPEN)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        Opened(inotify)
    }

    /// Whether any of them was opened since this was asked last.
    pub(crate) fn any(&self) -> bool {
        match self.0.read_events() {
            Ok(events) => !events.is_empty(),
            Err(Errno::EAGAIN) => false,
            Err(errno) => panic!("inotify: {errno}"),
        }
    }
}
