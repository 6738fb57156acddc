//! The files that `make install` installs beside the programs: licences, an example configuration,
//! and the translations of polkit's messages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmlockd::config::ConfigFile;

use crate::sources::{files, root};

/// Runs the project's `make` with the programs of this build.
fn make(target: &str, into: &Path, shells: &Path) {
    let built = Path::new(env!("CARGO_BIN_EXE_vmlockd")).parent().unwrap();
    let mut command = Command::new("make");
    command.current_dir(root()).args(["--no-print-directory", target, "PREFIX=/usr"]);
    command.arg(format!("DESTDIR={}", into.display()));
    command.arg(format!("built={}", built.display()));
    command.arg(format!("shells={}", shells.display()));
    // The make that runs this test has variables of its own.
    let output = command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The files below a directory, by their paths from there.
fn installed(below: &Path) -> BTreeSet<String> {
    let relative = |path: PathBuf| path.strip_prefix(below).unwrap().display().to_string();
    files(below, &[""]).into_iter().map(relative).collect()
}

#[test]
fn uninstall_removes_all_that_install_has_installed() {
    let dir = tempfile::tempdir().unwrap();
    let (into, shells) = (dir.path().join("into"), dir.path().join("shells"));
    fs::create_dir(&into).unwrap();
    make("completions", &into, &shells);
    make("install", &into, &shells);
    let installed_files = installed(&into);
    for file in [
        "usr/sbin/vmlockd",
        "usr/bin/vmlockctl",
        "usr/lib/systemd/system/vmlockd.service",
        "usr/share/doc/vmlockd/README.md",
        "usr/share/doc/vmlockd/CHANGELOG.md",
        "usr/share/doc/vmlockd/LICENSE-MIT",
        "usr/share/doc/vmlockd/LICENSE-APACHE",
        "usr/share/doc/vmlockd/vmlockd.toml.example",
        "usr/share/doc/vmlockd/examples/README.md",
        "usr/share/doc/vmlockd/examples/python/lock-disks.py",
        "usr/share/doc/vmlockd/examples/c/lock-disks.c",
        "usr/share/doc/vmlockd/examples/c/Makefile",
        "usr/share/doc/vmlockd/examples/javascript/lock-disks.js",
        "usr/share/doc/vmlockd/vmlockd.rules.example",
        "usr/share/locale/de/LC_MESSAGES/vmlockd.mo",
        "usr/share/polkit-1/actions/org.vmlockd1.policy",
    ] {
        assert!(installed_files.contains(file), "{file} is not installed: {installed_files:#?}");
    }
    make("uninstall", &into, &shells);
    assert_eq!(installed(&into), BTreeSet::new());
    assert!(!into.join("usr/share/doc/vmlockd").exists());
}

/// The example as an administrator gets it who removes each `#` before a key.
fn example() -> String {
    let text = fs::read_to_string(root().join("vmlockd.toml.example")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    let set: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with(' ')).collect();
    set.join("\n")
}

#[test]
fn the_example_configuration_has_every_key_with_its_default() {
    let dir = tempfile::tempdir().unwrap();
    let source = ConfigFile { path: dir.path().join("vmlockd.toml"), required: true };
    fs::write(&source.path, example()).unwrap();
    let told = source.load_unopened().unwrap();
    // As it is shipped, it says nothing.
    fs::copy(root().join("vmlockd.toml.example"), &source.path).unwrap();
    let default = source.load_unopened().unwrap();
    assert_eq!(format!("{:?}", told.settings.limits), format!("{:?}", default.settings.limits));
    assert_eq!(told.log_level, default.log_level);
    assert_eq!(told.settings.verify_interval, default.settings.verify_interval);
    assert_eq!(told.settings.release_grace, default.settings.release_grace);
    assert_eq!(told.settings.visibility, default.settings.visibility);
    assert_eq!(told.settings.only_record_disks, default.settings.only_record_disks);
    assert_eq!(told.settings.require_lease_for_disks, default.settings.require_lease_for_disks);
    assert_eq!(told.settings.allow_fuse, default.settings.allow_fuse);

    // The man page names every key, as "known are" does.
    let page = fs::read_to_string(root().join("man/vmlockd.toml.5")).unwrap();
    for key in page.lines().filter_map(|line| line.strip_prefix(".BR ")?.split(" \"").next()) {
        if key.contains('_') && !key.contains([' ', '.', ',', ';']) {
            assert!(example().contains(&format!("{key} = ")), "{key} is not in the example");
        }
    }
}

/// The texts of polkit's actions that users read.
fn messages() -> Vec<String> {
    let policy = fs::read_to_string(root().join("polkit/org.vmlockd1.policy")).unwrap();
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&policy, options).unwrap();
    let texts = document.descendants().filter(|node| {
        let translated = node.has_tag_name("description") || node.has_tag_name("message");
        assert!(!translated || node.attribute("gettext-domain") == Some("vmlockd"), "{node:?}");
        translated
    });
    texts.map(|node| node.text().unwrap().to_owned()).collect()
}

/// The texts of a file of gettext's, each with its translation.
fn translations(file: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("po").join(file)).unwrap();
    let joined = |part: &str| -> String {
        let quoted =
            part.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'));
        quoted.collect()
    };
    let entries = text.split("\nmsgid ").skip(1);
    let pairs = entries.map(|entry| entry.split_once("msgstr ").unwrap());
    pairs.map(|(text, translated)| (joined(text), joined(translated))).collect()
}

/// The details that polkit puts into a text: `$(name)`.
fn details(text: &str) -> BTreeSet<&str> {
    text.split("$(").skip(1).map(|rest| rest.split(')').next().unwrap()).collect()
}

#[test]
fn polkits_messages_are_translated() {
    let template: Vec<String> = translations("vmlockd.pot").into_iter().map(|(id, _)| id).collect();
    assert_eq!(template[1..], messages(), "run make pot");
    let languages = fs::read_to_string(root().join("po/LINGUAS")).unwrap();
    let languages: Vec<_> = languages.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(!languages.is_empty());
    for language in languages {
        let all = translations(&format!("{language}.po"));
        let texts: Vec<&String> = all.iter().map(|(text, _)| text).collect();
        assert_eq!(texts[1..], messages().iter().collect::<Vec<_>>(), "{language}: run make pot");
        for (text, translated) in &all[1..] {
            assert!(!translated.is_empty(), "{language}: {text}");
            assert_eq!(details(translated), details(text), "{language}: {text}");
        }
    }
}
