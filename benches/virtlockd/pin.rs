//! Where servers and client run.
//!
//! Free, waking an idle core costs as much as the work, and that is what a caller sees; on one core
//! together, what the code costs is seen.

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
    /// For all threads of these processes, and of this one; what they start inherits it.
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
                // One that has ended meanwhile runs nowhere.
                let _ = sched_setaffinity(thread, &cores);
            }
        }
    }
}
