//! The requests to polkit, and the effects of its answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use vmlockd::auth::action::Action;
use zbus::{Connection, Fd};

use super::{DENIED, INTERACTIVE, question, read_write, with_mock};
use crate::dbus_client::{Refused, TestVm, exclusive, lock, manager, option, owner, shared};
use crate::fixture::user::{DAEMON, NOBODY, ROOT};
use crate::fixture::{Answer, Call, Fixture, Mock, polkit, within};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const UUID: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
const ROOTS: &str = "11111111-2222-4333-8444-555555555555";

/// The details of a request in addition to the action.
type Details = BTreeMap<String, String>;

fn details(pairs: &[(&str, &str)]) -> Details {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The questions that were asked since this many had been.
fn since(mock: &Mock, before: usize) -> Vec<(String, Details)> {
    let new = mock.seen().into_iter().skip(before);
    new.map(|call| (call.action, call.details.into_iter().collect())).collect()
}

/// A disk of root's, one of the user's, and what is said of them.
struct Stage {
    fixture: Fixture,
    user: Connection,
    roots: TestVm,
    held: zbus::OwnedObjectPath,
    disk: PathBuf,
    link: PathBuf,
    mine: PathBuf,
}

impl Stage {
    async fn set() -> Self {
        let fixture = with_mock().await;
        fixture.polkit().mock().answer(Answer::Allow);
        let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
        let disk = fixture.raw_of(ROOT, "disk");
        let roots = TestVm::open_with(&root, ROOTS, "roots", none()).await.unwrap();
        let held =
            roots.acquire(&[exclusive(&fixture.raw_of(ROOT, "held"))]).await.unwrap().remove(0);
        let (link, mine) = (fixture.dir().join("link"), fixture.raw_of(NOBODY, "mine"));
        symlink(&disk, &link).unwrap();
        Self { fixture, user, roots, held, disk, link, mine }
    }

    fn mock(&self) -> &Mock {
        self.fixture.polkit().mock()
    }
}

#[tokio::test]
async fn each_polkit_request_carries_its_details() {
    let stage = Stage::set().await;
    let Stage { fixture, user, roots, held, disk, link, mine } = &stage;
    let mock = stage.mock();
    let manager = manager(user).await;
    let (disk_name, link_name) = (disk.to_str().unwrap(), link.to_str().unwrap());
    let (vm, uuid) = (("vm", "web1"), ("uuid", UUID));
    let about = |name, mode| details(&[vm, uuid, ("resource", name), ("mode", mode)]);
    let (machine, roots_machine) =
        (details(&[vm, uuid]), details(&[("vm", "roots"), ("uuid", ROOTS)]));
    let mut so_far = 0;
    let mut asked = |what: &str, expected: &[(&str, &Details)]| {
        let questions = since(mock, so_far);
        so_far += questions.len();
        let expected: Vec<_> = expected
            .iter()
            .map(|(action, details)| (format!("org.vmlockd1.{action}"), (*details).clone()))
            .collect();
        assert_eq!(questions, expected, "{what}");
    };

    let web1 = TestVm::open_with(user, UUID, "web1", none()).await.unwrap();
    asked("opening", &[("open-owner", &machine)]);
    let locks = web1.acquire(&[shared(disk)]).await.unwrap();
    asked("a name", &[("acquire-by-name", &about(disk_name, "shared"))]);
    let its = lock(user, &locks[0]).await;
    its.convert("exclusive", none()).await.unwrap();
    asked("strengthening", &[("acquire-by-name", &about(disk_name, "exclusive"))]);
    its.convert("shared", none()).await.unwrap();
    its.convert("exclusive", option("file", Fd::from(&read_write(disk)))).await.unwrap();
    asked("a proof", &[("acquire-by-descriptor", &about(disk_name, "exclusive"))]);
    web1.release(&locks).await.unwrap();
    asked("releasing one's own", &[]);
    web1.acquire(&[shared(link)]).await.unwrap_err();
    asked("a link", &[("acquire-by-name", &about(link_name, "shared"))]);
    web1.acquire_files(&[(&read_write(mine), "exclusive")]).await.unwrap();
    let my_name = mine.to_str().unwrap();
    asked("a descriptor", &[("acquire-by-descriptor", &about(my_name, "exclusive"))]);
    web1.acquire_files(&[(&File::open(disk).unwrap(), "shared")]).await.unwrap();
    asked("one that shows less", &[("acquire-by-name", &about(disk_name, "shared"))]);
    web1.owner.bind_pid(std::process::id(), none()).await.unwrap();
    asked("a process", &[("register-process", &machine)]);
    web1.owner.close(none()).await.unwrap();
    asked("closing one's own", &[]);
    manager.register_owner(UUID, "web1", std::process::id(), none()).await.unwrap();
    asked("registering", &[("register-process", &machine)]);

    let theirs = owner(user, roots.path()).await;
    theirs.new_lifeline(none()).await.unwrap();
    asked("another's owner", &[("manage-foreign", &roots_machine)]);
    let mut breaking = roots_machine;
    breaking.extend(details(&[
        ("resource", fixture.dir().join("held").to_str().unwrap()),
        ("mode", "exclusive"),
        ("holder", "roots of uid 0"),
    ]));
    theirs.close(none()).await.unwrap_err();
    asked("closing another's", &[("release-foreign", &breaking)]);
    lock(user, held).await.release(option("force", true)).await.unwrap();
    asked("another's lock", &[("release-foreign", &breaking)]);
    manager.resolve(disk_name, none()).await.unwrap();
    manager.find_holders(disk_name, none()).await.unwrap();
    let name = details(&[("resource", disk_name)]);
    asked("looking up", &[("acquire-by-name", &name), ("acquire-by-name", &name)]);
    let leases = fixture.dir().join("leases").display().to_string();
    let lease = format!("lease:{leases}/web");
    manager.create_lockspace(&leases, none()).await.unwrap();
    asked("a lockspace", &[("manage-lockspaces", &details(&[("resource", &leases)]))]);
    manager.create_lease(&lease, none()).await.unwrap();
    manager.remove_lease(&lease, none()).await.unwrap();
    let deed = ("manage-lockspaces", &details(&[("resource", &lease)]));
    asked("a lease", &[deed, deed]);
    manager.remove_lockspace(&leases, none()).await.unwrap();
    asked("no lockspace", &[("manage-lockspaces", &details(&[("resource", &leases)]))]);
    manager.reload(none()).await.unwrap();
    asked("reloading", &[("reload", &Details::new())]);
    fixture.configure("privacy = \"private\"\n");
    manager.reload(none()).await.unwrap();
    // Asked beside calls, about each connection that is there.
    within("what may be seen is asked", async {
        while !mock.seen().iter().any(|call| call.action == Action::ViewForeign.id()) {
            manager.n_locks().await.unwrap();
        }
    })
    .await;

    let me = user.unique_name().unwrap().as_str();
    for question in mock.seen() {
        assert_eq!(question.subject_kind, "system-bus-name", "{question:?}");
        assert_eq!(question.subject_name().as_deref(), Some(me), "{question:?}");
        assert!(!question.interactive() && !question.cancellation_id.is_empty(), "{question:?}");
    }
    let ids: BTreeSet<_> = mock.seen().into_iter().map(|call| call.cancellation_id).collect();
    assert_eq!(ids.len(), mock.seen().len());
    the_texts_fit(&mock.seen());
}

/// The dialogs' texts use only details that come with every question about their action.
fn the_texts_fit(questions: &[Call]) {
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/polkit/org.vmlockd1.policy");
    let policy = std::fs::read_to_string(policy).unwrap();
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let policy = roxmltree::Document::parse_with_options(&policy, options).unwrap();
    let mut actions = BTreeSet::new();
    for action in policy.descendants().filter(|node| node.has_tag_name("action")) {
        let id = action.attribute("id").unwrap();
        let message = action.children().find(|node| node.has_tag_name("message")).unwrap();
        let uses = message.text().unwrap().split("$(").skip(1);
        let uses: Vec<_> = uses.map(|rest| rest.split_once(')').unwrap().0).collect();
        let about: Vec<_> = questions.iter().filter(|question| question.action == id).collect();
        assert!(!about.is_empty(), "no question about {id}");
        for question in about {
            assert!(uses.iter().all(|key| question.details.contains_key(*key)), "{question:?}");
        }
        actions.insert(id);
    }
    assert_eq!(actions, Action::ALL.into_iter().map(Action::id).collect());
}

#[tokio::test]
async fn only_an_explicit_authorization_counts() {
    let stage = Stage::set().await;
    let Stage { fixture, user, disk, mine, held, .. } = &stage;
    let mock = stage.mock();
    let machine = TestVm::open(user, "web1").await;
    let manager = manager(user).await;
    let file = read_write(mine);
    let before = Untouched::so_far(fixture).await;
    for (answer, error, words) in [
        (Answer::Deny, DENIED, "polkit refused"),
        (Answer::Challenge, INTERACTIVE, "needs interactive authorization"),
        (Answer::Dismissed, DENIED, "polkit refused"),
        (Answer::Error, DENIED, "cannot query polkit"),
        (Answer::Vanish, DENIED, "cannot query polkit"),
    ] {
        for deed in 0..5 {
            mock.answer(answer);
            let outcome: Result<(), Refused> = match deed {
                0 => TestVm::open_with(user, "", "web2", none()).await.map(drop),
                1 => machine.acquire(&[exclusive(disk)]).await.map(drop),
                2 => machine.acquire_files(&[(&file, "exclusive")]).await.map(drop),
                3 => lock(user, held).await.release(none()).await.map_err(Refused::from),
                _ => manager.reload(none()).await.map_err(Refused::from),
            };
            println!("{answer:?} to deed {deed}");
            assert_refused(&outcome.unwrap_err(), error, words);
            if answer == Answer::Vanish {
                // Without it, the call is refused too.
                let refused = manager.reload(none()).await.unwrap_err().into();
                assert_refused(&refused, DENIED, "polkit is not running");
                mock.vanish().await;
                mock.come_back().await;
            }
        }
        assert_free(disk);
        assert_free(mine);
        before.still(words).await;
    }
    mock.answer(Answer::Allow);
    machine.acquire(&[exclusive(disk)]).await.unwrap();
}

#[tokio::test]
async fn the_flag_for_dialogs_is_passed_on_as_it_comes() {
    let stage = Stage::set().await;
    let (mock, manager) = (stage.mock(), manager(&stage.user).await);
    for interactive in [false, true, false] {
        let arguments = (none(),);
        let answer = vmlockd::client::call(manager.inner(), "Reload", &arguments, interactive);
        let () = answer.await.unwrap();
        assert_eq!(mock.seen().last().unwrap().interactive(), interactive);
    }
    mock.answer(Answer::Challenge);
    let answer: zbus::Result<()> =
        vmlockd::client::call(manager.inner(), "Reload", &(none(),), true).await;
    assert_refused(
        &answer.unwrap_err().into(),
        DENIED,
        "no authentication agent asked for a password",
    );
}

#[tokio::test]
async fn the_number_of_polkit_requests_per_user_is_limited() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock);
    let fixture = fixture.config("[limits]\nchecks_per_user = 2\nchecks_total = 3").start().await;
    let mock = fixture.polkit().mock();
    mock.answer(Answer::Hang);
    let managers =
        [NOBODY, DAEMON].map(async |uid| manager(&fixture.connection_as(uid).await).await);
    let [user, daemon] = managers;
    let (user, daemon) = (user.await, daemon.await);
    let before = Untouched::so_far(&fixture).await;
    let meanwhile = async {
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(mock.next_call().await);
        }
        let refused = user.reload(none()).await.unwrap_err().into();
        let words =
            format!("too many authorization checks at one time: the limit is 2 for uid {NOBODY}");
        assert_refused(&refused, "DBus.Error.LimitsExceeded", &words);
        let refused = daemon.reload(none()).await.unwrap_err().into();
        let words = "too many authorization checks: the limit is 3 at one time";
        assert_refused(&refused, "DBus.Error.LimitsExceeded", words);
        // Callers without a check continue, and so do reading calls.
        let roots = manager(&fixture.connection().await).await;
        roots.reload(none()).await.unwrap();
        assert_eq!(user.list_locks(none()).await.unwrap(), []);
        assert_eq!(mock.seen().len(), 3);
        mock.answer(Answer::Deny);
        assert!(open.iter().all(|call| mock.release(call, Answer::Deny)));
    };
    let all = async {
        tokio::join!(user.reload(none()), user.reload(none()), daemon.reload(none()), meanwhile)
    };
    let (one, two, three, ()) = within("all answers", all).await;
    for refused in [one, two, three] {
        assert_refused(&refused.unwrap_err().into(), DENIED, "polkit refused");
    }
    // Their places are free again.
    mock.answer(Answer::Allow);
    user.reload(none()).await.unwrap();
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn an_owner_that_ends_during_a_polkit_check_gets_nothing() {
    let stage = Stage::set().await;
    let Stage { fixture, user, disk, mine, .. } = &stage;
    let mock = stage.mock();
    let roots = manager(&fixture.connection().await).await;
    let file = read_write(mine);
    for deed in ["a name", "a descriptor", "a process", "a conversion"] {
        mock.answer(Answer::Allow);
        let machine = TestVm::open(user, "web1").await;
        let held = fixture.raw_of(ROOT, &format!("held for {deed}"));
        let locks = machine.acquire(&[shared(&held)]).await.unwrap();
        let TestVm { owner, lifeline } = machine;
        let its = lock(user, &locks[0]).await;
        let asked = mock.seen().len();
        mock.answer(Answer::Hang);
        let meanwhile = async {
            let question = question(mock, asked).await;
            drop(lifeline);
            let gone = async { while roots.n_owners().await.unwrap() > 1 {} };
            within("the end of the owner", gone).await;
            assert!(mock.release(&question, Answer::Allow));
        };
        let files = [(Fd::from(&file), "exclusive")];
        let act = async {
            match deed {
                "a name" => owner.acquire(&[exclusive(disk)], none()).await.map(drop),
                "a descriptor" => owner.acquire_with_files(&[], &files, none()).await.map(drop),
                "a process" => owner.bind_pid(std::process::id(), none()).await,
                _ => its.convert("exclusive", none()).await,
            }
        };
        let (outcome, ()) = within(deed, async { tokio::join!(act, meanwhile) }).await;
        let refused = Refused::from(outcome.unwrap_err());
        let error = if deed == "a conversion" { "NoSuchLock" } else { "NoSuchOwner" };
        assert_refused(&refused, error, "does not exist");
        for disk in [disk, mine, &held] {
            assert_free(disk);
        }
        assert_eq!(roots.n_locks().await.unwrap(), 1);
    }
    stage.roots.owner.close(none()).await.unwrap();
}
