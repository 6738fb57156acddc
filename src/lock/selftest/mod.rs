//! The lock self-test: determines the scope of locks in a directory, from its mount and from a
//! trial.

pub mod mount_options;
pub mod result;
pub mod run;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::mount::{Mount, Mounts};
use crate::lock::path::walk::far_mount;
use crate::lock::request::{Asked, Work};
use crate::lock::selftest::mount_options::{Assessment, MountScope, Parameters, assess};
use crate::lock::selftest::result::{Caveat, Flaw, SelfTestResult, Unknown, Untested};
use run::{Line, Outcome, Step};

/// The time limit of the whole self-test.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long an abandoned subprocess may take to end by itself and to remove what it has created.
const FAREWELL: Duration = Duration::from_secs(600);
/// The maximum length of the output of a subprocess.
const TALK: usize = 16 << 10;

/// The report of a self-test.
#[derive(Debug, Clone)]
pub struct SelfTestReport {
    /// The tested directory: device and inode.
    pub node: Option<(u64, u64)>,
    /// The mount that it is on.
    pub mount: Option<Mount>,
    /// The steps in their order, up to the last one that was reached.
    pub tried: Vec<(Step, Outcome)>,
    /// The result.
    pub result: SelfTestResult,
    /// Other properties that affect locks there.
    pub caveats: Vec<Caveat>,
}

/// A request to test a directory within a time limit. A subprocess sends all requests to its file
/// system.
#[derive(Debug)]
pub struct RunSelfTest {
    /// The directory.
    pub directory: PathBuf,
    /// The time limit.
    pub patience: Duration,
}

impl Work for RunSelfTest {
    type Answer = SelfTestReport;

    fn asks(&self) -> Vec<Asked<'_>> {
        vec![Asked::path(&self.directory)]
    }

    fn perform(self) -> SelfTestReport {
        let Self { directory, patience } = self;
        let (heard, unheard) = match listen(&directory, patience) {
            Ok(heard) if heard.ended => (heard, None),
            Ok(heard) if heard.silent => (heard, Some(Untested::Silent(patience))),
            Ok(heard) => (heard, Some(Untested::NoProcess("it ended too early".to_owned()))),
            Err(error) => {
                (SubprocessOutput::default(), Some(Untested::NoProcess(error.to_string())))
            }
        };
        let mounts = Mounts::now().unwrap_or_default();
        let mount = match heard.mount {
            Some(id) => mounts.numbered(id),
            // It does not respond, so it is on a remote mount; or nothing is known.
            None => far_mount(&mounts, &directory).or_else(|| mounts.of(&directory)),
        };
        let assessment = mount.map(|mount| assess(mount, Parameters::now(), heard.kept));
        let root = rustix::process::geteuid().is_root();
        let result = judge(&heard.tried, unheard, assessment.as_ref(), root);
        let mut caveats = assessment.map(|assessment| assessment.caveats).unwrap_or_default();
        caveats.extend(heard.owner.filter(|uid| root && *uid != 0).map(Caveat::Squashed));
        let SubprocessOutput { node, tried, .. } = heard;
        SelfTestReport { node, mount: mount.cloned(), tried, result, caveats }
    }
}

/// The output of a subprocess.
#[derive(Debug, Default)]
struct SubprocessOutput {
    node: Option<(u64, u64)>,
    mount: Option<u64>,
    owner: Option<u32>,
    /// Whether the kernel keeps the locks itself.
    kept: Option<bool>,
    tried: Vec<(Step, Outcome)>,
    /// Whether it has finished.
    ended: bool,
    /// Whether it has stopped printing without having finished or ended.
    silent: bool,
}

impl SubprocessOutput {
    fn hear(&mut self, line: &str) {
        match Line::parse(line) {
            Some(Line::There(dev, ino, mount)) => {
                (self.node, self.mount) = (Some((dev, ino)), Some(mount));
            }
            Some(Line::Made(uid)) => self.owner = Some(uid),
            Some(Line::Kept(kept)) => self.kept = Some(kept),
            Some(Line::Done(step, outcome)) => self.tried.push((step, outcome)),
            Some(Line::End) => self.ended = true,
            None => {}
        }
    }
}

/// Runs a subprocess that performs the steps, and reads its output until it has finished, has
/// ended, or the timeout expires.
fn listen(directory: &Path, patience: Duration) -> std::io::Result<SubprocessOutput> {
    // Another version may be installed by now; this is the program that knows the option.
    let mut process = Command::new("/proc/self/exe");
    process.arg(run::ARGUMENT).arg(directory).current_dir("/");
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = process.spawn()?;
    let Some(mut says) = process.stdout.take() else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    let (until, mut heard) = (Instant::now() + patience, SubprocessOutput::default());
    let (mut talk, mut buffer) = (Vec::new(), [0; 1024]);
    while talk.len() < TALK {
        if !is_ready(&says, until.saturating_duration_since(Instant::now())) {
            heard.silent = true;
            break;
        }
        let count = says.read(&mut buffer)?;
        if count == 0 && heard.ended {
            // It closes everything else before it prints this, so its end does not block.
            process.wait()?;
            return Ok(heard);
        }
        if count == 0 {
            break;
        }
        talk.extend_from_slice(&buffer[..count]);
        while let Some(end) = talk.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = talk.drain(..=end).collect();
            heard.hear(String::from_utf8_lossy(&line).trim_end());
        }
    }
    see_off(process, says);
    Ok(heard)
}

/// Waits until the pipe is readable or the timeout expires; returns whether it is readable.
fn is_ready(says: &ChildStdout, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        let mut polled = [PollFd::new(says, PollFlags::IN)];
        match poll(&mut polled, left.as_ref()) {
            Ok(0) => return false,
            Err(Errno::INTR) => {}
            // A read returns the error, if there is one.
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Waits in the background for the end of a subprocess. It may hang, and is not killed before it
/// had time to remove what it has created.
fn see_off(mut process: Child, says: ChildStdout) {
    let wait = move || {
        if !is_ready(&says, FAREWELL) {
            let _ = process.kill();
        }
        drop(says);
        process.wait()
    };
    // Without a thread it remains a zombie until this process ends.
    drop(std::thread::Builder::new().name("farewell".to_owned()).spawn(wait));
}

/// Concludes the result. The outcome of the steps overrides the mount options.
fn judge(
    tried: &[(Step, Outcome)],
    unheard: Option<Untested>,
    mount: Option<&Assessment>,
    root: bool,
) -> SelfTestResult {
    let may_squash_root = mount.is_some_and(|mount| mount.may_squash_root);
    for (step, outcome) in tried {
        let flaw = match outcome {
            Outcome::Wrong(how) => Flaw::Broken(*step, how.clone()),
            Outcome::NoLocks(errno) => Flaw::NoLocks(*errno),
            Outcome::Failed(Errno::ROFS) => Flaw::ReadOnly,
            Outcome::Failed(Errno::ACCESS | Errno::PERM)
                if root && may_squash_root && !step.is_about_names() =>
            {
                Flaw::Squashed
            }
            Outcome::Passed | Outcome::Failed(_) => continue,
        };
        return SelfTestResult::Unfit(flaw);
    }
    if mount.is_some_and(|mount| mount.read_only) {
        return SelfTestResult::Unfit(Flaw::ReadOnly);
    }
    if let Some(why) = unheard {
        return SelfTestResult::Untested(why);
    }
    // Locks are usable even if a file that a process has open cannot be replaced or removed.
    for (step, outcome) in tried.iter().filter(|(step, _)| !step.is_about_names()) {
        match outcome {
            Outcome::Failed(Errno::ACCESS | Errno::PERM) if !root => {
                return SelfTestResult::Untested(Untested::Forbidden);
            }
            Outcome::Failed(errno) => {
                return SelfTestResult::Untested(Untested::Failed(*step, *errno));
            }
            _ => {}
        }
    }
    match mount.map(|mount| &mount.reach) {
        Some(MountScope::Shared) => SelfTestResult::Shared,
        Some(MountScope::Local(why)) => SelfTestResult::Local(why.clone()),
        Some(MountScope::Unknown(why)) => SelfTestResult::Unknown(*why),
        None => SelfTestResult::Unknown(Unknown::Type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::selftest::result::Local;

    fn mount(reach: MountScope) -> Assessment {
        let may_squash_root = reach == MountScope::Shared;
        Assessment { reach, read_only: false, may_squash_root, caveats: Vec::new() }
    }

    fn shared() -> Assessment {
        mount(MountScope::Shared)
    }

    fn passed() -> Vec<(Step, Outcome)> {
        Step::ALL.map(|step| (step, Outcome::Passed)).to_vec()
    }

    fn with(step: Step, outcome: Outcome) -> Vec<(Step, Outcome)> {
        let mut tried = passed();
        let there = tried.iter_mut().find(|(there, _)| *there == step);
        there.unwrap().1 = outcome;
        tried
    }

    #[test]
    fn passed_steps_yield_the_scope_of_the_mount() {
        assert_eq!(judge(&passed(), None, Some(&shared()), true), SelfTestResult::Shared);
        for why in [Local::Overlay, Local::OwnDevice, Local::Option("nolock".to_owned())] {
            let result =
                judge(&passed(), None, Some(&mount(MountScope::Local(why.clone()))), false);
            assert_eq!(result, SelfTestResult::Local(why));
        }
        for why in [Unknown::Server, Unknown::NotShown("'flock'")] {
            let result = judge(&passed(), None, Some(&mount(MountScope::Unknown(why))), false);
            assert_eq!(result, SelfTestResult::Unknown(why));
        }
        assert_eq!(judge(&passed(), None, None, true), SelfTestResult::Unknown(Unknown::Type));
    }

    #[test]
    fn wrong_steps_override_the_mount() {
        let (how, shared) = ("two got it".to_owned(), shared());
        let tried = with(Step::Files, Outcome::Wrong(how.clone()));
        let silent = || Some(Untested::Silent(PATIENCE));
        for mount in [None, Some(&shared)] {
            let result = judge(&tried, silent(), mount, false);
            assert_eq!(result, SelfTestResult::Unfit(Flaw::Broken(Step::Files, how.clone())));
        }
        let none = with(Step::Files, Outcome::NoLocks(Errno::NOLCK));
        let result = judge(&none, None, Some(&shared), true);
        assert_eq!(result, SelfTestResult::Unfit(Flaw::NoLocks(Errno::NOLCK)));
        assert_eq!(judge(&[], silent(), None, true), SelfTestResult::Untested(silent().unwrap()));
    }

    #[test]
    fn failures_to_create_a_file_are_distinguished() {
        let make =
            |errno| vec![(Step::Open, Outcome::Passed), (Step::Make, Outcome::Failed(errno))];
        let (shared, own) = (shared(), mount(MountScope::Local(Local::OwnDevice)));
        let judge = |errno, mount, root| judge(&make(errno), None, Some(mount), root);
        assert_eq!(judge(Errno::ROFS, &own, true), SelfTestResult::Unfit(Flaw::ReadOnly));
        assert_eq!(judge(Errno::ACCESS, &shared, true), SelfTestResult::Unfit(Flaw::Squashed));
        for mount in [&shared, &own] {
            let result = judge(Errno::ACCESS, mount, false);
            assert_eq!(result, SelfTestResult::Untested(Untested::Forbidden));
        }
        let failed = Untested::Failed(Step::Make, Errno::ACCESS);
        assert_eq!(judge(Errno::ACCESS, &own, true), SelfTestResult::Untested(failed));
        let kept = with(Step::Remove, Outcome::Failed(Errno::ACCESS));
        assert_eq!(super::judge(&kept, None, Some(&shared), true), SelfTestResult::Shared);
        let full = Untested::Failed(Step::Make, Errno::NOSPC);
        assert_eq!(judge(Errno::NOSPC, &shared, true), SelfTestResult::Untested(full));
        let read_only = Assessment { read_only: true, ..shared.clone() };
        assert_eq!(judge(Errno::IO, &read_only, true), SelfTestResult::Unfit(Flaw::ReadOnly));
    }

    #[test]
    fn invalid_lines_are_ignored() {
        let mut heard = SubprocessOutput::default();
        for line in
            ["there 1 2 3", "nonsense", "made 7", "kept yes", "files passed", "\u{1b}[2J", "end"]
        {
            heard.hear(line);
        }
        assert!(heard.ended && heard.tried == [(Step::Files, Outcome::Passed)]);
        assert_eq!((heard.node, heard.mount, heard.owner), (Some((1, 2)), Some(3), Some(7)));
        assert_eq!(heard.kept, Some(true));
    }
}
