//! Open files of a process are found in any of its threads.

use std::fs::File;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::{Fixture, ForeignHolder, LockType, Tool, within};
use crate::methods::none;
use crate::refused_requests::assert_free;

/// Leaves standard input, and a disk that is locked (`F_SETLK`), to one thread: `exit` ends the
/// main thread alone; `files` makes the other thread leave the shared file table (`CLONE_FILES`),
/// and closes the descriptors in the main thread. exit(2) and unshare(2) are called by number;
/// struct flock is that of 64-bit Linux.
const PROGRAM: &str = r#"
    use threads;
    use Config;
    use POSIX ();
    my ($how, $disk) = @ARGV;
    my ($exit, $unshare) = $Config{archname} =~ /^x86_64/ ? (60, 272) : (93, 97);
    pipe my $heard, my $said or die "pipe: $!";
    $| = 1;
    threads->create(sub {
        $how eq 'exit' or syscall($unshare, 0x400) == 0 or die "unshare: $!";
        if ($disk) {
            open my $locked, '+<', $disk or die "$disk: $!";
            my $lock = pack('s s x4 q q l x4', 1, 0, 0, 1, 0);
            fcntl $locked, 6, $lock or die "F_SETLK: $!";
            syswrite $said, '.';
            sleep;
        }
        syswrite $said, '.';
        sleep;
    })->detach;
    sysread $heard, my $done, 1;
    $how eq 'exit' or POSIX::close(0) or die "close: $!";
    print "$$\n";
    syscall $exit, 0 if $how eq 'exit';
    sleep;
"#;

/// Starts the program with a file as its standard input.
async fn start(fixture: &Fixture, how: &str, input: impl Into<Stdio>, disk: Option<&str>) -> Tool {
    let mut command = fixture.command("perl");
    command.args(["-e", PROGRAM, how]).args(disk);
    let mut tool = Tool::with_input(command, &fixture.dir().join(how).with_extension("log"), input);
    let pid: u32 = tool.line().await.parse().unwrap();
    let status = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let leaves = async {
        // The main thread is a zombie, while the process lives.
        while how == "exit" && !status().contains("State:\tZ") {
            tokio::task::yield_now().await;
        }
    };
    within("the main thread leaves", leaves).await;
    tool
}

/// Where the service is killed and nothing keeps its descriptors, a lifeline is found again.
async fn a_lifeline_outlives_the_service(how: &str) {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let TestVm { lifeline, .. } = web1;
    let tool = start(&fixture, how, lifeline, None).await;
    for _ in 0..2 {
        fixture.daemon().kill9().await;
        fixture.daemon().start_again().await;
        let bus = fixture.connection().await;
        assert_eq!(manager(&bus).await.list_owners(none()).await.unwrap().len(), 1);
        let verified = async {
            loop {
                let locks = manager(&bus).await.list_locks(none()).await.unwrap();
                if locks.len() == 1 && bool::try_from(&locks[0]["verified"]).unwrap() {
                    break;
                }
            }
        };
        within("the lock is there", verified).await;
        assert!(ForeignHolder::try_once(&disk, LockType::Ofd, true).is_err());
    }
    tool.signal(Signal::SIGKILL);
    tool.ended().await;
    let bus = fixture.connection().await;
    let gone = async { while manager(&bus).await.n_owners().await.unwrap() != 0 {} };
    within("the owner ends with its process", gone).await;
    assert_free(&disk);
}

#[tokio::test]
async fn a_lifeline_of_a_process_whose_main_thread_has_ended_outlives_the_service() {
    a_lifeline_outlives_the_service("exit").await;
}

#[tokio::test]
async fn a_lifeline_in_the_file_table_of_one_thread_outlives_the_service() {
    a_lifeline_outlives_the_service("files").await;
}

/// Waits until a process is named. The walk through all threads may be too long where much else runs.
async fn until_named(fixture: &Fixture, disk: &str, tool: &Tool) {
    let pid = format!("pid {}", tool.process.pid());
    let named =
        async { while !fixture.run("vmlockctl", &["who", disk]).await.ok().contains(&pid) {} };
    within("the process is named", named).await;
}

/// Both a foreign holder and a process with a lifeline are named.
async fn processes_are_named(how: &str) {
    let fixture = Fixture::builder().env("VMLOCKD_INSPECTOR_MS", "3000").start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let other = fixture.raw_of(0, "other");
    let (other, none) = (other.to_str().unwrap(), File::open("/dev/null").unwrap());
    let holder = start(&fixture, how, none, Some(other)).await;
    until_named(&fixture, other, &holder).await;

    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let TestVm { lifeline, .. } = web1;
    let keeper = start(&fixture, how, lifeline, None).await;
    until_named(&fixture, disk.to_str().unwrap(), &keeper).await;
    for tool in [holder, keeper] {
        tool.signal(Signal::SIGKILL);
        tool.ended().await;
    }
}

#[tokio::test]
async fn processes_whose_main_thread_has_ended_are_named() {
    processes_are_named("exit").await;
}

#[tokio::test]
async fn processes_are_named_for_the_file_table_of_one_thread() {
    processes_are_named("files").await;
}
