//! The swap areas of this host, as the kernel lists them (`/proc/swaps`, `proc_swaps(5)`).

use std::io;
use std::sync::Arc;

use crate::lock::mount::layers::unescape;
use crate::lock::mount::polled::Polled;

/// A file or device that this host swaps to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::lock) struct Swap {
    /// The kernel's name for it; another file may have that name by now.
    pub(in crate::lock) name: String,
    /// Whether it is a file; otherwise it is a device.
    pub(in crate::lock) is_file: bool,
}

/// All swap areas of this host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::lock) struct Swaps(Vec<Swap>);

static CURRENT: Polled<Swaps> = Polled::new("/proc/swaps");

impl Swaps {
    /// Returns the present swap areas. The list is read only if it has changed since the last call.
    ///
    /// # Errors
    ///
    /// If the list cannot be read: the kernel may be built without swap.
    pub(in crate::lock) fn current() -> io::Result<Arc<Self>> {
        CURRENT.current(Self::parse)
    }

    /// Parses a list as the kernel writes it.
    pub(in crate::lock) fn parse(list: &[u8]) -> Self {
        let swap = |line: &[u8]| {
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let name = unescape(words.next()?).to_string_lossy().into_owned();
            Some(Swap { name, is_file: words.next()? == b"file" })
        };
        Self(list.split(|byte| *byte == b'\n').skip(1).filter_map(swap).collect())
    }

    /// Returns all swap areas.
    pub(in crate::lock) fn iter(&self) -> impl Iterator<Item = &Swap> {
        self.0.iter()
    }

    /// Returns the swap files.
    pub(in crate::lock) fn files(&self) -> impl Iterator<Item = &Swap> {
        self.0.iter().filter(|swap| swap.is_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_parsed() {
        let list = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /a\\040b                                 file\t\t8\t\t0\t\t-2\n\
                     /dev/sdb1 partition 8 0 -3\nno-type\n";
        let swap = |name: &str, is_file| Swap { name: name.to_owned(), is_file };
        let (file, device) = (swap("/a b", true), swap("/dev/sdb1", false));
        let swaps = Swaps::parse(list);
        assert_eq!(swaps, Swaps(vec![file.clone(), device]));
        assert!(swaps.files().eq([&file]));
        assert_eq!(Swaps::parse(b""), Swaps::default());
    }

    #[test]
    fn the_list_of_this_host_is_readable() {
        let list = std::fs::read("/proc/swaps").unwrap_or_default();
        assert_eq!(*Swaps::current().unwrap_or_default(), Swaps::parse(&list));
    }
}
