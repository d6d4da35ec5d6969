"""The line of those who wait: one answer is generated at a time, a bounded number wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from appliance.inference import Assistant, Watch
from appliance.safety import GuardEvent
from appliance.serving.problems import Problem
from backends.base import ChatMessage, GenerateOptions

_RETRY_SECONDS = 5


class Line:
    """Answers of one assistant, which lives in one thread; in the order they were asked for."""

    def __init__(self, assistant: Assistant, *, waiting: int) -> None:
        self._assistant = assistant
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="assistant")
        self._most = waiting + 1
        self._n_here = 0

    def load(self) -> None:
        """Load the base model, so that the first question need not wait. Raises FedMedError."""
        self._thread.submit(self._assistant.load).result()

    def close(self) -> None:
        """Wait for the answer under way."""
        self._thread.shutdown(cancel_futures=True)

    async def answer(
        self,
        adapter: str,
        conversation: Sequence[ChatMessage],
        options: GenerateOptions,
        watch: Watch,
    ) -> AsyncGenerator[GuardEvent, None]:
        """The guarded answer, each event as soon as it is released; closing it ends the answer.

        Raises Problem (429) when too many wait, FedMedError where answering fails.
        """
        if self._n_here >= self._most:
            raise Problem(
                429,
                f"{self._n_here} requests are waiting or being answered; try again later.",
                "requests",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(_RETRY_SECONDS)},
            )
        released: asyncio.Queue[GuardEvent | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(event: GuardEvent | None) -> None:
            loop.call_soon_threadsafe(released.put_nowait, event)

        def generate() -> None:
            try:
                if not watch.stopped:
                    self._assistant.use(adapter)
                    with closing(self._assistant.answer(conversation, options, watch)) as events:
                        for event in events:
                            put(event)
            finally:
                put(None)

        self._n_here += 1
        done = loop.run_in_executor(self._thread, generate)
        done.add_done_callback(self._leave)
        try:
            while (event := await released.get()) is not None:
                yield event
            await done
        finally:
            watch.stop()

    def _leave(self, done: asyncio.Future[None]) -> None:
        self._n_here -= 1
        if not done.cancelled():
            done.exception()  # of an answer that nobody waits for any more
