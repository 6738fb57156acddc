//! The fault injector, which kills the service and verifies its state afterwards.

use std::collections::HashMap;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::yield_now;
use vmlockd::client::{ManagerProxy, Row};
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use super::client::Client;
use super::failpoints;
use super::retry::call_until_answered;
use super::scenario::Scenario;
use super::statistics::count;
use crate::dbus_client::manager;
use crate::fixture::rng::Rng;
use crate::fixture::{LockType, NAME, NameWatch, attempt, within};
use crate::nspawn::MainProcess;

pub(super) struct KillInjector<'s> {
    scenario: &'s Scenario,
    rng: Rng,
    watch: NameWatch,
    dbus: DBusProxy<'static>,
    manager: ManagerProxy<'static>,
    /// A client whose owner ends while the service is dead.
    mayfly: Client<'s>,
}

/// Something of a row of `ListLocks`.
fn of<T: TryFrom<zbus::OwnedVariant>>(row: &Row, key: &str) -> T {
    let value = row[key].try_clone().unwrap();
    value.try_into().unwrap_or_else(|_| panic!("{key} in {row:?}"))
}

impl<'s> KillInjector<'s> {
    pub(super) async fn new(scenario: &'s Scenario, mayfly: u64) -> Self {
        let bus = scenario.host.bus().await;
        Self {
            scenario,
            rng: scenario.rng(mayfly),
            watch: scenario.host.watch().await,
            dbus: DBusProxy::new(&bus).await.unwrap(),
            manager: manager(&bus).await,
            mayfly: Client::new(scenario, mayfly, Scenario::own(mayfly)).await,
        }
    }

    /// The process that is the service, and will abort or will not.
    pub(super) async fn service(&self, armed: bool) -> MainProcess {
        let found = async {
            loop {
                let name = BusName::try_from(NAME).unwrap();
                let owner = self.dbus.get_connection_unix_process_id(name).await.ok();
                let mut living = self.scenario.host.living().into_iter();
                let main = living.find(|main| Some(main.inside) == owner);
                if let Some(main) = main.filter(|main| failpoints::is_armed(*main) == Some(armed)) {
                    return main;
                }
                yield_now().await;
            }
        };
        within("a service", found).await
    }

    /// Kills the service as chance has it, and waits until there is another.
    pub(super) async fn kill(&mut self) {
        self.prepare().await;
        let before = self.service(false).await;
        within("commands", self.scenario.statistics.commands(self.rng.below(25))).await;
        for _ in 0..self.rng.below(200) {
            yield_now().await;
        }
        let begun = Instant::now();
        self.strike(before).await;
        let early = self.rng.chance(20);
        if early {
            self.kill_early(before).await;
        }
        self.watch.not_owned_by(before.inside).await;
        self.watch.owned().await;
        if !early {
            self.scenario.statistics.restores.borrow_mut().push(begun.elapsed());
        }
        self.inspect().await;
    }

    /// Opens an owner that is going to end.
    pub(super) async fn prepare(&mut self) {
        if !self.mayfly.is_open() {
            let disk_request: Vec<_> =
                self.mayfly.own.iter().map(|d| (d.clone(), "exclusive")).collect();
            let by_process = self.rng.chance(50);
            self.mayfly.open(&disk_request[..2], by_process).await;
        }
    }

    /// Kills the service; usually, an owner ends while the service is down.
    pub(super) async fn strike(&mut self, main: MainProcess) {
        main.signal(Signal::SIGKILL);
        count(&self.scenario.statistics.kills);
        if self.mayfly.is_open() && self.rng.chance(60) {
            self.mayfly.end().await;
        }
    }

    /// Kills what comes after `before`, wherever in its start it is.
    async fn kill_early(&mut self, before: MainProcess) {
        loop {
            let next = async {
                loop {
                    let mut living = self.scenario.host.living().into_iter();
                    if let Some(next) = living.find(|main| main.inside != before.inside) {
                        return next;
                    }
                    yield_now().await;
                }
            };
            let next = within("another process", next).await;
            for _ in 0..self.rng.below(300) {
                yield_now().await;
            }
            match kill(Pid::from_raw(next.outside.cast_signed()), Signal::SIGKILL) {
                Ok(()) => break,
                // A helper of the service may end by itself; the service does not.
                Err(errno) => assert_eq!(errno, nix::errno::Errno::ESRCH),
            }
        }
        count(&self.scenario.statistics.kills);
        count(&self.scenario.statistics.early_kills);
    }

    /// Every lock that was acknowledged, and not given back since, is listed and there; nothing
    /// that is gone is listed.
    pub(super) async fn inspect(&self) {
        let (held, gone, moving) = {
            let acknowledged = self.scenario.acknowledged.borrow();
            (acknowledged.held(), acknowledged.gone(), acknowledged.moving.clone())
        };
        let rows =
            call_until_answered("ListLocks", || self.manager.list_locks(HashMap::new())).await;
        let mut listed = HashMap::new();
        let mut acknowledged = self.scenario.acknowledged.borrow_mut();
        for row in &rows {
            let lock = of(row, "lock");
            let place: (zbus::OwnedObjectPath, String) = (of(row, "owner"), of(row, "resource"));
            let number = super::acknowledged::number(&lock);
            assert!(!gone.contains(&number), "{lock} was gone, and is listed for {place:?}");
            let facts =
                (place.0.clone(), place.1.clone(), of(row, "generation"), of(row, "since-usec"));
            acknowledged.learn(&lock, &facts);
            listed.insert(place, (lock, of::<String>(row, "mode")));
        }
        let (now, on_their_way) = (acknowledged.held(), acknowledged.moving.clone());
        drop(acknowledged);
        let on_their_way = moving.intersection(&on_their_way);
        for disk in on_their_way.clone().filter(|disk| !Scenario::for_all().contains(disk)) {
            let holders = listed.keys().filter(|(_, listed)| listed == disk);
            assert!(holders.count() <= 1, "two hold {disk}: {listed:?}");
        }
        for (place, entry) in held.iter().filter(|(place, entry)| now.get(place) == Some(entry)) {
            let there = listed.get(place);
            let (lock, mode) = there.unwrap_or_else(|| panic!("{place:?} is lost: {entry:?}"));
            assert_eq!(*lock, entry.lock, "{place:?}");
            assert!(entry.mode.is_none_or(|known| known == mode), "{place:?}: {entry:?}, {mode}");
        }
        // No other client runs in between, so no lock is released meanwhile.
        for disk in now.keys().map(|(_, disk)| disk).chain(on_their_way) {
            for kind in [LockType::Ofd, LockType::Posix] {
                let outcome = attempt(&self.scenario.host.at(disk), kind);
                let refused = matches!(outcome, Err(Errno::EAGAIN | Errno::EACCES));
                assert!(refused, "{disk} ({kind:?}): {outcome:?}, and {now:#?}");
                self.scenario.statistics.tried(disk);
            }
        }
    }

    /// Waits until no client has an owner that is listed, but for these that stay.
    pub(super) async fn wait_for_all_but(&mut self, stay: usize) {
        if self.mayfly.is_open() {
            self.mayfly.end().await;
        }
        let others = async {
            while call_until_answered("ListOwners", || self.manager.list_owners(HashMap::new()))
                .await
                .len()
                > stay
            {
                yield_now().await;
            }
        };
        within("all other owners end", others).await;
    }
}
