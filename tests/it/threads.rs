//! What a process has open is seen in whichever of its threads it is open.

use std::fs::File;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::house::{House, Kind, Rival, Tool, within};
use crate::machine::{Machine, exclusive, manager};
use crate::methods::none;
use crate::untouched::assert_free;

/// Leaves standard input, and a disk that is locked (`F_SETLK`), to one thread: `exit` ends the main
/// thread alone, `files` has the other thread leave the file table that they share (`CLONE_FILES`), and
/// closes the descriptors in the main thread. exit(2) and unshare(2) go by number; struct flock is that
/// of 64-bit Linux.
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
async fn start(house: &House, how: &str, input: impl Into<Stdio>, disk: Option<&str>) -> Tool {
    let mut command = house.command("perl");
    command.args(["-e", PROGRAM, how]).args(disk);
    let mut tool = Tool::with_input(command, &house.dir().join(how).with_extension("log"), input);
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
    let house = House::builder().start().await;
    let (bus, disk) = (house.connection().await, house.raw_of(0, "disk"));
    let web1 = Machine::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let Machine { lifeline, .. } = web1;
    let tool = start(&house, how, lifeline, None).await;
    for _ in 0..2 {
        house.daemon().kill9().await;
        house.daemon().start_again().await;
        let bus = house.connection().await;
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
        assert!(Rival::try_once(&disk, Kind::Ofd, true).is_err());
    }
    tool.signal(Signal::SIGKILL);
    tool.ended().await;
    let bus = house.connection().await;
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
async fn until_named(house: &House, disk: &str, tool: &Tool) {
    let pid = format!("pid {}", tool.process.pid());
    let named =
        async { while !house.run("vmlockctl", &["who", disk]).await.ok().contains(&pid) {} };
    within("the process is named", named).await;
}

/// Both a foreign holder and a process with a lifeline are named.
async fn processes_are_named(how: &str) {
    let house = House::builder().env("VMLOCKD_INSPECTOR_MS", "3000").start().await;
    let (bus, disk) = (house.connection().await, house.raw_of(0, "disk"));
    let other = house.raw_of(0, "other");
    let (other, none) = (other.to_str().unwrap(), File::open("/dev/null").unwrap());
    let holder = start(&house, how, none, Some(other)).await;
    until_named(&house, other, &holder).await;

    let web1 = Machine::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let Machine { lifeline, .. } = web1;
    let keeper = start(&house, how, lifeline, None).await;
    until_named(&house, disk.to_str().unwrap(), &keeper).await;
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
