use super::*;
use crate::lock::model::holder_entry::Entry;
use uuid::Uuid;

struct TestWords;

impl Words for TestWords {
    fn user(&self, uid: u32) -> String {
        format!("u{uid}")
    }

    fn since(&self, micros: u64) -> String {
        format!("since {micros}")
    }
}

fn process(pid: u32, name: &str) -> Process {
    let machine = Some(Machine { name: name.to_owned(), uuid: None });
    Process { pid, program: "qemu-system-x86".to_owned(), uid: 7, machine, mode: None }
}

fn recorded(host: &str, lock: u64) -> Recorded {
    let (user, path) = ("bob".to_owned(), "/srv/a".to_owned());
    let why = if lock == 1 { "nightly \"backup\"".to_owned() } else { String::new() };
    let (name, uuid) = (format!("web{lock}"), Uuid::from_u128(1));
    let entry = Entry { lock, name, uuid, pid: 5, user, mode: Mode::Shared, since: 9, path, why };
    Recorded { host_id: host.to_owned(), host: host.to_owned(), entry }
}

fn foreign() -> ForeignHolder {
    ForeignHolder {
        resource: "/srv/a".to_owned(),
        lock_file: None,
        mode: Mode::Shared,
        by: ForeignLock::Byte,
        processes: Processes::default(),
        recorded: Vec::new(),
        users: Processes::default(),
        naming: Naming::Done,
    }
}

#[test]
fn a_timed_out_search_is_reported() {
    let mut foreign = foreign();
    for (reported_pid, holder) in [
        (None, "another program or host, which could not be identified in time"),
        (Some(7), "another program (pid 7, not identified in time)"),
    ] {
        let search = Search { reported_pid, ..Search::default() };
        foreign.naming = Naming::Needed(Box::new(Unnamed { search, host_id: None }));
        foreign.name(None);
        assert_eq!(
            foreign.sentence(&TestWords),
            format!("disk /srv/a is locked in shared mode by {holder}")
        );
    }
}

#[test]
fn known_holders_are_named_and_others_counted() {
    let mut foreign = foreign();
    assert_eq!(
        foreign.sentence(&TestWords),
        "disk /srv/a is locked in shared mode by another program or host that the kernel does not name"
    );
    foreign.processes.named = vec![process(4, "")];
    foreign.users = Processes { named: vec![process(4711, "web1")], more: 0 };
    assert_eq!(
        foreign.sentence(&TestWords),
        "disk /srv/a is locked in shared mode by another program (qemu-system-x86, pid 4, user u7); \
         QEMU \"web1\" (pid 4711, user u7) has it open"
    );
    foreign.users = Processes { named: vec![process(1, "a"), process(2, "")], more: 3 };
    foreign.processes = Processes { named: vec![process(4, "b")], more: 2 };
    let text = foreign.sentence(&TestWords);
    let by = "in shared mode by QEMU \"b\" (pid 4, user u7), and 2 more; QEMU \"a\" (pid 1, user u7) and \
              qemu-system-x86 (pid 2, user u7) and 3 more have it open";
    assert!(text.ends_with(by), "{text}");
}

#[test]
fn recorded_holders_are_reported_as_a_hint() {
    let mut foreign = foreign();
    foreign.recorded = vec![recorded("two", 1)];
    foreign.lock_file = Some("/locks/f".to_owned());
    assert_eq!(
        foreign.sentence(&TestWords),
        "disk /srv/a is locked in shared mode by its last recorded holder, VM \"web1\" \
         (00000000-0000-0000-0000-000000000001, pid 5, user bob, why: \"nightly \\\"backup\\\"\") on host two since 9, \
         through lock file /locks/f"
    );
    foreign.recorded.extend((2..6).map(|lock| recorded("one", lock)));
    let text = foreign.to_string();
    assert!(text.contains("its last recorded holders, VM \"web1\""), "{text}");
    assert!(text.contains("user bob) on host one, and 2 more, through"), "{text}");
}
