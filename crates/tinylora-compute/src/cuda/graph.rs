//! Launches as a graph: work that is queued once is recorded, and queued again as a whole. Kernels keep their arguments, so
//! that what differs from one time to the next must lie in the GPU's memory.

use super::device::{Device, Inner};
use super::driver::{Address, Handle, checked};
use super::error::CudaError;
use super::memory::Memory;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::ThreadId;

/// The driver's number for: only what this stream does is recorded, and other calls are allowed.
const RELAXED: i32 = 2;

/// A recording that is under way.
pub(super) struct Recording {
    /// What it queues is recorded; what others queue is not.
    pub thread: ThreadId,
    /// Memory of all buffers whose address was asked for: the graph's launches use it, whenever they run.
    pub used: BTreeMap<Address, Arc<Memory>>,
}

/// Recorded work, with the memory that it uses.
pub struct Graph {
    inner: Arc<Inner>,
    executable: Handle,
    _used: BTreeMap<Address, Arc<Memory>>,
}

// SAFETY: the driver's handles may be used from any thread, once its context is current there; see `Inner::enter`.
unsafe impl Send for Graph {}

impl Device {
    /// Records what `work` queues, which does not run. It may make buffers, but not read or write them.
    ///
    /// # Errors
    /// The driver's: it can't record, or what was queued can't be recorded. Nothing was queued then.
    pub fn record<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        let inner = self.inner();
        let driver = inner.enter()?;
        let _alone = inner.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        let (stream, thread) = (inner.recording_stream, std::thread::current().id());
        *inner.recording.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Recording { thread, used: BTreeMap::new() });
        inner.is_recording.store(true, Ordering::Release);
        // SAFETY: a stream of ours, on which nothing is recorded yet: this thread has it for itself.
        let begun = checked("cuStreamBeginCapture", unsafe { (driver.record)(stream, RELAXED) });
        let done = match begun {
            Err(error) => Err(error.into()),
            Ok(()) => work(),
        };
        let mut graph: Handle = std::ptr::null_mut();
        // SAFETY: the graph is written; where nothing was begun this is an error that doesn't matter.
        let ended = checked("cuStreamEndCapture", unsafe { (driver.record_end)(stream, &mut graph) });
        let mut recording = inner.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let used = recording.take().map_or_else(BTreeMap::new, |recording| recording.used);
        drop(recording);
        inner.is_recording.store(false, Ordering::Release);
        let made = done.and(ended.map_err(E::from)).and_then(|()| {
            let mut executable: Handle = std::ptr::null_mut();
            // SAFETY: a graph that was just recorded; the executable one is written.
            let status = unsafe { (driver.graph_make)(&mut executable, graph, 0) };
            checked("cuGraphInstantiateWithFlags", status)?;
            Ok(Graph { inner: Arc::clone(inner), executable, _used: used })
        });
        if !graph.is_null() {
            // SAFETY: made above, and not needed by what was made of it.
            unsafe { (driver.graph_free)(graph) };
        }
        made
    }
}

impl Graph {
    /// Queues it.
    pub fn launch(&self) -> Result<(), CudaError> {
        let driver = self.inner.enter()?;
        // SAFETY: made in `record`; it holds the memory that it uses.
        let status = unsafe { (driver.graph_launch)(self.executable, self.inner.stream) };
        self.inner.graph_launches.fetch_add(1, Ordering::Relaxed);
        checked("cuGraphLaunch", status)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(driver) = self.inner.enter() {
            // SAFETY: made in `record` and freed once; the driver lets launches that are under way finish.
            unsafe { (driver.graph_executable_free)(self.executable) };
        }
    }
}
