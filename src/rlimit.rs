//! Resource limits of this process (getrlimit(2)).
//!
//! Most of what a limit forbids is an error of the system call that needed more, and is reported
//! where it happens. A few limits end a process instead: a stack that can't grow, memory that can't
//! be had, a thread or a descriptor that the runtime takes for granted, a file that may not grow
//! (SIGXFSZ). These are checked before anything begins, when a message can still tell which limit
//! it is.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use rustix::io::{Errno, dup};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How much a program needs at least.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Descriptors beside those that are open.
    pub descriptors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of the main thread's stack.
    pub stack: u64,
}

/// A limit that is too low.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Descriptors.
    #[error(
        "too few file descriptors: {needed} more are needed, {free} can be had (ulimit -n: {limit})"
    )]
    Descriptors {
        /// How many are needed.
        needed: usize,
        /// How many of them can be had.
        free: usize,
        /// The limit.
        limit: u64,
    },
    /// Memory or stack.
    #[error("the limit on {what} is too low: {} KiB, {} KiB are needed ({option})", have / 1024, needed / 1024)]
    Low {
        /// What is limited.
        what: &'static str,
        /// The shell's option for it.
        option: &'static str,
        /// The limit, in bytes.
        have: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// Threads.
    #[error("cannot start a thread: {0} (ulimit -u)")]
    Thread(io::Error),
}

/// Checks the limits.
///
/// # Errors
///
/// [`Error`] with the first limit that is too low.
pub fn check(needs: Needs) -> Result<(), Error> {
    let Needs { descriptors, memory, .. } = needs;
    check_stack(needs)?;
    check_one(Resource::As, ("the address space", "ulimit -v"), memory)?;
    check_one(Resource::Data, ("memory", "ulimit -d"), memory)?;
    // The runtime starts threads when there is work, and takes it for granted that it can have one.
    let started = std::thread::Builder::new().spawn(|| {});
    drop(started.map_err(Error::Thread)?.join());
    check_descriptors(descriptors)
}

/// Checks the limit on the stack, without which a program can't even read its arguments.
///
/// # Errors
///
/// [`Error::Low`].
pub fn check_stack(needs: Needs) -> Result<(), Error> {
    check_one(Resource::Stack, ("the stack", "ulimit -s"), needs.stack)
}

fn check_one(
    resource: Resource,
    (what, option): (&'static str, &'static str),
    needed: u64,
) -> Result<(), Error> {
    let have = getrlimit(resource).current.unwrap_or(u64::MAX);
    if have < needed { Err(Error::Low { what, option, have, needed }) } else { Ok(()) }
}

/// Checks that so many descriptors can be opened, by opening them.
fn check_descriptors(needed: usize) -> Result<(), Error> {
    let mut opened = Vec::with_capacity(needed);
    for free in 0..needed {
        match dup(io::stdin()) {
            Ok(descriptor) => opened.push(descriptor),
            Err(Errno::MFILE | Errno::NFILE) => {
                let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
                return Err(Error::Descriptors { needed, free, limit });
            }
            // Standard input says nothing of the limit.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Raises soft limits to the hard ones, and the hard ones to what is needed where that is permitted
/// (`CAP_SYS_RESOURCE`). What can't be raised stays; [`check`] says if it is too low.
pub fn raise(needs: Needs) {
    for (resource, needed) in [
        (Resource::Stack, needs.stack),
        (Resource::As, needs.memory),
        (Resource::Data, needs.memory),
        // The usual soft limit of 1,024 is a relic of select(2), which nothing here calls.
        (Resource::Nofile, needs.descriptors as u64),
        (Resource::Fsize, 0),
    ] {
        let Rlimit { current, maximum } = getrlimit(resource);
        let both = |limit| Rlimit { current: limit, maximum: limit };
        // `None` is no limit.
        if maximum.is_some_and(|hard| hard < needed)
            && setrlimit(resource, both(Some(needed))).is_ok()
        {
            continue;
        }
        // An unlimited stack would move all mappings (mmap_base in the kernel), for no use.
        if resource != Resource::Stack || current.is_some_and(|soft| soft < needed) {
            let _ = setrlimit(resource, both(maximum));
        }
    }
}

/// Makes a write beyond the limit on file sizes an error (EFBIG) for this thread and those that it
/// starts, instead of the end of the program. Programs that it starts inherit that.
pub fn hold_file_size_signal() {
    // Fails only for a wrong argument.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_named() {
        check(Needs { descriptors: 4, memory: 1, stack: 1 }).unwrap();
        let needs = Needs { descriptors: 1 << 24, memory: 1, stack: 1 };
        let error = check(needs).unwrap_err().to_string();
        assert!(
            error.contains("too few file descriptors") && error.contains("ulimit -n"),
            "{error}"
        );
        check(Needs { descriptors: 4, memory: 1, stack: 1 }).unwrap();
        let low =
            Error::Low { what: "the stack", option: "ulimit -s", have: 16384, needed: 1 << 20 };
        let text = "the limit on the stack is too low: 16 KiB, 1024 KiB are needed (ulimit -s)";
        assert_eq!(low.to_string(), text);
    }
}
