//! Resource limits of the process: an error with the cause, no signal and no panic, nothing left.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::user::NOBODY;
use crate::fixture::{CommandOutput, Daemon, Fixture, Launch, program, run};
use crate::refused_requests::{assert_free, assert_refused};

/// Runs one of our programs by a shell that sets limits first, or directs its output.
async fn limited(
    fixture: &Fixture,
    uid: u32,
    limits: &str,
    name: &str,
    line: &[&str],
) -> CommandOutput {
    let mut command = fixture.command_as(uid, "bash");
    let script = format!("ulimit -c 0; {limits}; exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program(name)).args(line);
    run(command).await
}

/// It has ended by itself, and said why if it failed.
fn has_ended_in_order(ran: &CommandOutput, what: &str) {
    assert_eq!(ran.status.signal(), None, "{what}: {ran:#?}");
    assert!(!ran.stderr.contains("panicked"), "{what}: {ran:#?}");
    // Beside what the service logs.
    let lines = ran.stderr.lines().filter(|line| line.starts_with("vmlock")).count();
    assert!(ran.status.success() || lines == 1, "{what}: {ran:#?}");
}

async fn nothing_is_left(fixture: &Fixture, disk: &Path, what: &str) {
    let owners = fixture.run("vmlockctl", &["--json", "owners"]).await.ok();
    assert_eq!(owners.trim(), "[]", "{what}");
    assert_free(disk);
}

#[tokio::test]
async fn vmlockctl_says_which_limit_is_too_low() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "disk");
    let path = disk.to_str().unwrap();
    let limits = (4..24).map(|n| format!("ulimit -n {n}"));
    let limits = limits.chain([64, 256].map(|n| format!("ulimit -s {n}")));
    for limit in limits.chain(["ulimit -v 30000".to_owned(), "ulimit -d 2000".to_owned()]) {
        for line in [&["run", "--disk", path, "--", "true"][..], &["lock", path], &["list"]] {
            let ran = limited(&fixture, 0, &limit, "vmlockctl", line).await;
            let what = format!("{limit}: {line:?}");
            has_ended_in_order(&ran, &what);
            if !ran.status.success() {
                assert!(ran.stderr.contains("ulimit"), "{what}: {}", ran.stderr);
                nothing_is_left(&fixture, &disk, &what).await;
            } else if line[0] == "lock" {
                fixture.run("vmlockctl", &["unlock", path]).await.ok();
            }
        }
    }
    let ran = limited(&fixture, 0, "ulimit -n 10", "vmlockctl", &["list"]).await;
    assert!(ran.refused().contains("too few file descriptors"));
}

#[tokio::test]
async fn a_lock_that_cannot_be_reported_is_not_kept() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "disk");
    let line = ["lock", disk.to_str().unwrap()];
    let file = fixture.dir().join("out");
    let to_file = format!("exec >{}; ulimit -f 0", file.display());
    for (limits, cause) in [
        ("exec >/dev/full", "No space left on device"),
        ("exec > >(exec >/dev/null <&-; :); wait $!", "Broken pipe"),
        (&to_file, "File too large"),
    ] {
        let ran = limited(&fixture, 0, limits, "vmlockctl", &line).await;
        has_ended_in_order(&ran, limits);
        let said = ran.refused();
        let words = format!("cannot write to standard output: {cause}; nothing is locked");
        assert!(said.contains(&words), "{limits}: {said}");
        nothing_is_left(&fixture, &disk, limits).await;
    }
    // Without one of the standard descriptors, nothing else is written to in its place.
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let limits = format!("exec {closed}");
        let line = ["run", "--disk", line[1], "--", "sh", "-c", "echo out; echo error >&2"];
        let ran = limited(&fixture, 0, &limits, "vmlockctl", &line).await;
        assert!(ran.status.success(), "{closed}: {ran:#?}");
        assert_eq!(fs::metadata(&disk).unwrap().len(), 1 << 20, "{closed}");
        let bytes = fs::read(&disk).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "{closed}");
    }
}

#[tokio::test]
async fn help_that_cannot_be_written_is_a_failure() {
    let fixture = Fixture::builder().without_daemon().start().await;
    for (program, line) in [
        ("vmlockctl", &["--help"][..]),
        ("vmlockctl", &["run", "--help"]),
        ("vmlockctl", &["--version"]),
        ("vmlockd", &["--help"]),
        ("vmlockd", &["--version"]),
    ] {
        let ran = limited(&fixture, 0, "exec >/dev/full", program, line).await;
        let said = ran.refused();
        let words = "standard output: No space left on device";
        assert!(said.contains(words), "{program} {line:?}: {said}");
        limited(&fixture, 0, ":", program, line).await.ok();
    }
}

#[tokio::test]
async fn a_command_finds_its_signals_as_they_were() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "disk");
    let line =
        ["run", "--disk", disk.to_str().unwrap(), "--", "grep", "^Sig[BI]", "/proc/self/status"];
    let masks = |text: String| -> Vec<u64> {
        let mask = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16);
        text.lines().map(|line| mask(line).unwrap()).collect()
    };
    let plain = masks(limited(&fixture, 0, ":", "vmlockctl", &line).await.ok());
    let size = 1 << (25 - 1);
    assert!(plain.iter().all(|mask| mask & size == 0), "{plain:x?}");
    let ignoring = masks(limited(&fixture, 0, "trap '' XFSZ", "vmlockctl", &line).await.ok());
    assert_eq!(ignoring[1] & size, size, "what is ignored stays so: {ignoring:x?}");
}

#[tokio::test]
async fn vmlockd_says_which_limit_is_too_low() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let dir = fixture.dir().join("user");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    let words = Launch { session_of: Some(NOBODY), ..Launch::below(&dir) }.words();
    fs::write(dir.join("vmlockd.toml"), "").unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let limits = [4, 6, 7, 8, 12, 20, 30].map(|n| format!("ulimit -n {n}"));
    let limits = limits.into_iter().chain([64, 256].map(|n| format!("ulimit -s {n}")));
    for limit in limits.chain(["ulimit -v 40000".to_owned(), "ulimit -d 4000".to_owned()]) {
        let ran = limited(&fixture, NOBODY, &limit, "vmlockd", &words).await;
        has_ended_in_order(&ran, &limit);
        assert!(ran.refused().contains("ulimit"), "{limit}");
    }
    let ran = limited(&fixture, NOBODY, "ulimit -f 0", "vmlockd", &words).await;
    has_ended_in_order(&ran, "ulimit -f 0");
    assert!(ran.refused().contains("File too large"));
}

#[tokio::test]
async fn a_service_whose_files_may_not_grow_refuses_new_locks_and_keeps_those_it_has() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let inside = ["prlimit", "--fsize=8192", "--core=0", "--"].map(str::to_owned).to_vec();
    let daemon = Daemon::start(fixture.bus(), Launch { inside, ..fixture.launch() }).await;
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let (mut held, mut refused) = (Vec::new(), None);
    for n in 0..50 {
        let disk = fixture.raw_of(0, &format!("disk{n}"));
        match web1.acquire(&[exclusive(&disk)]).await {
            Ok(locks) => held.push((disk, locks)),
            Err(error) => {
                refused = Some((disk, error));
                break;
            }
        }
    }
    let (disk, refused) = refused.expect("some lock is too much for 8 KiB of state");
    assert_refused(&refused, "DBus.Error.IOError", "File too large");
    assert_free(&disk);
    assert!(held.len() > 1);
    assert_eq!(web1.locks().await.len(), held.len());
    // Released locks make room.
    let (_, first) = held.remove(0);
    web1.release(&first).await.unwrap();
    held.push((disk.clone(), web1.acquire(&[exclusive(&disk)]).await.unwrap()));
    // All of it is known to the next program.
    daemon.terminate().await;
    daemon.start_again().await;
    let mut after = web1.locks().await;
    let mut before: Vec<_> = held.into_iter().flat_map(|(_, locks)| locks).collect();
    before.sort_by_key(ToString::to_string);
    after.sort_by_key(ToString::to_string);
    assert_eq!(after, before);
}
