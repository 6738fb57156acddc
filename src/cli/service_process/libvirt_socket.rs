//! Whether the service serves virtlockd's socket, on which libvirt locks disks.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::client::Bus;
use crate::lock::printable::shown_path;

/// The file name of the service's own socket for root.
const PRIVATE: &str = "private";
/// The flags of a socket that listens, in `/proc/net/unix` (`__SO_ACCEPTCON`).
const LISTENS: &str = "00010000";

/// Which program serves virtlockd's socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Libvirt {
    /// The service; the path is `None` where the socket's name does not tell it.
    Served(Option<PathBuf>),
    /// Another program, at libvirt's default path.
    Elsewhere(PathBuf),
    /// No program, at libvirt's default path.
    Not,
    /// There is a socket at libvirt's default path, and this user may not see which program serves it.
    Unknown(PathBuf),
}

impl Libvirt {
    /// Looks which sockets process `pid` listens on, and what there is at libvirt's default path.
    pub(crate) fn look(bus: Bus, pid: Option<u32>) -> Self {
        let default = default_path(bus);
        let is_socket =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let there = default.filter(is_socket);
        let Some((pid, own)) = pid.and_then(|pid| Some((pid, sockets(pid)?))) else {
            return there.map_or(Self::Not, Self::Unknown);
        };
        // The service may have a network namespace of its own, and systemd has passed it sockets of
        // the host's.
        let tables = [format!("/proc/{pid}/net/unix"), "/proc/self/net/unix".to_owned()];
        let tables = tables.map(|table| fs::read(table).unwrap_or_default());
        let mut listening =
            tables.iter().flat_map(|table| listening(&String::from_utf8_lossy(table)));
        match listening.find(|(inode, path)| own.contains(inode) && !is_private(path)) {
            Some((_, path)) => Self::Served(Some(path).filter(is_socket)),
            None => there.map_or(Self::Not, Self::Elsewhere),
        }
    }

    /// Whether it is served; `None` if this is not known.
    pub(crate) fn is_served(&self) -> Option<bool> {
        match self {
            Self::Served(_) => Some(true),
            Self::Elsewhere(_) | Self::Not => Some(false),
            Self::Unknown(_) => None,
        }
    }

    /// The socket that is served, or that is there instead.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Served(path) => path.as_deref(),
            Self::Elsewhere(path) | Self::Unknown(path) => Some(path),
            Self::Not => None,
        }
    }

    /// The words for people.
    pub(crate) fn text(&self) -> String {
        let path = self.socket().map(shown_path).unwrap_or_default();
        match self {
            Self::Served(Some(_)) => format!("served on {path}"),
            Self::Served(None) => "served".to_owned(),
            Self::Elsewhere(_) => format!("not served; {path} belongs to another program"),
            Self::Not => "not served".to_owned(),
            Self::Unknown(_) => {
                format!("not known; root can see which program serves {path}")
            }
        }
    }
}

/// Where libvirt looks for virtlockd.
fn default_path(bus: Bus) -> Option<PathBuf> {
    let below = match bus {
        Bus::System => "/run".into(),
        Bus::Session => PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?),
    };
    Some(below.join("libvirt/virtlockd-sock"))
}

/// The inodes of the sockets that a process has open; `None` where this user may not look.
fn sockets(pid: u32) -> Option<BTreeSet<u64>> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = links.flatten().filter_map(|link| fs::read_link(link.path()).ok());
    let inode =
        |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Some(links.filter_map(inode).collect())
}

/// The inodes and paths of the sockets in a table that listen.
fn listening(table: &str) -> Vec<(u64, PathBuf)> {
    let socket = |line: &str| {
        let words: Vec<&str> = line.splitn(8, ' ').collect();
        let [_, _, _, flags, _, _, inode, path] = words[..] else { return None };
        (flags == LISTENS).then_some((inode.parse().ok()?, named(path)))
    };
    // Fields are padded.
    table.lines().filter_map(|line| socket(&squeezed(line))).collect()
}

/// A line of the table with one space between its first fields.
fn squeezed(line: &str) -> String {
    let mut rest = line.trim_start();
    let mut fields = Vec::new();
    for _ in 0..7 {
        let (field, more) = rest.split_once(' ').unwrap_or((rest, ""));
        fields.push(field);
        rest = more.trim_start();
    }
    fields.push(rest);
    fields.join(" ")
}

/// The path of a socket by the name that the kernel remembers: the service binds a socket beside its
/// place, as `NAME.PID.new`, and then renames it.
fn named(path: &str) -> PathBuf {
    let original = path.strip_suffix(".new").and_then(|path| {
        let (path, pid) = path.rsplit_once('.')?;
        (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(path)
    });
    original.unwrap_or(path).into()
}

fn is_private(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == PRIVATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen_are_found_by_their_names() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            00000000abdcfb58: 00000003 00000000 00000000 0001 03 12940592\n\
            00000000abdcfb59: 00000002 00000000 00010000 0001 01    77 /run/a b.12.new\n\
            00000000abdcfb5a: 00000002 00000000 00010000 0001 01 78 /run/vmlockd/private.12.new\n\
            00000000abdcfb5b: 00000002 00000000 00010000 0001 01 79 /run/x.new\n";
        let found = listening(table);
        let expected = [(77, "/run/a b"), (78, "/run/vmlockd/private"), (79, "/run/x.new")];
        assert_eq!(found, expected.map(|(inode, path)| (inode, PathBuf::from(path))));
        assert!(is_private(&found[1].1) && !is_private(&found[0].1));
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("virtlockd-sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let found = Libvirt::look(Bus::System, Some(std::process::id()));
        assert_eq!(found, Libvirt::Served(Some(path)));
    }
}
