//! The threads that serve clients.
//!
//! Each of them waits for any client, does all that this client asks for, and waits again: nothing
//! is handed from thread to thread, which would cost more than the work. A request that hangs takes
//! its thread with it, so there is always one more thread than there are requests: whoever takes
//! the last one that waits begins another.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::accept::{Accepted, accept};
use super::client::{Client, Next};
use super::session::Session;
use crate::life::Connection;
use crate::lock::printable::reason;
use crate::service::Service;

/// How many threads there may be: as many requests may hang before all wait.
const THREADS: usize = 256;
/// How many wait when there is nothing to do.
const WAITING: usize = 2;
/// How long a thread that is not needed waits before it ends.
const LEISURE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// How much of a stack a thread has; nothing here recurses.
const STACK: usize = 512 * 1024;
/// How often is looked for clients that are waited for too long.
const LOOK: Duration = Duration::from_secs(1);

/// The number by which the listening socket is known.
const LISTENER: u64 = 0;

/// The events for which the listening socket is watched. Each is reported to one thread.
const ACCEPT: EventFlags = EventFlags::IN.union(EventFlags::ONESHOT);
/// The events of a client that sends. One-shot, so that one thread at a time serves a client.
const READ: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ONESHOT);
/// The events of a client that does not read its replies.
const WRITE: EventFlags = EventFlags::OUT.union(EventFlags::ONESHOT);

/// What the threads share.
#[derive(Debug)]
pub(super) struct Pool {
    service: Service,
    /// Whose connections are taken, beside root's.
    user: u32,
    epoll: OwnedFd,
    handle: Handle,
    /// Begins each thread.
    on_start: fn(),
    clients: Mutex<HashMap<u64, Arc<Client>>>,
    listener: RwLock<Option<OwnedFd>>,
    /// Given up for a moment where there is none left to send a client away with.
    spare: Mutex<Option<OwnedFd>>,
    last: AtomicU64,
    waiting: AtomicUsize,
    threads: AtomicUsize,
    /// Whether somebody looks for clients that are waited for.
    looking: AtomicBool,
    look: Notify,
}

impl Pool {
    pub(super) fn new(service: Service, user: u32, on_start: fn()) -> Result<Arc<Self>, Errno> {
        let pool = Arc::new(Self {
            service,
            user,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            handle: Handle::current(),
            on_start,
            clients: Mutex::default(),
            listener: RwLock::default(),
            spare: Mutex::new(spare()),
            last: AtomicU64::new(LISTENER),
            waiting: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            looking: AtomicBool::new(false),
            look: Notify::new(),
        });
        tokio::spawn(Arc::clone(&pool).look_after());
        pool.begin_thread();
        Ok(pool)
    }

    /// Serves a listening socket.
    pub(super) fn listen(&self, listener: OwnedFd) -> Result<(), Errno> {
        // Whoever is told that somebody waits must find it: he is told once.
        let mut place = self.listener.write().unwrap_or_else(PoisonError::into_inner);
        epoll::add(&self.epoll, &listener, EventData::new_u64(LISTENER), ACCEPT)?;
        *place = Some(listener);
        Ok(())
    }

    /// Does something with the listening socket, if there is one.
    pub(super) fn with_listener<T>(&self, what: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let listener = self.listener.read().unwrap_or_else(PoisonError::into_inner);
        listener.as_ref().map(|listener| what(listener.as_fd()))
    }

    /// Serves a client.
    pub(super) fn admit(&self, connection: &Arc<Connection>, session: Session) {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(Arc::clone(connection), session));
        let awaited = client.is_awaited();
        self.clients().insert(number, client);
        if let Err(errno) = epoll::add(&self.epoll, connection, EventData::new_u64(number), READ) {
            tracing::error!(
                "cannot wait for a client of virtlockd's socket: {}",
                reason(&errno.into())
            );
            self.dismiss(number);
        } else if awaited {
            self.look_soon();
        }
    }

    /// How many clients there are.
    pub(super) fn count(&self) -> usize {
        self.clients().len()
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_thread(self: &Arc<Self>) {
        if self.threads.fetch_add(1, Ordering::SeqCst) >= THREADS {
            self.threads.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let pool = Arc::clone(self);
        let builder = thread::Builder::new().name("virtlockd".to_owned()).stack_size(STACK);
        if let Err(error) = builder.spawn(move || pool.run()) {
            self.threads.fetch_sub(1, Ordering::SeqCst);
            tracing::error!(%error, "cannot start a thread for clients of virtlockd's socket");
        }
    }

    fn run(self: Arc<Self>) {
        (self.on_start)();
        let _context = self.handle.enter();
        let mut events = Vec::with_capacity(1);
        loop {
            let before = self.waiting.fetch_add(1, Ordering::SeqCst);
            let patience = (before >= WAITING).then_some(&LEISURE);
            let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), patience);
            let left = self.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
            match waited {
                // Whether enough wait is told by how many do now: all may have been too many once.
                Ok(0) if left < WAITING => continue,
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    // Of a descriptor that is ours and open: only a bug comes here.
                    tracing::error!(
                        "cannot wait for clients of virtlockd's socket: {}",
                        reason(&errno.into())
                    );
                    break;
                }
            }
            if left == 0 {
                self.begin_thread();
            }
            // While the program is about to replace itself, nothing new is begun.
            let _running = loop {
                match self.service.storage().enter() {
                    Some(running) => break running,
                    None => self.service.storage().wait_open(),
                }
            };
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    number => self.serve(number),
                }
            }
        }
        self.threads.fetch_sub(1, Ordering::SeqCst);
    }

    fn serve(&self, number: u64) {
        let Some(client) = self.clients().get(&number).cloned() else { return };
        let next = client.serve();
        let again = match next {
            Next::Word => READ,
            Next::Room => WRITE,
            Next::End => return self.dismiss(number),
        };
        if client.is_awaited() {
            self.look_soon();
        }
        if let Err(errno) =
            epoll::modify(&self.epoll, &client.connection, EventData::new_u64(number), again)
        {
            tracing::error!(
                "cannot wait for a client of virtlockd's socket: {}",
                reason(&errno.into())
            );
            self.dismiss(number);
        }
    }

    fn dismiss(&self, number: u64) {
        let Some(client) = self.clients().remove(&number) else { return };
        // By itself it would be watched for as long as a copy is parked.
        if let Err(errno) = epoll::delete(&self.epoll, &client.connection) {
            tracing::debug!(
                "cannot stop waiting for a client of virtlockd's socket: {}",
                reason(&errno.into())
            );
        }
        client.end();
    }

    fn accept(&self) {
        let accepted = self.with_listener(|listener| {
            loop {
                match accept(listener, self.user, self.count()) {
                    Accepted::Client(connection, peer) => {
                        let connection = Arc::new(connection);
                        let service = self.service.clone();
                        let session = Session::new(service, Arc::clone(&connection), peer);
                        self.admit(&connection, session);
                    }
                    Accepted::Refused => {}
                    Accepted::Denied => self.service.counts().denied(),
                    Accepted::Exhausted => self.send_away(listener),
                    Accepted::Nobody => break,
                }
            }
            epoll::modify(&self.epoll, listener, EventData::new_u64(LISTENER), ACCEPT)
        });
        if let Some(Err(errno)) = accepted {
            tracing::error!("cannot serve virtlockd's socket any more: {}", reason(&errno.into()));
        }
    }

    /// Sends the next client away where no descriptor is left: he is told, and need not wait.
    fn send_away(&self, listener: BorrowedFd<'_>) {
        let mut kept = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        drop(kept.take());
        drop(accept(listener, self.user, usize::MAX));
        *kept = spare();
        // Others may have taken even that one: not to be tried again at once.
        if kept.is_none() {
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn look_soon(&self) {
        if !self.looking.swap(true, Ordering::SeqCst) {
            self.look.notify_one();
        }
    }

    /// Looks for clients that are waited for too long, as long as there are any that are.
    async fn look_after(self: Arc<Self>) {
        loop {
            self.look.notified().await;
            while self.looking.load(Ordering::SeqCst) {
                tokio::time::sleep(LOOK).await;
                // Whoever comes to be waited for from here on says so once more.
                self.looking.store(false, Ordering::SeqCst);
                let clients: Vec<Arc<Client>> = self.clients().values().cloned().collect();
                for client in clients.iter().filter(|client| client.is_awaited()) {
                    self.looking.store(true, Ordering::SeqCst);
                    client.lose_patience();
                }
            }
        }
    }
}

/// A descriptor of nothing in particular.
fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
