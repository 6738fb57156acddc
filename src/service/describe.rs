//! A refusal in a sentence that a person can act on.
//!
//! The table knows numbers; people know users and the clock on their wall. Looking those up reads
//! `/proc` and the user database, which may be on the network, so it is a request like those to
//! the file system, and made for refusals only.

use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::lock::holder::{Ahead, Holder, Refusal, Stranger};
use crate::lock::printable::shown;
use crate::lock::stranger::process;
use crate::lock::work::Work;

/// How many holders are named; a disk may be shared by hundreds.
const NAMED: usize = 3;

/// Says who of ours holds what was asked for.
#[derive(Debug)]
pub struct DescribeRefusal(pub Refusal);

/// Says who else holds what was asked for.
#[derive(Debug)]
pub struct DescribeStranger(pub Stranger);

/// Finds the names of the users who run holders' machines.
#[derive(Debug)]
pub struct HolderUsers(pub Vec<Holder>);

/// Finds the name of a user; the number where he has none.
#[derive(Debug)]
pub struct UserName(pub u32);

impl Work for DescribeRefusal {
    type Answer = String;

    fn perform(self) -> String {
        let Refusal { resource, holders, ahead } = self.0;
        let resource = shown(&resource);
        let named = holders.iter().take(NAMED).map(|holder| sentence(&resource, holder));
        let more = match holders.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and by {more} more"),
        };
        let named = named.collect::<Vec<_>>().join(", and ");
        let locked =
            if named.is_empty() { String::new() } else { format!(" locked {named}{more}") };
        let ahead = ahead.map(|Ahead { owner, name, since }| {
            let comma = if locked.is_empty() { "" } else { "," };
            let (uuid, since) = (owner.uuid, wall_clock(since));
            format!("{comma} waited for since {since} by VM \"{name}\" ({uuid}), which comes first")
        });
        format!("disk {resource} is{locked}{}", ahead.unwrap_or_default())
    }
}

fn sentence(resource: &str, holder: &Holder) -> String {
    let Holder { owner, name, pid, mode, since, resource: through, .. } = holder;
    let pid = if *pid == 0 { String::new() } else { format!(", pid {pid}") };
    let user = user_name(user_of(holder));
    let through = shown(through);
    let through = if through == resource { String::new() } else { format!(", through {through}") };
    let (uuid, since) = (owner.uuid, wall_clock(*since));
    format!("{} by VM \"{name}\" ({uuid}{pid}, user {user}) since {since}{through}", mode.adverb())
}

/// Whom people know as the one who runs a machine: under libvirt the owner is root's, and its
/// process runs as somebody else.
fn user_of(holder: &Holder) -> u32 {
    let running = (holder.pid != 0).then(|| process(holder.pid)).flatten();
    running.map_or(holder.owner.uid, |process| process.uid)
}

impl Work for DescribeStranger {
    type Answer = String;

    fn perform(self) -> String {
        let user = self.0.process.as_ref().map(|process| user_name(process.uid));
        self.0.sentence(&user.unwrap_or_default())
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

impl Work for UserName {
    type Answer = String;

    fn perform(self) -> String {
        user_name(self.0)
    }
}

/// A user's name, or the number where there is none.
fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        // No such user, or a user database that fails: the number says it too.
        Ok(None) | Err(_) => uid.to_string(),
    }
}

/// A time as people say it: the hour today, the day too otherwise.
fn wall_clock(micros: u64) -> String {
    let stamp = i64::try_from(micros).ok().and_then(|n| Timestamp::from_microsecond(n).ok());
    let Some(stamp) = stamp else {
        return "an unknown time".to_owned();
    };
    let zone = TimeZone::system();
    let (then, now) = (stamp.to_zoned(zone.clone()), Zoned::now().with_time_zone(zone));
    let format = if then.date() == now.date() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
    then.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        };
        let resource = "/srv/vm/a.qcow2".to_owned();
        let text =
            DescribeRefusal(Refusal { resource, holders: vec![holder], ahead: None }).perform();
        let (before, after) = text.split_once(" since ").unwrap();
        assert_eq!(
            before,
            "disk /srv/vm/a.qcow2 is locked exclusively by VM \"web1\" \
             (00000000-0000-0000-0000-000000000005, user root)"
        );
        assert!(after.starts_with("19") && after.ends_with(", through /images/a.qcow2"), "{after}");
    }
}
