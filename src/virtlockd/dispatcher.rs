//! The protocol state of one client, and the dispatch of its calls.
//!
//! The checks have virtlockd's order (`src/locking/lock_daemon_dispatch.c`): flags, then whether the
//! connection is restricted, then whether it is registered.

use std::cell::OnceCell;
use std::sync::Arc;

use super::call::{self, Call, CallError};
use super::error_mapping::{NO_TARGET, Target};
use super::frame::{self, Frame, Header, kind, status};
use super::procedures::Procedures;
use super::remote_error::{Code, Domain, RemoteError};
use super::xdr::Reader;
use crate::life::Connection;
use crate::life::connection::Peer;
use crate::lock::model::owner::{AnchorId, shown_name};
use crate::lock::{self, OwnerId};
use crate::service::report::event_log::Vm;
use crate::service::{CallerProcess, Error, Machine, Publication, Service};

/// The number of attempts to find an owner that has not ended. An owner that holds no lock may end with
/// each of its other connections that is closed.
const MAX_ATTEMPTS: u32 = 16;
/// The largest number of descriptors of a call (`VIR_NET_MESSAGE_NUM_FDS_MAX` of libvirt). No call of
/// this protocol has any.
const MAX_DESCRIPTORS: u32 = 32;

/// The dispatcher of one client's calls.
#[derive(Debug)]
pub(super) struct Dispatcher {
    service: Service,
    connection: Arc<Connection>,
    peer: Peer,
    /// The process that opened the connection, with its view of the file system. Read when first needed.
    caller: OnceCell<Arc<CallerProcess>>,
    /// The VM for which the client calls.
    registration: Option<Registration>,
    /// Whether further calls are forbidden.
    restricted: bool,
    /// The owner that this connection keeps alive, and the connection's id as an anchor.
    anchor: Option<(OwnerId, AnchorId)>,
    stash: Stash,
    /// Events that are published once the reply has been sent.
    pending_events: Vec<Publication>,
}

#[derive(Debug)]
struct Registration {
    vm: Machine,
    /// The owner of the VM, once it exists.
    owner: Option<OwnerId>,
}

/// Whether a copy of the connection is in the stash, so that it survives a restart of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stash {
    No,
    /// It will be once the reply has been sent.
    Pending,
    Yes,
}

/// The response to a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// A message to send.
    Message(Vec<u8>),
    /// No message.
    None,
    /// The end of the connection.
    Disconnect,
}

impl Dispatcher {
    /// Returns the dispatcher of a new connection.
    pub(super) fn new(service: Service, connection: Arc<Connection>, peer: Peer) -> Self {
        Self {
            service,
            connection,
            peer,
            caller: OnceCell::new(),
            registration: None,
            restricted: false,
            anchor: None,
            stash: Stash::No,
            pending_events: Vec::new(),
        }
    }

    /// Returns the dispatcher of a connection that has survived a restart of the service. Only
    /// restricted connections do.
    pub(super) fn restored(
        service: Service,
        connection: Arc<Connection>,
        anchor: (OwnerId, AnchorId),
    ) -> Self {
        let peer = Peer { pid: 0, uid: anchor.0.uid };
        let dispatcher = Self::new(service, connection, peer);
        Self { restricted: true, anchor: Some(anchor), stash: Stash::Yes, ..dispatcher }
    }

    /// Whether the client may send nothing for as long as it likes.
    pub(super) fn may_be_idle(&self) -> bool {
        self.registration.is_some() || self.restricted
    }

    /// Whether the connection is in the stash, or will be.
    pub(super) fn is_stashed(&self) -> bool {
        self.stash != Stash::No
    }

    /// Removes the connection from the stash, since a message arrives: from now on the service may have
    /// read half of a message, or owe a reply, so the connection must end with the service.
    pub(super) fn unstash(&mut self) {
        if let Some((owner, anchor)) = self.anchor
            && self.is_stashed()
        {
            self.service.drop_connection(owner, anchor);
            self.stash = Stash::No;
        }
    }

    /// Stashes the connection again, now that no message is incomplete and no reply is owed.
    pub(super) fn idle(&mut self) {
        if self.restricted && self.stash == Stash::No {
            self.prepare_stash();
            self.replies_sent();
        }
    }

    /// Publishes the events of the calls whose replies have been sent, and completes a pending stash.
    pub(super) fn replies_sent(&mut self) {
        self.pending_events.clear();
        if let Some((_, anchor)) = self.anchor
            && self.stash == Stash::Pending
        {
            match self.service.answered(anchor) {
                Ok(()) => self.stash = Stash::Yes,
                Err(error) => {
                    tracing::error!(%error, "cannot keep a connection of libvirt over a restart of vmlockd");
                }
            }
        }
    }

    /// Ends the client's claim on its owner: the connection is closed, or registers for another VM.
    pub(super) fn end(&mut self) {
        if let Some((owner, anchor)) = self.anchor.take() {
            self.service.disconnected(owner, anchor);
        } else if let Some(owner) = self.registration.as_ref().and_then(|known| known.owner) {
            self.service.leave(owner);
        }
        self.stash = Stash::No;
    }

    /// Executes a message, and returns the response.
    pub(super) fn dispatch(&mut self, frame: &Frame<'_>) -> Response {
        let header = &frame.header;
        let keepalive = (frame::KEEPALIVE, frame::KEEPALIVE_VERSION);
        let payload = match header.kind {
            kind::MESSAGE if (header.program, header.version) == keepalive => {
                return match header.procedure {
                    frame::PING => Response::Message(frame::pong()),
                    _ => Response::None,
                };
            }
            kind::CALL => frame.payload,
            kind::CALL_WITH_FDS => {
                let mut reader = Reader::new(frame.payload);
                match reader.u32() {
                    Ok(0) => reader.rest(),
                    Ok(count) if count > MAX_DESCRIPTORS => return Response::Disconnect,
                    _ => return error_reply(header, &CallError::Payload.into()),
                }
            }
            _ => return Response::None,
        };
        let result = if (header.program, header.version) != (frame::PROGRAM, frame::VERSION) {
            Err(RemoteError::unknown_program(header.program, header.version))
        } else if header.status != status::OK {
            Err(RemoteError::unexpected_status(header.status))
        } else {
            Call::decode(header.procedure, payload)
                .map_err(RemoteError::from)
                .and_then(|call| self.execute(&call))
        };
        match result {
            Ok(()) => Response::Message(frame::reply(header, status::OK, &[])),
            Err(error) => error_reply(header, &error),
        }
    }

    fn execute(&mut self, call: &Call<'_>) -> Result<(), RemoteError> {
        let unknown = call.unknown_flags();
        if unknown != 0 {
            return Err(RemoteError::unsupported_flags(call, unknown));
        }
        if self.restricted {
            return Err(RemoteError::restricted());
        }
        match *call {
            Call::Register { uuid, name, id, pid, .. } => self.register(uuid, name, id, pid),
            // libvirt creates its lockspaces before it registers for any VM.
            Call::CreateLockspace { path } => self.procedures().create_lockspace(path),
            _ if self.registration.is_none() => Err(RemoteError::unregistered()),
            Call::Restrict { .. } => {
                self.restricted = true;
                self.prepare_stash();
                Ok(())
            }
            Call::NewLockspace { path, .. } => self.procedures().create_new_lockspace(path),
            Call::CreateResource { lockspace, name, .. } => {
                self.procedures().create_resource(Target { lockspace, name })
            }
            Call::DeleteResource { lockspace, name, .. } => {
                self.procedures().delete_resource(Target { lockspace, name })
            }
            Call::AcquireResource { lockspace, name, flags } => {
                self.acquire(Target { lockspace, name }, flags)
            }
            Call::ReleaseResource { lockspace, name, .. } => {
                self.release(Target { lockspace, name })
            }
        }
    }

    fn register(
        &mut self,
        uuid: [u8; 16],
        name: &[u8],
        id: u32,
        pid: u32,
    ) -> Result<(), RemoteError> {
        if id == 0 {
            return Err(RemoteError::unregistered());
        }
        let uuid = uuid::Uuid::from_bytes(uuid);
        if uuid.is_nil() {
            let text = "the UUID of a VM must not be zero";
            return Err(RemoteError::new(Code::InvalidArgument, Domain::Rpc, text));
        }
        let pid = self.translate_pid(pid)?;
        let vm = Machine { uid: self.peer.uid, uuid, name: shown_name(name, uuid), pid };
        // The connection belongs to another VM from now on.
        self.end();
        self.registration = Some(Registration { vm, owner: None });
        // The client is the VM's own process, so the owner exists from now on, even without locks.
        if pid != 0 && pid == self.peer.pid {
            self.owner()?;
        }
        Ok(())
    }

    /// Translates a process id of the client's pid namespace into one of the service's. The client's own
    /// id needs no translation: the kernel reports it in the service's namespace.
    fn translate_pid(&self, pid: u32) -> Result<u32, RemoteError> {
        if pid == 0 || pid == self.peer.pid {
            return Ok(pid);
        }
        // Not checked for existence, as virtlockd does not check it.
        match self.service.inspection().translate_pid(self.caller(), pid) {
            Ok(None) => Ok(pid),
            Ok(Some(process)) => Ok(process.pid()),
            Err(error) => Err(RemoteError::from_service(&error, NO_TARGET, false)),
        }
    }

    fn caller(&self) -> &Arc<CallerProcess> {
        let Peer { uid, pid } = self.peer;
        let of_peer = || Arc::new(CallerProcess::of_peer(&self.connection, uid, pid));
        self.caller.get_or_init(of_peer)
    }

    fn procedures(&self) -> Procedures<'_> {
        Procedures::new(&self.service, self.caller())
    }

    /// Returns the owner of the registered VM, and opens it first if necessary.
    fn owner(&mut self) -> Result<OwnerId, RemoteError> {
        let Some(registration) = &mut self.registration else {
            return Err(RemoteError::unregistered());
        };
        if let Some(owner) = registration.owner {
            return Ok(owner);
        }
        let refused = |error: Error| RemoteError::from_service(&error, NO_TARGET, false);
        let vm = &registration.vm;
        let owner = self.service.register(vm).map_err(refused)?;
        registration.owner = Some(owner);
        if vm.pid == self.peer.pid && self.anchor.is_none() {
            let anchor = self.service.connect(owner, &self.connection).map_err(refused)?;
            self.anchor = Some((owner, anchor));
        }
        Ok(owner)
    }

    /// Prepares the stash of a connection that is restricted, and so may survive the service. It is
    /// complete after [`Self::replies_sent`].
    fn prepare_stash(&mut self) {
        let Some((owner, anchor)) = self.anchor else { return };
        match self.service.keep_connection(owner, anchor, &self.connection) {
            Ok(()) => self.stash = Stash::Pending,
            // The owner does not end for that: the client's process is an anchor, too.
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

    fn acquire(&mut self, target: Target<'_>, flags: u32) -> Result<(), RemoteError> {
        for attempts_left in (0..MAX_ATTEMPTS).rev() {
            let request = self.procedures().lock_request(target, flags)?;
            let owner = self.owner()?;
            match self.service.acquire_counted(owner, request) {
                // Retry with a new owner: this one has ended meanwhile.
                Err(Error::Lock(lock::Error::NoSuchOwner(_))) if attempts_left > 0 => {
                    self.forget_owner();
                }
                result => {
                    let create = flags & call::acquire::CREATE != 0;
                    let event = result
                        .map_err(|error| RemoteError::from_service(&error, target, create))?;
                    self.pending_events.push(event);
                    return Ok(());
                }
            }
        }
        Err(RemoteError::unregistered())
    }

    /// Forgets an owner that has ended, or was closed, while the client's process lives.
    fn forget_owner(&mut self) {
        self.anchor = None;
        self.stash = Stash::No;
        if let Some(registration) = &mut self.registration {
            registration.owner = None;
        }
    }

    fn release(&mut self, target: Target<'_>) -> Result<(), RemoteError> {
        let Some(registration) = &self.registration else {
            return Err(RemoteError::unregistered());
        };
        let vm = &registration.vm;
        let owner = registration.owner.or_else(|| self.service.registered(vm));
        let event = self.procedures().release(owner, vm.pid, target)?;
        self.pending_events.push(event);
        Ok(())
    }
}

fn error_reply(header: &Header, error: &RemoteError) -> Response {
    Response::Message(frame::reply(header, status::ERROR, &error.payload()))
}
