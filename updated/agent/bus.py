"""The agent on D-Bus: update_engine's interface as it is, and our own with the reasons that it lacks.

dbus-next reads the annotations of these methods as D-Bus signatures; the file's lint exceptions are for that. Errors
are mapped before the library would send a traceback to the caller.
"""

import asyncio
import json

from dbus_next.service import ServiceInterface, method, signal

from updated.agent.by_hand import given_file, given_url
from updated.agent.loop import Agent
from updated.agent.machine import Event
from updated.agent.status import View, as_dict, as_engine_status, explain, slot_documents
from updated.common.bus import Bus, BusError, as_bus_error
from updated.common.errors import OperatorError
from updated.errors import ErrorCode, LocalError

NAME, PATH = "org.updated.Agent1", "/org/updated/Agent1"
INTERFACE = "org.updated.Agent1.Manager"
ENGINE_NAME, ENGINE_PATH = "com.coreos.update1", "/com/coreos/update1"
ENGINE_INTERFACE = "com.coreos.update1.Manager"
ERROR_PREFIX = "org.updated.Error"

PROGRESS_STEP = 0.01  # update_engine sends a signal for each per cent, not for each write


class EngineInterface(ServiceInterface):
    """com.coreos.update1.Manager, for locksmith, FLUO, update_engine_client and lockd."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(ENGINE_INTERFACE)
        self._agent = agent

    @method()
    def AttemptUpdate(self):
        """Check now, and install what is offered; no error when busy, as update_engine has it."""
        try:
            self._agent.ask(Event.ASKED_UPDATE)
        except OperatorError:
            return  # a client of update_engine doesn't expect an error here; GetStatus tells what goes on

    @method()
    def ResetStatus(self):
        """Give an installed update up; from idle it does nothing."""
        _ask(self._agent, Event.ASKED_RESET)

    @method()
    def GetStatus(self) -> "xdssx":
        """Return last check (unix seconds), progress, operation, new version, new size."""
        return list(as_engine_status(self._agent.view))

    @signal()
    def StatusUpdate(self) -> "xdssx":
        """Announce the same five values after a change."""
        return list(as_engine_status(self._agent.view))


class AgentInterface(ServiceInterface):
    """org.updated.Agent1.Manager: JSON documents whose keys the man page promises."""

    shared = frozenset({"Slots"})  # one run for all who ask meanwhile

    def __init__(self, agent: Agent) -> None:
        super().__init__(INTERFACE)
        self._agent = agent

    @method()
    def Status(self) -> "s":
        """Return the status document."""
        return json.dumps(as_dict(self._agent.view))

    @method()
    def Explain(self) -> "s":
        """Return why nothing happens: a list of {what, why, ends}."""
        return json.dumps(explain(self._agent.view))

    @method()
    def History(self) -> "s":
        """Return what was done on this host, oldest first: a list of {at, what, version, detail}."""
        return json.dumps(self._agent.context.memory.history)

    @method()
    async def Slots(self) -> "s":
        """Return both slots as the boot loader's data have them."""
        return json.dumps(await _read_slots(self._agent))

    @method()
    async def SlotNotes(self) -> "s":
        """Return how the slots were found and what is wrong with the boot loader's data: a list of sentences."""
        return json.dumps(await _read_notes(self._agent))

    @method()
    def Check(self):
        """Look at the server without installing."""
        _ask(self._agent, Event.ASKED_CHECK)

    @method()
    def Update(self):
        """Check, install, arm."""
        _ask(self._agent, Event.ASKED_UPDATE)

    @method()
    def Apply(self, file: "h", directory: "h", path: "s") -> None:
        """Install an open payload file; the directory is where it and its packages are, the path is for people."""
        _apply(self._agent, lambda: given_file(file, directory, path))

    @method()
    def ApplyUrl(self, url: "s") -> None:
        """Install a payload from a URL."""
        _apply(self._agent, lambda: given_url(url))

    @method()
    def Rollback(self):
        """Make the other slot, which booted well before, the next to boot."""
        _ask(self._agent, Event.ASKED_ROLLBACK)

    @method()
    def Reset(self):
        """Forget failures; give an installed update up."""
        _ask(self._agent, Event.ASKED_RESET)

    @method()
    async def Reload(self) -> "s":
        """Look at the settings again; return which changed, and which need a restart."""
        try:
            change = await self._agent.reload()
        except OperatorError as error:
            raise as_bus_error(error, ERROR_PREFIX) from error
        return json.dumps({"changed": change.changed, "needs_restart": change.needs_restart})

    @signal()
    def StatusChanged(self) -> "s":
        """Announce the status document after a change."""
        return json.dumps(as_dict(self._agent.view))


def _ask(agent, event):
    try:
        agent.ask(event)
    except OperatorError as error:
        raise as_bus_error(error, ERROR_PREFIX) from error


def _apply(agent, take):
    try:
        agent.apply(take())
    except OperatorError as error:
        raise as_bus_error(error, ERROR_PREFIX) from error


async def _read_slots(agent):
    boot = agent.context.means.boot
    try:
        slots, booted = await asyncio.to_thread(lambda: (boot.slots(), boot.booted()))
    except OperatorError as error:
        raise as_bus_error(error, ERROR_PREFIX) from error
    return slot_documents(slots, booted)


async def _read_notes(agent):
    try:
        return await asyncio.to_thread(agent.context.means.boot.notes)
    except OperatorError as error:
        raise as_bus_error(error, ERROR_PREFIX) from error


class Announcer:
    """Sends both signals when something changed that is worth a signal."""

    def __init__(self, engine: EngineInterface, own: AgentInterface) -> None:
        self._engine, self._own = engine, own
        self._last: tuple[object, ...] = ()

    def __call__(self, view: View) -> None:
        """Announce a state change, or another per cent of progress."""
        document = as_dict(view)
        seen: tuple[object, ...] = (
            *(document[key] for key in ("state_detail", "version_new", "boot_confirmed", "last_check")),
            int(document["progress"] / PROGRESS_STEP),
            json.dumps(document["last_error"]),
        )
        if seen != self._last:
            self._last = seen
            self._engine.StatusUpdate()
            self._own.StatusChanged()


async def serve(agent: Agent, bus: Bus) -> Announcer:
    """Export both interfaces and own both names; return what announces changes, which listens to the agent.

    Raises:
        LocalError: BUSY; another agent owns a name, or the bus forbids it.
    """
    engine, own = EngineInterface(agent), AgentInterface(agent)
    bus.export(ENGINE_PATH, engine)
    bus.export(PATH, own)
    for name in (NAME, ENGINE_NAME):
        try:
            await bus.request_name(name)
        except BusError as error:
            raise LocalError(
                ErrorCode.BUSY, str(error), hint="Stop the other agent, or install the D-Bus policy file."
            ) from error
    announcer = Announcer(engine, own)
    agent.listen(announcer)
    return announcer
