//! On a text terminal without a polkit agent, the tool has polkit's own one ask for the password.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;

use nix::sys::signal::Signal;

use super::super::str;
use crate::fixture::user::{Account, NOBODY};
use crate::fixture::{Fixture, Output, Terminal, gone, pidfd, polkit, program, run, within};

/// A rule that requires authentication as an administrator, which is root.
const RULES: &str = r#"
polkit.addAdminRule(function(action, subject) { return ["unix-user:root"]; });
polkit.addRule(function(action, subject) {
    if (action.id == "org.vmlockd1.open-owner") return polkit.Result.AUTH_ADMIN;
});
"#;

/// The password of root for the agent.
const PASSWORD: &str = "correct horse";

/// Runs the rest of its command line as an ordinary user, in a mount namespace in which root has the
/// password and this bus is the system bus: polkit's setuid helper looks at no environment variable.
const NAMESPACE: &str = "\
mount -t tmpfs none /run
mkdir /run/dbus
touch /run/dbus/system_bus_socket
mount --bind \"$1\" /run/dbus/system_bus_socket
mount --bind \"$2\" /etc/shadow
user=$3 group=$4
shift 4
exec setpriv --reuid=$user --regid=$group --clear-groups -- \"$@\"";

async fn fixture() -> Fixture {
    let polkit = polkit::Choice::Real { rules: RULES.to_owned() };
    let fixture = Fixture::builder().polkit(polkit).start().await;
    let mut command = fixture.command("perl");
    command.args(["-e", "print crypt($ARGV[0], '$6$vmlockd$')", PASSWORD]);
    let hash = run(command).await.ok();
    let shadow = fixture.dir().join("shadow");
    fs::write(&shadow, format!("root:{hash}:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n"))
        .unwrap();
    fs::set_permissions(&shadow, Permissions::from_mode(0o600)).unwrap();
    fixture.raw_of(NOBODY, "disk");
    fixture
}

/// Starts `vmlockctl` as an ordinary user on a terminal.
fn start(fixture: &Fixture, line: &[&str]) -> Terminal {
    let Account { uid, gid } = Account::of(NOBODY);
    let address = fixture.address();
    let socket = address.strip_prefix("unix:path=").unwrap().split(',').next().unwrap();
    let mut command = fixture.command("unshare");
    command.args(["--mount", "--propagation=private", "--", "sh", "-euc", NAMESPACE, "sh"]);
    command.arg(socket).arg(fixture.dir().join("shadow"));
    command.args([uid.to_string(), gid.to_string()]).arg("setsid").current_dir(fixture.dir());
    let log = fixture.dir().join("tool.log");
    Terminal::start(command, 80, Output::Terminal, &program("vmlockctl"), line, &log)
}

/// A command that lives until end of file is typed.
const LIVES: [&str; 3] = ["sh", "-c", "echo it runs; exec cat"];

/// Runs a command that needs the password.
fn locked(fixture: &Fixture, options: &[&str]) -> Terminal {
    let disk = fixture.dir().join("disk");
    let line = [&["--system"], options, &["run", "--disk", str(&disk), "--"], &LIVES].concat();
    start(fixture, &line)
}

/// The agents that run for a program on a terminal.
fn agents(terminal: &Terminal) -> Vec<u32> {
    let words = format!("--process\0{},", terminal.process.pid());
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let agents = processes.filter(|dir| {
        fs::read_to_string(dir.join("cmdline")).is_ok_and(|line| line.contains(&words))
    });
    agents.filter_map(|dir| dir.file_name()?.to_str()?.parse().ok()).collect()
}

/// Returns once the agent waits for a password, with the agent.
async fn asks(terminal: &mut Terminal) -> OwnedFd {
    terminal.until_seen("Password: ").await;
    // It discards what is typed before that.
    terminal.until_it_does_not_echo().await;
    let [agent] = agents(terminal)[..] else { panic!("one agent: {}", terminal.seen) };
    pidfd(agent)
}

#[tokio::test]
async fn the_right_password_grants_and_no_agent_runs_beside_the_command() {
    let fixture = fixture().await;
    let mut terminal = locked(&fixture, &[]);
    terminal.until_seen("AUTHENTICATING FOR org.vmlockd1.open-owner").await;
    let _agent = asks(&mut terminal).await;
    terminal.type_in(&format!("{PASSWORD}\n"));
    terminal.until_seen("AUTHENTICATION COMPLETE").await;
    terminal.until_seen("it runs").await;
    assert_eq!(agents(&terminal), [0; 0]);
    assert!(terminal.echoes() && !terminal.seen.contains(PASSWORD), "{}", terminal.seen);
    terminal.type_in("\x04");
    assert!(terminal.ended().await.success(), "{}", terminal.seen);
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let fixture = fixture().await;
    let mut terminal = locked(&fixture, &[]);
    let _agent = asks(&mut terminal).await;
    terminal.type_in("wrong\n");
    terminal.until_seen("AUTHENTICATION FAILED").await;
    assert_eq!(terminal.ended().await.code(), Some(77), "{}", terminal.seen);
    assert_eq!(agents(&terminal), [0; 0]);
}

#[tokio::test]
async fn ctrl_c_at_the_prompt_leaves_no_agent_and_a_terminal_that_echoes() {
    let fixture = fixture().await;
    // One of them catches the signal, the other one dies of it.
    let other = ["--system", "lockspace", "create", str(fixture.dir())];
    for mut terminal in [locked(&fixture, &[]), start(&fixture, &other)] {
        let agent = asks(&mut terminal).await;
        terminal.type_in("\x03");
        assert_eq!(terminal.ended().await.signal(), Some(Signal::SIGINT as i32));
        assert!(terminal.echoes());
        within("the agent ends", gone(agent)).await;
    }
}

#[tokio::test]
async fn where_no_password_is_to_be_asked_for_there_is_no_agent() {
    let fixture = fixture().await;
    let mut terminal = locked(&fixture, &["--no-ask-password"]);
    assert_eq!(terminal.ended().await.code(), Some(77), "{}", terminal.seen);
    assert!(!terminal.seen.contains("AUTHENTICATING"), "{}", terminal.seen);
}

#[tokio::test]
async fn a_tool_that_is_killed_takes_its_agent_along() {
    let fixture = fixture().await;
    let mut terminal = locked(&fixture, &[]);
    let agent = asks(&mut terminal).await;
    terminal.process.signal(Signal::SIGKILL);
    within("the agent ends", gone(agent)).await;
}
