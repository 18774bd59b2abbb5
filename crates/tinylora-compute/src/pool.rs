//! A steady pool of threads: a job is a count of tasks and a function of the task's number; idle threads
//! spin for a short while before they sleep, so that the many small jobs of a decode step cost microseconds.
//!
//! Each thread begins with its own share of the tasks, the same stretch of them in every job, and then helps the others. So where
//! tasks are rows, what a thread wrote in one operation is in its own cache in the next.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// How often an idle thread looks for work before it sleeps (about 50 µs).
const SPINS: usize = 20_000;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    /// Number of the current job; a change wakes the workers.
    generation: AtomicU64,
    /// The current job's function, valid while `unfinished` > 0.
    job: Mutex<Option<&'static Task<'static>>>,
    tasks: AtomicUsize,
    /// Tasks begun of each thread's share.
    begun: Vec<Begun>,
    /// Workers that have not yet left the current job.
    unfinished: AtomicUsize,
    panicked: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    stop: AtomicBool,
    wake: Condvar,
    sleep: Mutex<()>,
}

/// A count on a cache line of its own.
#[repr(align(64))]
struct Begun(AtomicUsize);

/// The pool. Jobs from several callers run one after the other.
pub struct Pool {
    shared: Arc<Shared>,
    caller: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, of which the caller of [`Pool::run`] is one.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            job: Mutex::new(None),
            tasks: AtomicUsize::new(0),
            begun: (0..threads.max(1)).map(|_| Begun(AtomicUsize::new(0))).collect(),
            unfinished: AtomicUsize::new(0),
            panicked: Mutex::new(None),
            stop: AtomicBool::new(false),
            wake: Condvar::new(),
            sleep: Mutex::new(()),
        });
        let workers = (1..threads)
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("tinylora-{index}"))
                    .spawn(move || work(&shared, index))
                    .expect("the operating system gives no more threads")
            })
            .collect();
        Self { shared, caller: Mutex::new(()), workers }
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs all tasks and returns when they are done. A task's panic is passed on to the caller.
    pub fn run(&self, tasks: usize, task: &Task<'_>) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(task);
            return;
        }
        let _one_job_at_a_time = self.caller.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The reference is dropped before this function returns: it waits
        // until every worker has left the job, also when a task panics.
        let task: &'static Task<'static> = unsafe { std::mem::transmute::<&Task<'_>, _>(task) };
        *shared.job.lock().expect("no panic while held") = Some(task);
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.begun.iter().for_each(|begun| begun.0.store(0, Ordering::Relaxed));
        shared.unfinished.store(self.workers.len(), Ordering::Relaxed);
        {
            // Under the lock, so that a worker about to sleep can't miss it.
            let _guard = shared.sleep.lock().expect("no panic while held");
            shared.generation.fetch_add(1, Ordering::Release);
        }
        shared.wake.notify_all();
        shared.take_tasks(task, 0);
        let mut spins = 0;
        while shared.unfinished.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        *shared.job.lock().expect("no panic while held") = None;
        // Taken before the panic goes on, so that the lock is free again.
        let panic = shared.panicked.lock().expect("no panic while held").take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn take_tasks(&self, task: &Task<'_>, thread: usize) {
        let (tasks, threads) = (self.tasks.load(Ordering::Relaxed), self.begun.len());
        let result = catch_unwind(AssertUnwindSafe(|| {
            for share in (thread..threads).chain(0..thread) {
                let (first, end) = (share * tasks / threads, (share + 1) * tasks / threads);
                loop {
                    let index = first + self.begun[share].0.fetch_add(1, Ordering::Relaxed);
                    if index >= end {
                        break;
                    }
                    task(index);
                }
            }
        }));
        if let Err(panic) = result {
            // No task is begun after this one.
            self.begun.iter().for_each(|begun| begun.0.store(tasks, Ordering::Relaxed));
            self.panicked.lock().expect("no panic while held").get_or_insert(panic);
        }
    }
}

fn work(shared: &Shared, thread: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.generation.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            let mut guard = shared.sleep.lock().expect("no panic while held");
            while shared.generation.load(Ordering::Acquire) == seen {
                guard = shared.wake.wait(guard).expect("no panic while held");
            }
        }
        seen += 1;
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let job = *shared.job.lock().expect("no panic while held");
        if let Some(task) = job {
            shared.take_tasks(task, thread);
        }
        shared.unfinished.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        {
            let _guard = self.shared.sleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.shared.generation.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let pool = Pool::new(3);
        for tasks in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(10, &|i| assert!(i != 5, "task five"))));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
