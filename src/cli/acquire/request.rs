//! The disks of a request, as they are passed to the service: a name or an open descriptor each.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zbus::{Fd, OwnedObjectPath};

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::target::disk::Disk;
use crate::cli::target::disk_file::open_as_proof;
use crate::cli::target::disk_name::{absolute, lease_path, utf8_path};
use crate::cli::terminal::slow_reply::report_slow_files;
use crate::client::{Options, OwnerProxy};

/// The maximum number of descriptors in one message that every bus accepts.
pub(crate) const FILES_MAX: usize = 16;

/// The disks to lock: all of them or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskRequest<'d> {
    /// The disks.
    pub(crate) disks: &'d [Disk],
    /// Whether to lock disks that this host itself uses, too.
    pub(crate) in_use: bool,
}

impl<'d> DiskRequest<'d> {
    /// Returns the paths of the disks, as they were written.
    pub(crate) fn paths(self) -> impl Iterator<Item = &'d Path> {
        self.disks.iter().map(|disk| disk.path.as_path())
    }

    /// Opens the disks that are passed as descriptors. Reports it if that takes long.
    pub(crate) fn open(self, service: &ServiceConnection) -> Result<OpenedDisks, Error> {
        report_slow_files(self.paths(), || OpenedDisks::new(service, self))
    }
}

/// The disks of a request, with open descriptors for those that are not passed by name.
#[derive(Debug, Default)]
pub(crate) struct OpenedDisks {
    /// Names and modes.
    names: Vec<(String, &'static str)>,
    /// Open descriptors and modes.
    files: Vec<(OwnedFd, &'static str)>,
    /// The names by which the descriptors were opened.
    opened: Vec<OpenedFile>,
    in_use: bool,
}

impl OpenedDisks {
    fn new(service: &ServiceConnection, request: DiskRequest<'_>) -> Result<Self, Error> {
        let mut opened = Self { in_use: request.in_use, ..Self::default() };
        for Disk { path, mode } in request.disks {
            let path = absolute(path)?;
            let needs_descriptor = path.to_str().is_none() || !service.sends_names();
            let has_room = opened.files.len() < FILES_MAX;
            let file = if needs_descriptor && has_room && lease_path(&path).is_none() {
                open_as_proof(&path, *mode)?
            } else {
                None
            };
            match file {
                Some(file) => {
                    opened.opened.extend(OpenedFile::new(&path, &file));
                    opened.files.push((file.into(), mode.as_str()));
                }
                None => opened.names.push((utf8_path(&path)?, mode.as_str())),
            }
        }
        Ok(opened)
    }

    /// Whether all disks are passed by name.
    pub(crate) fn has_only_names(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds the option `in-use` if the request has it.
    pub(crate) fn insert_in_use(&self, options: &mut Options<'_>) {
        if self.in_use {
            options.insert("in-use", true.into());
        }
    }

    /// Returns the names and modes of the disks that are passed by name.
    pub(crate) fn names(&self) -> Vec<(&str, &str)> {
        self.names.iter().map(|(name, mode)| (name.as_str(), *mode)).collect()
    }

    /// Returns the files that are passed as descriptors, with their names.
    pub(crate) fn opened_files(&self) -> &[OpenedFile] {
        &self.opened
    }

    /// Calls `AcquireWithFiles` of an owner.
    pub(crate) async fn acquire(
        &self,
        service: &ServiceConnection,
        owner: &OwnerProxy<'_>,
        mut options: Options<'_>,
    ) -> Result<(), Error> {
        self.insert_in_use(&mut options);
        let files: Vec<(Fd<'_>, &str)> =
            self.files.iter().map(|(file, mode)| (file.as_fd().into(), *mode)).collect();
        let arguments = (self.names(), files, options);
        let _: Vec<OwnedObjectPath> =
            service.call_method(owner.inner(), "AcquireWithFiles", &arguments).await?;
        Ok(())
    }
}

/// The name of a file, and the file that it led to when it was opened.
#[derive(Debug, Clone)]
pub(crate) struct OpenedFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl OpenedFile {
    fn new(path: &Path, file: &File) -> Option<Self> {
        let id = file.metadata().ok().map(|found| (found.dev(), found.ino()))?;
        Some(Self { path: path.to_owned(), id })
    }

    /// Whether the name leads to another file, or to none. False if that cannot be determined.
    pub(crate) fn is_replaced(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) != self.id,
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
        }
    }
}
