//! `org.freedesktop.LogControl1`, so that `systemctl service-log-level vmlockd debug` works.
//!
//! The interface is defined by systemd (org.freedesktop.LogControl1(5)). Its properties are the
//! only writable properties of the service; a write needs the same authorization as `Reload`.

use std::sync::Arc;

use zbus::message::Header;

use crate::auth::action::{Action, Details};
use crate::auth::methods::LOG_CONTROL;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::logging::{Level, Log};

/// The object that controls the log.
#[derive(Debug)]
pub(crate) struct LogControl {
    context: Arc<Context>,
    log: Log,
}

impl LogControl {
    /// Creates the object for this log.
    #[must_use]
    pub(crate) fn new(context: Arc<Context>, log: Log) -> Self {
        Self { context, log }
    }

    async fn authorize(&self, header: Option<&Header<'_>>, member: &str) -> Result<(), Error> {
        let header = header.ok_or_else(|| Error::failed("a property is set by a message"))?;
        let call = self.context.auth.accept(header, LOG_CONTROL, member).await?;
        Ok(call.authorize(Action::Reload, &Details::new()).await?)
    }
}

// zbus makes a method of every getter, whether or not it reads the object.
#[allow(clippy::unused_self)]
#[zbus::interface(name = "org.freedesktop.LogControl1", introspection_docs = false)]
impl LogControl {
    #[zbus(property(emits_changed_signal = "false"))]
    fn log_level(&self) -> &'static str {
        self.log.level().as_str()
    }

    #[zbus(property)]
    async fn set_log_level(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        level: String,
    ) -> Result<(), Error> {
        self.authorize(header.as_ref(), "LogLevel").await?;
        let level: Level = level.parse().map_err(Error::invalid)?;
        self.log.set_level(level).map_err(Error::failed)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn log_target(&self) -> &'static str {
        self.log.target()
    }

    #[zbus(property)]
    async fn set_log_target(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        target: String,
    ) -> Result<(), Error> {
        self.authorize(header.as_ref(), "LogTarget").await?;
        if target == self.log.target() || target == "auto" {
            return Ok(());
        }
        Err(Error::unsupported("the log target is chosen at startup and cannot be changed"))
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn syslog_identifier(&self) -> &'static str {
        "vmlockd"
    }
}
