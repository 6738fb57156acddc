//! The limit on the work of one lookup of a name.
//!
//! A user controls where the links in its own directories lead. The kernel follows 40 of them, of
//! up to 2047 components each, so that the lookup of one name may take as long as that of several
//! thousand ordinary ones. A name that needs more than this budget is never granted a lock.

use rustix::io::Errno;

/// The remaining components and links of one lookup.
#[derive(Debug, Clone)]
pub(in crate::lock) struct Budget {
    components: usize,
    links: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { components: Self::COMPONENTS, links: Self::LINKS }
    }
}

impl Budget {
    /// The limit on the components of a name and of the links that it leads through, in all. A name
    /// without links never exceeds it: it would be longer than `PATH_MAX`, 4096 bytes with the
    /// final NUL.
    pub(in crate::lock) const COMPONENTS: usize = 2048;
    /// The limit on links, as in the kernel (`path_resolution(7)`).
    const LINKS: usize = 40;

    /// Counts a component.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG` if none is left.
    pub(in crate::lock) fn spend_component(&mut self) -> Result<(), Errno> {
        self.components = self.components.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        Ok(())
    }

    /// Counts a link.
    ///
    /// # Errors
    ///
    /// `ELOOP` if none is left.
    pub(in crate::lock) fn spend_link(&mut self) -> Result<(), Errno> {
        self.links = self.links.checked_sub(1).ok_or(Errno::LOOP)?;
        Ok(())
    }

    /// Returns how many components were counted.
    pub(in crate::lock) fn spent(&self) -> usize {
        Self::COMPONENTS - self.components
    }
}
