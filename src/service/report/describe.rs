//! Descriptions of refusals for people: a sentence with the holder, its user and its process.
//!
//! The table has user numbers; people know user names. A lookup of names reads the user database,
//! which may be on the network, so it runs on the executor as file-system requests do, and only for
//! refusals.
//!
//! Times are in UTC, since the reader may be in another time zone than the service. `vmlockctl`
//! converts them to the user's.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::lock::model::lease_name::spoken;
use crate::lock::model::process::Process;
use crate::lock::model::process_search::Processes;
use crate::lock::model::refusal::{Ahead, ForeignHolder, Holder, Refusal, Words, kept_by, using};
use crate::lock::request::Work;
use crate::lock::text::ago::age;
use crate::lock::text::escape::shown;
use crate::lock::text::why::remark;
use crate::service::core::clock::{now, wall_clock_of};
use crate::service::report::user_names::user_name;

/// The users that run the processes of owners, by process number.
pub type Users = HashMap<u32, u32>;

/// The maximum number of holders that are named; hundreds may share a disk.
pub(in crate::service) const NAMED: usize = 3;

/// Describes the owners of this service that hold the requested resource.
#[derive(Debug)]
pub struct DescribeRefusal {
    /// The refusal.
    pub refusal: Refusal,
    /// The users that run the processes of its holders.
    pub users: Users,
}

/// Describes the foreign holder of the requested resource.
#[derive(Debug)]
pub struct DescribeForeignHolder(pub ForeignHolder);

/// Looks up the names of the users that run the VMs of holders. Takes each holder with its process,
/// if known.
#[derive(Debug)]
pub struct HolderUsers(pub Vec<(Holder, Option<Process>)>);

/// Looks up the names of the users that run these processes.
#[derive(Debug)]
pub struct ProcessUsers(pub Processes);

/// Formats users by name and times in UTC.
struct Local;

impl Words for Local {
    fn user(&self, uid: u32) -> String {
        user_name(uid)
    }

    fn since(&self, micros: u64) -> String {
        format!("since {}", point_in_time(micros))
    }
}

impl Work for DescribeRefusal {
    type Answer = String;

    fn perform(self) -> String {
        let Refusal { resource, holders, ahead, users } = self.refusal;
        let resource = shown(&resource);
        let (reserved, holding): (Vec<_>, Vec<_>) =
            holders.iter().partition(|holder| holder.reserved_until.is_some());
        let run_by = |holder: &Holder| self.users.get(&holder.pid).copied();
        let locked =
            list(" locked ", &holding, |holder| sentence(&resource, holder, run_by(holder)));
        let verb = if locked.is_empty() { " reserved " } else { ", and reserved " };
        let reserved =
            list(verb, &reserved, |holder| reservation(&resource, holder, run_by(holder)));
        let locked = locked + &reserved;
        let ahead = ahead.map(|Ahead { owner, name, since }| {
            let comma = if locked.is_empty() { "" } else { "," };
            let (uuid, since) = (owner.uuid, point_in_time(since));
            format!(
                "{comma} waited for since {since} by VM \"{name}\" ({uuid}), which has priority"
            )
        });
        let ahead = ahead.unwrap_or_default();
        format!("{} is{locked}{ahead}{}", spoken(&resource), using(&users, &Local))
    }
}

/// Describes the first holders, and how many more there are.
fn list(verb: &str, holders: &[&Holder], words: impl Fn(&Holder) -> String) -> String {
    if holders.is_empty() {
        return String::new();
    }
    let more = match holders.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and by {more} more"),
    };
    let named: Vec<_> = holders.iter().take(NAMED).map(|holder| words(holder)).collect();
    format!("{verb}{}{more}", named.join(", and "))
}

/// Describes a holder, whose process runs as `run_by`.
fn sentence(resource: &str, holder: &Holder, run_by: Option<u32>) -> String {
    let (vm, through) = (vm(holder, run_by), through(resource, holder));
    let kept = kept_by(&holder.kept_by);
    format!("{} by {vm} since {}{through}{kept}", holder.mode.adverb(), point_in_time(holder.since))
}

fn reservation(resource: &str, holder: &Holder, run_by: Option<u32>) -> String {
    let until = wall_clock_of(holder.reserved_until.unwrap_or_default());
    let (vm, through) = (vm(holder, run_by), through(resource, holder));
    format!("for {vm} until {}{through}", utc(until))
}

/// Formats a VM with its UUID, process and user.
fn vm(holder: &Holder, run_by: Option<u32>) -> String {
    let Holder { owner, name, why, pid, .. } = holder;
    let pid = if *pid == 0 { String::new() } else { format!(", pid {pid}") };
    let user = user_name(run_by.unwrap_or(owner.uid));
    format!("VM \"{name}\" ({}{pid}, user {user}{})", owner.uuid, remark(why))
}

/// Returns the name by which a holder locked the resource, if it is another one.
fn through(resource: &str, holder: &Holder) -> String {
    let through = shown(&holder.resource);
    if through == resource {
        return String::new();
    }
    format!(", through {through}{}", holder.relation.remark())
}

impl Work for DescribeForeignHolder {
    type Answer = String;

    fn perform(self) -> String {
        self.0.sentence(&Local)
    }
}

impl Work for HolderUsers {
    type Answer = Vec<(Holder, String)>;

    fn perform(self) -> Self::Answer {
        // Under libvirt the owner belongs to root, and its process runs as another user.
        let named = |(holder, process): (Holder, Option<Process>)| {
            let uid = process.map_or(holder.owner.uid, |process| process.uid);
            (holder, user_name(uid))
        };
        self.0.into_iter().map(named).collect()
    }
}

impl Work for ProcessUsers {
    type Answer = Vec<(Process, String)>;

    fn perform(self) -> Self::Answer {
        let named = |process: Process| {
            let user = user_name(process.uid);
            (process, user)
        };
        self.0.named.into_iter().map(named).collect()
    }
}

/// Formats a time to the second, in UTC, as in RFC 3339.
fn utc(micros: u64) -> String {
    let stamp = i64::try_from(micros).ok().and_then(|n| Timestamp::from_microsecond(n).ok());
    stamp.map_or_else(|| "an unknown time".to_owned(), |stamp| format!("{stamp:.0}"))
}

/// Formats a time and how long ago it is.
fn point_in_time(micros: u64) -> String {
    let then = utc(micros);
    match age(micros, now()) {
        age if age.is_empty() => then,
        age => format!("{then}, {age}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::model::refusal::Relation;
    use crate::lock::{Mode, OwnerId};

    #[test]
    fn a_refusal_is_described_in_a_sentence() {
        let holder = Holder {
            lock: 1,
            owner: OwnerId::new(0, uuid::Uuid::from_u128(5)),
            name: "web1".into(),
            why: "nightly backup".into(),
            pid: 0,
            mode: Mode::Exclusive,
            since: 0,
            resource: "/images/a.qcow2".into(),
            relation: Relation::Above,
            reserved_until: None,
            kept_by: Processes::default(),
        };
        let resource = "/srv/vm/a.qcow2".to_owned();
        let (holders, users) = (vec![holder], Processes::default());
        let refusal = Refusal { resource, holders, ahead: None, users };
        let text = DescribeRefusal { refusal, users: Users::new() }.perform();
        let (before, after) = text.split_once(" since ").unwrap();
        assert_eq!(
            before,
            "disk /srv/vm/a.qcow2 is locked exclusively by VM \"web1\" \
             (00000000-0000-0000-0000-000000000005, user root, why: \"nightly backup\")"
        );
        assert!(
            after.starts_with("1970-01-01T00:00:00Z, ")
                && after.ends_with(", through /images/a.qcow2, which lies on it"),
            "{after}"
        );
    }
}
