//! Writing the state file.
//!
//! The file is mapped ([`super::slot_file`]), so appending an entry and changing its stage are stores
//! into memory, without a system call. Only growing the file and rewriting it need the kernel.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::MemfdFlags;

use super::contents::boot_id;
use super::entry::{EntryPosition, EntryStage, StateEntry};
use super::previous::PreviousFile;
use super::reader::FILE;
use super::record::{HighestNumbers, RecordId};
use super::slot_file::SlotFile;
use crate::keep::Error;
use crate::lock::Mode;
use crate::lock::text::escape::shown_path;
use crate::sync;

/// The state file of this service.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    boot: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: SlotFile,
    /// A write in place has failed: the file is older than the state, until it is rewritten.
    is_outdated: bool,
    /// The previous file, or the error from opening it, while `open` is in memory.
    previous: Option<io::Result<PreviousFile>>,
}

impl StateFile {
    /// Creates a state file with these entries. It replaces the previous file once it is complete.
    ///
    /// # Errors
    ///
    /// [`Error::File`]; the previous file is unchanged then.
    pub fn create(
        directory: &Path,
        entries: &[StateEntry],
        highest: HighestNumbers,
    ) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let failed = Error::file(&path, "create");
        let boot = boot_id().map_err(&failed)?;
        let open = replace(&path, |file| SlotFile::with(file, &boot, entries, highest));
        let open = open.map_err(&failed)?;
        let inner = Inner { open, is_outdated: false, previous: None };
        Ok(Self { path, boot, inner: Mutex::new(inner) })
    }

    /// Creates the state in memory, where [`Self::create`] fails. `positions` are the
    /// positions of the entries in the previous file. Nothing is appended until the file can be
    /// written; [`Self::append`] and [`Self::rewrite`] retry that.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if there is no memory.
    pub fn create_in_memory(
        directory: &Path,
        entries: &[StateEntry],
        highest: HighestNumbers,
        positions: &[EntryPosition],
    ) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let failed = Error::file(&path, "keep in memory the");
        let boot = boot_id().map_err(&failed)?;
        let memory = rustix::fs::memfd_create("vmlockd-state", MemfdFlags::CLOEXEC);
        let file = File::from(memory.map_err(|errno| failed(errno.into()))?);
        let open = SlotFile::with(file, &boot, entries, highest).map_err(&failed)?;
        let previous = Some(PreviousFile::open(&path, positions, entries));
        let inner = Inner { open, is_outdated: true, previous };
        Ok(Self { path, boot, inner: Mutex::new(inner) })
    }

    /// Returns whether the state is in memory only.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.inner().previous.is_some()
    }

    /// Appends entries, all of them or none.
    ///
    /// # Errors
    ///
    /// [`Error::Unrecorded`], as on a full file system.
    pub fn append(&self, entries: &[StateEntry]) -> Result<(), Error> {
        let failed = |cause| Error::Unrecorded { file: shown_path(&self.path), cause };
        let mut inner = self.inner();
        if inner.is_outdated {
            self.rewrite_inner(&mut inner).map_err(failed)?;
        }
        match inner.open.append(entries) {
            // Entries of removed things may take the space that is missing.
            Err(_) if self.rewrite_inner(&mut inner).is_ok() => {
                inner.open.append(entries).map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    /// Rewrites the whole file, as the next service does first: if this fails, that would fail,
    /// too.
    ///
    /// # Errors
    ///
    /// [`Error::File`]; the old file is unchanged then.
    pub fn rewrite(&self) -> Result<(), Error> {
        self.rewrite_inner(&mut self.inner()).map_err(Error::file(&self.path, "rewrite"))
    }

    /// Sets the stage of entries. Entries that were never appended, or are removed already, are
    /// skipped.
    ///
    /// # Errors
    ///
    /// [`Error::File`]; the file is rewritten before the next entry is appended.
    pub fn set_stage(
        &self,
        ids: impl IntoIterator<Item = RecordId>,
        stage: EntryStage,
    ) -> Result<(), Error> {
        let mut inner = self.inner();
        let mut outcome = Ok(());
        for id in ids {
            match inner.open.set_stage(id, stage) {
                Ok(false) => continue,
                changed => outcome = outcome.and(changed.map(drop)),
            }
            if let Some(previous) = &inner.previous {
                outcome = outcome.and(update(previous, |file| file.set_stage(id, stage)));
            }
        }
        self.finish_change(&mut inner, &outcome)
    }

    /// Sets the mode of a lock.
    ///
    /// # Errors
    ///
    /// As for [`Self::set_stage`].
    pub fn set_mode(&self, id: RecordId, mode: Mode) -> Result<(), Error> {
        let mut inner = self.inner();
        let mut outcome = match inner.open.set_mode(id, mode) {
            Ok(false) => return Ok(()),
            changed => changed.map(drop),
        };
        if let Some(previous) = &inner.previous {
            outcome = outcome.and(update(previous, |file| file.set_mode(id, Some(mode))));
        }
        self.finish_change(&mut inner, &outcome)
    }

    /// Rewrites the file after a change in place if that has failed, or if most of the file is free.
    fn finish_change(&self, inner: &mut Inner, outcome: &io::Result<()>) -> Result<(), Error> {
        if inner.previous.is_some() && outcome.is_ok() {
            // `append` and a timer retry to write the file.
            return Ok(());
        }
        inner.is_outdated |= outcome.is_err();
        if inner.is_outdated || inner.open.is_wasteful() {
            let rewritten = self.rewrite_inner(inner);
            if inner.is_outdated {
                return rewritten.map_err(Error::file(&self.path, "mark records in"));
            }
            if rewritten.is_err() {
                // There is no space for two files: the rewrite is retried later.
                inner.open.postpone();
            }
        }
        Ok(())
    }

    fn rewrite_inner(&self, inner: &mut Inner) -> io::Result<()> {
        let open = replace(&self.path, |file| inner.open.copy_to(file, &self.boot))?;
        *inner = Inner { open, is_outdated: false, previous: None };
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        sync::lock(&self.inner)
    }
}

/// Replaces the file at `path` by one that `write` has written, atomically. If that fails, the old
/// file stays as it is.
fn replace(path: &Path, write: impl FnOnce(File) -> io::Result<SlotFile>) -> io::Result<SlotFile> {
    let beside = path.with_extension("new");
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let written = write(options.open(&beside)?).and_then(|written| {
        fs::rename(&beside, path)?;
        Ok(written)
    });
    if written.is_err() {
        // A partial file would take space that the old one needs.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Writes to the previous file, or returns the error from opening it.
fn update(
    previous: &io::Result<PreviousFile>,
    write: impl FnOnce(&PreviousFile) -> io::Result<()>,
) -> io::Result<()> {
    match previous {
        Ok(previous) => write(previous),
        Err(error) => {
            Err(error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error))
        }
    }
}
