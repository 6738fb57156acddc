//! The layers below a disk: the disk that contains a partition, the file behind a loop device, the
//! disks that a volume is made of; and the layers below those, down to the hardware.
//!
//! A write to one of them is a write to the others, and neither the kernel's locks nor the lock
//! files of any program cover that.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use super::backing::{self, Backing};
use super::file_system::{self, Devices};
use super::overlay::{self, Unknown};
use crate::lock::model::error::Error;
use crate::lock::model::extent::{Extent, Placement};
use crate::lock::model::identity::Identity;
use crate::lock::path::fs_type::FsType;
use crate::lock::sysfs::{Lower, Sysfs};

/// The maximum number of layers: a volume group of hundreds of disks is large already.
const LAYERS_MAX: usize = 512;

/// The layers below a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::lock) struct Stack {
    /// The layers that it lies on in any case, the next one first.
    pub(in crate::lock) below: Vec<Extent>,
    /// The files of lower layers that a file of an overlay lies on until it is copied up.
    pub(in crate::lock) lower: Vec<Extent>,
    /// The paths at which upper layers will have it, or a layer below it, once that is copied up.
    pub(in crate::lock) copies: Vec<PathBuf>,
    /// Why some of it may be missing here.
    pub(in crate::lock) unknown: Option<Unknown>,
}

impl Stack {
    /// Returns the layers below a disk; `pin` is a descriptor of it, on a file system of the type
    /// `on` if that is known. Opens none of them.
    ///
    /// # Errors
    ///
    /// [`Error::NotLockable`] if they are unknown: unknown layers cannot be compared.
    pub(in crate::lock) fn of(
        (pin, on): (BorrowedFd<'_>, Option<FsType>),
        identity: Identity,
        name: &str,
        sysfs: &Sysfs,
    ) -> Result<Self, Error> {
        let mut stack = Self::below(identity, name, sysfs)?;
        let may_be_on_overlay = on.is_none_or(|on| on == FsType::OVERLAY);
        if matches!(identity, Identity::Inode { .. }) && may_be_on_overlay {
            let real = overlay::real(pin);
            stack.below.extend(real.upper);
            stack.lower.extend(real.lower);
            stack.copies.extend(real.copies);
            stack.unknown = stack.unknown.or(real.unknown);
        }
        Ok(stack)
    }

    /// Returns the layers below a block device; none for a file.
    ///
    /// # Errors
    ///
    /// As for [`Self::of`].
    pub(in crate::lock) fn below(
        identity: Identity,
        name: &str,
        sysfs: &Sysfs,
    ) -> Result<Self, Error> {
        Self::under(Extent::whole(identity), sysfs).map_err(|why| Error::not_lockable(name, why))
    }

    /// Returns the parts of devices that the file systems of a disk's files occupy, and the layers
    /// below these. They are in use as long as the file systems are mounted, so they are separate.
    pub(in crate::lock) fn devices(&self, identity: Identity, sysfs: &Sysfs) -> Devices {
        let below = self.below.iter().chain(&self.lower).map(|extent| extent.identity);
        file_system::devices_of([identity].into_iter().chain(below), sysfs)
    }

    /// Returns the layers below a part of a block device.
    pub(in crate::lock) fn under(extent: Extent, sysfs: &Sysfs) -> Result<Self, String> {
        walk(extent, sysfs, |dev| backing::of(dev, sysfs))
    }
}

/// Walks the layers as [`Stack::under`] does; `backing` returns the files behind a loop device.
fn walk(
    extent: Extent,
    sysfs: &Sysfs,
    backing: impl Fn(u64) -> Result<Backing, String>,
) -> Result<Stack, String> {
    let failed = |why: String| format!("cannot find out what it lies on ({why})");
    let mut stack = Stack::default();
    let mut next = Some(extent);
    let mut at = 0;
    while let Some(upper) = next {
        if let Identity::Block { dev, .. } = upper.identity {
            for lower in sysfs.lower(dev).map_err(|error: io::Error| failed(error.to_string()))? {
                let lower = match lower {
                    Lower::Disk(dev, span) => {
                        vec![Extent::exact(Identity::device(dev, sysfs), span)]
                    }
                    Lower::Device(dev) => vec![Extent::partial(Identity::device(dev, sysfs))],
                    Lower::Backing => {
                        let Backing { extents, copies, unknown } = backing(dev).map_err(failed)?;
                        stack.copies.extend(copies);
                        stack.unknown = stack.unknown.or(unknown);
                        extents
                    }
                };
                if lower.iter().any(|lower| lower.identity.is_unknown()) {
                    return Err(failed("a disk sequence number cannot be read".to_owned()));
                }
                for lower in lower.into_iter().map(|lower| upper.through(lower)) {
                    if lower.identity != extent.identity && !covers(&stack.below, &lower) {
                        stack.below.push(lower);
                    }
                }
            }
        }
        if stack.below.len() > LAYERS_MAX {
            return Err(format!("it lies on more than {LAYERS_MAX} disks"));
        }
        next = stack.below.get(at).copied();
        at += 1;
    }
    Ok(stack)
}

/// Whether an extent is contained already, itself or as part of one whose placement conflicts with
/// at least as much.
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
    use crate::lock::model::extent::Span;
    use crate::lock::sysfs::tests::Tree;
    use rustix::fs::makedev;

    fn disk(major: u32, minor: u32) -> Identity {
        Identity::Block { dev: makedev(major, minor), seq: 0 }
    }

    fn no_loop(_: u64) -> Result<Backing, String> {
        panic!("a loop device is asked")
    }

    fn partition(tree: &Tree, name: &str, start: u64, sectors: u64) {
        tree.file(name, "start", &format!("{start}\n")).file(name, "size", &format!("{sectors}\n"));
    }

    #[test]
    fn a_volume_lies_on_parts_of_all_its_devices() {
        let tree = Tree::new();
        tree.device("sda", "8:0").device("sda/sda1", "8:1").device("sdb", "8:16");
        partition(&tree, "sda/sda1", 8, 2);
        tree.device("dm-0", "253:0").on("dm-0", "sda/sda1").on("dm-0", "sdb");
        tree.device("dm-1", "253:1").on("dm-1", "dm-0").on("dm-1", "sdb");
        let below = |identity| walk(Extent::whole(identity), &tree.sysfs(), no_loop).unwrap().below;
        let partial = |major, minor| Extent::partial(disk(major, minor));
        let in_sda = Extent { span: Span::new(4096, 1024), ..partial(8, 0) };
        assert_eq!(below(disk(8, 0)), []);
        assert_eq!(below(disk(8, 1)), [Extent { placement: Placement::Exact, ..in_sda }]);
        assert_eq!(below(disk(253, 0)), [partial(8, 1), partial(8, 16), in_sda]);
        let all = [partial(253, 0), partial(8, 16), partial(8, 1), in_sda];
        assert_eq!(below(disk(253, 1)), all);
        assert_eq!(below(Identity::Inode { dev: 1, ino: 2 }), []);
        // No kernel reports a circle; the walk has to end if one does.
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
        let on = |extent| Ok(Backing { extents: vec![extent], ..Backing::default() });
        let backing = |dev: u64| match rustix::fs::minor(dev) {
            0 => on(Extent::exact(file, Span::new(100, 8000))),
            1 => on(Extent::exact(disk(7, 0), Span::new(50, 1000))),
            _ => Err("it is not known".to_owned()),
        };
        let below = |identity| {
            walk(Extent::whole(identity), &tree.sysfs(), backing).map(|stack| stack.below)
        };
        let exact = |identity, start, length| Extent::exact(identity, Span::new(start, length));
        assert_eq!(below(disk(7, 0)).unwrap(), [exact(file, 100, 8000)]);
        let (part, whole) = (exact(disk(7, 0), 1024, 2048), exact(file, 1124, 2048));
        assert_eq!(below(disk(259, 0)).unwrap(), [part, whole]);
        let (device, whole) = (exact(disk(7, 0), 50, 1000), exact(file, 150, 1000));
        assert_eq!(below(disk(7, 1)).unwrap(), [device, whole]);
        // An unused loop device is not queried; a query that fails is an error.
        assert_eq!(below(disk(7, 2)).unwrap(), []);
        tree.file("loop2", "loop/offset", "0\n").file("loop2", "loop/sizelimit", "0\n");
        let why = "cannot find out what it lies on (it is not known)";
        assert_eq!(below(disk(7, 2)).unwrap_err(), why);
    }

    #[test]
    fn too_many_layers_are_refused() {
        let tree = Tree::new();
        tree.device("md0", "9:0");
        for minor in 0..=LAYERS_MAX {
            let name = format!("sd{minor}");
            tree.device(&name, &format!("8:{minor}")).on("md0", &name);
        }
        let error = Stack::below(disk(9, 0), "/dev/md0", &tree.sysfs()).unwrap_err();
        assert_eq!(error.to_string(), "cannot lock /dev/md0: it lies on more than 512 disks");
    }
}
