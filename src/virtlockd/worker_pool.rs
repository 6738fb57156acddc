//! The worker threads that serve clients.
//!
//! One worker waits for events of all clients and serves them in the order of arrival; another one
//! replaces it when a call hangs in the kernel ([`leadership`](super::leadership)). A client stays
//! watched while it is served, which saves two system calls for each of its calls. So its next event
//! may find it served by a worker that hangs; then it is not watched until that worker has finished.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::accept::{Accepted, accept};
use super::client::{Client, Next};
use super::dispatcher::Dispatcher;
use super::leadership::{Leadership, Term};
use crate::life::Connection;
use crate::lock::text::escape::reason;
use crate::service::Service;
use crate::sync;

/// The largest number of workers. If as many calls hang, all other clients wait.
const MAX_WORKERS: usize = 256;
/// The size of a worker's stack. No function that a worker calls is recursive.
const STACK_SIZE: usize = 512 * 1024;
/// How often the deadlines of clients are checked.
const DEADLINE_INTERVAL: Duration = Duration::from_secs(1);

/// The id of the listening socket among the ids of clients.
const LISTENER: u64 = 0;

/// The events of the listening socket, each reported to one worker.
const ACCEPT: EventFlags = EventFlags::IN.union(EventFlags::ONESHOT);
/// The events of a client that may send.
const READ: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
/// The events of a client that has not read its replies.
const WRITE: EventFlags = EventFlags::OUT;
/// The events of a client that is not watched. The kernel reports a hang-up in any case, but only
/// once to a one-shot watch.
const UNWATCHED_EVENTS: EventFlags = EventFlags::ONESHOT;
/// How many events the leader receives at once.
const MAX_EVENTS: usize = 64;

/// The state that the workers share.
#[derive(Debug)]
pub(super) struct WorkerPool {
    service: Service,
    /// The user whose connections are accepted, besides those of root.
    user: u32,
    epoll: OwnedFd,
    runtime: Handle,
    /// Called by each worker first.
    on_start: fn(),
    clients: Mutex<HashMap<u64, Arc<Client>>>,
    listener: RwLock<Option<OwnedFd>>,
    /// Closed for a moment to accept and refuse a connection where no other descriptor is free.
    spare: Mutex<Option<OwnedFd>>,
    last_id: AtomicU64,
    leadership: Leadership,
    workers: AtomicUsize,
    /// Whether some client may have a deadline.
    has_deadlines: AtomicBool,
    deadline_added: Notify,
}

impl WorkerPool {
    pub(super) fn new(service: Service, user: u32, on_start: fn()) -> Result<Arc<Self>, Errno> {
        let pool = Arc::new(Self {
            service,
            user,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            runtime: Handle::current(),
            on_start,
            clients: Mutex::default(),
            listener: RwLock::default(),
            spare: Mutex::new(open_spare()),
            last_id: AtomicU64::new(LISTENER),
            leadership: Leadership::default(),
            workers: AtomicUsize::new(0),
            has_deadlines: AtomicBool::new(false),
            deadline_added: Notify::new(),
        });
        tokio::spawn(Arc::clone(&pool).enforce_deadlines());
        if !pool.spawn_worker(Some(pool.leadership.first_term())) {
            return Err(Errno::AGAIN);
        }
        // Otherwise the leader starts a watcher later.
        pool.leadership.set_lacks_watcher(!pool.spawn_worker(None));
        Ok(pool)
    }

    /// Starts to accept connections to a listening socket.
    pub(super) fn listen(&self, listener: OwnedFd) -> Result<(), Errno> {
        // Held until the socket is stored, since its first event is reported only once.
        let mut stored = self.listener.write().unwrap_or_else(PoisonError::into_inner);
        epoll::add(&self.epoll, &listener, EventData::new_u64(LISTENER), ACCEPT)?;
        *stored = Some(listener);
        Ok(())
    }

    /// Calls `f` with the listening socket, if there is one.
    pub(super) fn with_listener<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let listener = self.listener.read().unwrap_or_else(PoisonError::into_inner);
        listener.as_ref().map(|listener| f(listener.as_fd()))
    }

    /// Adds a client, and serves it from now on.
    pub(super) fn add_client(&self, connection: &Arc<Connection>, dispatcher: Dispatcher) {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(Arc::clone(connection), dispatcher));
        let has_deadline = client.has_deadline();
        self.clients().insert(id, client);
        let watched = epoll::add(&self.epoll, connection, EventData::new_u64(id), READ);
        if self.remove_unless_watched(id, watched) && has_deadline {
            self.wake_deadline_task();
        }
    }

    /// Returns the number of clients.
    pub(super) fn client_count(&self) -> usize {
        self.clients().len()
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<Client>>> {
        sync::lock(&self.clients)
    }

    /// Starts a worker, the leader of `term` if there is one. Returns whether it was started.
    fn spawn_worker(self: &Arc<Self>, term: Option<Arc<Term>>) -> bool {
        if self.workers.fetch_add(1, Ordering::SeqCst) >= MAX_WORKERS {
            self.workers.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        let pool = Arc::clone(self);
        let builder = thread::Builder::new().name("virtlockd".to_owned()).stack_size(STACK_SIZE);
        let started = builder.spawn(move || pool.run_worker(term));
        if let Err(error) = &started {
            self.workers.fetch_sub(1, Ordering::SeqCst);
            tracing::error!(%error, "cannot start a thread for clients of virtlockd's socket");
        }
        started.is_ok()
    }

    /// Runs a worker: it leads, is replaced, and leads again.
    fn run_worker(self: Arc<Self>, mut term: Option<Arc<Term>>) {
        (self.on_start)();
        let _context = self.runtime.enter();
        loop {
            if let Some(term) = &term
                && let Err(errno) = self.lead(term)
            {
                // The descriptor is open and an epoll instance, so this is a bug.
                tracing::error!(
                    "cannot wait for clients of virtlockd's socket: {}",
                    reason(&errno.into())
                );
                break;
            }
            term = self.leadership.wait_to_lead(|| self.spawn_worker(None));
            if term.is_none() {
                break;
            }
        }
        self.workers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits for events and serves the clients until another worker is the leader.
    fn lead(self: &Arc<Self>, term: &Term) -> Result<(), Errno> {
        let mut events = Vec::with_capacity(MAX_EVENTS);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            if self.leadership.lacks_watcher() {
                let is_started = self.spawn_worker(None);
                self.leadership.set_lacks_watcher(!is_started);
            }
            // While the service re-executes itself, no call is started.
            let _running = loop {
                match self.service.executor().register_request() {
                    Some(running) => break running,
                    None => self.service.executor().wait_open(),
                }
            };
            // First, since its event is reported only once, and a client may hang.
            events.sort_by_key(|event| event.data.u64() != LISTENER);
            for id in events.drain(..).map(|event| event.data.u64()) {
                if !self.leadership.begin(term) {
                    return Ok(());
                }
                match id {
                    LISTENER => self.accept_clients(),
                    id => self.serve_client(id),
                }
                // The kernel reports the events of the other clients to the new leader.
                if !Leadership::finish(term) {
                    return Ok(());
                }
            }
        }
    }

    fn serve_client(&self, id: u64) {
        let Some(client) = self.clients().get(&id).cloned() else { return };
        if !client.begin_service() {
            return self.stop_watching(id, &client);
        }
        let next = client.serve();
        if next == Next::Close {
            return self.remove_client(id);
        }
        if client.has_deadline() {
            self.wake_deadline_task();
        }
        if client.finish_service(next) {
            self.watch(id, &client);
        }
    }

    /// Stops watching a client that another worker serves, until that worker has finished.
    fn stop_watching(&self, id: u64, client: &Client) {
        if client.mark_unwatched() {
            self.watch(id, client);
        }
    }

    /// Watches a client for the events that it waits for.
    fn watch(&self, id: u64, client: &Client) {
        let watched = client.change_watch(|next| {
            let events = match next {
                Some(Next::Write) => WRITE,
                Some(_) => READ,
                None => UNWATCHED_EVENTS,
            };
            epoll::modify(&self.epoll, &client.connection, EventData::new_u64(id), events)
        });
        self.remove_unless_watched(id, watched);
    }

    /// Removes a client if its connection cannot be watched for events. Returns whether it is watched.
    fn remove_unless_watched(&self, id: u64, watched: Result<(), Errno>) -> bool {
        let Err(errno) = watched else { return true };
        if !self.clients().contains_key(&id) {
            // Another worker has removed it meanwhile.
            return false;
        }
        tracing::error!(
            "cannot wait for a client of virtlockd's socket: {}",
            reason(&errno.into())
        );
        self.remove_client(id);
        false
    }

    fn remove_client(&self, id: u64) {
        let Some(client) = self.clients().remove(&id) else { return };
        // Closing the descriptor would not remove it from the epoll instance while the stash has a copy.
        if let Err(errno) = epoll::delete(&self.epoll, &client.connection) {
            tracing::debug!(
                "cannot stop waiting for a client of virtlockd's socket: {}",
                reason(&errno.into())
            );
        }
        client.end();
    }

    /// Accepts all connections in the queue of the listening socket.
    fn accept_clients(&self) {
        self.with_listener(|listener| {
            loop {
                match accept(listener, self.user, self.client_count()) {
                    Accepted::Client(connection, peer) => {
                        let connection = Arc::new(connection);
                        let service = self.service.clone();
                        let dispatcher = Dispatcher::new(service, Arc::clone(&connection), peer);
                        self.add_client(&connection, dispatcher);
                    }
                    Accepted::Refused => {}
                    Accepted::Denied => self.service.metrics().denied(),
                    Accepted::NoDescriptor => self.refuse_next(listener),
                    Accepted::Empty => break,
                }
            }
            self.watch_listener(listener);
        });
    }

    fn watch_listener(&self, listener: BorrowedFd<'_>) {
        let watched = epoll::modify(&self.epoll, listener, EventData::new_u64(LISTENER), ACCEPT);
        if let Err(errno) = watched {
            tracing::error!("cannot serve virtlockd's socket any more: {}", reason(&errno.into()));
        }
    }

    /// Refuses the next connection where no descriptor is free, so that its client need not wait.
    fn refuse_next(&self, listener: BorrowedFd<'_>) {
        let mut spare = sync::lock(&self.spare);
        drop(spare.take());
        drop(accept(listener, self.user, usize::MAX));
        *spare = open_spare();
        // Backoff: another thread has used the spare descriptor.
        if spare.is_none() {
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn wake_deadline_task(&self) {
        if !self.has_deadlines.swap(true, Ordering::SeqCst) {
            self.deadline_added.notify_one();
        }
    }

    /// Checks the deadlines of all clients at intervals, for as long as any client has one.
    async fn enforce_deadlines(self: Arc<Self>) {
        loop {
            self.deadline_added.notified().await;
            while self.has_deadlines.load(Ordering::SeqCst) {
                tokio::time::sleep(DEADLINE_INTERVAL).await;
                // Cleared first: a deadline that is added from here on sets it again.
                self.has_deadlines.store(false, Ordering::SeqCst);
                let clients: Vec<Arc<Client>> = self.clients().values().cloned().collect();
                for client in clients.iter().filter(|client| client.has_deadline()) {
                    self.has_deadlines.store(true, Ordering::SeqCst);
                    client.enforce_deadline();
                }
            }
        }
    }
}

/// Opens a descriptor that is held in reserve.
fn open_spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
