use std::time::Duration;

use super::*;
use crate::admission::message::header::MessageKind;

const ROOT: u32 = 0;
const USER: u32 = 1000;
const OTHER: u32 = 1001;

/// A scheduler with a fake clock.
struct Fixture {
    scheduler: CallScheduler,
    limits: Limits,
    now: Instant,
    serial: u32,
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        Self { scheduler: CallScheduler::new(ROOT), limits, now: Instant::now(), serial: 0 }
    }

    /// Creates a scheduler with a connection of each user: `:root`, `:user`, `:other`.
    fn with_users(limits: Limits) -> Self {
        let mut fixture = Self::new(limits);
        for (name, uid) in [(":root", ROOT), (":user", USER), (":other", OTHER)] {
            assert_eq!(fixture.call(name).unwrap(), UserLookup::Needed);
            fixture.set_user(name, uid);
        }
        while fixture.dispatch().is_some() {}
        for (name, serial) in [(":root", 1), (":user", 2), (":other", 3)] {
            fixture.scheduler.complete(name, serial);
        }
        assert!(fixture.scheduler.is_idle());
        fixture.now += Duration::from_secs(2);
        fixture
    }

    fn set_user(&mut self, name: &str, uid: u32) -> Vec<RefusedCall> {
        self.scheduler.set_user(name, Ok(uid), &self.limits, self.now)
    }

    fn call(&mut self, sender: &str) -> Result<UserLookup, RefusedCall> {
        self.admit(sender, "Acquire", 100)
    }

    fn admit(
        &mut self,
        sender: &str,
        member: &str,
        size: usize,
    ) -> Result<UserLookup, RefusedCall> {
        self.serial += 1;
        let header = Header {
            kind: MessageKind::Call,
            no_reply: false,
            serial: self.serial,
            reply_serial: None,
            destination: None,
            sender: Some(sender),
            member: Some(member),
            descriptors: 0,
        };
        let raw = || RawMessage { bytes: vec![0; size], descriptors: Vec::new() };
        self.scheduler.admit(sender, &header, size, raw, &self.limits, self.now)
    }

    fn dispatch(&mut self) -> Option<(String, u32)> {
        self.scheduler.next_call(true).map(|call| (call.sender.to_string(), call.serial))
    }

    /// Dispatches all calls. Returns their senders.
    fn dispatch_all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.dispatch()).map(|(sender, _)| sender).collect()
    }
}

/// Returns the limit for which a call was refused, and to which user the limit applies.
fn limit<T: std::fmt::Debug>(refused: Result<T, RefusedCall>) -> String {
    refused.unwrap_err().reason.to_string()
}

#[test]
fn calls_in_flight_are_bounded_until_they_are_answered() {
    let mut fixture = Fixture::with_users(Limits { calls_per_user: 2, ..Limits::default() });
    let words = "too many calls at one time: the limit is 2 for uid 1000";
    fixture.call(":user").unwrap();
    fixture.call(":user").unwrap();
    assert_eq!(limit(fixture.call(":user")), words);
    // Another connection of the user counts for the same user. Other users have their own quota.
    fixture.call(":more").unwrap();
    let refused = fixture.set_user(":more", USER);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].reason.to_string(), words);
    fixture.call(":other").unwrap();

    let (sender, serial) = fixture.dispatch().unwrap();
    assert_eq!(limit(fixture.call(":user")), words, "a dispatched call is in flight");
    assert!(fixture.scheduler.complete(&sender, serial));
    fixture.call(":user").unwrap();
}

#[test]
fn one_connection_cannot_use_the_whole_quota_of_its_user() {
    let limits = Limits { calls_per_user: 3, calls_per_connection: 2, ..Limits::default() };
    let mut fixture = Fixture::with_users(limits);
    fixture.call(":user").unwrap();
    fixture.call(":user").unwrap();
    let words = "too many calls at one time: the limit is 2 for one connection of uid 1000";
    assert_eq!(limit(fixture.call(":user")), words);
    fixture.call(":more").unwrap();
    assert!(fixture.set_user(":more", USER).is_empty());
}

#[test]
fn call_rate_is_bounded_even_if_all_calls_are_answered() {
    let limits =
        Limits { calls_per_second: 5, calls_per_second_per_connection: 3, ..Limits::default() };
    let mut fixture = Fixture::with_users(limits);
    let call_and_reply = |fixture: &mut Fixture, sender: &str| {
        fixture.call(sender).map(|_| {
            let (sender, serial) = fixture.dispatch().unwrap();
            fixture.scheduler.complete(&sender, serial);
        })
    };
    for _ in 0..3 {
        call_and_reply(&mut fixture, ":user").unwrap();
    }
    let words = "too many calls: the limit is 3 in a second for one connection of uid 1000";
    assert_eq!(limit(call_and_reply(&mut fixture, ":user")), words);
    fixture.call(":more").unwrap();
    assert_eq!(fixture.set_user(":more", USER).len(), 0);
    let words = "too many calls: the limit is 5 in a second for uid 1000";
    assert_eq!(limit(call_and_reply(&mut fixture, ":more")), words);
    for _ in 0..1000 {
        call_and_reply(&mut fixture, ":root").unwrap();
    }
    call_and_reply(&mut fixture, ":other").unwrap();
    fixture.now += Duration::from_secs(1);
    call_and_reply(&mut fixture, ":user").unwrap();
}

#[test]
fn the_privileged_user_comes_first_and_the_others_alternate() {
    let mut fixture = Fixture::with_users(Limits::default());
    for sender in [":user", ":user", ":user", ":other", ":other", ":root"] {
        fixture.call(sender).unwrap();
    }
    let order = [":root", ":user", ":other", ":user", ":other", ":user"];
    assert_eq!(fixture.dispatch_all(), order);
}

#[test]
fn only_privileged_calls_continue_while_replies_are_delayed() {
    let mut fixture = Fixture::with_users(Limits::default());
    fixture.call(":user").unwrap();
    fixture.call(":root").unwrap();
    assert_eq!(&*fixture.scheduler.next_call(false).unwrap().sender, ":root");
    assert!(fixture.scheduler.next_call(false).is_none());
    assert!(fixture.scheduler.has_queued_calls());
    assert_eq!(fixture.dispatch_all(), [":user"]);
}

#[test]
fn calls_with_bulk_replies_are_bounded() {
    let mut fixture = Fixture::with_users(Limits::default());
    for _ in 0..5 {
        fixture.admit(":user", "GetManagedObjects", 100).unwrap();
    }
    fixture.call(":user").unwrap();
    let first: Vec<_> = std::iter::from_fn(|| fixture.dispatch()).collect();
    assert_eq!(first.len(), 3, "two of them, and the other call");
    assert!(fixture.scheduler.has_queued_calls());
    for (sender, serial) in first {
        fixture.scheduler.complete(&sender, serial);
    }
    assert_eq!(fixture.dispatch_all().len(), 2);
}

#[test]
fn bytes_in_flight_are_bounded() {
    let mut fixture = Fixture::with_users(Limits::default());
    fixture.admit(":user", "Acquire", BYTES_PER_USER).unwrap();
    let words = "too many bytes of calls at one time: the limit is 2097152 for uid 1000";
    assert_eq!(limit(fixture.admit(":user", "Acquire", 1)), words);
    for n in 0..7 {
        let name = format!(":{n}");
        fixture.call(&name).unwrap();
        fixture.set_user(&name, 2000 + n);
        fixture.admit(&name, "Acquire", BYTES_PER_USER - 100).unwrap();
    }
    let words = "too many bytes of calls at one time: the limit is 16777216 for all users";
    assert_eq!(limit(fixture.admit(":other", "Acquire", 1)), words);
    fixture.admit(":root", "Acquire", BYTES_PER_USER).unwrap();
}

#[test]
fn calls_before_their_user_is_known_are_bounded_and_then_checked() {
    let limits = Limits { calls_per_user: 10, ..Limits::default() };
    let mut fixture = Fixture::new(limits);
    assert_eq!(fixture.call(":new").unwrap(), UserLookup::Needed);
    for _ in 1..UNIDENTIFIED {
        assert_eq!(fixture.call(":new").unwrap(), UserLookup::NotNeeded);
    }
    assert!(
        limit(fixture.call(":new"))
            .starts_with("too many calls at one time: the limit is 256 for :new")
    );
    assert!(fixture.dispatch().is_none(), "not before the user is known");
    // The first message may be large. Further ones must be within the limit.
    fixture.admit(":large", "Acquire", 1 << 20).unwrap();
    assert!(limit(fixture.admit(":large", "Acquire", 1)).starts_with("too many bytes of calls"));

    let refused = fixture.set_user(":new", USER);
    assert_eq!(refused.len(), UNIDENTIFIED - 10);
    assert_eq!(fixture.dispatch_all().len(), 10);
    assert!(fixture.set_user(":large", ROOT).is_empty());
    assert_eq!(fixture.dispatch_all(), [":large"]);
}

#[test]
fn the_user_of_a_connection_is_looked_up_once() {
    let mut fixture = Fixture::new(Limits::default());
    let ask = |fixture: &mut Fixture| {
        fixture.scheduler.needs_user_lookup(":new", &fixture.limits, fixture.now)
    };
    assert!(ask(&mut fixture));
    assert!(!ask(&mut fixture));
    assert_eq!(fixture.call(":new").unwrap(), UserLookup::NotNeeded);
    assert_eq!(fixture.scheduler.uid_of(":new"), None);
    assert!(fixture.set_user(":new", USER).is_empty());
    assert_eq!(fixture.scheduler.uid_of(":new"), Some(USER));
    assert_eq!(fixture.dispatch_all(), [":new"]);
}

#[test]
fn a_connection_that_has_left_is_removed() {
    let mut fixture = Fixture::with_users(Limits::default());
    fixture.call(":user").unwrap();
    let (sender, serial) = fixture.dispatch().unwrap();
    fixture.scheduler.remove_connection(":user");
    assert!(!fixture.scheduler.is_idle(), "its call is still being answered");
    fixture.scheduler.complete(&sender, serial);
    fixture.call(":gone").unwrap();
    let refused = fixture.scheduler.set_user(
        ":gone",
        Err(IdentificationError::NotFound),
        &fixture.limits,
        fixture.now,
    );
    assert_eq!(refused.len(), 1);
    assert!(fixture.scheduler.is_idle());
    for name in [":root", ":other"] {
        fixture.scheduler.remove_connection(name);
    }
    assert!(fixture.scheduler.connections.is_empty());
    assert_eq!(fixture.scheduler.size, 0);
    assert_eq!(fixture.scheduler.unidentified, 0);
    // A user whose bucket is full again is removed when another user calls.
    fixture.now += Duration::from_secs(2);
    fixture.call(":new").unwrap();
    fixture.set_user(":new", 3000);
    assert_eq!(fixture.scheduler.users.len(), 1);
}

#[test]
fn an_unwanted_reply_is_not_sent() {
    let mut fixture = Fixture::with_users(Limits::default());
    fixture.call(":user").unwrap();
    let (sender, serial) = fixture.dispatch().unwrap();
    let connection = fixture.scheduler.connections.get_mut(":user").unwrap();
    connection.dispatched.values_mut().for_each(|call| call.no_reply = true);
    assert!(!fixture.scheduler.complete(&sender, serial));
    assert!(fixture.scheduler.complete(&sender, serial), "what is not known is sent");
}
