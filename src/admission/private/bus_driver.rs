//! Implements the few methods of a bus that clients of the private socket need.
//!
//! Most libraries treat any peer as a bus: they send `Hello`, subscribe to signals, and look up the
//! owner of the service's name before they call it. No name has an owner here, so that they call
//! the service by its name. Other methods of a bus do not exist. Source: the section "Message Bus
//! Messages" of the D-Bus specification.

use zbus::Message;
use zbus::message::Type;

use crate::admission::message::raw::RawMessage;
use crate::admission::message::{BUS_NAME, raw};

/// Builds the reply to a call of the client `name` that is addressed to the bus or to another
/// service; `None` if the client wants no reply.
///
/// # Errors
///
/// If the call is malformed.
pub(in crate::admission) async fn reply_to(
    name: &str,
    call: RawMessage,
) -> zbus::Result<Option<Message>> {
    let call = raw::parse_trusted(0, call).await?;
    let header = call.header();
    let primary = call.primary_header();
    let no_reply = primary.flags().contains(zbus::message::Flags::NO_REPLY_EXPECTED);
    if call.message_type() != Type::MethodCall || no_reply {
        return Ok(None);
    }
    let reply = Message::method_return(&header).sender(BUS_NAME).destination(name);
    let error = |error: &'static str, text| {
        let error = Message::error(&header, error).sender(BUS_NAME).destination(name);
        error.build(&text)
    };
    let is_bus = header.destination().is_some_and(|to| to.as_str() == BUS_NAME);
    let member = header.member().map(zbus::names::MemberName::as_str);
    Ok(Some(match member.filter(|_| is_bus) {
        Some("Hello") => reply.build(&name),
        Some("AddMatch" | "RemoveMatch") => reply.build(&()),
        Some("GetNameOwner") => error(
            "org.freedesktop.DBus.Error.NameHasNoOwner",
            "names have no owner on the private socket",
        ),
        Some(_) => error(
            "org.freedesktop.DBus.Error.UnknownMethod",
            "there is no bus on the private socket",
        ),
        None => error(
            "org.freedesktop.DBus.Error.ServiceUnknown",
            "there is no other service on the private socket",
        ),
    }?))
}
