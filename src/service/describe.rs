//! A refusal in a sentence that a person can act on.
//!
//! The table knows numbers; people know users and the clock on their wall. Looking those up reads
//! `/proc` and the user database, which may be on the network, so it is a request like those to
//! the file system, and made for refusals only.

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::reclaim::wall_clock_of;
use super::user::{process_user, user_name};
use crate::lock::age::age;
use crate::lock::fdinfo::Processes;
use crate::lock::holder::{Ahead, Holder, Refusal, Stranger, Words, using};
use crate::lock::lease::spoken;
use crate::lock::printable::shown;
use crate::lock::process::Process;
use crate::lock::work::Work;

/// How many holders are named; a disk may be shared by hundreds.
const NAMED: usize = 3;

/// Says who of ours holds what was asked for.
#[derive(Debug)]
pub struct DescribeRefusal(pub Refusal);

/// Says who else holds what was asked for.
#[derive(Debug)]
pub struct DescribeStranger(pub Stranger);

/// Finds the names of the users that run holders' VMs.
#[derive(Debug)]
pub struct HolderUsers(pub Vec<Holder>);

/// Finds the names of the users whose processes these are.
#[derive(Debug)]
pub struct ProcessUsers(pub Processes);

/// Users by name, and times on the clock of this host.
struct Local;

impl Words for Local {
    fn user(&self, uid: u32) -> String {
        user_name(uid)
    }

    fn since(&self, micros: u64) -> String {
        format!("since {}", wall_clock(micros))
    }
}

impl Work for DescribeRefusal {
    type Answer = String;

    fn perform(self) -> String {
        let Refusal { resource, holders, ahead, users } = self.0;
        let resource = shown(&resource);
        let (reserved, holding): (Vec<_>, Vec<_>) =
            holders.iter().partition(|holder| holder.reserved_until.is_some());
        let locked = list(" locked ", &holding, |holder| sentence(&resource, holder));
        let verb = if locked.is_empty() { " reserved " } else { ", and reserved " };
        let locked = locked + &list(verb, &reserved, |holder| reservation(&resource, holder));
        let ahead = ahead.map(|Ahead { owner, name, since }| {
            let comma = if locked.is_empty() { "" } else { "," };
            let (uuid, since) = (owner.uuid, wall_clock(since));
            format!("{comma} waited for since {since} by VM \"{name}\" ({uuid}), which comes first")
        });
        let ahead = ahead.unwrap_or_default();
        format!("{} is{locked}{ahead}{}", spoken(&resource), using(&users, &Local))
    }
}

/// The first of several holders in words, and how many more there are.
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

fn sentence(resource: &str, holder: &Holder) -> String {
    let (vm, through) = (vm(holder), through(resource, holder));
    format!("{} by {vm} since {}{through}", holder.mode.adverb(), wall_clock(holder.since))
}

fn reservation(resource: &str, holder: &Holder) -> String {
    let until = wall_clock_of(holder.reserved_until.unwrap_or_default());
    let (vm, through) = (vm(holder), through(resource, holder));
    format!("for {vm} until {}{through}", time_of_day(until))
}

/// A VM with its UUID, process and user.
fn vm(holder: &Holder) -> String {
    let Holder { owner, name, pid, .. } = holder;
    let pid = if *pid == 0 { String::new() } else { format!(", pid {pid}") };
    format!("VM \"{name}\" ({}{pid}, user {})", owner.uuid, user_name(user_of(holder)))
}

/// The name by which a holder locked the resource, where it is another one.
fn through(resource: &str, holder: &Holder) -> String {
    let through = shown(&holder.resource);
    if through == resource {
        return String::new();
    }
    format!(", through {through}{}", holder.relation.remark())
}

/// The user that people know as the one that runs a VM: under libvirt the owner is root's, and its
/// process runs as another user.
fn user_of(holder: &Holder) -> u32 {
    process_user(holder.pid).unwrap_or(holder.owner.uid)
}

impl Work for DescribeStranger {
    type Answer = String;

    fn perform(self) -> String {
        self.0.sentence(&Local)
    }
}

impl Work for HolderUsers {
    type Answer = Vec<(Holder, String)>;

    fn perform(self) -> Self::Answer {
        let named = |holder: Holder| {
            let user = user_name(user_of(&holder));
            (holder, user)
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

/// The time of day, to the second.
fn time_of_day(micros: u64) -> String {
    let stamp = i64::try_from(micros).ok().and_then(|n| Timestamp::from_microsecond(n).ok());
    let zoned = stamp.map(|stamp| stamp.to_zoned(TimeZone::system()));
    zoned.map_or_else(|| "an unknown time".to_owned(), |then| then.strftime("%H:%M:%S").to_string())
}

/// A time as people say it: the hour today, the day too otherwise; and how long ago that is.
fn wall_clock(micros: u64) -> String {
    let stamp = i64::try_from(micros).ok().and_then(|n| Timestamp::from_microsecond(n).ok());
    let Some(stamp) = stamp else {
        return "an unknown time".to_owned();
    };
    let zone = TimeZone::system();
    let (then, now) = (stamp.to_zoned(zone.clone()), Zoned::now().with_time_zone(zone));
    let format = if then.date() == now.date() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
    let then = then.strftime(format);
    match age(micros, super::now()) {
        age if age.is_empty() => then.to_string(),
        age => format!("{then}, {age}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::holder::Relation;
    use crate::lock::{Mode, OwnerId};

    #[test]
    fn a_refusal_reads_like_a_sentence() {
        let holder = Holder {
            lock: 1,
            owner: OwnerId::new(0, uuid::Uuid::from_u128(5)),
            name: "web1".into(),
            pid: 0,
            mode: Mode::Exclusive,
            since: 0,
            resource: "/images/a.qcow2".into(),
            relation: Relation::Above,
            reserved_until: None,
        };
        let resource = "/srv/vm/a.qcow2".to_owned();
        let text = DescribeRefusal(Refusal {
            resource,
            holders: vec![holder],
            ahead: None,
            users: Processes::default(),
        })
        .perform();
        let (before, after) = text.split_once(" since ").unwrap();
        assert_eq!(
            before,
            "disk /srv/vm/a.qcow2 is locked exclusively by VM \"web1\" \
             (00000000-0000-0000-0000-000000000005, user root)"
        );
        assert!(
            after.starts_with("19")
                && after.ends_with(", through /images/a.qcow2, which lies on it"),
            "{after}"
        );
    }
}
