"""A stand-in for the update agent on a real bus: a process that owns its names and answers what a test writes.

The state is a JSON file; a SIGUSR1 makes the process announce it with the agent's signals.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from dbus_next import Message, MessageType, Variant
from dbus_next.aio.message_bus import MessageBus

from tests.support.processes import Process

ENGINE = ("com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager")
AGENT = ("org.updated.Agent1", "/org/updated/Agent1", "org.updated.Agent1.Manager")
LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
IDLE, NEED_REBOOT = "UPDATE_STATUS_IDLE", "UPDATE_STATUS_UPDATED_NEED_REBOOT"


class AgentDouble:
    """Starts the process and changes what it says; a context manager by `stop`."""

    def __init__(self, bus: str, directory: Path, boot_id: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "agent.json"
        self.reboots = directory / "logind-reboots"
        self.state: dict[str, Any] = {
            "operation": IDLE, "version_new": "0.0.0", "version_booted": "1.0.0",
            "boot_id": boot_id, "boot_confirmed": True, "rolled_back": None,
        }  # fmt: skip
        self._write()
        self.process = Process([sys.executable, "-m", __name__, bus, str(self.path)], directory / "agent.log")
        self.process.wait_log("ready")

    def say(self, **changes: Any) -> None:
        """Change the state and announce it."""
        self.state |= changes
        self._write()
        os.kill(self.process.child.pid, signal.SIGUSR1)

    def _write(self) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(self.state))
        beside.replace(self.path)

    def stop(self) -> None:
        """End the process."""
        self.process.stop()


def _engine_values(state: dict[str, Any]) -> list[Any]:
    return [0, 0.0, state["operation"], state["version_new"], 0]


class _Service:
    """The other side, in the process."""

    def __init__(self, bus: MessageBus, path: Path) -> None:
        self._bus, self._path = bus, path

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self._path.read_text()))

    def answer(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if message.member == "GetStatus":
            return Message.new_method_return(message, "xdssx", _engine_values(self._read()))
        if message.member == "Status" and not self._read().get("legacy"):
            return Message.new_method_return(message, "s", [json.dumps(self._read())])
        if message.interface == LOGIND[2]:
            return self._logind(message)
        if message.member == "GetAll" and message.path.startswith("/session/"):
            name = message.path.removeprefix("/session/")
            properties = {key: Variant("s", value) for key, value in self._read()["sessions"][name].items()}
            return Message.new_method_return(message, "a{sv}", [properties])
        return None

    def _logind(self, message: Message) -> Message | None:
        state = self._read()
        if message.member == "ListInhibitors":
            listed = [["shutdown", who, why, "block", 0, 1] for who, why in state.get("inhibitors", {}).items()]
            return Message.new_method_return(message, "a(ssssuu)", [listed])
        if message.member == "ListSessions":
            names = state.get("sessions", {})
            listed = [[name, 1000, f"user-{name}", "", f"/session/{name}"] for name in names]
            return Message.new_method_return(message, "a(susso)", [listed])
        if message.member == "SetWallMessage":
            (self._path.parent / "logind-wall").write_text(message.body[0])
            return Message.new_method_return(message)
        if message.member == "CanReboot":
            return Message.new_method_return(message, "s", [state.get("can_reboot", "yes")])
        return self._reboot(message) if message.member == "Reboot" else None

    def _reboot(self, message: Message) -> Message:
        if self._read().get("logind_refuses"):
            return Message.new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "Access denied")
        (self._path.parent / "logind-reboots").write_text(json.dumps(message.body))
        return Message.new_method_return(message)

    def announce(self) -> None:
        for (_, path, interface), member, signature, body in (
            (ENGINE, "StatusUpdate", "xdssx", _engine_values(self._read())),
            (AGENT, "StatusChanged", "s", [json.dumps(self._read())]),
        ):
            self._bus.send(Message.new_signal(path, interface, member, signature, body))


async def _serve(address: str, path: Path) -> None:
    bus = await MessageBus(bus_address=address).connect()
    service = _Service(bus, path)
    bus.add_message_handler(service.answer)
    for name in (ENGINE[0], AGENT[0], LOGIND[0]):
        await bus.request_name(name)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, service.announce)
    print("ready", flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
