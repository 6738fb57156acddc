//! Mounts that are gone when the test is.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mount. Declare it after the house, so that it goes before the house's directory does.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Shows a directory at a second place, which is made, and there for reading only.
    pub(crate) fn read_only(from: &Path, at: &Path) -> Mounted {
        let mounted = Mounted::new(Some(from), at, None, MsFlags::MS_BIND);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, at, None::<&str>, flags, None::<&str>).expect("a bind mount has flags");
        mounted
    }

    /// A file system in memory that notes each access, at a place that is made.
    pub(crate) fn noting_access(at: &Path) -> Mounted {
        Mounted::new(None, at, Some("tmpfs"), MsFlags::MS_STRICTATIME)
    }

    /// A file system in memory, with room for attributes, at a place that is made.
    pub(crate) fn roomy(at: &Path) -> Mounted {
        let mounted = Mounted::new(None, at, Some("tmpfs"), MsFlags::empty());
        fs::set_permissions(at, Permissions::from_mode(0o700)).expect("the directory is ours");
        mounted
    }

    /// A file system in memory without attributes, at a place that is made.
    pub(crate) fn without_attributes(at: &Path) -> Mounted {
        let mounted = Mounted::new(None, at, Some("ramfs"), MsFlags::empty());
        fs::set_permissions(at, Permissions::from_mode(0o700)).expect("the directory is ours");
        mounted
    }

    /// A small file system in memory, at a place that is made.
    pub(crate) fn small(at: &Path) -> Mounted {
        let mounted = Mounted::new(None, at, Some("tmpfs"), MsFlags::empty());
        mount(None::<&str>, at, None::<&str>, MsFlags::MS_REMOUNT, Some("size=64k"))
            .expect("a tmpfs has a size");
        mounted
    }

    /// A directory in whose place there is for a while a file system with no room at all.
    pub(crate) fn nothing_over(at: &Path) -> Mounted {
        let none = None::<&str>;
        mount(none, at, Some("tmpfs"), MsFlags::MS_RDONLY, none).expect("a tmpfs can be mounted");
        Mounted(at.to_owned())
    }

    /// A directory in whose place there is for a while an empty one of root's, as where storage is
    /// mounted late.
    pub(crate) fn empty_over(at: &Path) -> Mounted {
        let (none, flags) = (None::<&str>, MsFlags::empty());
        mount(none, at, Some("tmpfs"), flags, Some("mode=700")).expect("a tmpfs can be mounted");
        Mounted(at.to_owned())
    }

    /// The same, in which nothing can be made.
    pub(crate) fn read_only_over(at: &Path) -> Mounted {
        let none = None::<&str>;
        mount(none, at, Some("tmpfs"), MsFlags::MS_RDONLY, Some("mode=700"))
            .expect("a tmpfs can be mounted");
        Mounted(at.to_owned())
    }

    /// What was mounted already.
    pub(crate) fn there(at: &Path) -> Mounted {
        Mounted(at.to_owned())
    }

    /// Shows a directory in the place of another one.
    pub(crate) fn over(from: &Path, at: &Path) -> Mounted {
        mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a bind mount");
        Mounted(at.to_owned())
    }

    fn new(from: Option<&Path>, at: &Path, kind: Option<&str>, flags: MsFlags) -> Mounted {
        fs::create_dir(at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
        mount(from, at, kind, flags, None::<&str>)
            .unwrap_or_else(|e| panic!("mounting {}: {e}", at.display()));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever has a file of it open keeps that, and nobody finds it any more.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
