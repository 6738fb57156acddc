//! The state file of the program before, while it can't be replaced.
//!
//! A file system that is full or read-only must not keep the service from starting, since all that it
//! needs is there. The state is kept in memory then, and nothing new is recorded. What ends meanwhile
//! is marked in the former file as well: in place, which needs no room. So the next program, after
//! another crash, finds the former file as it would have found a new one.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::super::line::{Line, Step, mode_byte};
use super::Name;
use crate::lock::Mode;

/// Where a line begins in the file that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// What the line is about.
    pub name: Name,
    /// Its offset in the file.
    pub offset: u64,
    /// The step that it has there.
    pub step: Step,
    /// The mode that it has there.
    pub mode: Option<Mode>,
}

/// The former file.
#[derive(Debug)]
pub(super) struct Former {
    file: File,
    offsets: HashMap<Name, u64>,
}

impl Former {
    /// Opens the former file, and marks in it what was found out about its lines: their steps and
    /// modes, and as gone what is not among `lines`.
    ///
    /// # Errors
    ///
    /// Where it can't be written in place either, as on a read-only file system.
    pub(super) fn adopt(
        path: &Path,
        origins: &[Origin],
        lines: &[(Name, Line)],
    ) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let offsets = origins.iter().map(|origin| (origin.name, origin.offset)).collect();
        let former = Self { file, offsets };
        let kept: HashMap<Name, (Step, Option<Mode>)> =
            lines.iter().map(|(name, line)| (*name, (line.step, line.mode))).collect();
        // What stays comes first: a line that took the place of another one is marked before that.
        for origin in origins {
            let Some((step, mode)) = kept.get(&origin.name).copied() else { continue };
            if (step, mode) != (origin.step, origin.mode) {
                former.write(origin.offset, &[step.byte(), mode_byte(mode)])?;
            }
        }
        for origin in origins {
            if !kept.contains_key(&origin.name) {
                former.write(origin.offset, &[Step::Gone.byte()])?;
            }
        }
        Ok(former)
    }

    /// Marks a line with a step. Passes over what the file does not have.
    pub(super) fn mark(&self, name: Name, step: Step) -> io::Result<()> {
        self.offsets.get(&name).map_or(Ok(()), |offset| self.write(*offset, &[step.byte()]))
    }

    /// Marks a line with a mode. Passes over what the file does not have.
    pub(super) fn set_mode(&self, name: Name, mode: Option<Mode>) -> io::Result<()> {
        self.offsets.get(&name).map_or(Ok(()), |offset| self.write(offset + 1, &[mode_byte(mode)]))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}

#[cfg(test)]
mod tests;
