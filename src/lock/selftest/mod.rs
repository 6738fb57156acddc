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
use crate::lock::path::walk::remote_mount;
use crate::lock::request::{Asked, Work};
use crate::lock::selftest::mount_options::{Assessment, MountScope, Parameters, assess};
use crate::lock::selftest::result::{Caveat, Flaw, SelfTestResult, Unknown, Untested};
use run::{Line, Outcome, Step};

/// The time limit of the whole self-test.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long an abandoned subprocess may take to end by itself and to remove what it has created.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(600);
/// The maximum length of the output of a subprocess.
const OUTPUT_MAX: usize = 16 << 10;

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
        let (output, untested) = match run_subprocess(&directory, patience) {
            Ok(output) if output.ended => (output, None),
            Ok(output) if output.unresponsive => (output, Some(Untested::Unresponsive(patience))),
            Ok(output) => (output, Some(Untested::NoProcess("it ended too early".to_owned()))),
            Err(error) => {
                (SubprocessOutput::default(), Some(Untested::NoProcess(error.to_string())))
            }
        };
        let mounts = Mounts::now().unwrap_or_default();
        let mount = match output.mount {
            Some(id) => mounts.numbered(id),
            // It does not respond, so it is on a remote mount; or nothing is known.
            None => remote_mount(&mounts, &directory).or_else(|| mounts.of(&directory)),
        };
        let assessment = mount.map(|mount| assess(mount, Parameters::now(), output.kept));
        let root = rustix::process::geteuid().is_root();
        let result = conclude(&output.tried, untested, assessment.as_ref(), root);
        let mut caveats = assessment.map(|assessment| assessment.caveats).unwrap_or_default();
        caveats.extend(output.owner.filter(|uid| root && *uid != 0).map(Caveat::Squashed));
        let SubprocessOutput { node, tried, .. } = output;
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
    unresponsive: bool,
}

impl SubprocessOutput {
    fn read_line(&mut self, line: &str) {
        match Line::parse(line) {
            Some(Line::Directory(dev, ino, mount)) => {
                (self.node, self.mount) = (Some((dev, ino)), Some(mount));
            }
            Some(Line::Created(uid)) => self.owner = Some(uid),
            Some(Line::KeptByKernel(kept)) => self.kept = Some(kept),
            Some(Line::Done(step, outcome)) => self.tried.push((step, outcome)),
            Some(Line::End) => self.ended = true,
            None => {}
        }
    }
}

/// Runs a subprocess that performs the steps, and reads its output until it has finished, has
/// ended, or the timeout expires.
fn run_subprocess(directory: &Path, patience: Duration) -> std::io::Result<SubprocessOutput> {
    // Another version may be installed by now; this is the program that knows the option.
    let mut process = Command::new("/proc/self/exe");
    process.arg(run::ARGUMENT).arg(directory).current_dir("/");
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = process.spawn()?;
    let Some(mut stdout) = process.stdout.take() else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    let (until, mut output) = (Instant::now() + patience, SubprocessOutput::default());
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1024]);
    while bytes.len() < OUTPUT_MAX {
        if !is_ready(&stdout, until.saturating_duration_since(Instant::now())) {
            output.unresponsive = true;
            break;
        }
        let count = stdout.read(&mut buffer)?;
        if count == 0 && output.ended {
            // It closes everything else before it prints this, so its end does not block.
            process.wait()?;
            return Ok(output);
        }
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..count]);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            output.read_line(String::from_utf8_lossy(&line).trim_end());
        }
    }
    reap_in_background(process, stdout);
    Ok(output)
}

/// Waits until the pipe is readable or the timeout expires; returns whether it is readable.
fn is_ready(stdout: &ChildStdout, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        let mut polled = [PollFd::new(stdout, PollFlags::IN)];
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
fn reap_in_background(mut process: Child, stdout: ChildStdout) {
    let wait = move || {
        if !is_ready(&stdout, CLEANUP_TIMEOUT) {
            let _ = process.kill();
        }
        drop(stdout);
        process.wait()
    };
    // Without a thread it remains a zombie until this process ends.
    drop(std::thread::Builder::new().name("farewell".to_owned()).spawn(wait));
}

/// Concludes the result. The outcome of the steps overrides the mount options.
fn conclude(
    tried: &[(Step, Outcome)],
    untested: Option<Untested>,
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
    if let Some(why) = untested {
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
    match mount.map(|mount| &mount.scope) {
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

    fn mount(scope: MountScope) -> Assessment {
        let may_squash_root = scope == MountScope::Shared;
        Assessment { scope, read_only: false, may_squash_root, caveats: Vec::new() }
    }

    fn shared() -> Assessment {
        mount(MountScope::Shared)
    }

    fn passed() -> Vec<(Step, Outcome)> {
        Step::ALL.map(|step| (step, Outcome::Passed)).to_vec()
    }

    fn with(step: Step, outcome: Outcome) -> Vec<(Step, Outcome)> {
        let mut tried = passed();
        let entry = tried.iter_mut().find(|(entry, _)| *entry == step);
        entry.unwrap().1 = outcome;
        tried
    }

    #[test]
    fn passed_steps_yield_the_scope_of_the_mount() {
        assert_eq!(conclude(&passed(), None, Some(&shared()), true), SelfTestResult::Shared);
        for why in [Local::Overlay, Local::OwnDevice, Local::Option("nolock".to_owned())] {
            let result =
                conclude(&passed(), None, Some(&mount(MountScope::Local(why.clone()))), false);
            assert_eq!(result, SelfTestResult::Local(why));
        }
        for why in [Unknown::Server, Unknown::NotShown("'flock'")] {
            let result = conclude(&passed(), None, Some(&mount(MountScope::Unknown(why))), false);
            assert_eq!(result, SelfTestResult::Unknown(why));
        }
        assert_eq!(conclude(&passed(), None, None, true), SelfTestResult::Unknown(Unknown::Type));
    }

    #[test]
    fn wrong_steps_override_the_mount() {
        let (how, shared) = ("two got it".to_owned(), shared());
        let tried = with(Step::Files, Outcome::Wrong(how.clone()));
        let unresponsive = || Some(Untested::Unresponsive(PATIENCE));
        for mount in [None, Some(&shared)] {
            let result = conclude(&tried, unresponsive(), mount, false);
            assert_eq!(result, SelfTestResult::Unfit(Flaw::Broken(Step::Files, how.clone())));
        }
        let none = with(Step::Files, Outcome::NoLocks(Errno::NOLCK));
        let result = conclude(&none, None, Some(&shared), true);
        assert_eq!(result, SelfTestResult::Unfit(Flaw::NoLocks(Errno::NOLCK)));
        assert_eq!(
            conclude(&[], unresponsive(), None, true),
            SelfTestResult::Untested(unresponsive().unwrap())
        );
    }

    #[test]
    fn failures_to_create_a_file_are_distinguished() {
        let make =
            |errno| vec![(Step::Open, Outcome::Passed), (Step::Make, Outcome::Failed(errno))];
        let (shared, own) = (shared(), mount(MountScope::Local(Local::OwnDevice)));
        let conclude = |errno, mount, root| conclude(&make(errno), None, Some(mount), root);
        assert_eq!(conclude(Errno::ROFS, &own, true), SelfTestResult::Unfit(Flaw::ReadOnly));
        assert_eq!(conclude(Errno::ACCESS, &shared, true), SelfTestResult::Unfit(Flaw::Squashed));
        for mount in [&shared, &own] {
            let result = conclude(Errno::ACCESS, mount, false);
            assert_eq!(result, SelfTestResult::Untested(Untested::Forbidden));
        }
        let failed = Untested::Failed(Step::Make, Errno::ACCESS);
        assert_eq!(conclude(Errno::ACCESS, &own, true), SelfTestResult::Untested(failed));
        let kept = with(Step::Remove, Outcome::Failed(Errno::ACCESS));
        assert_eq!(super::conclude(&kept, None, Some(&shared), true), SelfTestResult::Shared);
        let full = Untested::Failed(Step::Make, Errno::NOSPC);
        assert_eq!(conclude(Errno::NOSPC, &shared, true), SelfTestResult::Untested(full));
        let read_only = Assessment { read_only: true, ..shared.clone() };
        assert_eq!(conclude(Errno::IO, &read_only, true), SelfTestResult::Unfit(Flaw::ReadOnly));
    }

    #[test]
    fn invalid_lines_are_ignored() {
        let mut output = SubprocessOutput::default();
        for line in
            ["there 1 2 3", "nonsense", "made 7", "kept yes", "files passed", "\u{1b}[2J", "end"]
        {
            output.read_line(line);
        }
        assert!(output.ended && output.tried == [(Step::Files, Outcome::Passed)]);
        assert_eq!((output.node, output.mount, output.owner), (Some((1, 2)), Some(3), Some(7)));
        assert_eq!(output.kept, Some(true));
    }
}
