//! Counts the sysfs files that an acquisition reads, and checks that state that may have changed is
//! read again.

use super::*;
use crate::lock::Mode;
use crate::lock::disk::in_use::refuse_if_used;
use crate::lock::disk::stack::Stack;
use crate::lock::model::extent::{Extent, Span};
use crate::lock::model::identity::Identity;
use crate::lock::model::lock::Want;
use crate::lock::resolve::renewal::look_again;
use crate::lock::sysfs::tests::Tree;
use crate::lock::sysfs::{Kernel, Reader};
use crate::lock::table::renewal::Renewed;
use rustix::fs::{makedev, minor};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

fn renewed(want: &Want, host: &Snapshot) -> Option<Renewed> {
    look_again(want, None, &[], host).renewed
}

/// A reader that counts how often each file and directory is opened.
#[derive(Debug, Default)]
struct Counting(Mutex<BTreeMap<PathBuf, usize>>);

impl Counting {
    fn count(&self, path: &Path) {
        *self.0.lock().unwrap().entry(path.to_owned()).or_default() += 1;
    }

    /// Returns how often each was opened since the last call.
    fn take(&self) -> BTreeMap<PathBuf, usize> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Returns how many were opened since the last call.
    fn opened(&self) -> usize {
        self.take().values().sum()
    }
}

impl Reader for Counting {
    fn file(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.count(path);
        Kernel.file(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        self.count(directory);
        Kernel.names(directory)
    }
}

/// The number of simulated hosts. Each has device numbers of its own, since the cache of devices is
/// shared.
static HOSTS: AtomicU32 = AtomicU32::new(0);

/// A simulated host with images on a partition of its disk, some of which have a loop device.
struct Host {
    tree: Tree,
    number: u32,
}

impl Host {
    fn new(loops: u32) -> Self {
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        let (host, disk) = (Self { tree: Tree::new(), number }, 2 * number);
        let tree = &host.tree;
        tree.device("sdx", &format!("237:{disk}")).file("sdx", "diskseq", "3\n");
        tree.device("sdx/sdx1", &format!("237:{}", disk + 1)).file("sdx/sdx1", "start", "8\n");
        tree.file("sdx/sdx1", "size", "1000\n");
        for n in 0..loops {
            let (name, minor) = (format!("loop{n}"), minor(host.loop_device(n)));
            tree.device(&name, &format!("7:{minor}")).file(&name, "loop/offset", "0\n");
            tree.file(&name, "loop/sizelimit", "0\n");
            host.set_up(n, 11, host.image(n));
        }
        tree.device("loop99", &format!("7:{}", minor(host.loop_device(99))));
        host
    }

    fn partition(&self) -> u64 {
        makedev(237, 2 * self.number + 1)
    }

    fn loop_device(&self, n: u32) -> u64 {
        makedev(7, 2000 + 100 * self.number + n)
    }

    fn file(&self, ino: u64) -> Identity {
        Identity::Inode { dev: self.partition(), ino }
    }

    /// The file that a loop device is set up on.
    fn image(&self, n: u32) -> Identity {
        self.file(100 + u64::from(n))
    }

    fn set_up(&self, n: u32, seq: u64, on: Identity) {
        let Identity::Inode { dev, ino } = on else { panic!("{on}") };
        self.tree.file(&format!("loop{n}"), "diskseq", &format!("{seq}\n"));
        loop_device::remember(self.loop_device(n), seq, (dev, ino));
    }

    /// Returns what the table stores about a locked loop device.
    fn locked(&self, n: u32) -> Want {
        let sysfs = self.tree.sysfs();
        let identity = Identity::device(self.loop_device(n), &sysfs);
        let stack = Stack::below(identity, "", &sysfs).unwrap();
        let devices = stack.devices(identity, &sysfs);
        Want {
            below: [stack.below, devices.extents].concat(),
            ..Want::direct(format!("/dev/loop{n}"), identity, Mode::Exclusive)
        }
    }
}

/// Performs the snapshots of one acquisition of a disk, as the service does, while others are
/// locked. Returns what the disk lies on.
fn acquire(sysfs: &Sysfs, disk: Identity, locked: &[Want]) -> Vec<Extent> {
    let lookup = Snapshot::of(sysfs);
    let stack = Stack::below(disk, "", lookup.sysfs()).unwrap();
    let devices = stack.devices(disk, lookup.sysfs());
    let grant = Snapshot::of(sysfs).with(b"", b"");
    for want in locked {
        assert_eq!(renewed(want, &grant), None);
    }
    let pin = tempfile::tempfile().unwrap();
    refuse_if_used(pin.as_fd(), disk, &stack.below, "disk", &grant).unwrap();
    assert_eq!(Stack::below(disk, "", &sysfs.once()).unwrap(), stack);
    [stack.below, devices.extents].concat()
}

#[test]
fn a_file_costs_one_walk_and_one_file_for_each_loop_device() {
    for loops in [0, 3] {
        let (host, count) = (Host::new(loops), Arc::new(Counting::default()));
        let (sysfs, file) = (host.tree.read_by(count.clone()), host.file(1));
        let below = acquire(&sysfs, file, &[]);
        let on = |dev| Identity::device(dev, &host.tree.sysfs());
        let disk = makedev(237, 2 * host.number);
        let found: Vec<Identity> = below.iter().map(|extent| extent.identity).collect();
        assert_eq!(found, [on(host.partition()), on(disk)]);
        let (cold, devices) = (count.opened(), usize::try_from(loops).unwrap());
        assert_eq!(cold, 11 + devices);
        assert_eq!(acquire(&sysfs, file, &[]), below);
        let warm = count.take();
        assert_eq!(warm.values().sum::<usize>(), 3 + devices, "{warm:?}");
    }
}

#[test]
fn a_locked_loop_device_costs_the_next_grant_its_range() {
    let (host, count) = (Host::new(4), Arc::new(Counting::default()));
    let (sysfs, file) = (host.tree.read_by(count.clone()), host.file(1));
    let held: Vec<Want> = (0..3).map(|n| host.locked(n)).collect();
    acquire(&sysfs, file, &[]);
    count.take();
    acquire(&sysfs, file, &[]);
    let without = count.opened();
    acquire(&sysfs, file, &held);
    let opened = count.take();
    // The grant reads the sequence number of each loop device anyway. It reads that of the disk
    // with the images once for all of them, in two places.
    let with: usize = opened.values().sum();
    assert_eq!(with, without + 2 * held.len() + 2, "{opened:?}");
}

#[test]
fn no_file_is_read_twice_by_one_snapshot() {
    let (host, count) = (Host::new(3), Arc::new(Counting::default()));
    let part = format!("259:{}", 2000 + host.number);
    host.tree.device("loop0/loop0p1", &part).file("loop0/loop0p1", "start", "2\n");
    host.tree.file("loop0/loop0p1", "size", "4\n");
    let look = Snapshot::of(&host.tree.read_by(count.clone())).with(b"", b"");
    let pin = tempfile::tempfile().unwrap();
    for n in 0..3 {
        assert_eq!(renewed(&host.locked(n), &look), None);
        refuse_if_used(pin.as_fd(), host.image(n), &[], "disk", &look).unwrap();
    }
    let opened = count.take();
    assert!(opened.values().all(|times| *times == 1), "{opened:?}");
}

#[test]
fn a_loop_device_changed_after_the_lookup_is_detected_by_the_grant() {
    let host = Host::new(1);
    let (sysfs, want) = (host.tree.sysfs(), host.locked(0));
    assert_eq!(want.below[0], Extent::exact(host.image(0), Span::WHOLE));
    let lookup = Snapshot::of(&sysfs);
    assert_eq!(renewed(&want, &lookup), None);
    host.tree.file("loop0", "loop/offset", "4096\n");
    // One snapshot shows one state; the next one shows the new state.
    assert_eq!(renewed(&want, &lookup), None);
    let below = renewed(&want, &Snapshot::of(&sysfs)).unwrap().below;
    assert_eq!(below[0], Extent::exact(host.image(0), Span::new(4096, 0)));
    // The device is set up on another file.
    host.set_up(0, 12, host.image(77));
    let grant = Snapshot::of(&sysfs);
    assert_eq!(renewed(&want, &grant).unwrap().below[0].identity, host.image(77));
    let [device] = grant.loops() else { panic!("{:?}", grant.loops()) };
    assert_eq!((device.dev, device.backing), (host.loop_device(0), host.image(77)));
    assert_ne!(device.identity, want.identity);
}
