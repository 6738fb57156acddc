//! Large replies: bounded, built on a worker thread, and few at a time.
//!
//! The event loop has one thread, so a reply of several megabytes must not be marshalled there. zbus
//! marshals what a method returns on the event loop; an error it asks for a finished message
//! ([`DBusError::create_reply`]). A method with a large reply therefore builds the message itself, on
//! a worker thread, and returns it as [`Reply::Built`].
//!
//! A user has at most one such reply at a time, all ordinary users together [`AT_ONE_TIME`], and the
//! administrator one of its own; other calls wait for their turn, in order, and count as calls of their
//! user meanwhile. Nothing that may hang is done during a turn: names are looked up before it. What a
//! user receives in a second is limited as well, since the message bus has one thread, too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zbus::message::{Header, Message};
use zbus::names::ErrorName;
use zbus::{DBusError, DynamicType, Signature, Type};

use super::error::Error;
use super::facts::Facts;
use crate::auth::authorizer::Authorizer;
use crate::auth::caller::Caller;

/// The largest reply, in bytes. A message bus accepts 32 MiB on the system bus (dbus-daemon's
/// `max_message_size`); while a reply is built and sent, it is in memory twice.
pub(super) const REPLY_MAX: usize = 8 << 20;
/// The largest value of a property, in bytes: it is marshalled on the event loop.
pub(super) const PROPERTY_MAX: usize = 256 << 10;
/// How many large replies to ordinary users are built or sent at one time.
const AT_ONE_TIME: usize = 2;
/// How many bytes of lists a user receives in a second, on average.
const BYTES_PER_SECOND: usize = 8 << 20;
/// Replies up to this size do not count.
const SMALL: usize = 64 << 10;

/// What a method with a large reply returns in place of an error.
#[derive(Debug)]
pub(super) enum Reply {
    /// The reply.
    Built(Box<Built>),
    /// An error.
    Error(Error),
}

/// A reply that is to be sent as it is.
#[derive(Debug)]
pub(super) struct Built {
    message: Message,
    /// Kept until the message is sent.
    _permit: Permit,
}

impl<E> From<E> for Reply
where
    Error: From<E>,
{
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl DBusError for Reply {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        match self {
            Self::Built(built) => Ok(built.message.clone()),
            Self::Error(error) => error.create_reply(call),
        }
    }

    fn name(&self) -> ErrorName<'_> {
        match self {
            // A reply has none, and is never asked for it.
            Self::Built(_) => ErrorName::from_static_str_unchecked("org.freedesktop.DBus.Error"),
            Self::Error(error) => error.name(),
        }
    }

    fn description(&self) -> Option<&str> {
        match self {
            Self::Built(_) => None,
            Self::Error(error) => error.description(),
        }
    }
}

/// The right to build one large reply.
#[derive(Debug)]
struct Permit {
    user: Option<OwnedSemaphorePermit>,
    _total: OwnedSemaphorePermit,
    /// How long the user's next reply has to wait after this one.
    pause: Duration,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(user) = self.user.take().filter(|_| !self.pause.is_zero()) else { return };
        let pause = self.pause;
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            drop(user);
        });
    }
}

/// Who builds large replies.
#[derive(Debug)]
pub(super) struct Bulk {
    ordinary: Arc<Semaphore>,
    administrator: Arc<Semaphore>,
    users: Turns,
    lookups: Turns,
}

impl Default for Bulk {
    fn default() -> Self {
        Self {
            ordinary: Arc::new(Semaphore::new(AT_ONE_TIME)),
            administrator: Arc::new(Semaphore::new(1)),
            users: Turns::default(),
            lookups: Turns::default(),
        }
    }
}

/// One turn at a time for each user.
#[derive(Debug, Default)]
struct Turns(Mutex<HashMap<u32, Weak<Semaphore>>>);

impl Turns {
    async fn next(&self, uid: u32) -> Result<OwnedSemaphorePermit, Error> {
        let turn = self.of_user(uid);
        turn.acquire_owned().await.map_err(|_| ending())
    }

    fn of_user(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, user| user.strong_count() > 0);
        users.get(&uid).and_then(Weak::upgrade).unwrap_or_else(|| {
            let user = Arc::new(Semaphore::new(1));
            users.insert(uid, Arc::downgrade(&user));
            user
        })
    }
}

fn ending() -> Error {
    Error::failed("vmlockd is shutting down")
}

impl Bulk {
    /// Builds a reply on a worker thread: `collect` copies what is in the table, `settle` has all
    /// of it shown on the bus, `write` makes the body of it.
    pub(super) async fn reply<T, B, S>(
        &self,
        (gate, caller, header): (&Authorizer, &Caller, &Header<'_>),
        collect: impl FnOnce() -> Result<T, Error> + Send + 'static,
        settle: impl FnOnce() -> S,
        write: impl FnOnce(T) -> Result<B, Error> + Send + 'static,
    ) -> Reply
    where
        T: Send + 'static,
        B: Serialize + DynamicType,
        S: Future<Output = ()>,
    {
        let built = async {
            let passes = gate.is_privileged(caller.uid);
            let mut permit = self.admit(caller.uid, passes).await?;
            if !caller.is_connected() {
                return Err(crate::auth::Error::CallerGone.into());
            }
            let collected = on_thread(collect).await?;
            settle().await;
            let reply = Message::method_return(header);
            let build = move || {
                let body = write(collected)?;
                reply.build(&body).map_err(|error| Error::failed(format!("cannot reply: {error}")))
            };
            let message = on_thread(build).await?;
            if !passes {
                permit.pause = pause(message.data().len());
            }
            Ok(Built { message, _permit: permit })
        };
        match built.await {
            Ok(built) => Reply::Built(Box::new(built)),
            Err(error) => Reply::Error(error),
        }
    }

    /// Waits until a user may look up the names of a list, and returns its turn.
    pub(super) async fn turn_to_look_up(&self, uid: u32) -> Result<OwnedSemaphorePermit, Error> {
        self.lookups.next(uid).await
    }

    async fn admit(&self, uid: u32, passes: bool) -> Result<Permit, Error> {
        let user = self.users.next(uid).await?;
        let places = if passes { &self.administrator } else { &self.ordinary };
        let total = Arc::clone(places).acquire_owned().await.map_err(|_| ending())?;
        Ok(Permit { user: Some(user), _total: total, pause: Duration::ZERO })
    }
}

/// How long a user has to wait after a reply of this size.
fn pause(bytes: usize) -> Duration {
    let micros = bytes.saturating_sub(SMALL).saturating_mul(1_000_000) / BYTES_PER_SECOND;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Runs work on a worker thread.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::failed(format!("cannot build the reply: {error}")))?
}

/// Rows that become dictionaries one by one, while they are marshalled.
pub(super) struct Rows<R> {
    /// The rows.
    pub rows: Vec<R>,
    /// The dictionaries of a row.
    pub facts: fn(&R) -> Vec<Facts>,
}

impl<R> Type for Rows<R> {
    const SIGNATURE: &'static Signature = <Vec<Facts> as Type>::SIGNATURE;
}

impl<R> Serialize for Rows<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(None)?;
        for facts in self.rows.iter().flat_map(self.facts) {
            rows.serialize_element(&facts)?;
        }
        rows.end()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_pending<F: Future>(future: Pin<&mut F>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn one_user_has_one_reply_at_a_time_and_leaves_room_for_others() {
        let bulk = Bulk::default();
        let first = bulk.admit(1000, false).await.unwrap();
        let mut second = Box::pin(bulk.admit(1000, false));
        assert!(is_pending(second.as_mut()));
        let other = bulk.admit(1001, false).await.unwrap();
        // Two are under way: a third user waits until one of them is done.
        let mut third = Box::pin(bulk.admit(1002, false));
        assert!(is_pending(third.as_mut()));
        drop(bulk.admit(0, true).await.unwrap());
        drop(other);
        let third = third.await.unwrap();
        assert!(is_pending(second.as_mut()));
        drop(first);
        drop((second.await.unwrap(), third));
        assert_eq!(bulk.users.0.lock().unwrap().len(), 4);
        drop(bulk.admit(1003, false).await.unwrap());
        assert_eq!(bulk.users.0.lock().unwrap().len(), 1, "idle users are forgotten");
    }

    #[tokio::test]
    async fn a_large_reply_delays_the_next_one_of_its_user() {
        assert_eq!(pause(SMALL), Duration::ZERO);
        assert_eq!(pause(SMALL + BYTES_PER_SECOND / 2), Duration::from_millis(500));
        let bulk = Bulk::default();
        let mut permit = bulk.admit(1000, false).await.unwrap();
        permit.pause = Duration::from_millis(20);
        drop(permit);
        // Other users do not wait for it.
        assert_eq!(bulk.ordinary.available_permits(), AT_ONE_TIME);
        let mut next = Box::pin(bulk.admit(1000, false));
        assert!(is_pending(next.as_mut()));
        drop(next.await.unwrap());
    }
}
