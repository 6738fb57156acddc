//! Reading `/proc` of another process may block for as long as that process likes: it delays a
//! refusal by a fraction of a second, and nothing else.

mod queue;

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use crate::fixture::{Fixture, ForeignHolder, LockType, Tool, within};
use crate::refused_requests::assert_free;
use crate::virtlockd::host::hung_mount::HungMount;

/// Locks byte 0 of a disk (`F_SETLK`), maps a file of a FUSE mount and changes it. After a line of
/// input, one thread unmaps the file, for which the kernel waits for the server, and another one
/// waits for the lock of the address space: then a read of the command line of this process hangs.
/// It looks like an emulator, as other command lines are not read. mmap(2), munmap(2) and read(2)
/// are called by number; struct flock is that of 64-bit Linux.
const HANG: &str = r#"
    use threads;
    use Config;
    my ($disk, $file) = @ARGV;
    my ($mmap, $munmap, $read) = $Config{archname} =~ /^x86_64/ ? (9, 11, 0) : (222, 215, 63);
    open my $locked, '+<', $disk or die "$disk: $!";
    my $lock = pack('s s x4 q q l x4', 1, 0, 0, 1, 0);
    fcntl $locked, 6, $lock or die "F_SETLK: $!";
    pipe my $ours, my $theirs or die "pipe: $!";
    threads->create(sub { sysread $ours, my $at, 20; syscall $munmap, $at + 0, 4096 })->detach;
    open my $mapped, '+<', $file or die "$file: $!";
    open my $zero, '<', '/dev/zero' or die "/dev/zero: $!";
    my $at = syscall $mmap, 0, 4096, 3, 1, fileno($mapped), 0;
    $at == -1 and die "mmap: $!";
    syscall($read, fileno($zero), $at, 4096) == 4096 or die "read: $!";
    open my $name, '>', '/proc/self/comm' or die "comm: $!";
    syswrite $name, 'qemu-hangs';
    $| = 1;
    print "$$\n";
    <STDIN>;
    syswrite $theirs, $at;
    my ($thread) = grep { $_ != $$ } map { s{.*/}{}r } glob '/proc/self/task/*';
    for (my $where = ''; $where !~ /folio|fuse|request/;) {
        open my $wchan, '<', "/proc/self/task/$thread/wchan" or die "wchan: $!";
        $where = <$wchan>;
    }
    print "hangs\n";
    syscall $mmap, 0, 4096, 3, 0x22, -1, 0;
"#;

/// Starts a process of root's that has locked a disk and blocks readers of its command line.
async fn hang(fixture: &Fixture, far: &HungMount, disk: &Path) -> (Tool, String) {
    File::options().write(true).open(far.disk()).unwrap().set_len(1 << 16).unwrap();
    let mut command = fixture.command("perl");
    command.args(["-e", HANG]).args([disk, &far.disk()]);
    let mut tool = Tool::new(command, &fixture.dir().join("hang.log"));
    let pid = tool.line().await;
    far.stop();
    tool.write_line("");
    assert_eq!(tool.line().await, "hangs");
    (tool, pid)
}

/// Resumes the server of a mount before the test waits for a process that depends on it.
struct GoOn<'f>(&'f HungMount);

impl Drop for GoOn<'_> {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

/// Whether the command line of a process can be read.
async fn is_readable(pid: &str) -> bool {
    let mut command = tokio::process::Command::new("cat");
    command.arg(format!("/proc/{pid}/cmdline")).stdout(Stdio::null()).kill_on_drop(true);
    let mut reader = command.spawn().unwrap();
    tokio::time::timeout(std::time::Duration::from_millis(200), reader.wait()).await.is_ok()
}

/// A mount that does not respond, which needs FUSE.
mod host {
    use super::*;

    #[tokio::test]
    async fn a_holder_that_blocks_its_readers_delays_nothing_for_long() {
        let fixture = Fixture::builder().env("VMLOCKD_INSPECTOR_MS", "3000").start().await;
        let Some(far) = HungMount::mount(&fixture).await else { return };
        let (disk, other) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "other"));
        let path = disk.to_str().unwrap();
        let (tool, pid) = hang(&fixture, &far, &disk).await;
        let go_on = GoOn(&far);
        let hangs = async { while is_readable(&pid).await {} };
        within("its readers hang", hangs).await;

        // The first inspector hangs, and the next one passes that process over.
        let line = ["run", "--disk", path, "--", "true"];
        let named = format!("pid {pid}");
        for _ in 0..2 {
            let ran = fixture.run("vmlockctl", &line).await;
            assert_eq!(ran.status.code(), Some(75), "{ran:?}");
            assert!(ran.stderr.contains(&named), "{ran:?}");
            let said = fixture.run("vmlockctl", &["who", path]).await.ok();
            assert!(said.contains(&named), "{said}");
        }
        // Holders that do not hang are named as ever.
        let foreign_holder = ForeignHolder::hold(&other, LockType::Ofd, true).unwrap();
        let said = fixture.run("vmlockctl", &["who", other.to_str().unwrap()]).await.ok();
        assert!(said.contains(&format!("pid {}", foreign_holder.pid())), "{said}");

        // The service ends, and starts again, while the process still hangs.
        fixture.daemon().terminate().await;
        fixture.daemon().start_again().await;
        let ran = fixture.run("vmlockctl", &line).await;
        assert!(ran.status.code() == Some(75) && ran.stderr.contains(&named), "{ran:?}");
        assert!(!is_readable(&pid).await);
        drop((go_on, foreign_holder));
        within("the process ends", tool.finish()).await;
        assert_free(&disk);
    }
}
