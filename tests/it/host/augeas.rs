//! The lines of vmlockd.toml(5) by which scripts change the configuration, as they stand.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use crate::fixture::{program, run};
use crate::nspawn::skip;

/// Where the page has the file, and a directory.
const FILE: &str = "/etc/vmlockd/vmlockd.toml";
const DIRECTORY: &str = "/srv/locks/disks";

/// Returns the text between `.EX` and `.EE`, block by block.
fn typed() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/vmlockd.toml.5");
    let page = fs::read_to_string(page).unwrap();
    let plain = |block: &str| {
        let text = block.split("\n.EE").next().unwrap_or_default();
        text.replace("\\-", "-").replace("\\(aq", "'")
    };
    page.split("\n.EX\n").skip(1).map(plain).collect()
}

/// A configuration, and a place for lock files.
struct Scenario {
    dir: TempDir,
    file: PathBuf,
}

impl Scenario {
    fn set_up() -> Option<Scenario> {
        if std::process::Command::new("augtool").arg("--version").output().is_err() {
            return skip("augtool is not installed here");
        }
        let dir = tempfile::tempdir().unwrap();
        let locks = dir.path().join("locks");
        fs::create_dir(&locks).unwrap();
        fs::set_permissions(&locks, Permissions::from_mode(0o700)).unwrap();
        let file = dir.path().join("vmlockd.toml");
        Some(Scenario { dir, file })
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    fn locks(&self) -> String {
        self.dir.path().join("locks").display().to_string()
    }

    /// Runs lines of the page on this file, and has the service check what came of it.
    async fn run(&self, lines: &str) {
        let file = self.file.to_str().unwrap();
        let lines = lines.replace(FILE, file).replace(DIRECTORY, &self.locks());
        let mut shell = Command::new("sh");
        shell.args(["-euxc", &format!("F={file}\n{lines}")]);
        run(shell).await.ok();
        let mut check = Command::new(program("vmlockd"));
        check.arg("--check-config").arg(&self.file);
        run(check).await.ok();
    }
}

#[tokio::test]
async fn the_man_pages_lines_change_the_file() {
    let Some(scenario) = Scenario::set_up() else { return };
    let [change, add] = typed().try_into().expect("the page has two blocks");
    let before = "# Ours.\nlog_level = \"info\"\n\n[limits]\n# Many.\nlocks_per_user = 400\n";
    scenario.write(before);
    scenario.run(&change).await;
    let changed = before.replace("info", "notice");
    assert_eq!(scenario.text(), changed);
    scenario.run(&add).await;
    let key = format!("file_lockspace_dir = \"{}\"\n", scenario.locks());
    assert_eq!(scenario.text(), changed.replace("log_level", &format!("{key}log_level")));
}

#[tokio::test]
async fn the_man_pages_lines_write_a_file() {
    let Some(scenario) = Scenario::set_up() else { return };
    let [_, add] = typed().try_into().expect("the page has two blocks");
    let lines: Vec<&str> = add.lines().filter(|line| !line.starts_with("ins ")).collect();
    let key = format!("file_lockspace_dir = \"{}\"\n", scenario.locks());
    for before in [None, Some("# Nothing yet.\n")] {
        if let Some(before) = before {
            scenario.write(before);
        }
        scenario.run(&lines.join("\n")).await;
        assert_eq!(scenario.text(), format!("{}{key}", before.unwrap_or_default()));
    }
}
