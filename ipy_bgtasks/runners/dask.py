"""A Dask cluster, used through its client."""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from concurrent.futures import Future
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ipy_bgtasks.runners import remote
from ipy_bgtasks.runners.packing import Calling, Complete

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Answer(Future[Any]):
    """The future of a task's answer, with the task."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task


class DaskEngine:
    """A Dask `Client`."""

    where = "dask"
    is_local = False
    is_remote = True
    note = "Dask does not stop a call that has begun; it is still running there"

    def __init__(self, client: Any) -> None:
        self._client = client
        self._answer = Complete(remote.answer_on_dask)
        self._topic = f"ipy_bgtasks-{uuid.uuid4().hex}"
        self._begun: set[str] = set()
        self._subscribed = False
        self._holds = Complete(remote.held_on_dask)
        self._lock = threading.Lock()
        self._done: list[Answer] = []
        self._fetching = False

    def submit(self, number: int, work: Any) -> Any:
        """Submit the work as one task that is computed once."""
        key = f"bg{number}-{uuid.uuid4().hex}"
        if not self._subscribed:
            self._subscribed = True
            self._client.subscribe_topic(self._topic, lambda event: self._begun.add(event[1]))
        data = pickle.dumps(Calling(self._answer, work, self._topic, key))
        answer = Answer(self._client.submit(pickle.loads, data, key=key, pure=False))
        answer.task.add_done_callback(lambda _: self._fetch_soon(answer))
        return answer

    def begun(self, futures: Collection[Any]) -> Iterable[Any]:
        """Return those that the workers have reported: each task logs that it begins."""
        found = [future for future in futures if future.task.key in self._begun]
        self._begun.difference_update([future.task.key for future in found])
        return found

    def lost(self) -> str:
        """Return a reason if the client was closed; losing its scheduler cancels the futures."""
        return "the Dask client was closed" if self._client.status in ("closing", "closed") else ""

    def drop(self, future: Any) -> bool:
        """Cancel the task, and wait until no worker runs it any more."""
        future.task.cancel()
        pause = 0.02
        while self._client.status == "running":
            answers = self._client.run(self._holds, future.task.key, on_error="return")
            if all(holds is False for holds in answers.values()):
                return True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        return False

    def was_dropped(self, error: BaseException) -> bool:
        """Return False: only we drop single tasks, so that an error means a lost cluster."""
        return False

    # Answers are fetched many at a time: each request costs a round on the client's loop.

    def _fetch_soon(self, answer: Answer) -> None:
        self._begun.discard(answer.task.key)
        with self._lock:
            self._done.append(answer)
            if self._fetching:
                return
            self._fetching = True
        fetcher = threading.Thread(target=self._fetch, name="bg-dask", daemon=True)
        Context().run(fetcher.start)

    def _fetch(self) -> None:
        while True:
            with self._lock:
                answers, self._done = self._done, []
                if not answers:
                    self._fetching = False
                    return
            try:
                values = self._client.gather([answer.task for answer in answers])
            except BaseException:  # from one of them: fetch each on its own
                for answer in answers:
                    self._fetch_one(answer)
            else:
                for answer, value in zip(answers, values, strict=True):
                    answer.set_result(value)

    def _fetch_one(self, answer: Answer) -> None:
        try:
            value = answer.task.result()
        except BaseException as error:
            answer.set_exception(error)
        else:
            answer.set_result(value)
