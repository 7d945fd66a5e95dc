"""A way to lose answers on a real connection: the server did what was asked, and the client never hears of it."""

from __future__ import annotations

from collections.abc import Callable

import httpx


class LossyTransport(httpx.AsyncBaseTransport):
    """Sends every request for real; `lose` decides, by path and number, whose answer is thrown away."""

    def __init__(self, lose: Callable[[str, int], bool]) -> None:
        self._real = httpx.AsyncHTTPTransport()
        self.lose = lose
        self.count = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._real.handle_async_request(request)
        self.count += 1
        if self.lose(request.url.path, self.count):
            await answer.aread()
            await answer.aclose()
            raise httpx.ReadError("the answer got lost", request=request)
        return answer

    async def aclose(self) -> None:
        await self._real.aclose()
