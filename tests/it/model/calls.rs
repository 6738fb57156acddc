//! Calls to the service, and their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;
use vmlockd::life::Lifeline;
use vmlockd::lock::disk::in_use::InUse;
use vmlockd::lock::model::loss_action::OnLost;
use vmlockd::lock::{self, Front, OwnerId};
use vmlockd::service::{
    self, Error, LockRequest, NewAnchor, Opening, OwnerRelease, Presence, Service,
};

use super::answer::{Answer, RefusalReason};
use super::lock_numbers::LockNumbers;
use super::op::{Anchor, By, DiskRequest, Op, Vm, Wait};
use super::scenario::{self, Scenario};

/// A user who owns none of the machines.
const ANOTHER: u32 = 1000;
/// How long an offer stands: longer than any sequence takes.
const LONG: Duration = Duration::from_secs(3600);

/// The return value of a call.
#[derive(Debug)]
enum Reply {
    Nothing,
    Locks(Vec<u64>),
    /// In an order that may be one or another.
    Set(Vec<u64>),
    Token(Vm, Uuid),
    Count(usize),
    OpenWatch(Vm, Vec<u64>, Option<OwnedFd>),
    Lifeline(Vm, OwnedFd),
}

type Outcome = Result<Reply, Error>;

/// Calls that are not answered yet, by the number of their step; and what came of others.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<usize, Call>,
    /// The ends of lifelines that callers have.
    pub(super) lifelines: BTreeMap<Vm, Vec<OwnedFd>>,
    /// The newest token that each was given.
    tokens: BTreeMap<Vm, Uuid>,
}

#[derive(Debug)]
struct Call {
    task: JoinHandle<Outcome>,
    of: Option<Vm>,
    /// Told when the caller goes away.
    left: watch::Sender<bool>,
}

impl By {
    /// Returns the calling user, and whether the call is forced.
    fn asking(self) -> (u32, bool) {
        match self {
            Self::Itself => (0, false),
            Self::Another => (ANOTHER, false),
            Self::Force => (ANOTHER, true),
        }
    }
}

fn call(
    op: &Op,
    service: Service,
    scenario: &Scenario,
    numbers: &LockNumbers,
    tokens: &BTreeMap<Vm, Uuid>,
    caller: watch::Receiver<bool>,
) -> Option<Pin<Box<dyn Future<Output = Outcome> + Send>>> {
    let asks = |disk_requests: &[DiskRequest]| {
        disk_requests.iter().map(|disk_request| scenario.ask(disk_request)).collect::<Vec<_>>()
    };
    let wait = |wait: Wait| {
        let until = (wait == Wait::Over).then(Instant::now);
        (wait != Wait::No).then(|| service::Wait { until, caller: Presence(caller) })
    };
    Some(match op {
        Op::Open { vm, anchor, disk_requests, wait: how } => {
            let (vm, anchor, asks, wait) = (*vm, *anchor, asks(disk_requests), wait(*how));
            Box::pin(open(service, vm, anchor, asks, wait))
        }
        Op::NewLifeline(vm) => {
            let vm = *vm;
            Box::pin(async move {
                Ok(Reply::Lifeline(vm, service.new_lifeline(scenario::id(vm)).await?))
            })
        }
        Op::Acquire { vm, disk_requests, wait: how } => {
            let (id, asks, wait) = (scenario::id(*vm), asks(disk_requests), wait(*how));
            Box::pin(async move { Ok(Reply::Locks(service.acquire(id, asks, wait).await?.locks)) })
        }
        Op::Release { vm, disks, by } => {
            let locks: Vec<u64> = disks.iter().map(|disk| numbers.of(*vm, *disk)).collect();
            let (id, (uid, force)) = (scenario::id(*vm), by.asking());
            Box::pin(async move {
                service.release(id, &locks, uid, force).await.map(|()| Reply::Nothing)
            })
        }
        Op::Convert { vm, disk, mode, wait: how } => {
            let (number, mode, wait) = (numbers.of(*vm, *disk), *mode, wait(*how));
            Box::pin(async move {
                service.convert(number, mode, InUse::Refused, wait).await.map(|_| Reply::Nothing)
            })
        }
        Op::Close { vm, by } => {
            let (id, (uid, force)) = (scenario::id(*vm), by.asking());
            Box::pin(async move {
                let known = known(&service, id);
                service
                    .close(OwnerRelease { owner: id, authorized: &known, by: uid, force })
                    .await
                    .map(|()| Reply::Nothing)
            })
        }
        Op::Suspend { vm, by } => {
            let (id, (uid, force)) = (scenario::id(*vm), by.asking());
            Box::pin(async move {
                let known = known(&service, id);
                service
                    .suspend(OwnerRelease { owner: id, authorized: &known, by: uid, force })
                    .await
                    .map(|()| Reply::Nothing)
            })
        }
        Op::Resume { vm, wait: how } => {
            let (id, wait) = (scenario::id(*vm), wait(*how));
            Box::pin(async move { Ok(Reply::Set(service.resume(id, wait).await?.locks)) })
        }
        Op::Offer { vm, by, lasting } => {
            let (vm, (uid, force)) = (*vm, by.asking());
            let patience = if *lasting { LONG } else { Duration::ZERO };
            Box::pin(async move {
                let id = scenario::id(vm);
                let known = known(&service, id);
                let request = OwnerRelease { owner: id, authorized: &known, by: uid, force };
                Ok(Reply::Token(vm, service.offer(request, patience).await?))
            })
        }
        Op::Adopt { vm, from } => {
            let (id, token) = (scenario::id(*vm), tokens.get(from).copied().unwrap_or_default());
            Box::pin(async move { Ok(Reply::Set(service.adopt(id, token).await?)) })
        }
        Op::Cancel(vm) => {
            let id = scenario::id(*vm);
            Box::pin(async move { service.cancel(id).await.map(Reply::Count) })
        }
        Op::Drop(_) | Op::Leave(_) | Op::Restart(_) => return None,
    })
}

/// Returns the locks of a VM, as the service lists them.
fn known(service: &Service, id: OwnerId) -> BTreeSet<u64> {
    service.owner(id).map(|owner| owner.locks).unwrap_or_default()
}

async fn open(
    service: Service,
    vm: Vm,
    anchor: Anchor,
    requests: Vec<LockRequest>,
    wait: Option<service::Wait>,
) -> Outcome {
    let (anchor, theirs) = match anchor {
        Anchor::Lifeline => {
            let (lifeline, theirs) = Lifeline::new()?;
            (NewAnchor::Lifeline(lifeline), Some(theirs))
        }
        Anchor::Manual => (NewAnchor::Manual, None),
    };
    let (id, name, anchors) = (scenario::id(vm), vm.to_string(), vec![anchor]);
    let on_lost = OnLost::default();
    let why = String::new();
    let opening = Opening { id, name, why, front: Front::Dbus, on_lost, anchors, requests };
    Ok(Reply::OpenWatch(vm, service.open(opening, wait).await?.locks, theirs))
}

impl Calls {
    /// Begins what a step asks for.
    pub(super) fn begin(
        &mut self,
        number: usize,
        op: &Op,
        runtime: &Runtime,
        service: Service,
        scenario: &Scenario,
        numbers: &LockNumbers,
    ) {
        if let Op::Drop(vm) = op {
            self.lifelines.get_mut(vm).and_then(Vec::pop);
        }
        if let Op::Leave(vm) = op
            && let Some(first) = self.open.values().find(|call| call.of == Some(*vm))
        {
            first.left.send_replace(true);
        }
        let (left, caller) = watch::channel(false);
        if let Some(call) = call(op, service, scenario, numbers, &self.tokens, caller) {
            let of = match op {
                Op::Open { vm, .. }
                | Op::Acquire { vm, .. }
                | Op::Convert { vm, .. }
                | Op::Resume { vm, .. } => Some(*vm),
                _ => None,
            };
            self.open.insert(number, Call { task: runtime.spawn(call), of, left });
        }
    }

    /// Drops all pending calls.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// Returns the answers since the last call.
    pub(super) fn collect(
        &mut self,
        runtime: &Runtime,
        service: &Service,
        scenario: &Scenario,
    ) -> Vec<(usize, Answer)> {
        let done = self.open.iter().filter(|(_, call)| call.task.is_finished());
        let done: Vec<usize> = done.map(|(number, _)| *number).collect();
        let mut answers = Vec::with_capacity(done.len());
        for number in done {
            let Some(Call { task, .. }) = self.open.remove(&number) else { continue };
            answers.push((
                number,
                match runtime.block_on(task) {
                    Ok(Ok(reply)) => self.take(reply, service, scenario),
                    Ok(Err(error)) => Answer::Refused(why(&error, scenario)),
                    Err(error) => Answer::Refused(RefusalReason::Unexpected(error.to_string())),
                },
            ));
        }
        answers
    }

    /// Keeps what a caller keeps, and says the rest in the model's words.
    fn take(&mut self, reply: Reply, service: &Service, scenario: &Scenario) -> Answer {
        match reply {
            Reply::Nothing => Answer::Done,
            Reply::Count(count) => Answer::Withdrawn(count),
            Reply::Token(vm, token) => {
                self.tokens.insert(vm, token);
                Answer::Done
            }
            Reply::Lifeline(vm, lifeline) => {
                self.lifelines.entry(vm).or_default().push(lifeline);
                Answer::Done
            }
            Reply::OpenWatch(vm, locks, lifeline) => {
                // Whatever an earlier machine of this name had is nobody's any more.
                self.lifelines.insert(vm, lifeline.into_iter().collect());
                meant(&locks, service, scenario)
            }
            Reply::Locks(locks) => meant(&locks, service, scenario),
            Reply::Set(locks) => match meant(&locks, service, scenario) {
                Answer::Locks(mut locks) => {
                    locks.sort_unstable();
                    Answer::Locks(locks)
                }
                answer => answer,
            },
        }
    }
}

/// Converts the lock numbers of an answer to disks.
fn meant(numbers: &[u64], service: &Service, scenario: &Scenario) -> Answer {
    let meant = numbers.iter().map(|number| {
        let lock = service.lock(*number)?;
        Some((scenario::vm(lock.owner), scenario.disk(&lock.want.resource)?))
    });
    match meant.collect() {
        Some(locks) => Answer::Locks(locks),
        None => {
            Answer::Refused(RefusalReason::Unexpected(format!("not all of {numbers:?} are locks")))
        }
    }
}

fn why(error: &Error, scenario: &Scenario) -> RefusalReason {
    let unexpected = || RefusalReason::Unexpected(error.to_string());
    match error {
        Error::Held { refusal, .. } => {
            let holders = refusal.holders.iter();
            let holders = holders.map(|holder| (scenario::vm(holder.owner), holder.mode)).collect();
            let disk = scenario.disk(&refusal.resource);
            let ahead = refusal.ahead.as_ref().map(|ahead| scenario::vm(ahead.owner));
            disk.map_or_else(unexpected, |disk| RefusalReason::Held(disk, holders, ahead))
        }
        Error::TimedOut { last, .. } => {
            RefusalReason::TimedOut(Box::new(last.as_ref().map(|last| why(last, scenario))))
        }
        Error::Cancelled(service::CancelReason::Cancelled) => RefusalReason::Cancelled,
        Error::Cancelled(service::CancelReason::OwnerGone) => RefusalReason::OwnerGone,
        Error::CallerGone => RefusalReason::CallerGone,
        Error::NeedsForce { .. } => RefusalReason::NeedsForce,
        Error::MoreLocks => RefusalReason::MoreLocks,
        Error::Lock(lock::Error::TwoModes(_)) => RefusalReason::TwoModes,
        Error::Lock(lock::Error::OtherMode { resource, held, .. }) => scenario
            .disk(resource)
            .map_or_else(unexpected, |disk| RefusalReason::OtherMode(disk, *held)),
        Error::Lock(lock::Error::Suspended(_)) => RefusalReason::Suspended,
        Error::Lock(lock::Error::OfferedAlready(_)) => RefusalReason::OfferedAlready,
        Error::Lock(lock::Error::NothingToOffer(_)) => RefusalReason::NothingToOffer,
        Error::Lock(lock::Error::NoSuchOffer) => RefusalReason::NoSuchOffer,
        Error::Lock(lock::Error::OwnOffer(_)) => RefusalReason::OwnOffer,
        Error::Lock(lock::Error::HeldTwice { .. }) => RefusalReason::HeldTwice,
        Error::Lock(lock::Error::OwnerExists(_)) => RefusalReason::OwnerExists,
        Error::Lock(lock::Error::NoSuchOwner(_)) => RefusalReason::NoSuchOwner,
        Error::Lock(lock::Error::NoSuchLock(_)) => RefusalReason::NoSuchLock,
        _ => unexpected(),
    }
}
