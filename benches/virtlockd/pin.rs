//! Assigns servers and client to processors.
//!
//! Unpinned, waking an idle core costs as much as the work, as it does for any caller. Pinned to
//! one core, the figures show the cost of the code alone.

use std::fmt;
use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Pinned {
    Nowhere,
    ToOneCore,
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pinned::Nowhere => "on all cores",
            Pinned::ToOneCore => "all on one core",
        })
    }
}

impl Pinned {
    /// Applies to all threads of `processes` and of this process; new threads inherit it.
    pub(crate) fn apply(self, processes: impl Iterator<Item = u32>) {
        let mut cores = CpuSet::new();
        match self {
            Pinned::ToOneCore => cores.set(0),
            Pinned::Nowhere => (0..CpuSet::MAX_CPU).for_each(|core| cores.set(core)),
        }
        for process in processes.chain([std::process::id()]) {
            for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
                let thread = thread.unwrap().file_name().into_string().unwrap();
                let thread = Pid::from_raw(thread.parse().unwrap());
                // Fails for a thread that has ended.
                let _ = sched_setaffinity(thread, &cores);
            }
        }
    }
}
