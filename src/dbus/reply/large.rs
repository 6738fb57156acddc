//! Large replies: bounded in size, built on worker threads, with admission control and a throttle.
//!
//! The event loop has one thread, so a reply of several megabytes must not be marshalled there.
//! zbus marshals the result of a method on the event loop, but lets an error create its own message
//! ([`DBusError::create_reply`]). A method with a large reply therefore builds the message on a
//! worker thread, and returns it as the error [`Reply::Built`].
//!
//! Admission control: a user has at most one large reply in progress, all ordinary users together
//! [`AT_ONE_TIME`], and the administrator one of its own. Other calls wait in order of arrival, and
//! count as calls of their user meanwhile. No operation that can hang is done while a permit is
//! held: names are looked up before. The throttle limits how many bytes a user receives in a
//! second, since the message bus has one thread, too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zbus::message::{Header, Message};
use zbus::names::ErrorName;
use zbus::{DBusError, DynamicType, Signature, Type};

use super::dictionary::Dictionary;
use crate::auth::authorizer::Authorizer;
use crate::auth::caller::Caller;
use crate::dbus::error::Error;
use crate::sync;

/// The size limit of a reply, in bytes. The system bus accepts 32 MiB (dbus-daemon's
/// `max_message_size`); while a reply is built and sent, it is in memory twice.
pub(crate) const REPLY_MAX: usize = 8 << 20;
/// The size limit of a property value, in bytes: it is marshalled on the event loop.
pub(crate) const PROPERTY_MAX: usize = 256 << 10;
/// The number of large replies to ordinary users in progress at one time.
const AT_ONE_TIME: usize = 2;
/// The number of bytes in large replies that a user receives in a second, on average.
const BYTES_PER_SECOND: usize = 8 << 20;
/// The size up to which a reply is not throttled.
const UNTHROTTLED: usize = 64 << 10;

/// The "error" that a method with a large reply returns.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A reply.
    Built(Box<Built>),
    /// An error.
    Error(Error),
}

/// A finished message.
#[derive(Debug)]
pub(crate) struct Built {
    message: Message,
    /// Held until the message is sent.
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
            // A reply has no name, and zbus never requests it: `create_reply` returns the message.
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

/// The permit for one large reply.
#[derive(Debug)]
struct Permit {
    user: Option<OwnedSemaphorePermit>,
    _total: OwnedSemaphorePermit,
    /// How long the throttle delays the next reply of the user.
    delay: Duration,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(user) = self.user.take().filter(|_| !self.delay.is_zero()) else { return };
        let delay = self.delay;
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            drop(user);
        });
    }
}

/// Admission control for large replies.
#[derive(Debug)]
pub(crate) struct LargeReplies {
    ordinary: Arc<Semaphore>,
    administrator: Arc<Semaphore>,
    users: UserSemaphores,
    lookups: UserSemaphores,
}

impl Default for LargeReplies {
    fn default() -> Self {
        Self {
            ordinary: Arc::new(Semaphore::new(AT_ONE_TIME)),
            administrator: Arc::new(Semaphore::new(1)),
            users: UserSemaphores::default(),
            lookups: UserSemaphores::default(),
        }
    }
}

/// A semaphore with one permit for each user.
#[derive(Debug, Default)]
struct UserSemaphores(Mutex<HashMap<u32, Weak<Semaphore>>>);

impl UserSemaphores {
    async fn acquire(&self, uid: u32) -> Result<OwnedSemaphorePermit, Error> {
        let semaphore = self.of_user(uid);
        semaphore.acquire_owned().await.map_err(|_| ending())
    }

    fn of_user(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = sync::lock(&self.0);
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

impl LargeReplies {
    /// Builds a reply on a worker thread: `collect` copies rows from the lock table, `publish`
    /// waits until their objects are on the bus, and `encode` makes the body.
    pub(crate) async fn build<T, B, S>(
        &self,
        (auth, caller, header): (&Authorizer, &Caller, &Header<'_>),
        collect: impl FnOnce() -> Result<T, Error> + Send + 'static,
        publish: impl FnOnce() -> S,
        encode: impl FnOnce(T) -> Result<B, Error> + Send + 'static,
    ) -> Reply
    where
        T: Send + 'static,
        B: Serialize + DynamicType,
        S: Future<Output = ()>,
    {
        let built = async {
            let is_privileged = auth.is_privileged(caller.uid);
            let mut permit = self.admit(caller.uid, is_privileged).await?;
            if !caller.is_connected() {
                return Err(crate::auth::Error::CallerGone.into());
            }
            let collected = run_blocking(collect).await?;
            publish().await;
            let reply = Message::method_return(header);
            let build = move || {
                let body = encode(collected)?;
                reply.build(&body).map_err(|error| Error::failed(format!("cannot reply: {error}")))
            };
            let message = run_blocking(build).await?;
            if !is_privileged {
                permit.delay = throttle_delay(message.data().len());
            }
            Ok(Built { message, _permit: permit })
        };
        match built.await {
            Ok(built) => Reply::Built(Box::new(built)),
            Err(error) => Reply::Error(error),
        }
    }

    /// Acquires the permit of a user to look up the names of a list.
    pub(crate) async fn acquire_lookup(&self, uid: u32) -> Result<OwnedSemaphorePermit, Error> {
        self.lookups.acquire(uid).await
    }

    async fn admit(&self, uid: u32, is_privileged: bool) -> Result<Permit, Error> {
        let user = self.users.acquire(uid).await?;
        let semaphore = if is_privileged { &self.administrator } else { &self.ordinary };
        let total = Arc::clone(semaphore).acquire_owned().await.map_err(|_| ending())?;
        Ok(Permit { user: Some(user), _total: total, delay: Duration::ZERO })
    }
}

/// Returns how long the throttle delays the next reply of a user after one of this size.
fn throttle_delay(bytes: usize) -> Duration {
    let micros = bytes.saturating_sub(UNTHROTTLED).saturating_mul(1_000_000) / BYTES_PER_SECOND;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Runs work on a worker thread.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::failed(format!("cannot build the reply: {error}")))?
}

/// Rows that are encoded as dictionaries one by one while they are marshalled, to save memory.
pub(crate) struct Rows<R> {
    /// The rows.
    pub rows: Vec<R>,
    /// Encodes a row as dictionaries.
    pub encode: fn(&R) -> Vec<Dictionary>,
}

impl<R> Type for Rows<R> {
    const SIGNATURE: &'static Signature = <Vec<Dictionary> as Type>::SIGNATURE;
}

impl<R> Serialize for Rows<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(None)?;
        for dictionary in self.rows.iter().flat_map(self.encode) {
            rows.serialize_element(&dictionary)?;
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
    async fn a_user_has_one_reply_in_progress_and_does_not_block_others() {
        let replies = LargeReplies::default();
        let first = replies.admit(1000, false).await.unwrap();
        let mut second = Box::pin(replies.admit(1000, false));
        assert!(is_pending(second.as_mut()));
        let other = replies.admit(1001, false).await.unwrap();
        // Two replies are in progress: a third user waits until one of them is sent.
        let mut third = Box::pin(replies.admit(1002, false));
        assert!(is_pending(third.as_mut()));
        drop(replies.admit(0, true).await.unwrap());
        drop(other);
        let third = third.await.unwrap();
        assert!(is_pending(second.as_mut()));
        drop(first);
        drop((second.await.unwrap(), third));
        assert_eq!(replies.users.0.lock().unwrap().len(), 4);
        drop(replies.admit(1003, false).await.unwrap());
        assert_eq!(replies.users.0.lock().unwrap().len(), 1, "idle users are removed");
    }

    #[tokio::test]
    async fn a_large_reply_throttles_its_user() {
        assert_eq!(throttle_delay(UNTHROTTLED), Duration::ZERO);
        assert_eq!(throttle_delay(UNTHROTTLED + BYTES_PER_SECOND / 2), Duration::from_millis(500));
        let replies = LargeReplies::default();
        let mut permit = replies.admit(1000, false).await.unwrap();
        permit.delay = Duration::from_millis(20);
        drop(permit);
        // Other users are not delayed.
        assert_eq!(replies.ordinary.available_permits(), AT_ONE_TIME);
        let mut next = Box::pin(replies.admit(1000, false));
        assert!(is_pending(next.as_mut()));
        drop(next.await.unwrap());
    }
}
