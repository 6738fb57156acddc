//! Disks that libvirt's virtlockd holds although no VM has them open.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Tool, vmlockctl};
use crate::fixture::user::{NOBODY, ROOT};
use crate::fixture::{Fixture, program};

/// Calls itself `virtlockd`, and holds a lock on the disk until its standard input ends.
const HOLDER: &str = r#"
    $0 = "virtlockd";
    open my $disk, "+<", $ARGV[0] or die "$ARGV[0]: $!";
    # F_SETLK of a write lock on the first byte.
    my $lock = pack "s s x4 q q l x4", 1, 0, 0, 1, 0;
    fcntl $disk, 6, $lock or die "F_SETLK: $!";
    $| = 1;
    print "locked\n";
    <STDIN>;
"#;

async fn hold(fixture: &Fixture, uid: u32, perl: &Path, disk: &Path) -> Tool {
    let mut command = fixture.command_as(uid, "perl");
    if perl.is_absolute() {
        let mut copy = tokio::process::Command::new(perl);
        std::mem::swap(&mut command, &mut copy);
    }
    command.args(["-e", HOLDER]).arg(disk);
    let mut tool = Tool::start(fixture, command);
    assert_eq!(tool.line().await, "locked");
    tool
}

fn disk(fixture: &Fixture, name: &str) -> PathBuf {
    let disk = fixture.dir().join(name);
    fs::write(&disk, "data").unwrap();
    fs::set_permissions(&disk, Permissions::from_mode(0o666)).unwrap();
    disk
}

#[tokio::test]
async fn doctor_takes_no_program_for_virtlockd_that_only_has_its_name() {
    let fixture = Fixture::builder().start().await;
    let (bait, own, left) = (disk(&fixture, "bait"), disk(&fixture, "own"), disk(&fixture, "left"));
    let _user = hold(&fixture, NOBODY, Path::new("perl"), &bait).await;
    let _root = hold(&fixture, ROOT, Path::new("perl"), &own).await;
    // The executable of libvirt's daemon has this name, and root runs it.
    let virtlockd = fixture.dir().join("virtlockd");
    fs::copy(fs::canonicalize(which("perl")).unwrap(), &virtlockd).unwrap();
    let _daemon = hold(&fixture, ROOT, &virtlockd, &left).await;
    let told = vmlockctl(&fixture, &["doctor"]).await.stdout;
    assert!(told.contains(left.to_str().unwrap()), "{told}");
    assert!(!told.contains(bait.to_str().unwrap()), "{told}");
    assert!(!told.contains(own.to_str().unwrap()), "{told}");
}

/// The path of a program of the host.
fn which(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| program(name))
}
