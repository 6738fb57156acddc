//! `org.freedesktop.LogControl1`, so that `systemctl service-log-level vmlockd debug` works.
//!
//! The interface is systemd's (org.freedesktop.LogControl1(5)); its properties are the only ones
//! of ours that can be written, and the gate is asked before.

use std::sync::Arc;

use zbus::message::Header;

use super::error::Error;
use super::front::Front;
use crate::auth::action::Action;
use crate::auth::action::Details;
use crate::auth::methods::LOG_CONTROL;
use crate::logging::{Level, Log};

/// The log's object.
#[derive(Debug)]
pub(super) struct LogControl {
    front: Arc<Front>,
    log: Log,
}

impl LogControl {
    /// Controls this log.
    #[must_use]
    pub(super) fn new(front: Arc<Front>, log: Log) -> Self {
        Self { front, log }
    }

    async fn ask(&self, header: Option<&Header<'_>>, member: &str) -> Result<(), Error> {
        let header = header.ok_or_else(|| Error::failed("a property is set by a message"))?;
        let call = self.front.enter(header, LOG_CONTROL, member).await?;
        Ok(call.authorize(Action::Reload, &Details::new()).await?)
    }
}

// A getter is a method for zbus, whether or not it has to look at anything.
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
        self.ask(header.as_ref(), "LogLevel").await?;
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
        self.ask(header.as_ref(), "LogTarget").await?;
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
