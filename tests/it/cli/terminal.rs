//! The output on a terminal: one line while a command waits, colours, and help of its width.

use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt as _;

use super::str;
use super::wait::Scenario;
use crate::fixture::{Fixture, Output, Screen, Terminal, program};
use crate::refused_requests::assert_free;

/// Starts `vmlockctl` on a terminal; its standard output is not shown.
fn vmlockctl(fixture: &Fixture, columns: u16, line: &[&str]) -> Terminal {
    start(fixture, columns, Output::Nowhere, &[], line)
}

fn start(
    fixture: &Fixture,
    columns: u16,
    output: Output,
    env: &[(&str, &str)],
    line: &[&str],
) -> Terminal {
    let mut command = fixture.command("setsid");
    command.env_remove("NO_COLOR").envs(env.iter().copied());
    let log = fixture.dir().join("tool.log");
    Terminal::start(command, columns, output, &program("vmlockctl"), line, &log)
}

/// Returns the contents of the screen after this output.
fn screen(columns: u16, seen: &str) -> Vec<String> {
    let mut screen = Screen::new(columns);
    screen.show(seen);
    screen.lines()
}

#[tokio::test]
async fn one_line_is_updated_and_erased_at_the_end() {
    let scenario = Scenario::set_up().await;
    let line = ["run", "--wait", "--disk", str(&scenario.disk), "--", "sh", "-c", "echo go >&2"];
    let mut terminal = vmlockctl(&scenario.fixture, 250, &line);
    let said = format!(
        "\rwaiting for disk {}: locked exclusively by VM \"web1\" (pid {}, user root) since ",
        str(&scenario.disk),
        scenario.pid
    );
    terminal.until_seen(&said).await;
    terminal.until_counted("\u{1b}[J").await;
    assert_eq!(screen(250, &terminal.seen).len(), 1);
    let (_house, disk) = scenario.release().await;
    assert!(terminal.ended().await.success());
    assert_eq!(screen(250, &terminal.seen), ["go"], "{:?}", terminal.seen);
    assert_free(&disk);
}

#[tokio::test]
async fn the_holder_is_named_on_a_narrow_terminal_and_ctrl_c_leaves_nothing() {
    let scenario = Scenario::set_up().await;
    for (columns, line) in [
        (60, &["run", "--wait", "--disk", str(&scenario.disk), "--", "true"][..]),
        (40, &["lock", "--wait", str(&scenario.disk)]),
    ] {
        let mut terminal = vmlockctl(&scenario.fixture, columns, line);
        terminal.until_counted("\u{1b}[J").await;
        let shown = screen(columns, &terminal.seen);
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].contains("VM \"web1\""), "{shown:?}");
        assert_eq!(shown[0].contains("disk"), columns == 60, "the end of the path: {shown:?}");
        terminal.type_in("\x03");
        assert_eq!(terminal.ended().await.signal(), Some(Signal::SIGINT as i32));
        assert_eq!(screen(columns, &terminal.seen), [""; 0], "{:?}", terminal.seen);
        scenario.is_as_before().await;
    }
}

#[tokio::test]
async fn a_wait_that_fails_leaves_its_error_alone() {
    let scenario = Scenario::set_up().await;
    let line = ["lock", "--wait=1500ms", str(&scenario.disk)];
    let mut terminal = vmlockctl(&scenario.fixture, 500, &line);
    assert_eq!(terminal.ended().await.code(), Some(75));
    let shown = screen(500, &terminal.seen);
    assert!(terminal.seen.contains(" — 1 s"), "{:?}", terminal.seen);
    assert!(shown.len() == 1 && shown[0].starts_with("vmlockctl: "), "{shown:?}");
}

#[tokio::test]
async fn a_terminal_that_is_resized_keeps_nothing_of_the_line() {
    let scenario = Scenario::set_up().await;
    let line = ["run", "--wait", "--disk", str(&scenario.disk), "--", "sh", "-c", "echo go >&2"];
    let mut terminal = vmlockctl(&scenario.fixture, 120, &line);
    terminal.until_counted("\u{1b}[J\r\u{1b}[?7h").await;
    let screens = [Screen::resize_cutting, Screen::resize_wrapping].map(|resize| {
        let mut screen = Screen::new(120);
        screen.show("$ vmlockctl run\r\n");
        screen.show(&terminal.seen);
        resize(&mut screen, 50);
        screen
    });
    terminal.resize(50);
    terminal.seen.clear();
    let (_house, _disk) = scenario.release().await;
    assert!(terminal.ended().await.success());
    for mut screen in screens {
        screen.show(&terminal.seen);
        assert_eq!(screen.lines(), ["$ vmlockctl run", "go"], "{screen:?}");
    }
}

#[tokio::test]
async fn warnings_are_coloured_on_a_terminal_only() {
    let fixture = Fixture::builder().start().await;
    let warning = "\u{1b}[33mwarning\u{1b}[0m  store";
    for (env, coloured) in
        [(&[][..], true), (&[("NO_COLOR", "1")], false), (&[("TERM", "dumb")], false)]
    {
        let mut terminal = start(&fixture, 250, Output::Terminal, env, &["doctor"]);
        terminal.ended().await;
        let seen = &terminal.seen;
        assert!(seen.contains("warning") && seen.contains("ok       service"), "{seen:?}");
        assert_eq!(seen.contains(warning), coloured, "{env:?}: {seen:?}");
        assert_eq!(seen.contains('\u{1b}'), coloured, "{env:?}: {seen:?}");
    }
    let ran = super::vmlockctl(&fixture, &["doctor"]).await;
    assert!(ran.stdout.contains("warning  store") && !ran.stdout.contains('\u{1b}'), "{ran:?}");
}

#[tokio::test]
async fn help_is_no_wider_than_the_terminal() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let verbs = [
        "",
        "run",
        "lock",
        "unlock",
        "list",
        "owners",
        "waiting",
        "show",
        "who",
        "resolve",
        "lockspace",
        "lockspace create",
        "lockspace create-lease",
        "release",
        "suspend",
        "resume",
        "reload",
        "reexec",
        "status",
        "doctor",
        "monitor",
        "metrics",
        "completions",
        "help",
    ];
    let lines = |tool: &str| {
        let verbs = if tool == "vmlockctl" { &verbs[..] } else { &[""] };
        verbs.iter().map(|verb| verb.split_whitespace().chain(["--help"]).collect::<Vec<_>>())
    };
    for (columns, tool) in [(80, "vmlockctl"), (60, "vmlockctl"), (80, "vmlockd"), (60, "vmlockd")]
    {
        for line in lines(tool) {
            let log = fixture.dir().join("tool.log");
            let command = fixture.command("setsid");
            let mut terminal =
                Terminal::start(command, columns, Output::Terminal, &program(tool), &line, &log);
            assert!(terminal.ended().await.success(), "{line:?}");
            let seen = terminal.seen.replace("\r\n", "\n");
            assert!(seen.contains("Usage:"), "{line:?}: {seen}");
            // clap does not wrap the usage.
            let lines = seen.lines().filter(|line| columns == 80 || !line.starts_with("Usage: "));
            let wide: Vec<&str> =
                lines.filter(|line| line.chars().count() > columns.into()).collect();
            assert_eq!(wide, [""; 0], "{tool} {line:?} at {columns}");
            assert_eq!(stumps(&seen, columns.into()), [""; 0], "{tool} {line:?} at {columns}");
        }
    }
}

/// The lines of prose that could hold the first word of the next one: texts that were broken by hand
/// and again for the terminal.
fn stumps(text: &str, columns: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
    let is_stump = |pair: &&[&str]| {
        let word = pair[1].split(' ').next().unwrap_or_default();
        is_prose(pair[0])
            && is_prose(pair[1])
            && pair[0].chars().count() + 1 + word.chars().count() <= columns
    };
    lines.windows(2).filter(is_stump).map(|pair| pair[0]).collect()
}
