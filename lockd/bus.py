"""lockd on D-Bus: what it does, why this host isn't rebooting, and a human's request.

dbus-next reads the annotations of these methods as D-Bus signatures; the file's lint exceptions are for that. Errors
are mapped before the library would send a traceback to the caller.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbus_next.service import ServiceInterface, method

from lockd.coordinator import Coordinator
from lockd.errors import ErrorCode, LocalError
from lockd.inquiry import Inquiry
from lockd.status import explain_document, status_document
from updated.common.bus import Bus, BusError, as_bus_error
from updated.common.errors import OperatorError

NAME, PATH, INTERFACE = "org.lockd.Lockd1", "/org/lockd/Lockd1", "org.lockd.Lockd1.Manager"
LOOK_SECS = 20.0  # a caller waits 30 s for the answer, as is usual on D-Bus
ERROR_PREFIX = "org.lockd.Error"


class ManagerInterface(ServiceInterface):
    """org.lockd.Lockd1.Manager: JSON documents whose keys the man page promises."""

    def __init__(self, coordinator: Coordinator, inquiry: Inquiry, reload: Callable[[], None]) -> None:
        super().__init__(INTERFACE)
        self._coordinator, self._inquiry, self._reload = coordinator, inquiry, reload

    @method()
    def Status(self) -> "s":
        """Return the status document."""
        return json.dumps(status_document(self._coordinator.view))

    @method()
    def Explain(self) -> "s":
        """Return the chain of gates: a list of {gate, state, reason, ends, ends_at}."""
        return json.dumps(explain_document(self._coordinator.view.gates))

    @method()
    async def RequestReboot(self) -> "b":
        """Ask for a reboot through the same gates; tell whether the gates were looked at since.

        The look may take longer than a caller waits for an answer: it goes on, and the request stands.
        """
        with _mapped():
            try:
                async with asyncio.timeout(LOOK_SECS):
                    await self._coordinator.ask()
            except TimeoutError:
                return False
        return True

    @method()
    async def Group(self) -> "s":
        """Return the group's document, as `lockctl status --json` prints it."""
        with _mapped():
            return json.dumps(await self._inquiry.group())

    @method()
    async def Machines(self) -> "s":
        """Return the machines' documents, as `lockctl machines --json` prints them."""
        with _mapped():
            return json.dumps(await self._inquiry.machines())

    @method()
    def Windows(self, at: "s", count: "u") -> "s":
        """Return how the windows in force stand at a moment (RFC 3339; empty: now), with the next so many openings."""
        with _mapped():
            return json.dumps(self._inquiry.windows(at, count))

    @method()
    def Reload(self):
        """Read the settings again; wrong ones are an error, and the host doesn't reboot until they are corrected."""
        with _mapped():
            self._reload()


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except OperatorError as error:
        raise as_bus_error(error, ERROR_PREFIX) from error


async def serve(coordinator: Coordinator, bus: Bus, inquiry: Inquiry, reload: Callable[[], None]) -> None:
    """Export the interface and own the name, which makes this the only coordinator of the host.

    Raises:
        LocalError: BUSY; another lockd owns the name, or the bus forbids it.
    """
    bus.export(PATH, ManagerInterface(coordinator, inquiry, reload))
    try:
        await bus.request_name(NAME)
    except BusError as error:
        raise LocalError(
            ErrorCode.BUSY, str(error), hint="Stop the other lockd, or install the D-Bus policy file."
        ) from error
