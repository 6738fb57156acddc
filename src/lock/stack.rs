//! What a disk lies on: the disk that a partition is a part of, the file behind a loop device, the
//! disks that a volume is made of; and what those lie on, down to the ground.
//!
//! Whoever writes one of them writes the others, and neither the kernel's locks nor anybody's
//! lock files know that.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::error::Error;
use super::identity::Identity;
use super::open::{self, Links};
use super::printable::shown_path;
use super::sysfs::{Lower, Sysfs};
use super::tool;

/// How much a disk may lie on: a volume group of hundreds of disks is large already.
const MOST: usize = 512;
/// How long the file system may take to answer on which the file behind a loop device is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything that a disk lies on, the next first. Opens none of it.
///
/// # Errors
///
/// [`Error::NotLockable`] where that can't be found out: what is not known is not compared.
pub(super) fn below(identity: Identity, name: &str, sysfs: &Sysfs) -> Result<Vec<Identity>, Error> {
    let refuse = |why: String| Error::not_lockable(name, why);
    let mut found: Vec<Identity> = Vec::new();
    let mut next = Some(identity);
    let mut at = 0;
    while let Some(upper) = next {
        if let Identity::Block { dev, .. } = upper {
            let failed =
                |error: io::Error| refuse(format!("what it lies on can't be told ({error})"));
            for lower in sysfs.lower(dev).map_err(failed)? {
                let lower = match lower {
                    Lower::Device(dev) => Some(Identity::device(dev, sysfs)),
                    Lower::File(path) => backing(&path).map_err(refuse)?,
                };
                let lower = lower.filter(|lower| *lower != identity && !found.contains(lower));
                found.extend(lower);
            }
        }
        if found.len() > MOST {
            return Err(refuse(format!("it lies on more than {MOST} disks")));
        }
        next = found.get(at).copied();
        at += 1;
    }
    Ok(found)
}

/// What a loop device was set up with; none where it is no longer there by that name.
fn backing(path: &Path) -> Result<Option<Identity>, String> {
    let gone = |errno: &Errno| matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP);
    match find(path) {
        Ok(file) => Ok(Identity::of_open(file.as_fd())),
        Err(errno) if gone(&errno) || !path.is_absolute() => Ok(None),
        Err(Errno::EAGAIN) => {
            let path = shown_path(path);
            Err(format!("the file system of {path}, on which it lies, does not answer"))
        }
        Err(errno) => Err(format!("{}, on which it lies: {}", shown_path(path), errno.desc())),
    }
}

/// Finds a file that somebody else named, on whatever file system. It is open in the kernel, so it is
/// mostly known without asking anybody; otherwise a process asks first that can be left behind.
fn find(path: &Path) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), how) {
        Ok(file) => Ok(file),
        Err(rustix::io::Errno::AGAIN) if answers(path) => open::locate(path, Links::Follow),
        Err(errno) => Err(Errno::from_raw(errno.raw_os_error())),
    }
}

fn answers(path: &Path) -> bool {
    // Whatever is installed by now, this is the program that knows the argument.
    let mut probe = Command::new("/proc/self/exe");
    probe.arg("--probe").arg(path);
    tool::run(probe, PATIENCE).is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::sysfs::tests::Tree;
    use nix::sys::stat::makedev;

    fn disk(major: u64, minor: u64) -> Identity {
        Identity::Block { dev: makedev(major, minor), seq: 0 }
    }

    #[test]
    fn a_volume_lies_on_all_that_it_is_made_of() {
        let tree = Tree::new();
        tree.device("sda", "8:0").device("sda/sda1", "8:1").device("sdb", "8:16");
        tree.device("dm-0", "253:0").on("dm-0", "sda/sda1").on("dm-0", "sdb");
        tree.device("dm-1", "253:1").on("dm-1", "dm-0").on("dm-1", "sdb");
        let below = |identity| below(identity, "x", &tree.sysfs()).unwrap();
        assert_eq!(below(disk(8, 0)), []);
        assert_eq!(below(disk(253, 0)), [disk(8, 1), disk(8, 16), disk(8, 0)]);
        assert_eq!(below(disk(253, 1)), [disk(253, 0), disk(8, 16), disk(8, 1), disk(8, 0)]);
        assert_eq!(below(Identity::Inode { dev: 1, ino: 2 }), []);
        // No kernel tells this; nothing turns in circles if one does.
        tree.device("a", "250:0").device("b", "250:1").on("a", "b").on("b", "a");
        assert_eq!(below(disk(250, 0)), [disk(250, 1)]);
    }

    #[test]
    fn a_loop_device_lies_on_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a\nb (deleted)");
        std::fs::write(&file, "").unwrap();
        let identity = Identity::of(&nix::sys::stat::stat(&file).unwrap()).unwrap();
        let tree = Tree::new();
        let line = |path: &Path| format!("{}\n", path.display());
        tree.device("loop0", "7:0").file("loop0", "loop/backing_file", &line(&file));
        tree.device("loop0/loop0p1", "259:0");
        let below = |minor| below(disk(7, minor), "x", &tree.sysfs());
        assert_eq!(below(0).unwrap(), [identity]);
        assert_eq!(super::below(disk(259, 0), "x", &tree.sysfs()).unwrap(), [disk(7, 0), identity]);
        for (minor, path) in [(1, "/none/such (deleted)"), (2, "a"), (3, ""), (4, "/dev/null")] {
            let name = format!("loop{minor}");
            let number = format!("7:{minor}");
            tree.device(&name, &number).file(&name, "loop/backing_file", &line(Path::new(path)));
            assert_eq!(below(minor).unwrap(), [], "{path}");
        }
    }

    #[test]
    fn more_than_can_be_compared_is_refused() {
        let tree = Tree::new();
        tree.device("md0", "9:0");
        for minor in 0..=MOST {
            let name = format!("sd{minor}");
            tree.device(&name, &format!("8:{minor}")).on("md0", &name);
        }
        let error = below(disk(9, 0), "/dev/md0", &tree.sysfs()).unwrap_err();
        assert_eq!(error.to_string(), "/dev/md0 can't be locked: it lies on more than 512 disks");
    }
}
