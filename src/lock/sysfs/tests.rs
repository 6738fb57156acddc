//! Tests, and a simulated sysfs for the tests of other modules.

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// A simulated sysfs.
pub(in crate::lock) struct Tree(TempDir);

impl Tree {
    pub(in crate::lock) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("dev/block")).unwrap();
        Self(dir)
    }

    pub(in crate::lock) fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.0.path())
    }

    /// Returns the simulated sysfs, read by a reader.
    pub(in crate::lock) fn read_by(&self, reader: Arc<dyn Reader>) -> Sysfs {
        Sysfs::read_by(self.0.path(), reader)
    }

    fn device_directory(&self, name: &str) -> PathBuf {
        self.0.path().join("devices").join(name)
    }

    /// Adds a device; the name of a partition follows that of its disk.
    pub(in crate::lock) fn device(&self, name: &str, number: &str) -> &Self {
        let device_directory = self.device_directory(name);
        fs::create_dir_all(device_directory.join("slaves")).unwrap();
        fs::create_dir_all(device_directory.join("holders")).unwrap();
        fs::write(device_directory.join("dev"), format!("{number}\n")).unwrap();
        let link = self.0.path().join("dev/block").join(number);
        symlink(Path::new("../../devices").join(name), link).unwrap();
        let disks = self.0.path().join("block");
        fs::create_dir_all(&disks).unwrap();
        if !name.contains('/') {
            symlink(Path::new("../devices").join(name), disks.join(name)).unwrap();
        }
        if name.contains('/') { self.file(name, "partition", "1\n") } else { self }
    }

    pub(in crate::lock) fn file(&self, name: &str, file: &str, content: &str) -> &Self {
        let file = self.device_directory(name).join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
        self
    }

    /// Removes a file, or an empty directory.
    pub(in crate::lock) fn without(&self, name: &str, file: &str) -> &Self {
        let file = self.device_directory(name).join(file);
        fs::remove_file(&file).or_else(|_| fs::remove_dir(file)).unwrap();
        self
    }

    /// Makes one device lie on another.
    pub(in crate::lock) fn on(&self, upper: &str, lower: &str) -> &Self {
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        let slaves = self.device_directory(upper).join("slaves").join(name(lower));
        symlink(self.device_directory(lower), slaves).unwrap();
        let holders = self.device_directory(lower).join("holders").join(name(upper));
        symlink(self.device_directory(upper), holders).unwrap();
        self
    }
}

const GROUP: &str = "3Yp7mJ1nQ0Wc2sT4vX6zA8bD9eF5gH2k";

#[test]
fn a_volume_uuid_has_the_format_of_lvs() {
    let tree = Tree::new();
    let volume = "aB3dE6fG8hJ0kL2mN4pQ6rS8tU0vW2xY";
    tree.device("dm-0", "253:0").file("dm-0", "dm/uuid", &format!("LVM-{GROUP}{volume}\n"));
    for (minor, uuid) in (1..).zip([
        format!("LVM-{GROUP}{volume}-pool"),
        format!("LVM-{GROUP}{volume}_"),
        format!("LVM-{volume}"),
        format!("LVM-{GROUP}{}", volume.replace('B', "/")),
        format!("LVM-{GROUP}{}", volume.replace("B3", "ä")),
        format!("CRYPT-LUKS2-{GROUP}-x"),
        format!("part1-LVM-{GROUP}{volume}"),
        "mpath-3600508b400105e210000900000490000".to_owned(),
        String::new(),
    ]) {
        let (name, number) = (format!("dm-{minor}"), format!("253:{minor}"));
        tree.device(&name, &number).file(&name, "dm/uuid", &format!("{uuid}\n"));
        let dev = makedev(253, minor);
        assert_eq!(tree.sysfs().volume_uuid(dev).unwrap(), None, "{uuid}");
    }
    let found = tree.sysfs().volume_uuid(makedev(253, 0)).unwrap().unwrap();
    assert_eq!(found, "aB3dE6-fG8h-J0kL-2mN4-pQ6r-S8tU-0vW2xY");
    assert_eq!(tree.sysfs().volume_uuid(makedev(253, 99)).unwrap(), None);
}

#[test]
fn lower_layers_are_read() {
    let tree = Tree::new();
    tree.device("sda", "8:0").device("sda/sda1", "8:1").device("sda/sda2", "8:2");
    tree.device("dm-0", "253:0").on("dm-0", "sda/sda1").file("dm-0", "dm/name", "vg-lv\n");
    tree.device("md0", "9:0").on("md0", "sda/sda2").file("sda", "diskseq", "12\n");
    tree.device("loop0", "7:0").file("loop0", "loop/offset", "4096\n");
    tree.file("loop0", "loop/sizelimit", "0\n").device("loop1", "7:1");
    tree.file("sda/sda2", "start", "8\n").file("sda/sda2", "size", "2\n");
    tree.file("sda/sda2", "uevent", "MAJOR=8\nDEVNAME=sda2\n");
    let (sysfs, of) = (tree.sysfs(), |major, minor| Lower::Device(makedev(major, minor)));
    let lower = |major, minor| sysfs.lower(makedev(major, minor)).unwrap();
    assert_eq!(lower(8, 0), []);
    assert_eq!(lower(8, 1), [Lower::Disk(makedev(8, 0), Span::WHOLE)]);
    assert_eq!(lower(8, 2), [Lower::Disk(makedev(8, 0), Span::new(4096, 1024))]);
    assert_eq!(lower(253, 0), [of(8, 1)]);
    assert_eq!(lower(7, 0), [Lower::Backing]);
    assert_eq!(sysfs.loop_range(makedev(7, 0)).unwrap(), Some((4096, 0)));
    assert_eq!(sysfs.loop_range(makedev(7, 1)).unwrap(), None);
    assert_eq!(sysfs.loop_devices().unwrap(), [makedev(7, 0)]);
    assert_eq!(lower(7, 1), []);
    let holders = |minor| sysfs.holders(makedev(8, minor)).unwrap();
    assert_eq!(
        (holders(1), holders(2)),
        (vec!["/dev/dm-0 (vg-lv)".into()], vec!["/dev/md0".into()])
    );
    let parts = [makedev(8, 1), makedev(8, 2)];
    assert_eq!(sysfs.partitions(makedev(8, 0)).unwrap(), parts);
    assert_eq!(sysfs.disk_sequence(makedev(8, 2)), 12);
    assert_eq!(sysfs.disk_sequence(makedev(7, 0)), 0);
    assert_eq!(sysfs.node(makedev(8, 2)).unwrap(), Some("/dev/sda2".into()));
    assert_eq!(sysfs.node(makedev(8, 1)).unwrap(), None);
}
