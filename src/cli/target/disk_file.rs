//! Opens the files of disks: as proof of access, or for queries.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::cli::error::Error;
use crate::cli::target::disk::Disk;
use crate::cli::target::disk_name::{absolute, is_descriptor_name, lease_path};
use crate::lock::Mode;
use crate::lock::text::escape::{reason, shown_path};

/// Opens a disk, as proof that this user may lock it. Returns `None` if the user may not open it;
/// its name is passed to the service then, which asks polkit.
pub(crate) fn open_as_proof(path: &Path, mode: Mode) -> Result<Option<File>, Error> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing(format!("disk {} does not exist", shown_path(path))));
        }
        Err(_) => return Ok(None),
    };
    if found.is_dir() {
        return Err(directory_refusal(path));
    }
    // Opening a device of another type may have side effects.
    if !can_be_disk(&found) {
        let path = shown_path(path);
        return Err(Error::Failed(format!(
            "{path} is neither a regular file nor a block device, so it cannot be a disk"
        )));
    }
    let open = |write| open_for(path, write).ok();
    Ok(match mode {
        Mode::Exclusive | Mode::None => open(true),
        // For a shared lock, read access to a file of this user is sufficient proof, and write
        // access to any other file.
        Mode::Shared if is_own(&found) => open(false),
        Mode::Shared => open(true).or_else(|| open(false)),
    })
}

/// Whether a file is of a type that disks have.
pub(crate) fn can_be_disk(found: &Metadata) -> bool {
    found.is_file() || found.file_type().is_block_device()
}

/// Whether a file belongs to this user. Both uids are those of this user namespace.
fn is_own(found: &Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw()
}

/// Opens a disk for reading, and for writing if `write` is set.
fn open_for(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    OpenOptions::new().read(true).write(write).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Returns the reason why this user cannot open a disk as [`open_as_proof`] does; `None` if
/// permissions are not the reason, and for a lease.
pub(crate) fn open_denial(disk: &Disk) -> Option<String> {
    let path = absolute(&disk.path).ok()?;
    if lease_path(&path).is_some() || is_descriptor_name(&path) {
        return None;
    }
    let is_denied = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    };
    let describe = |error: &io::Error, how: &str| {
        let shown = shown_path(&path);
        is_denied(error).then(|| format!("cannot open {shown}{how}: {}", reason(error)))
    };
    let found = match fs::metadata(&path) {
        Ok(found) => found,
        Err(error) => return describe(&error, ""),
    };
    if !can_be_disk(&found) {
        return None;
    }
    let reads = disk.mode == Mode::Shared && is_own(&found);
    let error = open_for(&path, !reads).err()?;
    describe(&error, if reads { " for reading" } else { " for writing" })
}

/// Returns the error for a directory in place of a disk; `None` for any other path.
pub(crate) fn directory_error(path: &Path) -> Option<Error> {
    path.is_dir().then(|| directory_refusal(path))
}

fn directory_refusal(path: &Path) -> Error {
    Error::Usage(format!("'{}' is a directory; give the path of a disk", shown_path(path)))
}

/// Opens a disk to pass it to a query of the service. Returns `None` for a lease, and for a file
/// that is not a disk or cannot be opened.
pub(crate) fn open_for_query(path: &Path) -> Option<File> {
    if lease_path(path).is_some() {
        return None;
    }
    let found = fs::metadata(path).ok()?;
    if can_be_disk(&found) { open_for(path, false).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img");
        fs::write(&image, "").unwrap();
        assert!(open_as_proof(&image, Mode::Exclusive).unwrap().is_some());
        assert!(open_as_proof(&image, Mode::Shared).unwrap().is_some());
        assert!(matches!(
            open_as_proof(&dir.path().join("b"), Mode::Shared),
            Err(Error::Missing(_))
        ));
        assert!(matches!(open_as_proof(dir.path(), Mode::Shared), Err(Error::Usage(_))));
        assert!(matches!(
            open_as_proof(Path::new("/dev/null"), Mode::Shared),
            Err(Error::Failed(_))
        ));
        assert!(open_for_query(&image).is_some() && open_for_query(dir.path()).is_none());
    }
}
