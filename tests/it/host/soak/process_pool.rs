//! Processes of the host that live until they are ended.

use tokio::sync::Mutex;

use crate::fixture::Tool;
use crate::nspawn::Host;

/// Begins processes and ends them, by the words it is told.
const SCRIPT: &str = "while read word number; do
    case $word in
    begin) sleep infinity </dev/null >/dev/null 2>&1 & echo $! ;;
    end) kill -KILL $number ;;
    esac
done";

/// A process that has others. Some that have ended it waits for late, as parents do.
pub(crate) struct ProcessPool(Mutex<Tool>);

impl ProcessPool {
    pub(crate) fn open(host: &Host) -> Self {
        Self(Mutex::new(host.spawn(&["sh", "-c", SCRIPT])))
    }

    /// A new process; its number in the host comes back.
    pub(crate) async fn begin(&self) -> u32 {
        let mut tool = self.0.lock().await;
        tool.write_line("begin");
        tool.line().await.parse().expect("a process number")
    }

    /// Ends one.
    pub(crate) async fn end(&self, process: u32) {
        self.0.lock().await.write_line(&format!("end {process}"));
    }
}
