//! What a disk lies on: the disk that a partition is a part of, the file behind a loop device, the
//! disks that a volume is made of; and what those lie on, down to the ground.
//!
//! Whoever writes one of them writes the others, and neither the kernel's locks nor anybody's
//! lock files know that.

use std::io;

use super::error::Error;
use super::extent::{Extent, Placement};
use super::identity::Identity;
use super::loop_device;
use super::sysfs::{Lower, Sysfs};

/// How much a disk may lie on: a volume group of hundreds of disks is large already.
const MOST: usize = 512;

/// Returns everything that a disk lies on, the next first. Opens none of it.
///
/// # Errors
///
/// [`Error::NotLockable`] where that can't be found out: what is not known is not compared.
pub(super) fn below(identity: Identity, name: &str, sysfs: &Sysfs) -> Result<Vec<Extent>, Error> {
    let backing = |dev| loop_device::extent_of(dev, sysfs).map_err(|unknown| unknown.to_string());
    walk(identity, sysfs, backing).map_err(|why| Error::not_lockable(name, why))
}

/// As [`below`]; `backing` tells what a loop device is set up on.
fn walk(
    identity: Identity,
    sysfs: &Sysfs,
    backing: impl Fn(u64) -> Result<Extent, String>,
) -> Result<Vec<Extent>, String> {
    let failed = |why: String| format!("what it lies on can't be told ({why})");
    let mut found: Vec<Extent> = Vec::new();
    let mut next = Some(Extent::whole(identity));
    let mut at = 0;
    while let Some(upper) = next {
        if let Identity::Block { dev, .. } = upper.identity {
            for lower in sysfs.lower(dev).map_err(|error: io::Error| failed(error.to_string()))? {
                let lower = match lower {
                    Lower::Disk(dev, span) => Extent::exact(Identity::device(dev, sysfs), span),
                    Lower::Device(dev) => Extent::partial(Identity::device(dev, sysfs)),
                    Lower::Backing => backing(dev).map_err(failed)?,
                };
                let lower = upper.through(lower);
                if lower.identity != identity && !covers(&found, &lower) {
                    found.push(lower);
                }
            }
        }
        if found.len() > MOST {
            return Err(format!("it lies on more than {MOST} disks"));
        }
        next = found.get(at).copied();
        at += 1;
    }
    Ok(found)
}

/// Whether an extent is there already, or is a part of one that counts as at least as much.
fn covers(found: &[Extent], extent: &Extent) -> bool {
    found.iter().any(|other| {
        let stronger = other.placement == Placement::Exact || other.placement == extent.placement;
        let (outer, inner) = (other.span, extent.span);
        other.identity == extent.identity
            && stronger
            && outer.start <= inner.start
            && inner.end <= outer.end
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::extent::Span;
    use crate::lock::sysfs::tests::Tree;
    use nix::sys::stat::makedev;

    fn disk(major: u64, minor: u64) -> Identity {
        Identity::Block { dev: makedev(major, minor), seq: 0 }
    }

    fn no_loop(_: u64) -> Result<Extent, String> {
        panic!("a loop device is asked")
    }

    fn partition(tree: &Tree, name: &str, start: u64, sectors: u64) {
        tree.file(name, "start", &format!("{start}\n")).file(name, "size", &format!("{sectors}\n"));
    }

    #[test]
    fn a_volume_lies_on_parts_of_all_that_it_is_made_of() {
        let tree = Tree::new();
        tree.device("sda", "8:0").device("sda/sda1", "8:1").device("sdb", "8:16");
        partition(&tree, "sda/sda1", 8, 2);
        tree.device("dm-0", "253:0").on("dm-0", "sda/sda1").on("dm-0", "sdb");
        tree.device("dm-1", "253:1").on("dm-1", "dm-0").on("dm-1", "sdb");
        let below = |identity| walk(identity, &tree.sysfs(), no_loop).unwrap();
        let partial = |major, minor| Extent::partial(disk(major, minor));
        let in_sda = Extent { span: Span::new(4096, 1024), ..partial(8, 0) };
        assert_eq!(below(disk(8, 0)), []);
        assert_eq!(below(disk(8, 1)), [Extent { placement: Placement::Exact, ..in_sda }]);
        assert_eq!(below(disk(253, 0)), [partial(8, 1), partial(8, 16), in_sda]);
        let all = [partial(253, 0), partial(8, 16), partial(8, 1), in_sda];
        assert_eq!(below(disk(253, 1)), all);
        assert_eq!(below(Identity::Inode { dev: 1, ino: 2 }), []);
        // No kernel tells this; nothing turns in circles if one does.
        tree.device("a", "250:0").device("b", "250:1").on("a", "b").on("b", "a");
        assert_eq!(below(disk(250, 0)), [partial(250, 1)]);
    }

    #[test]
    fn a_loop_device_lies_on_a_range_of_its_file() {
        let tree = Tree::new();
        for (name, number) in [("loop0", "7:0"), ("loop1", "7:1")] {
            tree.device(name, number).file(name, "loop/offset", "0\n");
            tree.file(name, "loop/sizelimit", "0\n");
        }
        tree.device("loop2", "7:2").device("loop0/loop0p1", "259:0");
        partition(&tree, "loop0/loop0p1", 2, 4);
        let file = Identity::Inode { dev: 1, ino: 2 };
        let backing = |dev: u64| match nix::sys::stat::minor(dev) {
            0 => Ok(Extent::exact(file, Span::new(100, 8000))),
            1 => Ok(Extent::exact(disk(7, 0), Span::new(50, 1000))),
            _ => Err("it is not known".to_owned()),
        };
        let below = |identity| walk(identity, &tree.sysfs(), backing);
        let exact = |identity, start, length| Extent::exact(identity, Span::new(start, length));
        assert_eq!(below(disk(7, 0)).unwrap(), [exact(file, 100, 8000)]);
        let (part, whole) = (exact(disk(7, 0), 1024, 2048), exact(file, 1124, 2048));
        assert_eq!(below(disk(259, 0)).unwrap(), [part, whole]);
        let (device, whole) = (exact(disk(7, 0), 50, 1000), exact(file, 150, 1000));
        assert_eq!(below(disk(7, 1)).unwrap(), [device, whole]);
        // One that is not set up is not asked; where one that is does not answer, that is said.
        assert_eq!(below(disk(7, 2)).unwrap(), []);
        tree.file("loop2", "loop/offset", "0\n").file("loop2", "loop/sizelimit", "0\n");
        let why = "what it lies on can't be told (it is not known)";
        assert_eq!(below(disk(7, 2)).unwrap_err(), why);
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
