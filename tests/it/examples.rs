//! The examples of org.vmlockd1(5), line for line.

use std::fs;
use std::path::PathBuf;

use crate::fixture::{Broker, Fixture};

/// The lines of the page that are typed: between `.EX` and `.EE`, after a prompt of the shell.
fn typed() -> Vec<String> {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man/org.vmlockd1.5");
    let page = fs::read_to_string(page).unwrap();
    let mut inside = false;
    let mut lines = Vec::new();
    for line in page.lines() {
        match line {
            ".EX" => inside = true,
            ".EE" => inside = false,
            _ => {}
        }
        // The last one is that of a here-document, in which lines can be empty.
        let mut prompts = ["# ", "$ ", "> "].into_iter();
        let typed = prompts.find_map(|prompt| line.strip_prefix(prompt));
        let command = typed.or((line == ">").then_some(""));
        if let Some(command) = command.filter(|_| inside) {
            lines.push(command.replace("\\-", "-").replace("\\(aq", "'"));
        }
    }
    lines
}

#[tokio::test]
async fn the_man_pages_lines_work_as_they_stand() {
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        let fixture = Fixture::builder().broker(broker).start().await;
        let (image, base) = (fixture.image("web1.qcow2").await, fixture.image("base.qcow2").await);
        let lines: Vec<String> = typed()
            .into_iter()
            .map(|line| match line.split_once('=') {
                // The page's own paths are a real host's.
                Some(("IMAGE", _)) => format!("IMAGE={}", image.display()),
                Some(("BASE", _)) => format!("BASE={}", base.display()),
                Some(("LOCKSPACE", _)) => format!("LOCKSPACE={}/leases", fixture.dir().display()),
                Some(("SOCKET", _)) => format!("SOCKET={}/run/private", fixture.dir().display()),
                _ => line,
            })
            .collect();
        for word in [
            "RegisterOwner",
            "OpenOwner",
            "AcquireWithFiles",
            "Acquire",
            "FindHolders",
            "Release",
            "ListWaiting",
            "Suspend",
            "Resume",
            "Offer",
            "Adopt",
            "CreateLockspace",
            "CreateLease",
            "RemoveLease",
            "gdbus call",
            "gdbus monitor",
            "busctl",
        ] {
            assert!(lines.iter().any(|line| line.contains(word)), "no example has {word}");
        }
        // A process that a failed line leaves behind would keep the output open.
        let end = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n";
        let script = end.to_owned() + &lines.join("\n");
        let ran = fixture.run("bash", &["-e", "-x", "-c", &script]).await;
        assert!(ran.status.success(), "{}\n{}", ran.stdout, ran.stderr);
    }
}
