//! Circumstances in which the service can't begin, or not do all it is for.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use crate::dbus_client::{Refused, TestVm, exclusive, manager};
use crate::fixture::user::NOBODY;
use crate::fixture::{Daemon, Failure, Fixture, Launch, TestMount, run};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

/// The service ended with an error that has these words in it.
#[track_caller]
fn assert_failed(failure: &Failure, words: &str) {
    assert_eq!(failure.status.code(), Some(1), "{failure:?}");
    let last = failure.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("vmlockd: ") && last.contains(words), "not \"{words}\", but {last}");
}

/// How to start a second service beside that of a fixture.
fn second(fixture: &Fixture) -> Launch {
    Launch { log: fixture.dir().join("second.log"), ..fixture.launch() }
}

async fn refuses_to_start(fixture: &Fixture, launch: Launch) -> Failure {
    Daemon::try_start(fixture.bus(), launch).await.map(drop).expect_err("it starts")
}

#[tokio::test]
async fn a_second_service_on_the_bus_leaves_the_first_alone() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    machine.acquire(&[exclusive(&disk)]).await.unwrap();
    let launch = Launch { runtime_dir: fixture.dir().join("second"), ..second(&fixture) };
    let failure = refuses_to_start(&fixture, launch.clone()).await;
    assert_failed(&failure, "cannot acquire the name org.vmlockd1 on the system bus");
    let before = Untouched::so_far(&fixture).await;
    refuses_to_start(&fixture, launch).await;
    assert_eq!(machine.locks().await.len(), 1);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_second_service_in_the_runtime_directory_names_the_first() {
    let fixture = Fixture::builder().start().await;
    let other = Fixture::builder().without_daemon().start().await;
    let words = format!(
        "already running, pid {} (it holds {}/run/lock)",
        fixture.daemon().pid(),
        fixture.dir().display()
    );
    assert_failed(&refuses_to_start(&fixture, second(&fixture)).await, &words);
    let before = Untouched::so_far(&fixture).await;
    assert_failed(&refuses_to_start(&other, second(&fixture)).await, &words);
    let noted = fs::read_to_string(fixture.dir().join("run/lock")).unwrap();
    assert_eq!(noted.trim(), fixture.daemon().pid().to_string());
    before.and_it_goes_on().await;
    // However the first ends, the second can begin.
    fixture.daemon().kill9().await;
    Daemon::start(fixture.bus(), second(&fixture)).await;
}

#[tokio::test]
async fn without_a_bus_there_is_no_service() {
    let fixture = Fixture::builder().without_daemon().start().await;
    fixture.bus().stop();
    let mut vmlockd = fixture.command("vmlockd");
    vmlockd.args(fixture.launch().words());
    let ran = run(vmlockd).await;
    assert!(ran.stderr.contains("vmlockd: cannot connect to the system bus: "), "{ran:?}");
    assert_eq!(ran.status.code(), Some(1));
    fixture.bus().start().await;
    Daemon::start(fixture.bus(), fixture.launch()).await;
}

#[tokio::test]
async fn a_service_that_may_not_own_its_name_says_so() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let run_dir = fixture.dir().join("nobodys");
    fs::create_dir(&run_dir).unwrap();
    chown(&run_dir, Some(NOBODY), None).unwrap();
    let mut vmlockd = fixture.command_as(NOBODY, "vmlockd");
    vmlockd.args(Launch { runtime_dir: run_dir, ..fixture.launch() }.words());
    let ran = run(vmlockd).await;
    assert!(
        ran.stderr.contains("vmlockd: cannot serve org.vmlockd1 on the system bus: "),
        "{ran:?}"
    );
    assert_eq!(ran.status.code(), Some(1));
}

#[tokio::test]
async fn without_polkit_root_goes_on_and_others_are_refused() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(NOBODY, "disk");
    let user = manager(&fixture.connection_as(NOBODY).await).await;
    let before = Untouched::so_far(&fixture).await;
    let refused = Refused::from(user.open_owner("", "web1", none()).await.unwrap_err());
    let words =
        "not authorized for org.vmlockd1.open-owner: polkit is not running or not installed";
    assert_refused(&refused, "DBus.Error.AccessDenied", words);
    assert_eq!(user.find_holders(disk.to_str().unwrap(), none()).await.unwrap(), []);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn an_unusable_runtime_directory_is_refused() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let file = fixture.raw_of(0, "file");
    for path in [file.clone(), file.join("below")] {
        let launch = Launch { runtime_dir: path.clone(), ..fixture.launch() };
        let words = format!("cannot use runtime directory {}: ", path.display());
        assert_failed(&refuses_to_start(&fixture, launch).await, &words);
    }
}

#[tokio::test]
async fn a_configuration_with_a_mistake_is_no_configuration() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let running = Fixture::builder().start().await;
    let bus = running.connection().await;
    let before = Untouched::so_far(&running).await;
    for (toml, words) in [
        ("file_lockspace_dri = \"/x\"", ":1: unknown key 'file_lockspace_dri', did you mean"),
        ("\n\nlock_level = \"info\"", ":3: unknown key 'lock_level', did you mean 'log_level'?"),
        ("xyz = 1", ":1: unknown key 'xyz', known are: "),
        ("\"a\\u001b[2J\" = 1", ":1: unknown key 'a\\u{1b}[2J'"),
        ("log_level = \"loud\"", ":1: 'loud' is not a log level"),
        ("log_level = 7", ":1: 'log_level' must be a string"),
        ("allow_fuse = \"yes\"", ":1: 'allow_fuse' must be true or false"),
        ("auto_disk_leases = 2", ":1: 'auto_disk_leases' must be true or false"),
        ("limits = 3", ":1: 'limits' must be a table"),
        ("[limits]\nlocks_per_usr = 3", ":2: unknown key 'locks_per_usr', did you mean"),
        ("[limits]\nlocks_per_user = -1", ":2: 'locks_per_user' must be a whole number"),
        ("[limits]\nlocks_per_user = 0", ":2: 'locks_per_user' must be a whole number"),
        ("[limits]\nlocks_total = 99999999999999999999", ":2: 'locks_total' must be"),
        ("allow_fuse = true\nallow_fuse = true", ":2: "),
        ("allow_fuse =", ":1: "),
        ("file_lockspace_dir = locks", ":1: "),
        (
            "file_lockspace_dir = \"locks\"",
            ":1: cannot use lockspace directory locks: is not an absolute",
        ),
    ] {
        fixture.configure(toml);
        let at = |fixture: &Fixture| format!("{}/vmlockd.toml{words}", fixture.dir().display());
        assert_failed(&refuses_to_start(&fixture, fixture.launch()).await, &at(&fixture));
        let check = ["--check-config".to_owned(), fixture.launch().config.display().to_string()];
        let said = fixture.run("vmlockd", &check).await.refused();
        assert!(said.contains(&at(&fixture)), "{said}");

        running.configure(toml);
        let refused = manager(&bus).await.reload(none()).await.unwrap_err().into();
        assert_refused(&refused, "DBus.Error.Failed", &at(&running));
        before.still(toml).await;
    }
    fs::remove_file(fixture.launch().config).unwrap();
    let failure = refuses_to_start(&fixture, fixture.launch()).await;
    assert_failed(&failure, "/vmlockd.toml: No such file or directory");
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_lockspace_directory_that_can_not_be_trusted_or_used() {
    let fixture = Fixture::builder().folder("target").without_daemon().start().await;
    let running = Fixture::builder().start().await;
    let (bus, dir) = (running.connection().await, fixture.dir());
    let make = |name: &str, mode| {
        let path = dir.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    make("all", 0o777);
    make("group", 0o770);
    make("sticky", 0o1777);
    fs::create_dir(dir.join("all/below")).unwrap();
    chown(make("users", 0o700), Some(NOBODY), None).unwrap();
    fs::create_dir(dir.join("users/below")).unwrap();
    symlink(dir.join("users"), dir.join("link")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    let _mounted = TestMount::read_only(&dir.join("target"), &dir.join("read-only"));
    let before = Untouched::so_far(&running).await;
    for (name, words) in [
        ("missing", "does not exist (create it with mkdir -m 0700)"),
        ("file", "/file is not a directory"),
        ("all", "/all is writable by its group or by all"),
        ("all/below", "/all is writable by its group or by all"),
        ("group", "/group is writable by its group or by all"),
        ("sticky", "/sticky is writable by its group or by all"),
        ("users", "/users belongs to uid 65534, which could replace it"),
        ("users/below", "/users belongs to uid 65534, which could replace it"),
        ("link", "/link belongs to uid 65534, which could replace it"),
        ("read-only", "is on a read-only file system"),
    ] {
        let path = dir.join(name);
        let toml = format!("\nfile_lockspace_dir = \"{}\"", path.display());
        fixture.configure(&toml);
        let at = format!(":2: cannot use lockspace directory {}: ", path.display());
        let failure = refuses_to_start(&fixture, fixture.launch()).await;
        assert_failed(&failure, &at);
        assert_failed(&failure, words);

        // The service that runs keeps the old one: locks in the disks themselves.
        running.configure(&toml);
        let refused = manager(&bus).await.reload(none()).await.unwrap_err().into();
        assert_refused(&refused, "DBus.Error.Failed", &at);
        assert_refused(&refused, "DBus.Error.Failed", words);
        before.still(name).await;
    }
    before.and_it_goes_on().await;
    assert!(!dir.join("missing").exists(), "it is never made: what is mounted there may be late");
    assert_eq!(list(&dir.join("target")), 0);
}

fn list(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[tokio::test]
async fn a_lockspace_directory_that_fails_later_locks_nothing() {
    let fixture = Fixture::builder().folder("locks");
    let fixture = fixture.config("file_lockspace_dir = \"@DIR@/locks\"").start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
    let lock_file = fixture.dir().join("locks").read_dir().unwrap().next().unwrap().unwrap().path();
    machine.release(&locks).await.unwrap();
    let before = Untouched::so_far(&fixture).await;
    // Another kind of file is in the place of the lock file.
    for put in ["dir", "link", "fifo"] {
        match put {
            "dir" => fs::create_dir(&lock_file).unwrap(),
            "link" => symlink(&disk, &lock_file).unwrap(),
            _ => nix::unistd::mkfifo(&lock_file, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
        let refused = machine.acquire(&[exclusive(&disk)]).await.unwrap_err();
        let words = format!("cannot open lock file {}: ", lock_file.display());
        assert_refused(&refused, "DBus.Error.IOError", &words);
        if put == "dir" { fs::remove_dir(&lock_file) } else { fs::remove_file(&lock_file) }
            .unwrap();
        before.still(put).await;
    }
    assert_free(&disk);
    before.and_it_goes_on().await;
}
