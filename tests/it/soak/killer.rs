//! Who kills the service, and looks afterwards whether all is as it was told.

use std::collections::HashMap;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::yield_now;
use vmlockd::client::{ManagerProxy, Row};
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

use super::answer::insist;
use super::client::Client;
use super::dice::Dice;
use super::points;
use super::scene::Scene;
use super::tally::count;
use crate::host::Main;
use crate::house::{Kind, NAME, NameWatch, attempt, within};
use crate::machine::manager;

pub(super) struct Killer<'s> {
    scene: &'s Scene,
    dice: Dice,
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

impl<'s> Killer<'s> {
    pub(super) async fn new(scene: &'s Scene, mayfly: u64) -> Self {
        let bus = scene.host.bus().await;
        Self {
            scene,
            dice: scene.dice(mayfly),
            watch: scene.host.watch().await,
            dbus: DBusProxy::new(&bus).await.unwrap(),
            manager: manager(&bus).await,
            mayfly: Client::new(scene, mayfly, Scene::own(mayfly)).await,
        }
    }

    /// The process that is the service, and will abort or will not.
    pub(super) async fn service(&self, armed: bool) -> Main {
        let found = async {
            loop {
                let name = BusName::try_from(NAME).unwrap();
                let owner = self.dbus.get_connection_unix_process_id(name).await.ok();
                let mut living = self.scene.host.living().into_iter();
                let main = living.find(|main| Some(main.inside) == owner);
                if let Some(main) = main.filter(|main| points::is_armed(*main) == Some(armed)) {
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
        within("commands", self.scene.tally.commands(self.dice.below(25))).await;
        for _ in 0..self.dice.below(200) {
            yield_now().await;
        }
        let begun = Instant::now();
        self.strike(before).await;
        let early = self.dice.chance(20);
        if early {
            self.kill_early(before).await;
        }
        self.watch.not_owned_by(before.inside).await;
        self.watch.owned().await;
        if !early {
            self.scene.tally.restores.borrow_mut().push(begun.elapsed());
        }
        self.inspect().await;
    }

    /// Has an owner there that is going to end.
    pub(super) async fn prepare(&mut self) {
        if !self.mayfly.is_open() {
            let wish: Vec<_> = self.mayfly.own.iter().map(|d| (d.clone(), "exclusive")).collect();
            let by_process = self.dice.chance(50);
            self.mayfly.open(&wish[..2], by_process).await;
        }
    }

    /// Kills; mostly an owner ends while nobody is there to see it.
    pub(super) async fn strike(&mut self, main: Main) {
        main.signal(Signal::SIGKILL);
        count(&self.scene.tally.kills);
        if self.mayfly.is_open() && self.dice.chance(60) {
            self.mayfly.end().await;
        }
    }

    /// Kills what comes after `before`, wherever in its start it is.
    async fn kill_early(&mut self, before: Main) {
        loop {
            let next = async {
                loop {
                    let mut living = self.scene.host.living().into_iter();
                    if let Some(next) = living.find(|main| main.inside != before.inside) {
                        return next;
                    }
                    yield_now().await;
                }
            };
            let next = within("another process", next).await;
            for _ in 0..self.dice.below(300) {
                yield_now().await;
            }
            match kill(Pid::from_raw(next.outside.cast_signed()), Signal::SIGKILL) {
                Ok(()) => break,
                // A helper of the service may end by itself; the service does not.
                Err(errno) => assert_eq!(errno, nix::errno::Errno::ESRCH),
            }
        }
        count(&self.scene.tally.kills);
        count(&self.scene.tally.early_kills);
    }

    /// Every lock that was acknowledged, and not given back since, is listed and there; nothing
    /// that is gone is listed.
    pub(super) async fn inspect(&self) {
        let (held, gone, moving) = {
            let ledger = self.scene.ledger.borrow();
            (ledger.held(), ledger.gone(), ledger.moving.clone())
        };
        let rows = insist("ListLocks", || self.manager.list_locks(HashMap::new())).await;
        let mut listed = HashMap::new();
        let mut ledger = self.scene.ledger.borrow_mut();
        for row in &rows {
            let lock = of(row, "lock");
            let place: (zbus::OwnedObjectPath, String) = (of(row, "owner"), of(row, "resource"));
            let number = super::ledger::number(&lock);
            assert!(!gone.contains(&number), "{lock} was gone, and is listed for {place:?}");
            let facts =
                (place.0.clone(), place.1.clone(), of(row, "generation"), of(row, "since-usec"));
            ledger.learn(&lock, &facts);
            listed.insert(place, (lock, of::<String>(row, "mode")));
        }
        let (now, on_their_way) = (ledger.held(), ledger.moving.clone());
        drop(ledger);
        let on_their_way = moving.intersection(&on_their_way);
        for disk in on_their_way.clone().filter(|disk| !Scene::for_all().contains(disk)) {
            let holders = listed.keys().filter(|(_, listed)| listed == disk);
            assert!(holders.count() <= 1, "two hold {disk}: {listed:?}");
        }
        for (place, entry) in held.iter().filter(|(place, entry)| now.get(place) == Some(entry)) {
            let there = listed.get(place);
            let (lock, mode) = there.unwrap_or_else(|| panic!("{place:?} is lost: {entry:?}"));
            assert_eq!(*lock, entry.lock, "{place:?}");
            assert!(entry.mode.is_none_or(|known| known == mode), "{place:?}: {entry:?}, {mode}");
        }
        // Nobody else's turn comes in between, so nobody gives one back meanwhile.
        for disk in now.keys().map(|(_, disk)| disk).chain(on_their_way) {
            for kind in [Kind::Ofd, Kind::Posix] {
                let outcome = attempt(&self.scene.host.at(disk), kind);
                let refused = matches!(outcome, Err(Errno::EAGAIN | Errno::EACCES));
                assert!(refused, "{disk} ({kind:?}): {outcome:?}, and {now:#?}");
                self.scene.tally.tried(disk);
            }
        }
    }

    /// Waits until no client has an owner that is listed, but for these that stay.
    pub(super) async fn wait_for_all_but(&mut self, stay: usize) {
        if self.mayfly.is_open() {
            self.mayfly.end().await;
        }
        let others = async {
            while insist("ListOwners", || self.manager.list_owners(HashMap::new())).await.len()
                > stay
            {
                yield_now().await;
            }
        };
        within("all other owners end", others).await;
    }
}
