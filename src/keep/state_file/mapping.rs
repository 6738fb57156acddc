//! A file mapped into memory.
//!
//! A mapping with `MAP_SHARED` *is* the page cache of the file: a store needs no system call, and is
//! in the file as soon as it is executed, for all readers. A process that is killed is stopped
//! between two instructions. All stores before that point are in the file, in the order of the
//! program, and no store after it. Nothing has to be flushed: the kernel, which owns the pages,
//! lives on. Only a crash of the host loses them, and with it all VMs end.
//!
//! The compiler may reorder plain stores, so every store here is atomic with `Release`, which keeps
//! it behind all stores before it.
//!
//! A store to a page that has no memory behind it, or lies behind the end of the file, kills the
//! process (`SIGBUS`). So memory is allocated before a page is mapped ([`allocate`]), and the file
//! is never truncated while it is mapped. Other users cannot do that: the file has mode 0600. Other
//! instances do not: the directory is locked. root could.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};

mod unmap;

/// The length of a word, in bytes.
const WORD: usize = size_of::<u64>();

/// A mapped file, as little-endian words.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Valid as long as the mapping exists: handed out with its lifetime only, and unmapped when it
    /// is dropped.
    words: &'static [AtomicU64],
}

impl Mapping {
    /// Maps the first `length` bytes of a file, which must be allocated. A length that is no
    /// multiple of 8 is rounded down.
    #[allow(unsafe_code)]
    pub(super) fn new(file: &File, length: u64) -> io::Result<Self> {
        let length = usize::try_from(length).map_err(|_| Errno::NOMEM)?;
        if file.metadata()?.len() < length as u64 {
            return Err(Errno::INVAL.into());
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // Page faults would cost more than the stores.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the kernel chooses an address that nothing else uses, so no other object is
        // affected. It is aligned to a page, and so to a word; `length` bytes from there are mapped
        // with read and write access, lie within the file, and stay mapped until `unmap` removes
        // the mapping when the only owner of the slice is dropped. Each bit pattern is a valid word.
        // Other processes may write to the pages: all accesses of this program are atomic.
        let words = unsafe {
            let start = mmap(ptr::null_mut(), length, protection, flags, file, 0)?;
            slice::from_raw_parts(start.cast::<AtomicU64>(), length / WORD)
        };
        Ok(Self { words })
    }

    /// Returns the number of words.
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Returns a word; zero if the mapping has none there.
    pub(super) fn load(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| u64::from_le(word.load(Ordering::Acquire)))
    }

    /// Stores a word, after all earlier stores. Returns `false` if the mapping has none there.
    #[must_use]
    pub(super) fn store(&self, at: usize, value: u64) -> bool {
        let word = self.words.get(at);
        word.inspect(|word| word.store(value.to_le(), Ordering::Release)).is_some()
    }
}

/// Makes a file `length` bytes long at least, with memory for each of them, so that a full file
/// system shows here. The new bytes are zeros.
pub(super) fn allocate(file: &File, length: u64) -> io::Result<()> {
    let present = file.metadata()?.len();
    let Some(missing) = length.checked_sub(present).filter(|missing| *missing > 0) else {
        return Ok(());
    };
    match rustix::fs::fallocate(file, FallocateFlags::empty(), present, missing) {
        // The file system cannot allocate without writing.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = [0; 4096];
            let mut at = present;
            while at < length {
                let part = zeros.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
                file.write_all_at(&zeros[..part], at)
                    .inspect_err(|_| drop(file.set_len(present)))?;
                at += part as u64;
            }
            Ok(())
        }
        allocated => Ok(allocated?),
    }
}
