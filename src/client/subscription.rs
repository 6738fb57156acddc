//! Subscriptions to signals of the service, with a check of the sender.
//!
//! A match rule with `sender=org.vmlockd1` is a filter of the bus for *broadcast* signals. The bus
//! delivers a signal that is addressed to one connection regardless of its match rules (D-Bus
//! specification, "Message Bus Message Routing"), and a client library cannot compare a unique name
//! with a well-known one. Any user can therefore send a client a signal that looks like one of the
//! service. A [`Subscription`] tracks the owner of the service's name, and drops each message with
//! another sender.
//!
//! A service that hides the owners of other users sends its signals only to connections that have
//! called the object of the signal (`privacy` in vmlockd.toml(5)). A subscription therefore calls
//! `Ping` on the path of its rule, again after each start of the service.

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use zbus::fdo::DBusProxy;
use zbus::match_rule::PathSpec;
use zbus::message::{Flags, Type};
use zbus::names::{BusName, OwnedUniqueName};
use zbus::{Connection, MatchRule, Message, MessageStream, match_rule, proxy};

use super::{MANAGER_PATH, SERVICE};

/// The name of the bus itself. The bus does not deliver messages of other connections with this
/// sender.
const BUS: &str = "org.freedesktop.DBus";
/// The interface that exists on every path.
const PEER: &str = "org.freedesktop.DBus.Peer";

/// An event of a subscription, in the order of delivery by the bus.
#[derive(Debug, Clone)]
pub enum Event {
    /// A signal of the service.
    Signal(Message),
    /// The service's name has another owner, or none.
    Owner(Option<OwnedUniqueName>),
}

/// Signals of the service that match a rule.
///
/// All signals of one subscription keep their order, even across restarts of the service. The match
/// rules are removed with the subscription.
#[derive(Debug)]
pub struct Subscription(mpsc::UnboundedReceiver<Event>);

impl Subscription {
    /// Subscribes to the signals of the service that match `rule`, which need not contain the type
    /// of the message and its sender. No signal that the service sends after this returns is
    /// missed.
    ///
    /// # Errors
    ///
    /// Returns an error if the bus does not accept the rule.
    pub async fn new(connection: &Connection, rule: match_rule::Builder<'_>) -> zbus::Result<Self> {
        let rule = rule.msg_type(Type::Signal).sender(SERVICE).build()?.to_owned();
        let bus = DBusProxy::builder(connection)
            .cache_properties(proxy::CacheProperties::No)
            .build()
            .await?;
        // A stream of all messages of the connection, since the streams of two rules have no common
        // order.
        let messages = MessageStream::from(connection);
        let (events, receiver) = mpsc::unbounded_channel();
        let (sender, owner) = oneshot::channel();
        // The reader starts before the first call, since a stream without a reader blocks the
        // connection.
        tokio::spawn(read_messages(messages, rule.clone(), owner, events, bus.clone()));
        let path = path_of(&rule);
        for rule in [name_rule()?, rule] {
            bus.add_match_rule(rule).await?;
        }
        let owner = match bus.get_name_owner(BusName::try_from(SERVICE)?).await {
            Ok(owner) => Some(owner),
            Err(zbus::fdo::Error::NameHasNoOwner(_)) => None,
            Err(error) => return Err(error.into()),
        };
        if owner.is_some() {
            let peer = Some(PEER);
            // If the service has left meanwhile, the reader detects its return. A service that does
            // not reply, or refuses the call, may send its signals all the same.
            let _ = connection.call_method(Some(SERVICE), path, peer, "Ping", &()).await;
        }
        // Without a reader the connection is lost, which the receiver reports.
        let _ = sender.send(owner);
        Ok(Self(receiver))
    }

    /// Returns the next event, or `None` once the connection to the bus is lost.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// Returns the path of a rule.
fn path_of(rule: &MatchRule<'_>) -> String {
    match rule.path_spec() {
        Some(PathSpec::Path(path) | PathSpec::PathNamespace(path)) => path.to_string(),
        None => MANAGER_PATH.to_owned(),
    }
}

/// Calls `Ping` of a service that was started, so that it sends its signals to this connection.
/// Does not wait for a reply.
async fn ping_service(connection: &Connection, rule: &MatchRule<'_>) {
    let ping = Message::method_call(path_of(rule), "Ping").destination(SERVICE).interface(PEER);
    let ping = ping.with_flags(Flags::NO_REPLY_EXPECTED | Flags::NO_AUTO_START);
    if let Ok(message) = ping.build(&()) {
        // On an error the connection is lost, which the reader detects.
        let _ = connection.send(&message).await;
    }
}

/// Returns the rule for changes of the owner of the service's name.
fn name_rule() -> zbus::Result<MatchRule<'static>> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(BUS)
        .interface(BUS)
        .member("NameOwnerChanged")
        .arg(0, SERVICE);
    rule.build()
}

/// Reads the messages of the connection until the receiver of the events is dropped or the
/// connection is lost.
async fn read_messages(
    mut messages: MessageStream,
    rule: MatchRule<'static>,
    reply: oneshot::Receiver<Option<OwnedUniqueName>>,
    events: mpsc::UnboundedSender<Event>,
    bus: DBusProxy<'static>,
) {
    let mut filter = Filter { rule, owner: None, changed: false };
    let mut reply = Some(reply);
    loop {
        tokio::select! {
            biased;
            () = events.closed() => break,
            owner = async { reply.as_mut()?.await.ok() }, if reply.is_some() => {
                reply = None;
                match owner {
                    // A change that was received meanwhile is at least as new as the reply.
                    Some(owner) if !filter.changed => filter.owner = owner,
                    Some(_) => {}
                    // The subscription failed.
                    None => break,
                }
            }
            message = messages.next() => {
                let Some(Ok(message)) = message else { return };
                let event = filter.select(message);
                if let Some(Event::Owner(Some(_))) = &event {
                    ping_service(bus.inner().connection(), &filter.rule).await;
                }
                if let Some(event) = event
                    && reply.is_none()
                    && events.send(event).is_err()
                {
                    break;
                }
            }
        }
    }
    drop(messages);
    let rules = [name_rule(), Ok(filter.rule)];
    for rule in rules.into_iter().flatten() {
        // If the bus does not reply, the rules end with the connection.
        let _ = bus.remove_match_rule(rule).await;
    }
}

/// Selects the messages of a connection that are events.
#[derive(Debug)]
struct Filter {
    rule: MatchRule<'static>,
    /// The owner of the service's name.
    owner: Option<OwnedUniqueName>,
    /// Whether the bus has reported a change of the owner.
    changed: bool,
}

impl Filter {
    fn select(&mut self, message: Message) -> Option<Event> {
        let header = message.header();
        let sender = header.sender()?;
        if header.message_type() != Type::Signal {
            return None;
        }
        if sender == BUS {
            let named = header.interface().is_some_and(|interface| interface == BUS)
                && header.member().is_some_and(|member| member == "NameOwnerChanged");
            let body = message.body();
            let (name, _, new) = body.deserialize::<(&str, &str, &str)>().ok().filter(|_| named)?;
            if name != SERVICE {
                return None;
            }
            self.owner = OwnedUniqueName::try_from(new.to_owned()).ok();
            self.changed = true;
            return Some(Event::Owner(self.owner.clone()));
        }
        let is_service = self.owner.as_ref().is_some_and(|owner| owner == sender);
        let matches = is_service && self.rule.matches(&message).unwrap_or(false);
        drop(header);
        matches.then_some(Event::Signal(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(sender: &str, member: &str) -> Message {
        let signal = Message::signal("/org/vmlockd1", "org.vmlockd1.Manager", member);
        signal.sender(sender).build(&()).unwrap()
    }

    fn change(sender: &str, name: &str, new: &str) -> Message {
        let change = Message::signal("/org/freedesktop/DBus", BUS, "NameOwnerChanged");
        change.sender(sender).build(&(name, "", new)).unwrap()
    }

    fn filter(owner: Option<&str>) -> Filter {
        let rule = MatchRule::builder().member("LockLost").build().unwrap();
        let owner = owner.map(|owner| OwnedUniqueName::try_from(owner.to_owned()).unwrap());
        Filter { rule, owner, changed: false }
    }

    #[test]
    fn signals_of_other_senders_are_dropped() {
        let mut filter = filter(Some(":1.5"));
        assert!(matches!(filter.select(signal(":1.5", "LockLost")), Some(Event::Signal(_))));
        assert!(filter.select(signal(":1.6", "LockLost")).is_none());
        assert!(filter.select(signal(":1.5", "LockReleased")).is_none(), "the rule decides, too");
        assert!(filter.select(change(":1.6", SERVICE, ":1.6")).is_none());
        assert!(filter.select(change(BUS, "org.vmlockd2", ":1.6")).is_none());
        assert!(filter.select(signal(":1.6", "LockLost")).is_none());
    }

    #[test]
    fn the_owner_of_the_name_is_tracked() {
        let mut filter = filter(None);
        assert!(
            filter.select(signal(":1.6", "LockLost")).is_none(),
            "without an owner, none is heard"
        );
        let came = filter.select(change(BUS, SERVICE, ":1.7"));
        assert!(matches!(came, Some(Event::Owner(Some(owner))) if owner == ":1.7"));
        assert!(filter.select(signal(":1.7", "LockLost")).is_some());
        assert!(matches!(filter.select(change(BUS, SERVICE, "")), Some(Event::Owner(None))));
        assert!(filter.select(signal(":1.7", "LockLost")).is_none());
    }
}
