//! Detects whether the service serves virtlockd's socket, through which libvirt locks disks.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::client::Bus;
use crate::lock::text::escape::shown_path;

/// The file name of the service's own socket for root.
const PRIVATE_SOCKET_NAME: &str = "private";
/// The flags of a listening socket in `/proc/net/unix` (`__SO_ACCEPTCON`).
const LISTENING_FLAGS: &str = "00010000";

/// The state of virtlockd's socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LibvirtSocket {
    /// The service serves it; the path is `None` if it is not known.
    Served(Option<PathBuf>),
    /// Another program serves it, at libvirt's default path.
    ServedByOther(PathBuf),
    /// There is no socket at libvirt's default path.
    Unserved,
    /// There is a socket at libvirt's default path, but this user may not see which program serves
    /// it.
    Unknown(PathBuf),
}

impl LibvirtSocket {
    /// Compares the listening sockets of process `pid` with the socket at libvirt's default path.
    pub(crate) fn detect(bus: Bus, pid: Option<u32>) -> Self {
        let default = default_path(bus);
        let is_socket =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let existing = default.filter(is_socket);
        let Some((pid, own)) = pid.and_then(|pid| Some((pid, sockets(pid)?))) else {
            return existing.map_or(Self::Unserved, Self::Unknown);
        };
        // The service may have a network namespace of its own, and sockets of the host's network
        // namespace that systemd passed to it.
        let tables = [format!("/proc/{pid}/net/unix"), "/proc/self/net/unix".to_owned()];
        let tables = tables.map(|table| fs::read(table).unwrap_or_default());
        let mut listening =
            tables.iter().flat_map(|table| listening(&String::from_utf8_lossy(table)));
        match listening.find(|(inode, path)| own.contains(inode) && !is_private(path)) {
            Some((_, path)) => Self::Served(Some(path).filter(is_socket)),
            None => existing.map_or(Self::Unserved, Self::ServedByOther),
        }
    }

    /// Whether the service serves it; `None` if that is not known.
    pub(crate) fn is_served(&self) -> Option<bool> {
        match self {
            Self::Served(_) => Some(true),
            Self::ServedByOther(_) | Self::Unserved => Some(false),
            Self::Unknown(_) => None,
        }
    }

    /// Returns the path of the socket, if there is one.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Served(path) => path.as_deref(),
            Self::ServedByOther(path) | Self::Unknown(path) => Some(path),
            Self::Unserved => None,
        }
    }

    /// Describes the state for people.
    pub(crate) fn text(&self) -> String {
        let path = self.socket().map(shown_path).unwrap_or_default();
        match self {
            Self::Served(Some(_)) => format!("served on {path}"),
            Self::Served(None) => "served".to_owned(),
            Self::ServedByOther(_) => format!("not served; {path} belongs to another program"),
            Self::Unserved => "not served".to_owned(),
            Self::Unknown(_) => {
                format!("not known; root can see which program serves {path}")
            }
        }
    }
}

/// Returns libvirt's default path of the socket.
fn default_path(bus: Bus) -> Option<PathBuf> {
    let below = match bus {
        Bus::System => "/run".into(),
        Bus::Session => PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?),
    };
    Some(below.join("libvirt/virtlockd-sock"))
}

/// Returns the inodes of the sockets that a process has open; `None` if this user may not see them.
fn sockets(pid: u32) -> Option<BTreeSet<u64>> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = links.flatten().filter_map(|link| fs::read_link(link.path()).ok());
    let inode =
        |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Some(links.filter_map(inode).collect())
}

/// Returns the inodes and paths of the listening sockets in a table.
fn listening(table: &str) -> Vec<(u64, PathBuf)> {
    let socket = |line: &str| {
        let words: Vec<&str> = line.splitn(8, ' ').collect();
        let [_, _, _, flags, _, _, inode, path] = words[..] else { return None };
        (flags == LISTENING_FLAGS).then_some((inode.parse().ok()?, bound_path(path)))
    };
    // The fields are padded.
    table.lines().filter_map(|line| socket(&collapse_spaces(line))).collect()
}

/// Reduces the padding between the first fields of a line to one space.
fn collapse_spaces(line: &str) -> String {
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

/// Returns the current path of a socket that the kernel lists by the path to which it was bound.
/// The service binds a socket to `NAME.PID.new` and then renames it.
fn bound_path(path: &str) -> PathBuf {
    let original = path.strip_suffix(".new").and_then(|path| {
        let (path, pid) = path.rsplit_once('.')?;
        (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(path)
    });
    original.unwrap_or(path).into()
}

fn is_private(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == PRIVATE_SOCKET_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found_in_the_table() {
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
        let found = LibvirtSocket::detect(Bus::System, Some(std::process::id()));
        assert_eq!(found, LibvirtSocket::Served(Some(path)));
    }
}
