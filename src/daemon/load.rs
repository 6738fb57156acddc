//! Loading the configuration, at the start and again.

use std::time::Duration;

use tokio::time::timeout;

use super::{Error, Options};
use crate::config::{self, Source};
use crate::lock::work::Work;
use crate::logging::Log;
use crate::notify;
use crate::service::Service;
use crate::service::storage::Storage;

/// How long storage that is named in the configuration may take to answer.
const STORAGE_PAUSE: Duration = Duration::from_secs(3);

/// Loads a configuration: a request to the file system, as it opens the directories that are named.
/// One that hangs is waited for before the program replaces itself, as any other.
struct Load(Source);

impl Work for Load {
    type Answer = Result<config::Config, config::Error>;

    fn perform(self) -> Self::Answer {
        self.0.load()
    }
}

/// Loads the configuration at the start. Storage that it names and that does not answer must not
/// keep the service down: it is looked at when it is used.
pub(super) async fn first(options: &Options, storage: &Storage) -> Result<config::Config, Error> {
    let loading = storage.run(Load(options.config.clone()));
    if let Ok(config) = timeout(STORAGE_PAUSE, loading).await {
        return Ok(config??);
    }
    // There is no log yet.
    eprintln!("vmlockd: storage that the configuration names is not responding");
    Ok(options.config.load_text()?)
}

/// Loads the configuration: the new settings, or the old ones and an error.
pub(super) async fn again(options: &Options, service: &Service, log: &Log) -> Result<(), String> {
    notify::reloading();
    let loading = service.storage().run(Load(options.config.clone()));
    let outcome = match timeout(STORAGE_PAUSE, loading).await {
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
