//! Results of `doctor` for one file system, by the lock handling of the mount.

use serde_json::Value;

use super::pair::shared_with;
use crate::fixture::{Fixture, ForeignHolder, LockType, SharedFileSystem, program, run};

/// Returns the result of `doctor` on the first host: its word, its sentence, and the exit code.
async fn result_of(fixture: &Fixture, shared: &SharedFileSystem) -> (String, String, i32) {
    let inside = shared.hosts()[0].inside();
    let mut command = fixture.command(&inside[0]);
    command.args(&inside[1..]).arg(program("vmlockctl"));
    command.args(["--json", "doctor"]).arg(shared.path());
    let ran = run(command).await;
    let remarks: Vec<Value> =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"));
    let remark = remarks.iter().find(|remark| remark["check"] == "result").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let word = text(&remark["about"]["result"]);
    (word, text(&remark["message"]), ran.status.code().unwrap())
}

/// Returns whether both hosts can lock one file exclusively at the same time.
fn both_lock(shared: &SharedFileSystem) -> bool {
    let disk = shared.disk("disk.img");
    let [a, b] = shared.hosts();
    let held = ForeignHolder::hold(a.at(&disk), LockType::Ofd, true).unwrap();
    let both = ForeignHolder::try_once(b.at(&disk), LockType::Ofd, true).is_ok();
    drop(held);
    both
}

/// No option of the mount shows `mfsnoposixlocks`; only the kernel's behaviour does.
#[tokio::test]
async fn a_mount_that_keeps_its_locks_is_not_called_shared() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let Some(shared) = shared_with(&["-o", "mfsnoposixlocks"]).await else { return };
    let (word, sentence, code) = result_of(&fixture, &shared).await;
    assert!(both_lock(&shared));
    assert_eq!((word.as_str(), code), ("not-shared", 78), "{sentence}");
    assert!(sentence.contains("the kernel does not pass locks to that process"), "{sentence}");
}

#[tokio::test]
async fn a_mount_that_passes_its_locks_on_is_called_shared() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let Some(shared) = shared_with(&[]).await else { return };
    let (word, sentence, code) = result_of(&fixture, &shared).await;
    assert!(!both_lock(&shared));
    assert_eq!((word.as_str(), code), ("shared", 0), "{sentence}");
}

/// A server of a type that is not known gets no promise, whatever it does.
#[tokio::test]
async fn a_mount_of_a_type_that_is_not_known_is_unknown() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let Some(shared) = shared_with(&["-o", "subtype=other"]).await else { return };
    let (word, sentence, code) = result_of(&fixture, &shared).await;
    assert_eq!((word.as_str(), code), ("unknown", 78), "{sentence}");
    assert!(
        sentence.contains("it is unknown whether they are enforced on other hosts"),
        "{sentence}"
    );
}
