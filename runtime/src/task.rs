//! What a task is to others: its class, its name, and the handle that waits for it. Must never run a task.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_task::FallibleTask;

/// How urgent a task is. Classes share the thread by weight; none can starve another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Class {
    /// Somebody waits for every turn: the log's flushes, produce and fetch of connections.
    Latency = 0,
    Normal = 1,
    /// Settling, retention, zero-filling: may wait.
    Background = 2,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Latency, Class::Normal, Class::Background];

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// What the executor knows of a task besides its future.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskInfo {
    pub(crate) class: Class,
    /// Index into the executor's table of names.
    pub(crate) name: u32,
}

/// The task was aborted, or its executor ended, before it finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the task was aborted")]
pub struct Aborted;

/// Waits for a task. Dropping it detaches the task, which runs on.
#[derive(Debug)]
pub struct JoinHandle<T> {
    task: Option<FallibleTask<T, TaskInfo>>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn new(task: FallibleTask<T, TaskInfo>) -> JoinHandle<T> {
        JoinHandle { task: Some(task) }
    }

    /// Lets the task run on by itself.
    pub fn detach(mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }

    /// Ends the task: its future is dropped at the task's next turn, and not polled again. Awaiting this
    /// handle answers [`Aborted`] from now on, also if the task had just finished.
    pub fn abort(&mut self) {
        // Dropping the inner handle is how `async-task` cancels.
        drop(self.task.take());
    }

    /// Whether the task has finished or was aborted.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(FallibleTask::is_finished)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Aborted>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.task.as_mut() {
            None => Poll::Ready(Err(Aborted)),
            Some(task) => Pin::new(task).poll(context).map(|output| output.ok_or(Aborted)),
        }
    }
}
