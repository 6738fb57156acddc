//! Asks virtlockd and us what is in the rows.

use std::any::Any;
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::fixture::Fixture;
use crate::fixture::rpc::{Owner, Rpc};
use crate::refused_requests::Untouched;

use super::case::{Case, are};
use super::environment::Environment;

/// A fixture with a socket as virtlockd has it.
pub(super) async fn fixture() -> Fixture {
    fixture_with("").await
}

/// Starts the fixture with further lines of configuration.
pub(super) async fn fixture_with(lines: &str) -> Fixture {
    let config = format!("virtlockd_socket = \"@DIR@/virtlockd-sock\"\n{lines}");
    Fixture::builder().config(&config).start().await
}

/// Another client, which must be served regardless of the others.
struct OtherClient {
    rpc: Rpc,
    disk: String,
}

impl OtherClient {
    fn at(socket: &Path, dir: &Path) -> OtherClient {
        let disk = dir.join("bystander");
        fs::write(&disk, "").expect("the directory is ours");
        let mut rpc = Rpc::connect(socket).expect("the socket is open");
        // A process that lives until the end of the test.
        rpc.register(&Owner::new("bystander", 250, 1)).granted();
        let mut bystander = OtherClient { rpc, disk: disk.to_str().expect("UTF-8").to_owned() };
        bystander.is_served();
        bystander
    }

    fn is_served(&mut self) {
        self.rpc.ping().granted();
        self.rpc.acquire("", &self.disk, 0).granted();
        self.rpc.release("", &self.disk, 0).granted();
    }
}

/// Collects what is not as it is wanted.
#[derive(Default)]
struct Mismatches(Vec<String>);

impl Mismatches {
    /// Asks a row's question.
    fn unless_answered(&mut self, row: &Case, place: &Environment, wanted: &[&str]) {
        match catch_unwind(AssertUnwindSafe(|| (row.ask)(place))) {
            Ok(answers) if are(&answers, wanted, place) => {}
            Ok(answers) => self.note(row, &format!("wanted {wanted:?}\n    got    {answers:?}")),
            Err(panic) => self.note(row, &words(&*panic)),
        }
    }

    fn note(&mut self, row: &Case, what: &str) {
        self.0.push(format!("{}:\n    {what}", row.what));
    }

    #[track_caller]
    fn none(self, of: usize) {
        assert!(of > 0, "there are rows");
        assert!(self.0.is_empty(), "{} of {of} rows:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Returns the message of a panic.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Checks the answers of virtlockd.
pub(super) fn they_answer(rows: &[Case]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Some(virtlockd) = super::virtlockd(&dir.path().join("virtlockd")) else { return };
    let mut bystander = OtherClient::at(virtlockd.socket(), dir.path());
    let mut wrong = Mismatches::default();
    for (number, row) in rows.iter().enumerate() {
        // It has long memories of names.
        let dir = dir.path().join(number.to_string());
        let place = Environment::new(&dir, virtlockd.socket(), virtlockd.folder());
        wrong.unless_answered(row, &place, &row.theirs);
        bystander.is_served();
    }
    assert!(virtlockd.process().lives(), "virtlockd has ended");
    wrong.none(rows.len());
}

/// Checks the answers of the service, and that no state remains.
pub(super) async fn we_answer(rows: &[Case]) {
    // virtlockd reserves nothing for the VM that releases a lock.
    let fixture = fixture_with("release_grace = 0\n").await;
    let socket = fixture.dir().join("virtlockd-sock");
    let folder = env::current_dir().expect("it is there");
    let places = fixture.dir().join("places");
    fs::create_dir(&places).expect("the directory is ours");
    let mut bystander = OtherClient::at(&socket, fixture.dir());
    let (before, threads) = (Untouched::so_far(&fixture).await, threads(&fixture));
    let mut wrong = Mismatches::default();
    for (number, row) in rows.iter().enumerate() {
        let mut place = Environment::new(&places.join(number.to_string()), &socket, &folder);
        wrong.unless_answered(row, &place, &row.ours);
        bystander.is_served();
        place.end_machines();
        let difference = place.difference();
        if !difference.is_empty() {
            wrong.note(row, &format!("not as it was: {difference:?}"));
        }
        drop(place);
        if let Err(left) = before.again(&places).await {
            wrong.note(row, &left);
            break;
        }
    }
    let now = self::threads(&fixture);
    assert!(now <= threads + 8, "{threads} threads have become {now}");
    wrong.none(rows.len());
}

/// How many threads the service has.
pub(super) fn threads(fixture: &Fixture) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", fixture.daemon().pid()));
    tasks.expect("the service runs").count()
}
