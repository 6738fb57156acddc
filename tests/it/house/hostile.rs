//! Processes that mean no good.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::process::{Process, mortal};

/// A process in a mount namespace of its own, where one name leads to another file.
///
/// Any user can have that with a user namespace, which some distributions forbid; so it is root's.
pub(crate) struct Elsewhere {
    process: Process,
}

impl Elsewhere {
    /// Starts one in which `name` leads to `file`. It complains to `log`.
    pub(crate) async fn start(name: &Path, file: &Path, log: &Path) -> Elsewhere {
        let mut command = mortal(None, "unshare");
        command.args(["--mount", "--propagation=private", "--", "sh", "-euc"]);
        command.arg(r#"mount --bind "$1" "$2"; echo ready; exec sleep infinity"#);
        command.arg("elsewhere").args([file, name]).stdout(Stdio::piped());
        let process = Process::start("elsewhere", command, log);
        process.says_something().await;
        Elsewhere { process }
    }

    /// Opens for reading and writing what a name leads to there.
    pub(crate) fn open(&self, name: &Path) -> File {
        let there = PathBuf::from(format!("/proc/{}/root", self.process.pid()));
        let path = there.join(name.strip_prefix("/").expect("an absolute name"));
        File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

/// Starts a process that has a lease (`F_SETLEASE`) on a file and gives it up at once when asked.
pub(crate) async fn yield_lease(path: &Path, log: &Path) -> Process {
    const YIELD: &str = r#"
        open my $file, "+<", $ARGV[0] or die "$ARGV[0]: $!";
        $SIG{IO} = sub { fcntl $file, 1024, 2 or die "F_UNLCK: $!"; close $file; };
        fcntl $file, 1024, 1 or die "F_SETLEASE: $!";
        $| = 1;
        print "ready\n";
        sleep while 1;
    "#;
    let mut command = mortal(None, "perl");
    command.args(["-e", YIELD]).arg(path).stdout(Stdio::piped());
    let process = Process::start("perl", command, log);
    process.says_something().await;
    process
}

/// Starts a process that has a lease (`F_SETLEASE`) on a file and does not give it up when asked.
///
/// Who opens such a file waits until the kernel breaks the lease, 45 seconds unless set otherwise.
pub(crate) async fn keep_lease(path: &Path, log: &Path) -> Process {
    // No crate here has that call in a safe form, and Perl has. 1024 is F_SETLEASE, 1 is F_WRLCK.
    const KEEP: &str = r#"
        $SIG{IO} = "IGNORE";
        open my $file, "+<", $ARGV[0] or die "$ARGV[0]: $!";
        fcntl $file, 1024, 1 or die "F_SETLEASE: $!";
        $| = 1;
        print "ready\n";
        sleep while 1;
    "#;
    let mut command = mortal(None, "perl");
    command.args(["-e", KEEP]).arg(path).stdout(Stdio::piped());
    let process = Process::start("perl", command, log);
    process.says_something().await;
    process
}
