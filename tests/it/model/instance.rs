//! A service from its beginning to its being killed, in this process.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use vmlockd::inspector::Inspector;
use vmlockd::keep::Inherited;
use vmlockd::service::io::executor::Executor;
use vmlockd::service::{self, Exempt, Service, Settings};

use super::observed::ObservedState;

/// The number of turns of all tasks before the service is considered to be idle.
const TURNS: usize = 3;
/// How long until one looks again.
const AGAIN: Duration = Duration::from_millis(1);

/// A service, and the event loop in which all of it lives.
#[derive(Debug)]
pub(super) struct ServiceInstance {
    pub(super) service: Service,
    pub(super) observed: Arc<Mutex<ObservedState>>,
    pub(super) runtime: Runtime,
}

impl ServiceInstance {
    /// Begins where another one ended, if something is inherited of it.
    pub(super) fn begin(directory: &Path, inherited: Inherited) -> Self {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(8).build().unwrap();
        let guard = runtime.enter();
        let (settings, storage) = (Settings::default(), Executor::default());
        let restored = service::restore(
            settings,
            Exempt::Root,
            directory,
            inherited,
            storage,
            Inspector::default(),
        )
        .unwrap();
        let service = restored.service().clone();
        let observed = ObservedState::listen(&service);
        restored.settle();
        drop(guard);
        Self { service, observed, runtime }
    }

    /// Ends the service without a shutdown. Only the stored descriptors remain.
    pub(super) fn kill(self) -> Inherited {
        let Self { service, runtime, .. } = self;
        let left = service.crash_snapshot().unwrap();
        // The event loop last, and with it all tasks, whatever they wait for.
        drop(service);
        drop(runtime);
        left
    }

    /// Runs all tasks until they are idle.
    pub(super) async fn quiet(&self) {
        for _ in 0..TURNS {
            yield_now().await;
            self.service.executor().idle().await;
        }
        yield_now().await;
    }

    /// Yields to other tasks.
    pub(super) async fn look_again() {
        tokio::time::sleep(AGAIN).await;
    }
}
