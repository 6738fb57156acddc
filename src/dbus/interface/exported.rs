//! A wrapper of interfaces that replies to a failed `Set` with the correct error.
//!
//! The `Set` that zbus generates for an interface knows only the properties that have a setter, so
//! it replies to an attempt to set a read-only property with `UnknownProperty`. [`Exported`]
//! forwards every call to the interface and distinguishes the two cases.

use std::collections::HashMap;
use std::fmt::Write;

use async_trait::async_trait;
use zbus::message::{Header, Message};
use zbus::names::{InterfaceName, MemberName};
use zbus::object_server::{DispatchResult, Interface, SignalEmitter};
use zbus::{BoxDBusError, Connection, ObjectServer, OwnedVariant, Variant, fdo};

use crate::lock::text::escape::shown;

/// The number of characters of an unknown name that a message contains.
const NAME_MAX: usize = 64;

/// An interface that replies to `Set` of a read-only property with `PropertyReadOnly`.
#[derive(Debug)]
pub(crate) struct Exported<I>(pub(crate) I);

impl<I: Interface> Exported<I> {
    /// Returns the error of `Set` for a property without a setter.
    async fn set_error(
        &self,
        property: &str,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> fdo::Error {
        let interface = I::name();
        match self.0.get(property, server, connection, header, emitter).await {
            Some(_) => fdo::Error::PropertyReadOnly(format!(
                "property {interface}.{property} is read-only"
            )),
            None => fdo::Error::UnknownProperty(format!(
                "{interface} has no property '{}'",
                shown(&property.chars().take(NAME_MAX).collect::<String>())
            )),
        }
    }
}

#[async_trait]
impl<I: Interface> Interface for Exported<I> {
    fn name() -> InterfaceName<'static> {
        I::name()
    }

    fn spawn_tasks_for_methods(&self) -> bool {
        self.0.spawn_tasks_for_methods()
    }

    async fn get(
        &self,
        property: &str,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<Result<OwnedVariant, BoxDBusError>> {
        self.0.get(property, server, connection, header, emitter).await
    }

    async fn get_all(
        &self,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> fdo::Result<HashMap<String, OwnedVariant>> {
        self.0.get_all(server, connection, header, emitter).await
    }

    fn set<'call>(
        &'call self,
        property: &'call str,
        value: &'call Variant<'_>,
        server: &'call ObjectServer,
        connection: &'call Connection,
        header: Option<&'call Header<'_>>,
        emitter: &'call SignalEmitter<'_>,
    ) -> DispatchResult<'call> {
        match self.0.set(property, value, server, connection, header, emitter) {
            DispatchResult::NotFound => DispatchResult::Async(Box::pin(async move {
                Err(self.set_error(property, server, connection, header, emitter).await.into())
            })),
            dispatched => dispatched,
        }
    }

    async fn set_mut(
        &mut self,
        property: &str,
        value: &Variant<'_>,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<Result<(), BoxDBusError>> {
        self.0.set_mut(property, value, server, connection, header, emitter).await
    }

    fn call<'call>(
        &'call self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult<'call> {
        self.0.call(server, connection, message, name)
    }

    fn call_mut<'call>(
        &'call mut self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult<'call> {
        self.0.call_mut(server, connection, message, name)
    }

    fn introspect_to_writer(&self, writer: &mut dyn Write, level: usize) {
        self.0.introspect_to_writer(writer, level);
    }
}
