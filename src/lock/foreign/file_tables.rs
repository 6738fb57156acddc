//! The threads of a process that have a file table of their own.
//!
//! `/proc/PID/fd` lists the file table of the thread group leader. That table is gone once the
//! leader has ended while other threads of the process run, and it never shows the files of a
//! thread that has called `unshare(2)` with `CLONE_FILES`. Each further table is in
//! `/proc/PID/task/TID/fd`.
//!
//! A process may have thousands of threads, nearly all of which share one table. `kcmp(2)` compares
//! two tables without reading either. It takes a lock that `execve(2)` holds for writing only once
//! the process has a single thread left, and this module never compares the tables of such a
//! process. (Before Linux 5.8, a process whose `execve(2)` blocks may block `kcmp(2)` as well; it
//! can be killed.)

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::libc;
use rustix::io::Errno;

/// The maximum number of threads of one process that are returned if the kernel cannot compare
/// their file tables.
const UNCOMPARED: usize = 64;
/// The links of `/proc/PID/task` for a process with one thread: two of any directory, and one for
/// the thread.
const LINKS_OF_ONE: u64 = 3;
/// `KCMP_FILES` of <linux/kcmp.h>.
const KCMP_FILES: libc::c_int = 2;

/// Returns the threads of a process whose file tables `/proc/PID/fd` does not list, one for each
/// table. `process` is the path `/proc/PID`. Before each thread `go_on` is called; the walk ends
/// when that returns false.
pub fn threads_with_own_table(
    process: &Path,
    mut go_on: impl FnMut() -> bool,
) -> impl Iterator<Item = u32> {
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let tasks = process.join("task");
    let has_several = fs::metadata(&tasks).is_ok_and(|tasks| tasks.nlink() != LINKS_OF_ONE);
    let leader = number(process).filter(|_| has_several);
    let entries = leader.and_then(|_| fs::read_dir(tasks).ok()).into_iter().flatten();
    let threads = entries.map_while(move |entry| go_on().then_some(entry)).flatten();
    let threads = threads.filter_map(move |entry| number(&entry.path()));
    let mut tables = Tables::new(leader, compare);
    threads.filter(move |thread| Some(*thread) != leader && tables.is_new(*thread))
}

/// The known file tables of a process, each represented by a thread that uses it.
struct Tables<C> {
    representatives: Vec<u32>,
    uncompared: usize,
    compare: C,
}

/// The result of comparing the file tables of two threads: a total order, or an error.
type Compared = Result<Ordering, Errno>;

impl<C: Fn(u32, u32) -> Compared> Tables<C> {
    fn new(leader: Option<u32>, compare: C) -> Self {
        Self { representatives: leader.into_iter().collect(), uncompared: 0, compare }
    }

    /// Whether the table of a thread is not known yet; this adds it. If the tables cannot be
    /// compared, the table counts as a new one, up to [`UNCOMPARED`] times.
    fn is_new(&mut self, thread: u32) -> bool {
        loop {
            let mut failure = None;
            let found = self.representatives.binary_search_by(|representative| {
                (self.compare)(*representative, thread).unwrap_or_else(|errno| {
                    failure = Some((*representative, errno));
                    Ordering::Equal
                })
            });
            match (failure, found) {
                (None, Ok(_)) => return false,
                (None, Err(at)) => {
                    self.representatives.insert(at, thread);
                    return true;
                }
                (Some((representative, Errno::SRCH)), _) => {
                    if (self.compare)(thread, thread).is_err() {
                        return false;
                    }
                    // The other thread has ended; its table may live on with further threads.
                    self.representatives.retain(|other| *other != representative);
                }
                (Some(_), _) => {
                    self.uncompared += 1;
                    return self.uncompared <= UNCOMPARED;
                }
            }
        }
    }
}

/// Compares the file tables of two threads.
#[allow(unsafe_code)]
fn compare(one: u32, other: u32) -> Compared {
    let number = |thread: u32| libc::pid_t::try_from(thread).map_err(|_| Errno::SRCH);
    let (one, other) = (number(one)?, number(other)?);
    // SAFETY: the request has five integers as arguments, the last two of which this type ignores;
    // the kernel reads and writes no memory of this process.
    let compared = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
    match compared {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
        // They differ, and the kernel has no order for them.
        _ => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns threads whose tables are numbers; missing threads have ended.
    fn tables(of: &[(u32, u32)]) -> Tables<impl Fn(u32, u32) -> Compared> {
        let table = |of: &[(u32, u32)], wanted: u32| {
            of.iter().find(|(thread, _)| *thread == wanted).map(|(_, table)| *table)
        };
        let of = of.to_vec();
        Tables::new(Some(1), move |one, other| {
            let table = |thread| table(&of, thread).ok_or(Errno::SRCH);
            Ok(table(one)?.cmp(&table(other)?))
        })
    }

    #[test]
    fn each_table_is_new_once() {
        let mut shared = tables(&[(1, 50), (2, 50), (3, 70), (4, 10), (5, 70), (6, 50), (7, 10)]);
        let new: Vec<u32> = (2..9).filter(|thread| shared.is_new(*thread)).collect();
        assert_eq!(new, [3, 4]);
        // The thread that represents a table has ended.
        let mut ended = tables(&[(2, 50), (3, 50), (4, 60)]);
        let new: Vec<u32> = (2..5).filter(|thread| ended.is_new(*thread)).collect();
        assert_eq!(new, [2, 4]);
    }

    #[test]
    fn incomparable_tables_are_bounded() {
        let mut denied = Tables::new(Some(1), |_, _| Err(Errno::PERM));
        assert_eq!((2..1000).filter(|thread| denied.is_new(*thread)).count(), UNCOMPARED);
    }

    /// Starts two threads, of which the first has a table of its own: unshare(2) is called by number.
    const THREADS: &str = r#"
        use threads;
        use Config;
        $| = 1;
        my $unshare = $Config{archname} =~ /^x86_64/ ? 272 : 97;
        threads->create(sub {
            syscall($unshare, 0x400) == 0 or die "unshare: $!";
            threads->create(sub { print "own\n"; sleep })->join;
        });
        threads->create(sub { sleep });
        sleep;
    "#;

    #[test]
    fn a_table_shared_by_two_threads_is_found_once() {
        use std::io::Read as _;
        use std::process::{Command, Stdio};
        let mut perl = Command::new("perl");
        let mut child = perl.args(["-e", THREADS]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
        let process = format!("/proc/{}", child.id());
        let found: Vec<u32> = threads_with_own_table(Path::new(&process), || true).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_ne!(found[0], child.id());
        assert_eq!(threads_with_own_table(Path::new(&process), || false).count(), 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(threads_with_own_table(Path::new(&process), || true).count(), 0);
    }
}
