//! The block devices in `sysfs(5)`: their identities, and the layers that they lie on.

mod identity;
mod reader;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{major, makedev, minor};

use crate::lock::model::extent::Span;
use crate::lock::model::identity::{UNKNOWN_SEQUENCE, is_loop};
pub(in crate::lock) use reader::{Kernel, Reader};

/// The prefix of the UUIDs that the logical volume manager gives to devices.
const LVM: &str = "LVM-";
/// The length of the UUID of a volume, and of a volume group, without dashes.
const UUID: usize = 32;
/// The unit of sizes, independent of the sector size of a disk.
const SECTOR: u64 = 512;

/// A mounted sysfs.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
    reader: Arc<dyn Reader>,
}

/// A layer that a device lies on directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lower {
    /// The disk that contains the partition, by its number, and the range of the partition.
    Disk(u64, Span),
    /// Another device, by its number, of which it uses a part.
    Device(u64),
    /// The file or device of a loop device, which only the device itself can report.
    Backing,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// Returns the sysfs mounted at `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self::read_by(root, Arc::new(Kernel))
    }

    /// Returns the sysfs mounted at `root`, read by a reader.
    pub(in crate::lock) fn read_by(root: impl Into<PathBuf>, reader: Arc<dyn Reader>) -> Self {
        Self { root: root.into(), reader }
    }

    /// Returns a view that reads each file and directory at most once: its content is as old as the
    /// first request for it.
    #[must_use]
    pub fn once(&self) -> Self {
        let reader = Arc::new(reader::Once::new(Arc::clone(&self.reader)));
        Self { root: self.root.clone(), reader }
    }

    /// Returns the directory of a device. It is a symbolic link, so that its `..` is the directory
    /// of the whole disk.
    fn directory(&self, dev: u64) -> PathBuf {
        self.root.join(format!("dev/block/{}:{}", major(dev), minor(dev)))
    }

    /// Returns the sequence number of a disk; for a partition, that of its disk.
    ///
    /// It is 0 for a device without one (the file exists since Linux 5.15): then the device number
    /// alone identifies the device. It is [`UNKNOWN_SEQUENCE`] if it cannot be read.
    #[must_use]
    pub fn disk_sequence(&self, dev: u64) -> u64 {
        let directory = self.directory(dev);
        for file in [directory.join("diskseq"), directory.join("../diskseq")] {
            match self.plain_number(&file) {
                Ok(Some(number)) => return number,
                Ok(None) => {}
                Err(_) => return UNKNOWN_SEQUENCE,
            }
        }
        0
    }

    /// Returns the UUID of a logical volume, with dashes, as `lvs -o uuid` prints it. `None` for a
    /// device that is not a whole volume: an internal part of one has a suffix after its UUID.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn volume_uuid(&self, dev: u64) -> io::Result<Option<String>> {
        let text = self.reader.file(&self.directory(dev).join("dm/uuid"))?;
        Ok(text.as_deref().and_then(|text| str::from_utf8(text).ok()).and_then(format_volume_uuid))
    }

    /// Returns the disk that contains a partition.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn whole(&self, dev: u64) -> io::Result<Option<u64>> {
        let directory = self.directory(dev);
        match self.reader.file(&directory.join("partition"))? {
            Some(_) => self.number(&directory.join("../dev")),
            None => Ok(None),
        }
    }

    /// Returns the partitions of a disk.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn partitions(&self, dev: u64) -> io::Result<Vec<u64>> {
        let directory = self.directory(dev);
        let link = self.reader.link(&directory);
        let Some(disk) = link.as_deref().and_then(Path::file_name) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        // The name of a partition begins with that of its disk (`add_partition()` in
        // block/partitions/core.c).
        let is_longer =
            |name: &OsStr| name.len() > disk.len() && name.as_bytes().starts_with(disk.as_bytes());
        for name in self.reader.names(&directory)?.iter().filter(|name| is_longer(name)) {
            let directory = directory.join(name);
            if self.reader.file(&directory.join("partition"))?.is_some() {
                found.extend(self.number(&directory.join("dev"))?);
            }
        }
        Ok(found)
    }

    /// Returns the layers that a device lies on directly.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn lower(&self, dev: u64) -> io::Result<Vec<Lower>> {
        // Only the directory of a loop device itself has the range. A loop device is no partition,
        // and is not made of other devices.
        if is_loop(dev) && self.loop_range(dev)?.is_some() {
            return Ok(vec![Lower::Backing]);
        }
        let directory = self.directory(dev);
        let mut found = Vec::new();
        if let Some(disk) = self.whole(dev)? {
            let sectors = |file: &str| self.plain_number(&directory.join(file));
            let (start, size) = (sectors("start")?, sectors("size")?);
            // A partition whose range of the disk is unknown counts as the whole disk.
            let span = match (start, size) {
                (Some(start), Some(size)) if size > 0 => {
                    Span::new(start.saturating_mul(SECTOR), size.saturating_mul(SECTOR))
                }
                _ => Span::WHOLE,
            };
            found.push(Lower::Disk(disk, span));
        }
        for slave in self.entries(&directory.join("slaves"))? {
            found.extend(self.number(&slave.join("dev"))?.map(Lower::Device));
        }
        Ok(found)
    }

    /// Returns the offset and the size limit of a loop device, in bytes; `None` if it is not set
    /// up.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn loop_range(&self, dev: u64) -> io::Result<Option<(u64, u64)>> {
        let directory = self.directory(dev).join("loop");
        let range = (
            self.plain_number(&directory.join("offset"))?,
            self.plain_number(&directory.join("sizelimit"))?,
        );
        Ok(if let (Some(offset), Some(limit)) = range { Some((offset, limit)) } else { None })
    }

    /// Returns the size of a device in units of 512 bytes, independent of its sector size.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn size(&self, dev: u64) -> io::Result<Option<u64>> {
        self.plain_number(&self.directory(dev).join("size"))
    }

    /// Returns the name that the file of a loop device had when the device was set up.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn backing_name(&self, dev: u64) -> io::Result<Option<PathBuf>> {
        let name = self.reader.file(&self.directory(dev).join("loop/backing_file"))?;
        // Removes the final newline only, since the name may contain others.
        let name = name.and_then(|mut name| name.pop().map(|_| name));
        Ok(name.map(|name| std::ffi::OsString::from_vec(name).into()))
    }

    /// Returns the numbers of the loop devices that are set up.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn loop_devices(&self) -> io::Result<Vec<u64>> {
        // The names in this directory are the numbers of the devices.
        let names = self.reader.names(&self.root.join("dev/block"))?;
        let devices = names.iter().filter_map(|name| parse_number(name.to_str()?));
        let is_set_up = |dev: &u64| {
            is_loop(*dev) && self.reader.is_directory(&self.directory(*dev).join("loop"))
        };
        Ok(devices.filter(is_set_up).collect())
    }

    /// Returns the nodes of the devices that lie directly on a device, a volume with its name.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn holders(&self, dev: u64) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for holder in self.entries(&self.directory(dev).join("holders"))? {
            let Some(node) = holder.file_name().and_then(|name| name.to_str()) else { continue };
            let name = self.reader.file(&holder.join("dm/name"))?;
            let name = name.as_deref().map(<[u8]>::trim_ascii).map(String::from_utf8_lossy);
            found.push(
                name.map_or_else(|| format!("/dev/{node}"), |name| format!("/dev/{node} ({name})")),
            );
        }
        Ok(found)
    }

    /// Returns the kernel's name of the device node.
    ///
    /// # Errors
    ///
    /// Errors of reading sysfs.
    pub fn node(&self, dev: u64) -> io::Result<Option<PathBuf>> {
        let text = self.reader.file(&self.directory(dev).join("uevent"))?.unwrap_or_default();
        let name =
            text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"DEVNAME="));
        Ok(name.map(|name| Path::new("/dev").join(std::ffi::OsString::from_vec(name.to_vec()))))
    }

    /// Returns the paths in a directory.
    fn entries(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let names = self.reader.names(directory)?;
        Ok(names.into_iter().map(|name| directory.join(name)).collect())
    }

    /// Reads a number from a file that contains nothing else.
    fn plain_number(&self, file: &Path) -> io::Result<Option<u64>> {
        let text = self.reader.file(file)?;
        Ok(text.and_then(|text| str::from_utf8(&text).ok()?.trim().parse().ok()))
    }

    /// Reads the number of a device from a file.
    fn number(&self, file: &Path) -> io::Result<Option<u64>> {
        let text = self.reader.file(file)?.unwrap_or_default();
        Ok(parse_number(str::from_utf8(&text).unwrap_or_default().trim()))
    }
}

/// Parses the number of a device, such as `8:16`.
fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Returns the UUID of a volume, taken from that of its device, which begins with the UUID of the
/// volume group. The character set and the groups in the printed form are those of lvm2's
/// `lib/uuid/uuid.c`.
fn format_volume_uuid(uuid: &str) -> Option<String> {
    let group_and_volume = uuid.trim_end().strip_prefix(LVM)?;
    let is_uuid_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#".contains(&byte);
    let is_valid = group_and_volume.len() == 2 * UUID && group_and_volume.bytes().all(is_uuid_byte);
    let mut rest = group_and_volume.get(UUID..).filter(|_| is_valid)?;
    let mut groups = Vec::with_capacity(7);
    for length in [6, 4, 4, 4, 4, 4, 6] {
        let (group, more) = rest.split_at_checked(length)?;
        groups.push(group);
        rest = more;
    }
    Some(groups.join("-"))
}

#[cfg(test)]
pub(in crate::lock) mod tests;
