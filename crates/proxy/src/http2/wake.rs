//! Which of a connection's streams can go on: one task polls them all, each with a waker of its own.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// The places of streams that are to be polled.
#[derive(Default)]
pub(crate) struct Marks {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    marked: Vec<u32>,
    /// The connection's task.
    task: Option<Waker>,
    /// The task is running, and looks at the marks once more before it rests: it need not be woken.
    running: bool,
}

/// Marks one place.
pub(crate) struct Mark {
    marks: Arc<Marks>,
    at: u32,
    marked: AtomicBool,
}

impl Mark {
    pub fn new(marks: &Arc<Marks>, at: u32) -> Arc<Mark> {
        Arc::new(Mark { marks: marks.clone(), at, marked: AtomicBool::new(false) })
    }

    /// It is being polled: from here on it may be marked again.
    pub fn clear(&self) {
        self.marked.store(false, Ordering::Release);
    }
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.marked.swap(true, Ordering::AcqRel) {
            return;
        }
        let task = {
            let mut inner = self.marks.inner.lock();
            inner.marked.push(self.at);
            if inner.running { None } else { inner.task.clone() }
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Marks {
    /// The task begins to run.
    pub fn enter(&self, task: &Waker) {
        let mut inner = self.inner.lock();
        inner.running = true;
        if !inner.task.as_ref().is_some_and(|it| it.will_wake(task)) {
            inner.task = Some(task.clone());
        }
    }

    /// Moves what is marked to `taken`, which is empty.
    pub fn take(&self, taken: &mut Vec<u32>) {
        std::mem::swap(&mut self.inner.lock().marked, taken);
    }

    /// The task rests if nothing is marked. False: something is.
    pub fn leave(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.running = !inner.marked.is_empty();
        !inner.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_once_and_only_while_it_rests() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let woken = || count.0.load(Ordering::Relaxed);
        let (task, marks) = (Waker::from(count.clone()), Arc::new(Marks::default()));
        let places = [Mark::new(&marks, 0), Mark::new(&marks, 1)];
        let mut taken = Vec::new();
        marks.enter(&task);
        places[1].wake_by_ref();
        places[1].wake_by_ref();
        assert_eq!((woken(), marks.leave()), (0, false));
        marks.take(&mut taken);
        assert_eq!(taken, [1]);
        places[1].clear();
        assert!(marks.leave());
        places[0].wake_by_ref();
        places[1].wake_by_ref();
        places[0].wake_by_ref();
        // The second finds the task told already; telling it again would do no harm.
        assert!(woken() >= 1);
        taken.clear();
        marks.enter(&task);
        marks.take(&mut taken);
        assert_eq!(taken, [0, 1]);
    }
}
