//! What one client has said, and what it is answered.
//!
//! The order of the checks is virtlockd's (`src/locking/lock_daemon_dispatch.c`): flags, then
//! whether the connection is restricted, then whether it has registered.

use std::cell::OnceCell;
use std::sync::Arc;

use super::call::{self, Call, Undecodable};
use super::deed::Deed;
use super::fault::{Code, Domain, Fault};
use super::frame::{self, Frame, Header, kind, status};
use super::refusal::{Asked, NOTHING};
use super::xdr::Reader;
use crate::life::Connection;
use crate::life::connection::Peer;
use crate::lock::owner::{AnchorId, shown_name};
use crate::lock::{self, OwnerId};
use crate::service::chronicle::Vm;
use crate::service::{CallerProcess, Error, Machine, Service, Shown};

/// How often an owner is looked for anew that has ended meanwhile: with each of its other connections
/// that closes, one that holds nothing may.
const TRIES: u32 = 16;
/// How many descriptors a call may bring (libvirt's `VIR_NET_MESSAGE_NUM_FDS_MAX`). None is wanted.
const DESCRIPTORS: u32 = 32;

/// A client.
#[derive(Debug)]
pub(super) struct Session {
    service: Service,
    connection: Arc<Connection>,
    peer: Peer,
    /// The process that opened the connection, and what it sees, once that matters.
    caller: OnceCell<Arc<CallerProcess>>,
    /// The machine in whose name it speaks.
    registered: Option<Registered>,
    /// It may ask for nothing any more.
    restricted: bool,
    /// The owner that this connection keeps alive, and its number as an anchor.
    keeps: Option<(OwnerId, AnchorId)>,
    kept: Kept,
    /// What has been done, and is logged once the client is answered.
    unsaid: Vec<Shown>,
}

#[derive(Debug)]
struct Registered {
    machine: Machine,
    /// Its owner, once there is one.
    owner: Option<OwnerId>,
}

/// Whether a connection outlives the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    No,
    /// Once its client has been answered.
    Soon,
    Yes,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This is sent.
    Message(Vec<u8>),
    /// Nothing is.
    Silence,
    /// The connection is closed.
    HangUp,
}

impl Session {
    /// One that has said nothing yet.
    pub(super) fn new(service: Service, connection: Arc<Connection>, peer: Peer) -> Self {
        let (registered, restricted, keeps, kept) = (None, false, None, Kept::No);
        let unsaid = Vec::new();
        Self {
            service,
            connection,
            peer,
            caller: OnceCell::new(),
            registered,
            restricted,
            keeps,
            kept,
            unsaid,
        }
    }

    /// One that has outlived a restart of the service: it had said all it may.
    pub(super) fn restored(
        service: Service,
        connection: Arc<Connection>,
        keeps: (OwnerId, AnchorId),
    ) -> Self {
        let peer = Peer { pid: 0, uid: keeps.0.uid };
        let session = Self::new(service, connection, peer);
        Self { restricted: true, keeps: Some(keeps), kept: Kept::Yes, ..session }
    }

    /// Whether it may stay silent for as long as it likes.
    pub(super) fn has_spoken(&self) -> bool {
        self.registered.is_some() || self.restricted
    }

    /// Whether the service's end would not be this connection's.
    pub(super) fn is_kept(&self) -> bool {
        self.kept != Kept::No
    }

    /// Something is being said on it: from now on, half of it may be in our hands, or an answer
    /// may be waited for. So it ends with the service.
    pub(super) fn speaks(&mut self) {
        if let Some((owner, number)) = self.keeps
            && self.is_kept()
        {
            self.service.drop_connection(owner, number);
            self.kept = Kept::No;
        }
    }

    /// Nothing is half said, and nobody waits for an answer.
    pub(super) fn is_silent(&mut self) {
        if self.restricted && self.kept == Kept::No {
            self.keep();
            self.is_answered();
        }
    }

    /// All answers are on their way.
    pub(super) fn is_answered(&mut self) {
        self.unsaid.clear();
        if let Some((_, number)) = self.keeps
            && self.kept == Kept::Soon
        {
            match self.service.answered(number) {
                Ok(()) => self.kept = Kept::Yes,
                Err(error) => {
                    tracing::error!(%error, "cannot keep a connection of libvirt over a restart of vmlockd");
                }
            }
        }
    }

    /// The connection is closed, or speaks for another machine from now on.
    pub(super) fn end(&mut self) {
        if let Some((owner, number)) = self.keeps.take() {
            self.service.disconnected(owner, number);
        } else if let Some(owner) = self.registered.as_ref().and_then(|known| known.owner) {
            self.service.leave(owner);
        }
        self.kept = Kept::No;
    }

    /// What is answered to a message.
    pub(super) fn answer(&mut self, frame: &Frame<'_>) -> Answer {
        let header = &frame.header;
        let keepalive = (frame::KEEPALIVE, frame::KEEPALIVE_VERSION);
        let payload = match header.kind {
            kind::MESSAGE if (header.program, header.version) == keepalive => {
                return match header.procedure {
                    frame::PING => Answer::Message(frame::pong()),
                    _ => Answer::Silence,
                };
            }
            kind::CALL => frame.payload,
            kind::CALL_WITH_FDS => {
                let mut reader = Reader::new(frame.payload);
                match reader.u32() {
                    Ok(0) => reader.rest(),
                    Ok(count) if count > DESCRIPTORS => return Answer::HangUp,
                    _ => return refuse(header, &Undecodable::Payload.into()),
                }
            }
            _ => return Answer::Silence,
        };
        let done = if (header.program, header.version) != (frame::PROGRAM, frame::VERSION) {
            Err(Fault::unknown_program(header.program, header.version))
        } else if header.status != status::OK {
            Err(Fault::unexpected_status(header.status))
        } else {
            Call::decode(header.procedure, payload)
                .map_err(Fault::from)
                .and_then(|call| self.perform(&call))
        };
        match done {
            Ok(()) => Answer::Message(frame::reply(header, status::OK, &[])),
            Err(fault) => refuse(header, &fault),
        }
    }

    fn perform(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        let unknown = call.unknown_flags();
        if unknown != 0 {
            return Err(Fault::unsupported_flags(call, unknown));
        }
        if self.restricted {
            return Err(Fault::restricted());
        }
        match *call {
            Call::Register { uuid, name, id, pid, .. } => self.register(uuid, name, id, pid),
            // libvirt names its lockspaces before it speaks for any machine.
            Call::CreateLockspace { path } => self.deed().make_lockspace(path),
            _ if self.registered.is_none() => Err(Fault::unregistered()),
            Call::Restrict { .. } => {
                self.restricted = true;
                self.keep();
                Ok(())
            }
            Call::NewLockspace { path, .. } => self.deed().make_new_lockspace(path),
            Call::CreateResource { lockspace, name, .. } => self.deed().create(lockspace, name),
            Call::DeleteResource { lockspace, name, .. } => self.deed().delete(lockspace, name),
            Call::AcquireResource { lockspace, name, flags } => {
                self.acquire(lockspace, name, flags)
            }
            Call::ReleaseResource { lockspace, name, .. } => self.release(lockspace, name),
        }
    }

    fn register(&mut self, uuid: [u8; 16], name: &[u8], id: u32, pid: u32) -> Result<(), Fault> {
        if id == 0 {
            return Err(Fault::unregistered());
        }
        let uuid = uuid::Uuid::from_bytes(uuid);
        if uuid.is_nil() {
            let text = "the UUID of a VM must not be zero";
            return Err(Fault::new(Code::InvalidArgument, Domain::Rpc, text));
        }
        let pid = self.translated(pid)?;
        let machine = Machine { uid: self.peer.uid, uuid, name: shown_name(name, uuid), pid };
        // It speaks for another machine from now on, and is that one's.
        self.end();
        self.registered = Some(Registered { machine, owner: None });
        // The machine's own process: it is there from now on, whether or not it holds anything.
        if pid != 0 && pid == self.peer.pid {
            self.owner()?;
        }
        Ok(())
    }

    /// The number that a process has here, by that which it has for the client. The client's own
    /// process needs no question, and has no other number here than the one that the kernel tells.
    fn translated(&self, pid: u32) -> Result<u32, Fault> {
        if pid == 0 || pid == self.peer.pid {
            return Ok(pid);
        }
        // Whether there is one is not asked, as virtlockd does not.
        match self.service.translate_pid(self.caller(), pid) {
            Ok(None) => Ok(pid),
            Ok(Some(process)) => Ok(process.pid()),
            Err(error) => Err(Fault::of(&error, NOTHING, false)),
        }
    }

    fn caller(&self) -> &Arc<CallerProcess> {
        let Peer { uid, pid } = self.peer;
        let of_peer = || Arc::new(CallerProcess::of_peer(&self.connection, uid, pid));
        self.caller.get_or_init(of_peer)
    }

    fn deed(&self) -> Deed<'_> {
        Deed::of(&self.service, self.caller())
    }

    /// The owner for which this connection speaks.
    fn owner(&mut self) -> Result<OwnerId, Fault> {
        let Some(registered) = &mut self.registered else { return Err(Fault::unregistered()) };
        if let Some(owner) = registered.owner {
            return Ok(owner);
        }
        let machine = &registered.machine;
        let owner =
            self.service.enrol(machine).map_err(|error| Fault::of(&error, NOTHING, false))?;
        registered.owner = Some(owner);
        if machine.pid == self.peer.pid && self.keeps.is_none() {
            let number = self.service.connect(owner, &self.connection);
            let number = number.map_err(|error| Fault::of(&error, NOTHING, false))?;
            self.keeps = Some((owner, number));
        }
        Ok(owner)
    }

    /// The client has said all it may: its connection may outlive the service.
    fn keep(&mut self) {
        let Some((owner, number)) = self.keeps else { return };
        match self.service.keep_connection(owner, number, &self.connection) {
            Ok(()) => self.kept = Kept::Soon,
            // Its process is an anchor, too.
            Err(error) => {
                tracing::error!(
                    %error,
                    owner.uuid = %owner.uuid,
                    owner.uid = owner.uid,
                    "cannot keep the connection of {} over a restart of vmlockd",
                    Vm(owner, "")
                );
            }
        }
    }

    fn acquire(&mut self, lockspace: &[u8], name: &[u8], flags: u32) -> Result<(), Fault> {
        for left in (0..TRIES).rev() {
            let ask = self.deed().ask(lockspace, name, flags)?;
            let owner = self.owner()?;
            match self.service.acquire_counted(owner, ask) {
                Err(Error::Lock(lock::Error::NoSuchOwner(_))) if left > 0 => self.forget_owner(),
                done => {
                    let what = Asked { lockspace, name };
                    let create = flags & call::acquire::CREATE != 0;
                    let shown = done.map_err(|error| Fault::of(&error, what, create))?;
                    self.unsaid.push(shown);
                    return Ok(());
                }
            }
        }
        Err(Fault::unregistered())
    }

    /// The owner has ended, or was closed, while its process lives on.
    fn forget_owner(&mut self) {
        self.keeps = None;
        self.kept = Kept::No;
        if let Some(registered) = &mut self.registered {
            registered.owner = None;
        }
    }

    fn release(&mut self, lockspace: &[u8], name: &[u8]) -> Result<(), Fault> {
        let Some(registered) = &self.registered else { return Err(Fault::unregistered()) };
        let machine = &registered.machine;
        let owner = registered.owner.or_else(|| self.service.enrolled(machine));
        let shown = self.deed().release(owner, machine.pid, lockspace, name)?;
        self.unsaid.push(shown);
        Ok(())
    }
}

fn refuse(header: &Header, fault: &Fault) -> Answer {
    Answer::Message(frame::reply(header, status::ERROR, &fault.payload()))
}
