"""Threads that loads run on; those that hang are in test_hanging_files.py."""

import threading
import weakref

from lorax_serve.engine.adapters.loader_threads import Job, LoaderThreads


class _Adapter:
    """Something large that is worked on."""


def test_who_keeps_a_job_does_not_keep_what_it_worked_on() -> None:
    """Or the next adapter would be read into new memory, and this one given to the kernel."""
    done = threading.Event()
    threads = LoaderThreads(1, "loader")

    def submit() -> tuple[Job, "weakref.ref[_Adapter]"]:
        adapter = _Adapter()

        def work(job: Job, adapter: _Adapter = adapter) -> None:
            done.set()

        return threads.submit(work), weakref.ref(adapter)

    job, adapter = submit()
    assert done.wait(10)
    threads.close()
    assert job.has_ended
    assert adapter() is None
