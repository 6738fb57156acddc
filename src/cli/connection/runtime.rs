//! Threads and event loops.

use std::io;
use std::thread::{Builder, JoinHandle};

use tokio::runtime::{self, Runtime};

/// The stack size of a thread that calls the service. The stack of the main thread may be limited
/// to less.
const STACK_SIZE: usize = 4 << 20;

/// Starts a thread whose stack is large enough for calls to the service.
pub(crate) fn spawn_thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().stack_size(STACK_SIZE).spawn(run)
}

/// Creates the event loop of a thread.
pub(crate) fn event_loop() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}
