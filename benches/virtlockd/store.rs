//! A replacement for systemd's descriptor store: receives descriptors and keeps them open.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

type Stored = Arc<Mutex<HashMap<String, Vec<OwnedFd>>>>;

/// The stored descriptors of one server, which are closed on drop.
pub(crate) struct Store(Stored);

impl Drop for Store {
    fn drop(&mut self) {
        self.0.lock().unwrap().clear();
    }
}

impl Store {
    /// Returns copies of all stored descriptors, with their names, that a child process inherits. They
    /// have large numbers, which no redirection of the child overwrites.
    pub(crate) fn inheritable(&self) -> Vec<(String, OwnedFd)> {
        let stored = self.0.lock().unwrap();
        let all = stored.iter().flat_map(|(name, fds)| fds.iter().map(move |fd| (name, fd)));
        let copy = |fd: &OwnedFd| {
            let copy = fcntl_dupfd_cloexec(fd, 500).unwrap();
            fcntl_setfd(&copy, FdFlags::empty()).unwrap();
            copy
        };
        all.map(|(name, fd)| (name.clone(), copy(fd))).collect()
    }

    /// Serves a socket for `NOTIFY_SOCKET` on a thread that runs until the process ends.
    pub(crate) fn serve(path: &Path) -> Store {
        let socket = UnixDatagram::bind(path).unwrap();
        let stored = Stored::default();
        let store = Store(stored.clone());
        thread::spawn(move || {
            loop {
                let (words, descriptors) = receive(&socket);
                let has = |word: &str| words.lines().any(|line| line == word);
                let name = words.lines().find_map(|line| line.strip_prefix("FDNAME="));
                let name = name.unwrap_or("stored").to_owned();
                let mut stored = stored.lock().unwrap();
                if has("FDSTORE=1") {
                    stored.entry(name).or_default().extend(descriptors);
                } else if has("FDSTOREREMOVE=1") {
                    stored.remove(&name);
                }
                // Otherwise it is a barrier, which is answered by closing its descriptor, or a
                // status.
            }
        });
        store
    }
}

fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut text = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags);
    let received = received.unwrap();
    assert!(!received.flags.contains(ReturnFlags::CTRUNC), "descriptors were lost");
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    (String::from_utf8_lossy(&text[..received.bytes]).into_owned(), descriptors)
}
