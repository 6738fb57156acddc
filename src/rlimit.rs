//! Checks and raises the resource limits of this process (getrlimit(2)).
//!
//! Most limits cause an error of the system call that exceeds them, which is reported where it
//! happens. A few limits end a process instead: a stack that cannot grow, memory that cannot be
//! allocated, a thread or a descriptor that the runtime relies on, a file that may not grow
//! (SIGXFSZ). These are checked at the start, when a message can still name the limit.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use rustix::io::{Errno, dup};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The minimum resources that a program requires.
#[derive(Debug, Clone, Copy)]
pub struct Requirements {
    /// The number of descriptors, in addition to the open ones.
    pub descriptors: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// The stack of the main thread, in bytes.
    pub stack: u64,
}

/// A limit that is too low.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The limit on descriptors.
    #[error(
        "too few file descriptors: {needed} more are needed, {free} can be had (ulimit -n: {limit})"
    )]
    Descriptors {
        /// The required number.
        needed: usize,
        /// The number that can be opened.
        free: usize,
        /// The limit.
        limit: u64,
    },
    /// The limit on memory or on the stack.
    #[error("the limit on {what} is too low: {} KiB, {} KiB are needed ({option})", have / 1024, needed / 1024)]
    Low {
        /// The limited resource.
        what: &'static str,
        /// The shell option for the limit.
        option: &'static str,
        /// The limit, in bytes.
        have: u64,
        /// The requirement, in bytes.
        needed: u64,
    },
    /// The limit on threads.
    #[error("cannot start a thread: {0} (ulimit -u)")]
    Thread(io::Error),
}

/// Checks the limits against the requirements.
///
/// # Errors
///
/// [`Error`] for the first limit that is too low.
pub fn check(requirements: Requirements) -> Result<(), Error> {
    let Requirements { descriptors, memory, .. } = requirements;
    check_stack(requirements)?;
    check_limit(Resource::As, ("the address space", "ulimit -v"), memory)?;
    check_limit(Resource::Data, ("memory", "ulimit -d"), memory)?;
    // The runtime starts threads on demand, and relies on success.
    let started = std::thread::Builder::new().spawn(|| {});
    drop(started.map_err(Error::Thread)?.join());
    check_descriptors(descriptors)
}

/// Checks the limit on the stack, without which a program cannot even parse its arguments.
///
/// # Errors
///
/// [`Error::Low`].
pub fn check_stack(requirements: Requirements) -> Result<(), Error> {
    check_limit(Resource::Stack, ("the stack", "ulimit -s"), requirements.stack)
}

fn check_limit(
    resource: Resource,
    (what, option): (&'static str, &'static str),
    needed: u64,
) -> Result<(), Error> {
    let have = getrlimit(resource).current.unwrap_or(u64::MAX);
    if have < needed { Err(Error::Low { what, option, have, needed }) } else { Ok(()) }
}

/// Checks that `needed` descriptors can be opened, by opening them.
fn check_descriptors(needed: usize) -> Result<(), Error> {
    let mut opened = Vec::with_capacity(needed);
    for free in 0..needed {
        match dup(io::stdin()) {
            Ok(descriptor) => opened.push(descriptor),
            Err(Errno::MFILE | Errno::NFILE) => {
                let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
                return Err(Error::Descriptors { needed, free, limit });
            }
            // This error of standard input is not caused by the limit.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Raises soft limits to the hard limits, and hard limits to the requirements if this is permitted
/// (`CAP_SYS_RESOURCE`). A limit that cannot be raised stays as it is; [`check`] reports it if it
/// is too low.
pub fn raise(requirements: Requirements) {
    for (resource, needed) in [
        (Resource::Stack, requirements.stack),
        (Resource::As, requirements.memory),
        (Resource::Data, requirements.memory),
        // The usual soft limit of 1,024 exists for select(2), which this program does not call.
        (Resource::Nofile, requirements.descriptors as u64),
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
        // An unlimited stack would move all mappings (mmap_base in the kernel), without a benefit.
        if resource != Resource::Stack || current.is_some_and(|soft| soft < needed) {
            let _ = setrlimit(resource, both(maximum));
        }
    }
}

/// Makes a write beyond the limit on file sizes an error (EFBIG) for this thread and the threads
/// that it starts, instead of a fatal signal. Child processes inherit this.
pub fn block_file_size_signal() {
    // Fails only for an invalid argument.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_limit_that_is_too_low() {
        check(Requirements { descriptors: 4, memory: 1, stack: 1 }).unwrap();
        let requirements = Requirements { descriptors: 1 << 24, memory: 1, stack: 1 };
        let error = check(requirements).unwrap_err().to_string();
        assert!(
            error.contains("too few file descriptors") && error.contains("ulimit -n"),
            "{error}"
        );
        check(Requirements { descriptors: 4, memory: 1, stack: 1 }).unwrap();
        let low =
            Error::Low { what: "the stack", option: "ulimit -s", have: 16384, needed: 1 << 20 };
        let text = "the limit on the stack is too low: 16 KiB, 1024 KiB are needed (ulimit -s)";
        assert_eq!(low.to_string(), text);
    }
}
