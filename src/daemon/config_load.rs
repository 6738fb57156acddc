//! Loads the configuration, at the start and on request.

use std::time::Duration;

use tokio::time::timeout;

use super::{Error, Options};
use crate::config::{self, ConfigFile};
use crate::lock::request::Work;
use crate::logging::Log;
use crate::notify;
use crate::service::Service;
use crate::service::io::executor::Executor;

/// How long the storage of the directories in the configuration may take to respond.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A request that loads the configuration.
///
/// It runs on a worker thread, since it opens the directories in the configuration. A re-execution waits
/// for it as for any other request.
struct LoadConfig(ConfigFile);

impl Work for LoadConfig {
    type Answer = Result<config::Config, config::Error>;

    fn perform(self) -> Self::Answer {
        self.0.load()
    }
}

/// Loads the configuration at the start. If the storage of a directory does not respond, the service
/// starts without a check of the directories, which follows when they are used.
pub(super) async fn load(options: &Options, storage: &Executor) -> Result<config::Config, Error> {
    let loading = storage.run(LoadConfig(options.config.clone()));
    if let Ok(config) = timeout(TIMEOUT, loading).await {
        return Ok(config??);
    }
    // The log is not open yet.
    eprintln!("vmlockd: storage that the configuration names is not responding");
    Ok(options.config.load_unopened()?)
}

/// Reloads the configuration. If that fails, the old settings stay in force, and the error is returned.
pub(super) async fn reload(options: &Options, service: &Service, log: &Log) -> Result<(), String> {
    notify::reloading();
    let loading = service.executor().run(LoadConfig(options.config.clone()));
    let outcome = match timeout(TIMEOUT, loading).await {
        Ok(Ok(Ok(config))) => {
            service.change_settings(config.settings).await;
            log.set_level(config.log_level)
        }
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("storage that the configuration names is not responding".to_owned()),
    };
    match &outcome {
        Ok(()) => tracing::info!("reloaded the configuration"),
        Err(error) => {
            tracing::error!("cannot reload the configuration, the old one stays in force: {error}");
        }
    }
    notify::ready();
    outcome
}
