"""Threads that can be left behind.

Not an executor of concurrent.futures: a call to a file system that never answers would keep one of
its threads for ever, and the interpreter waits at its end for all of them.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import torch

from lorax_serve.engine.adapters.file_watch import FileWatch

_MAX_LEFT_BEHIND = 16  # of them all; whoever hangs beyond that keeps its thread


class Job:
    """Something that a thread does, telling `watch` when it waits for files."""

    def __init__(self, threads: "LoaderThreads", work: Callable[["Job"], None]) -> None:
        self.threads = threads
        self._work = work
        self.watch = FileWatch()
        self.thread: threading.Thread | None = None  # None: in the queue
        self.has_ended = False

    def run(self) -> None:
        """Once. Who keeps the job does not keep what it worked on: a whole adapter's memory, which
        the next one is to be read into.
        """
        work, self._work = self._work, _nothing
        work(self)


class LoaderThreads:
    """`number` threads of one core each, started as they are needed."""

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._name = name
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._changing = threading.Lock()  # whether a job has ended, and whose place a thread has
        self._threads: set[threading.Thread] = set()  # but for those left behind
        self._num_started = 0

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Do `work`, which raises nothing, as soon as a thread is free."""
        job = Job(self, work)
        self._queue.put(job)
        if len(self._threads) < self._number:
            self._start()
        return job

    def abandon(self, job: Job) -> bool:
        """Leave the thread behind that hangs in `job`: another one takes its place, and it ends
        with the job. False where no thread has begun it, or it has just ended.
        """
        with self._changing:
            if job.thread is None or job.has_ended:
                return False
            self._threads.remove(job.thread)
        self._start()
        return True

    def close(self) -> None:
        """Wait for the threads to end what they have begun; not for those left behind."""
        while not self._queue.empty():
            self._queue.get()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"{self._name}_{self._num_started}", daemon=True
        )
        self._num_started += 1
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        torch.set_num_threads(1)
        me = threading.current_thread()
        while (job := self._queue.get()) is not None:
            with self._changing:
                job.thread = me
            job.run()
            with self._changing:
                job.has_ended = True
                if me not in self._threads:
                    return  # another one has its place
            del job  # what it holds is not to stay until the next one comes


def _nothing(job: Job) -> None:
    """What is left to do of a job that has been run."""


class LeftBehind:
    """Jobs that hang, by the folder they hang at. Used by one thread."""

    def __init__(self, max_number: int = _MAX_LEFT_BEHIND) -> None:
        self._max_number = max_number
        self._folders: dict[Job, str] = {}

    def __contains__(self, folder: str) -> bool:
        return folder in self._folders.values()

    def take(self, job: Job, folder: str) -> bool:
        """Whether its thread was left behind."""
        if len(self._folders) >= self._max_number or not job.threads.abandon(job):
            return False
        self._folders[job] = folder
        return True

    def ended(self, job: Job) -> bool:
        """Whether the job, which has ended, was one of them."""
        return self._folders.pop(job, None) is not None
