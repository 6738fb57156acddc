//! Asks virtlockd and us what is in the rows.

use std::env;
use std::fs;
use std::path::Path;

use crate::house::House;
use crate::house::rpc::{Owner, Rpc};
use crate::untouched::Untouched;

use super::place::Place;
use super::row::{Row, are};

/// A house with a socket as virtlockd has it.
pub(super) async fn house() -> House {
    House::builder().config("virtlockd_socket = \"@DIR@/virtlockd-sock\"\n").start().await
}

/// Somebody else, who is served whatever the others do.
struct Bystander {
    rpc: Rpc,
    disk: String,
}

impl Bystander {
    fn at(socket: &Path, dir: &Path) -> Bystander {
        let disk = dir.join("bystander");
        fs::write(&disk, "").expect("the directory is ours");
        let mut rpc = Rpc::connect(socket).expect("the socket is open");
        // A process that nobody ends while the test runs.
        rpc.register(&Owner::new("bystander", 250, 1)).granted();
        let mut bystander = Bystander { rpc, disk: disk.to_str().expect("UTF-8").to_owned() };
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
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, fine: bool, row: &Row, wanted: &[&str], answers: &[String]) {
        if !fine {
            self.0.push(format!("{}:\n    wanted {wanted:?}\n    got    {answers:?}", row.what));
        }
    }

    #[track_caller]
    fn none(self, of: usize) {
        assert!(of > 0, "there are rows");
        assert!(self.0.is_empty(), "{} of {of} rows:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// What the rows say of virtlockd is true.
pub(super) fn they_answer(rows: &[Row]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Some(virtlockd) = super::virtlockd(&dir.path().join("virtlockd")) else { return };
    let mut bystander = Bystander::at(virtlockd.socket(), dir.path());
    let mut wrong = Wrong::default();
    for (number, row) in rows.iter().enumerate() {
        // It has long memories of names.
        let dir = dir.path().join(number.to_string());
        let place = Place::new(&dir, virtlockd.socket(), virtlockd.folder());
        let answers = (row.ask)(&place);
        wrong.unless(are(&answers, &row.theirs, &place), row, &row.theirs, &answers);
        bystander.is_served();
    }
    assert!(virtlockd.process().lives(), "virtlockd has ended");
    wrong.none(rows.len());
}

/// What the rows say of us is true; and whatever was asked, nothing is left of it.
pub(super) async fn we_answer(rows: &[Row]) {
    let house = house().await;
    let socket = house.dir().join("virtlockd-sock");
    let folder = env::current_dir().expect("it is there");
    let mut bystander = Bystander::at(&socket, house.dir());
    let (before, threads) = (Untouched::so_far(&house).await, threads(&house));
    let mut wrong = Wrong::default();
    for row in rows {
        let mut place = Place::new(&house.dir().join("place"), &socket, &folder);
        let answers = (row.ask)(&place);
        wrong.unless(are(&answers, &row.ours, &place), row, &row.ours, &answers);
        bystander.is_served();
        place.end_machines();
        let difference = place.difference();
        if !difference.is_empty() {
            wrong.0.push(format!("{}: not as it was: {difference:?}", row.what));
        }
        drop(place);
        before.again(&row.what).await;
    }
    let now = self::threads(&house);
    assert!(now <= threads + 8, "{threads} threads have become {now}");
    wrong.none(rows.len());
}

/// How many threads the service has.
pub(super) fn threads(house: &House) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", house.daemon().pid()));
    tasks.expect("the service runs").count()
}
