//! Writing the state file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::MemfdFlags;

use super::format::{
    EntryPosition, EntryStage, FILE, StateEntry, boot_id, length_field, length_offset, mode_byte,
};
use super::image::{EncodedEntry, Image, OpenFile};
use super::previous::PreviousFile;
use super::record::{HighestNumbers, RecordId};
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
    open: OpenFile,
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
        let entries = EncodedEntry::encode_all(entries).map_err(&failed)?;
        let image = Image::compose(&boot, entries, highest).map_err(&failed)?;
        let open = image.replace(&path).map_err(&failed)?;
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
        let encoded = EncodedEntry::encode_all(entries).map_err(&failed)?;
        let memory = rustix::fs::memfd_create("vmlockd-state", MemfdFlags::CLOEXEC);
        let file = File::from(memory.map_err(|errno| failed(errno.into()))?);
        let image = Image::compose(&boot, encoded, highest).map_err(&failed)?;
        let open = image.write_to(file).map_err(&failed)?;
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
        match self.append_inner(&mut inner, entries) {
            // Entries of removed things may take the space that is missing.
            Err(_) if self.rewrite_inner(&mut inner).is_ok() => {
                self.append_inner(&mut inner, entries).map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    fn append_inner(&self, inner: &mut Inner, entries: &[StateEntry]) -> io::Result<()> {
        let open = &mut inner.open;
        let (mut bytes, mut locations) = (Vec::new(), Vec::with_capacity(entries.len()));
        for entry in EncodedEntry::encode_all(entries)? {
            locations.push(entry.append_to(&mut bytes, open.length));
        }
        let length = open.length + bytes.len() as u64;
        let written = open
            .file
            .write_all_at(&bytes, open.length)
            .and_then(|()| self.write_length(&open.file, length));
        if let Err(error) = written {
            // The next reader would take a complete entry behind an incomplete one for damage.
            let cut = open.file.set_len(open.length);
            let restored = cut.and_then(|()| self.write_length(&open.file, open.length));
            inner.is_outdated |= restored.is_err();
            return Err(error);
        }
        open.length = length;
        for (id, location) in locations {
            if let Some(id) = id {
                open.highest.include(id);
                open.locations.insert(id, location);
            }
        }
        Ok(())
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
            let open = &mut inner.open;
            let Some(location) = open.locations.get_mut(&id) else { continue };
            location.stage = stage;
            let offset = location.offset;
            outcome = outcome.and(open.file.write_all_at(&[stage.byte()], offset));
            if let Some(previous) = &inner.previous {
                outcome = outcome.and(update(previous, |file| file.set_stage(id, stage)));
            }
            if stage == EntryStage::Removed {
                inner.open.locations.remove(&id);
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
        let open = &mut inner.open;
        let Some(location) = open.locations.get_mut(&id) else { return Ok(()) };
        let mode = Some(mode);
        location.mode = mode;
        let offset = location.offset + 1;
        let mut outcome = open.file.write_all_at(&[mode_byte(mode)], offset);
        if let Some(previous) = &inner.previous {
            outcome = outcome.and(update(previous, |file| file.set_mode(id, mode)));
        }
        self.finish_change(&mut inner, &outcome)
    }

    /// Rewrites the file after a change in place if that has failed, or if the file has grown too
    /// long.
    fn finish_change(&self, inner: &mut Inner, outcome: &io::Result<()>) -> Result<(), Error> {
        if inner.previous.is_some() && outcome.is_ok() {
            // `append` and a timer retry to write the file.
            return Ok(());
        }
        inner.is_outdated |= outcome.is_err();
        if inner.is_outdated || inner.open.length > inner.open.limit {
            let rewritten = self.rewrite_inner(inner);
            if inner.is_outdated {
                return rewritten.map_err(Error::file(&self.path, "mark records in"));
            }
            if rewritten.is_err() {
                // There is no space for two files: this one continues to grow, and the rewrite is
                // retried later.
                inner.open.limit = inner.open.length * 2;
            }
        }
        Ok(())
    }

    fn write_length(&self, file: &File, length: u64) -> io::Result<()> {
        file.write_all_at(length_field(length).as_bytes(), length_offset(&self.boot))
    }

    fn rewrite_inner(&self, inner: &mut Inner) -> io::Result<()> {
        let OpenFile { file, locations, highest, .. } = &inner.open;
        let read = |(id, location): (&RecordId, &_)| EncodedEntry::read(file, *id, *location);
        let entries = locations.iter().map(read).collect::<io::Result<_>>()?;
        let open = Image::compose(&self.boot, entries, *highest)?.replace(&self.path)?;
        *inner = Inner { open, is_outdated: false, previous: None };
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        sync::lock(&self.inner)
    }
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
