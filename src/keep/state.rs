//! The state file: what is written down of owners, anchors and locks.
//!
//! A head, then a line for each thing ([`super::line`]), appended when it comes and marked in place
//! as it goes on. The head says how much has been written: what is missing before that place is
//! damage, what follows it was being written when the service died, and nobody was told of it.
//! Lines of what is gone are cleared out by writing the file anew beside the old one, and renaming.
//!
//! Where that can't be done at the start, the state is kept in memory until it can be ([`former`]).
//!
//! Nothing is synced to a disk: the file has to outlive the service, not the host, since a reboot
//! ends all machines. It says of which boot it is.

mod former;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::MemfdFlags;

use super::Error;
use super::line::{Line, Step, checksum, mode_byte};
use super::record::{Counted, Record};
use crate::lock::Mode;
use crate::lock::model::owner::AnchorId;
use crate::lock::text::escape::shown_path;
use former::Former;
pub use former::Origin;

/// The version of all that is written. A program reads none that is newer: what it does not know it
/// could not keep.
pub const VERSION: u64 = 7;
/// The oldest version that is read as well: what is new since then is missing there. Version 4 brought
/// what a disk lies on, and two lockspaces; version 5 what becomes of a machine that loses a lock, and
/// which processes of other users were allowed; version 6 which part it occupies of what a disk lies
/// on, and released locks that are reserved; version 7 what the locks of an owner are for.
pub const OLDEST: u64 = 3;

/// The file's name in the runtime directory.
pub(super) const FILE: &str = "state";
/// The first word of the head.
pub(super) const MAGIC: &str = "vmlockd-state";
/// How many digits tell how much was written.
pub(super) const DIGITS: usize = 16;
/// How many bytes of lines that tell of nothing are let be, whatever else is there.
const SLACK: u64 = 256 * 1024;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// An owner, by the number of its record.
    Owner(AnchorId),
    /// An anchor.
    Anchor(AnchorId),
    /// A lock.
    Lock(u64),
    /// A directory of keys.
    Lockspace(u32),
    /// An offer.
    Offer(AnchorId),
}

/// The state file, being written.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    boot: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    /// How much has been written.
    length: u64,
    places: HashMap<Name, Place>,
    counted: Counted,
    /// How long the file may grow before it is written anew.
    limit: u64,
    /// Something could not be written in place: the file says less than is so.
    behind: bool,
    /// `file` is in memory, and this is what is on the file system, or why it can't be marked.
    former: Option<io::Result<Former>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    length: usize,
    step: Step,
    mode: Option<Mode>,
}

/// The boot that this is, as the kernel names it (`random(4)`).
pub(super) fn boot() -> Result<String, io::Error> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn head(boot: &str, length: u64) -> String {
    let sum = checksum(boot.as_bytes());
    let sum = sum.escape_ascii();
    format!("{MAGIC} {VERSION} {boot} {sum} {length:0DIGITS$}\n")
}

pub(super) fn failed(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> Error + use<> {
    let file = shown_path(path);
    move |cause| Error::File { file: file.clone(), doing, cause }
}

impl State {
    /// Begins a new state file with these lines; an old one is there until the new one is complete.
    ///
    /// # Errors
    ///
    /// [`Error::File`]; the old one is as it was then.
    pub fn begin(
        directory: &Path,
        lines: &[(Name, Line)],
        counted: Counted,
    ) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let failed = failed(&path, "create");
        let boot = boot().map_err(&failed)?;
        let written = written(lines).map_err(&failed)?;
        let inner = anew(&path, &boot, written, counted).map_err(&failed)?;
        Ok(Self { path, boot, inner: Mutex::new(inner) })
    }

    /// Begins the state in memory, where [`Self::begin`] fails. `origins` are the lines of the file
    /// that is there. Nothing is recorded until the file can be written; each attempt to record
    /// something tries that again, and so does [`Self::renew`].
    ///
    /// # Errors
    ///
    /// [`Error::File`], where there is no memory.
    pub fn begin_in_memory(
        directory: &Path,
        lines: &[(Name, Line)],
        counted: Counted,
        origins: &[Origin],
    ) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let failed = failed(&path, "keep in memory the");
        let boot = boot().map_err(&failed)?;
        let written = written(lines).map_err(&failed)?;
        let memory = rustix::fs::memfd_create("vmlockd-state", MemfdFlags::CLOEXEC);
        let file = File::from(memory.map_err(|errno| failed(errno.into()))?);
        let all = Whole::compose(&boot, written, counted).map_err(&failed)?;
        let mut inner = all.write_to(file).map_err(&failed)?;
        inner.behind = true;
        inner.former = Some(Former::adopt(&path, origins, lines));
        Ok(Self { path, boot, inner: Mutex::new(inner) })
    }

    /// Whether the state is in memory only.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.inner().former.is_some()
    }

    /// Writes down new things, all of them or nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Unrecorded`], as where the file system is full.
    pub fn put(&self, lines: &[(Name, Line)]) -> Result<(), Error> {
        let failed = |cause| Error::Unrecorded { file: shown_path(&self.path), cause };
        let mut inner = self.inner();
        if inner.behind {
            self.rewrite(&mut inner).map_err(failed)?;
        }
        match self.append(&mut inner, lines) {
            // Lines of what is gone may take the room that is missing.
            Err(_) if self.rewrite(&mut inner).is_ok() => {
                self.append(&mut inner, lines).map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    /// Appends lines, all of them or none.
    fn append(&self, inner: &mut Inner, lines: &[(Name, Line)]) -> io::Result<()> {
        let (mut all, mut places) = (Vec::new(), Vec::with_capacity(lines.len()));
        for (name, line) in lines {
            let bytes = line.write()?;
            let offset = inner.length + all.len() as u64;
            let (step, mode) = (line.step, line.mode);
            places.push((*name, Place { offset, length: bytes.len(), step, mode }));
            all.extend(bytes);
        }
        let length = inner.length + all.len() as u64;
        let written = inner
            .file
            .write_all_at(&all, inner.length)
            .and_then(|()| self.set_length(&inner.file, length));
        if let Err(error) = written {
            // A line that has an end but not all before it would be damage to the next reader.
            let cut = inner.file.set_len(inner.length);
            inner.behind |= cut.and_then(|()| self.set_length(&inner.file, inner.length)).is_err();
            return Err(error);
        }
        inner.length = length;
        for (name, place) in places {
            inner.counted.count(name);
            inner.places.insert(name, place);
        }
        Ok(())
    }

    /// Writes all of it anew, as the next program will do first: where this fails, that would, too.
    ///
    /// # Errors
    ///
    /// [`Error::File`]; the old one is as it was then.
    pub fn renew(&self) -> Result<(), Error> {
        self.rewrite(&mut self.inner()).map_err(failed(&self.path, "rewrite"))
    }

    /// Notes how far things are. What is gone is forgotten. What was never written down, or is
    /// forgotten already, is passed over.
    ///
    /// # Errors
    ///
    /// [`Error::File`]; it is made up for before the next thing is written down.
    pub fn mark(&self, names: impl IntoIterator<Item = Name>, step: Step) -> Result<(), Error> {
        let mut inner = self.inner();
        let mut outcome = Ok(());
        for name in names {
            let Some(place) = inner.places.get_mut(&name) else { continue };
            place.step = step;
            let place = *place;
            outcome = outcome.and(inner.file.write_all_at(&[step.byte()], place.offset));
            if let Some(former) = &inner.former {
                outcome = outcome.and(in_place(former, |former| former.mark(name, step)));
            }
            if step == Step::Gone {
                inner.places.remove(&name);
            }
        }
        self.settle(&mut inner, &outcome)
    }

    /// Notes the mode of a lock.
    ///
    /// # Errors
    ///
    /// As for [`Self::mark`].
    pub fn set_mode(&self, name: Name, mode: Mode) -> Result<(), Error> {
        let mut inner = self.inner();
        let Some(place) = inner.places.get_mut(&name) else { return Ok(()) };
        place.mode = Some(mode);
        let place = *place;
        let mut outcome = inner.file.write_all_at(&[mode_byte(place.mode)], place.offset + 1);
        if let Some(former) = &inner.former {
            let mode = place.mode;
            outcome = outcome.and(in_place(former, |former| former.set_mode(name, mode)));
        }
        self.settle(&mut inner, &outcome)
    }

    /// After a change in place: makes up for what could not be written, clears out what is gone.
    fn settle(&self, inner: &mut Inner, outcome: &io::Result<()>) -> Result<(), Error> {
        if inner.former.is_some() && outcome.is_ok() {
            // The file is tried again by what has something to record, and now and then.
            return Ok(());
        }
        inner.behind |= outcome.is_err();
        if inner.behind || inner.length > inner.limit {
            let rewritten = self.rewrite(inner);
            if inner.behind {
                return rewritten.map_err(failed(&self.path, "mark records in"));
            }
            if rewritten.is_err() {
                // There is no room for two: it goes on growing, and is tried again later.
                inner.limit = inner.length * 2;
            }
        }
        Ok(())
    }

    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        let digits = format!("{length:0DIGITS$}");
        let at = head(&self.boot, 0).len() - 1 - DIGITS;
        file.write_all_at(digits.as_bytes(), at as u64)
    }

    fn rewrite(&self, inner: &mut Inner) -> io::Result<()> {
        let mut lines = Vec::with_capacity(inner.places.len());
        for (name, place) in &inner.places {
            let mut bytes = vec![0; place.length];
            inner.file.read_exact_at(&mut bytes, place.offset)?;
            bytes[0] = place.step.byte();
            bytes[1] = mode_byte(place.mode);
            lines.push((*name, bytes, place.step, place.mode));
        }
        *inner = anew(&self.path, &self.boot, lines, inner.counted)?;
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_place(
    former: &io::Result<Former>,
    mark: impl FnOnce(&Former) -> io::Result<()>,
) -> io::Result<()> {
    match former {
        Ok(former) => mark(former),
        Err(error) => {
            Err(error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error))
        }
    }
}

/// A line as it is written, with what it is about.
type Written = (Name, Vec<u8>, Step, Option<Mode>);

fn written(lines: &[(Name, Line)]) -> io::Result<Vec<Written>> {
    let written = |(name, line): &(Name, Line)| Ok((*name, line.write()?, line.step, line.mode));
    lines.iter().map(written).collect()
}

/// Writes a whole file and puts it in the old one's place.
fn anew(path: &Path, boot: &str, lines: Vec<Written>, counted: Counted) -> io::Result<Inner> {
    let whole = Whole::compose(boot, lines, counted)?;
    let beside = path.with_extension("new");
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&beside)?;
    let inner = whole.write_to(file).and_then(|inner| {
        fs::rename(&beside, path)?;
        Ok(inner)
    });
    if inner.is_err() {
        // Half a file takes the room away that the old one needs.
        let _ = fs::remove_file(&beside);
    }
    inner
}

/// All that a state file has in it when it begins.
struct Whole {
    bytes: Vec<u8>,
    places: HashMap<Name, Place>,
    counted: Counted,
}

impl Whole {
    fn compose(boot: &str, mut lines: Vec<Written>, counted: Counted) -> io::Result<Self> {
        // In the order in which they came, as far as numbers tell.
        lines.sort_by_key(|(name, ..)| match name {
            Name::Lockspace(number) => (0, u64::from(*number)),
            Name::Owner(number) => (1, *number),
            Name::Anchor(number) | Name::Offer(number) => (2, *number),
            Name::Lock(number) => (3, *number),
        });
        let first = Line { step: Step::Held, mode: None, record: Record::Counted(counted) };
        let first = first.write()?;
        let start = head(boot, 0).len() + first.len();
        let length = start + lines.iter().map(|(_, bytes, ..)| bytes.len()).sum::<usize>();
        let mut all = head(boot, length as u64).into_bytes();
        all.extend(first);
        let mut places = HashMap::with_capacity(lines.len());
        let mut counted = counted;
        for (name, bytes, step, mode) in lines {
            let offset = all.len() as u64;
            places.insert(name, Place { offset, length: bytes.len(), step, mode });
            all.extend(bytes);
            counted.count(name);
        }
        Ok(Self { bytes: all, places, counted })
    }

    fn write_to(self, file: File) -> io::Result<Inner> {
        let Self { bytes, places, counted } = self;
        file.write_all_at(&bytes, 0)?;
        let length = bytes.len() as u64;
        let limit = length * 2 + SLACK;
        Ok(Inner { file, length, places, counted, limit, behind: false, former: None })
    }
}

#[cfg(test)]
mod tests;
