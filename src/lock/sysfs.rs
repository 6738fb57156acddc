//! What the kernel tells of block devices (`sysfs(5)`): what each is, and what it lies on.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, makedev, minor};

use super::extent::Span;
use super::loop_device::is_loop;

/// How the UUIDs begin that the logical volume manager gives to devices.
const LVM: &str = "LVM-";
/// How long the UUID of a volume, and of a volume group, is without dashes.
const UUID: usize = 32;
/// The unit of sizes, whatever the sectors of a disk are.
const SECTOR: u64 = 512;

/// Where the kernel tells of devices.
#[derive(Debug, Clone)]
pub struct Sysfs(PathBuf);

/// What a device lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lower {
    /// The disk that it is a partition of, by its number, and which bytes of that it is.
    Disk(u64, Span),
    /// Another device, by its number, of which it uses a part.
    Device(u64),
    /// What a loop device is set up on, which only the device itself can tell.
    Backing,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// One that is mounted elsewhere.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The device's folder; a link, so that `..` of it is the folder of the whole disk.
    fn folder(&self, dev: u64) -> PathBuf {
        self.0.join(format!("dev/block/{}:{}", major(dev), minor(dev)))
    }

    /// The sequence number of a disk; a partition has that of its disk.
    ///
    /// Not every device has one (the file came with Linux 5.15): then 0, and the device number alone
    /// decides.
    #[must_use]
    pub fn disk_sequence(&self, dev: u64) -> u64 {
        let folder = self.folder(dev);
        [folder.join("diskseq"), folder.join("../diskseq")]
            .iter()
            .find_map(|file| fs::read_to_string(file).ok())
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The UUID of a logical volume, with dashes, as `lvs -o uuid` prints it. None for what is no
    /// volume of its own: a part of one has a word behind its UUID.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn volume_uuid(&self, dev: u64) -> io::Result<Option<String>> {
        let text = read(&self.folder(dev).join("dm/uuid"))?;
        Ok(text.as_deref().and_then(|text| str::from_utf8(text).ok()).and_then(dashed))
    }

    /// The disk that a partition is a part of.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn whole(&self, dev: u64) -> io::Result<Option<u64>> {
        let folder = self.folder(dev);
        match read(&folder.join("partition"))? {
            Some(_) => number(&folder.join("../dev")),
            None => Ok(None),
        }
    }

    /// The partitions of a disk.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn partitions(&self, dev: u64) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for folder in entries(&self.folder(dev))? {
            if read(&folder.join("partition"))?.is_some() {
                found.extend(number(&folder.join("dev"))?);
            }
        }
        Ok(found)
    }

    /// What a device lies on directly.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn lower(&self, dev: u64) -> io::Result<Vec<Lower>> {
        let folder = self.folder(dev);
        let mut found = Vec::new();
        if let Some(disk) = self.whole(dev)? {
            let sectors = |file: &str| plain_number(&folder.join(file));
            let (start, size) = (sectors("start")?, sectors("size")?);
            // A partition that is not known to be a part of the disk counts as all of it.
            let span = match (start, size) {
                (Some(start), Some(size)) if size > 0 => {
                    Span::new(start.saturating_mul(SECTOR), size.saturating_mul(SECTOR))
                }
                _ => Span::WHOLE,
            };
            found.push(Lower::Disk(disk, span));
        }
        for slave in entries(&folder.join("slaves"))? {
            found.extend(number(&slave.join("dev"))?.map(Lower::Device));
        }
        if is_loop(dev) && self.loop_range(dev)?.is_some() {
            found.push(Lower::Backing);
        }
        Ok(found)
    }

    /// The offset and the size limit of a loop device, in bytes; none where it is not set up.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn loop_range(&self, dev: u64) -> io::Result<Option<(u64, u64)>> {
        let folder = self.folder(dev).join("loop");
        let range =
            (plain_number(&folder.join("offset"))?, plain_number(&folder.join("sizelimit"))?);
        Ok(if let (Some(offset), Some(limit)) = range { Some((offset, limit)) } else { None })
    }

    /// The size of a device in units of 512 bytes, whatever its sectors are.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn size(&self, dev: u64) -> io::Result<Option<u64>> {
        plain_number(&self.folder(dev).join("size"))
    }

    /// The name that the file of a loop device had when that was set up.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn backing_name(&self, dev: u64) -> io::Result<Option<PathBuf>> {
        let name = read(&self.folder(dev).join("loop/backing_file"))?;
        // The line's end; there may be others in the name.
        let name = name.and_then(|mut name| name.pop().map(|_| name));
        Ok(name.map(|name| std::ffi::OsString::from_vec(name).into()))
    }

    /// The loop devices that are set up, by their numbers.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn loop_devices(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for folder in entries(&self.0.join("block"))? {
            let name = folder.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(b"loop") && folder.join("loop").is_dir() {
                found.extend(number(&folder.join("dev"))?);
            }
        }
        Ok(found)
    }

    /// What lies on a device directly, by the names of the nodes; a volume has that of its own, too.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn holders(&self, dev: u64) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for holder in entries(&self.folder(dev).join("holders"))? {
            let Some(node) = holder.file_name().and_then(|name| name.to_str()) else { continue };
            let name = read(&holder.join("dm/name"))?;
            let name = name.as_deref().map(<[u8]>::trim_ascii).map(String::from_utf8_lossy);
            found.push(
                name.map_or_else(|| format!("/dev/{node}"), |name| format!("/dev/{node} ({name})")),
            );
        }
        Ok(found)
    }

    /// The node of a device, as the kernel calls it.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn node(&self, dev: u64) -> io::Result<Option<PathBuf>> {
        let text = read(&self.folder(dev).join("uevent"))?.unwrap_or_default();
        let name =
            text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"DEVNAME="));
        Ok(name.map(|name| Path::new("/dev").join(std::ffi::OsString::from_vec(name.to_vec()))))
    }
}

/// A file's content; none where there is no such file, or its device has just gone.
fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let gone = |error: &io::Error| {
        let kinds = [ErrorKind::NotFound, ErrorKind::NotADirectory];
        let errnos = [nix::libc::ENODEV, nix::libc::ENXIO];
        kinds.contains(&error.kind()) || error.raw_os_error().is_some_and(|no| errnos.contains(&no))
    };
    match fs::read(file) {
        Ok(content) => Ok(Some(content)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// A number from a file with nothing else in it.
fn plain_number(file: &Path) -> io::Result<Option<u64>> {
    let text = read(file)?;
    Ok(text.and_then(|text| str::from_utf8(&text).ok()?.trim().parse().ok()))
}

/// A device's number from its file.
fn number(file: &Path) -> io::Result<Option<u64>> {
    let text = read(file)?.unwrap_or_default();
    let text = str::from_utf8(&text).unwrap_or_default().trim();
    let number = text
        .split_once(':')
        .and_then(|(major, minor)| Some(makedev(major.parse().ok()?, minor.parse().ok()?)));
    Ok(number)
}

/// The UUID of the volume from that of its device: the group's comes first. Characters, and groups
/// of them as they are printed, are those of lvm2's `lib/uuid/uuid.c`.
fn dashed(uuid: &str) -> Option<String> {
    let both = uuid.trim_end().strip_prefix(LVM)?;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"!#".contains(&byte);
    let plain = both.len() == 2 * UUID && both.bytes().all(known);
    let mut rest = both.get(UUID..).filter(|_| plain)?;
    let mut groups = Vec::with_capacity(7);
    for length in [6, 4, 4, 4, 4, 4, 6] {
        let (group, more) = rest.split_at_checked(length)?;
        groups.push(group);
        rest = more;
    }
    Some(groups.join("-"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// An invented tree.
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

        fn place(&self, name: &str) -> PathBuf {
            self.0.path().join("devices").join(name)
        }

        /// A device; a partition's name has its disk's before it.
        pub(in crate::lock) fn device(&self, name: &str, number: &str) -> &Self {
            let place = self.place(name);
            fs::create_dir_all(place.join("slaves")).unwrap();
            fs::create_dir_all(place.join("holders")).unwrap();
            fs::write(place.join("dev"), format!("{number}\n")).unwrap();
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
            let file = self.place(name).join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
            self
        }

        /// One device lies on another.
        pub(in crate::lock) fn on(&self, upper: &str, lower: &str) -> &Self {
            let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
            let slaves = self.place(upper).join("slaves").join(name(lower));
            symlink(self.place(lower), slaves).unwrap();
            let holders = self.place(lower).join("holders").join(name(upper));
            symlink(self.place(upper), holders).unwrap();
            self
        }
    }

    const GROUP: &str = "3Yp7mJ1nQ0Wc2sT4vX6zA8bD9eF5gH2k";

    #[test]
    fn a_volume_has_the_uuid_that_its_manager_prints() {
        let tree = Tree::new();
        let volume = "aB3dE6fG8hJ0kL2mN4pQ6rS8tU0vW2xY";
        tree.device("dm-0", "253:0").file("dm-0", "dm/uuid", &format!("LVM-{GROUP}{volume}\n"));
        for (n, uuid) in [
            format!("LVM-{GROUP}{volume}-pool"),
            format!("LVM-{GROUP}{volume}_"),
            format!("LVM-{volume}"),
            format!("LVM-{GROUP}{}", volume.replace('B', "/")),
            format!("LVM-{GROUP}{}", volume.replace("B3", "ä")),
            format!("CRYPT-LUKS2-{GROUP}-x"),
            format!("part1-LVM-{GROUP}{volume}"),
            "mpath-3600508b400105e210000900000490000".to_owned(),
            String::new(),
        ]
        .into_iter()
        .enumerate()
        {
            let (name, number) = (format!("dm-{}", n + 1), format!("253:{}", n + 1));
            tree.device(&name, &number).file(&name, "dm/uuid", &format!("{uuid}\n"));
            let dev = makedev(253, n as u64 + 1);
            assert_eq!(tree.sysfs().volume_uuid(dev).unwrap(), None, "{uuid}");
        }
        let found = tree.sysfs().volume_uuid(makedev(253, 0)).unwrap().unwrap();
        assert_eq!(found, "aB3dE6-fG8h-J0kL-2mN4-pQ6r-S8tU-0vW2xY");
        assert_eq!(tree.sysfs().volume_uuid(makedev(253, 99)).unwrap(), None);
    }

    #[test]
    fn what_lies_on_what_is_told() {
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
}
