#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Keep two disks locked until standard input ends, or SIGTERM or SIGINT arrives.

Usage: lock-disks.py [--session] DISK1 DISK2
"""

import os
import signal
import sys

from gi.repository import Gio, GLib

SERVICE = "org.vmlockd1"
EX_USAGE = 64  # A wrong command line; the exit codes are those of vmlockctl.
EX_TEMPFAIL = 75  # A disk is locked by another owner.


def say(text):
    """Print a line at once, also to a pipe."""
    print(text, flush=True)


def proxy_for(bus, path, interface):
    """Return a proxy: a local object whose calls go to an object of the service."""
    # Signals announce changes of a property, but not its value, so a cache is of no use.
    flags = Gio.DBusProxyFlags.DO_NOT_LOAD_PROPERTIES
    return Gio.DBusProxy.new_sync(bus, flags, None, SERVICE, path, interface, None)


def call(proxy, method, signature, *arguments):
    """Call a method and return its results as a tuple. Raises GLib.Error."""
    arguments = GLib.Variant(signature, arguments)
    return proxy.call_sync(method, arguments, Gio.DBusCallFlags.NONE, -1, None).unpack()


class Client:
    """Locks two disks."""

    def __init__(self, bus, disks):
        self.bus = bus
        self.disks = [os.path.abspath(disk) for disk in disks]
        self.loop = GLib.MainLoop()
        self.manager = proxy_for(bus, "/org/vmlockd1", SERVICE + ".Manager")

    def open_owner(self):
        """Open an owner, which stands for a virtual machine (VM)."""
        # With an empty UUID the service makes one. A program that runs VMs passes the UUID and the
        # name of the VM: refusals show them to other callers.
        arguments = GLib.Variant("(ssa{sv})", ("", "example", {}))
        # File descriptors come in a list beside the reply; the reply has an index into it.
        reply, descriptors = self.manager.call_with_unix_fd_list_sync(
            "OpenOwner", arguments, Gio.DBusCallFlags.NONE, -1, None, None
        )
        path, index = reply.unpack()
        # The owner and its locks live until the last copy of the lifeline is closed, which happens
        # at the latest when this process ends. They do not depend on the connection to the bus.
        self.lifeline = descriptors.get(index)
        self.owner = proxy_for(self.bus, path, SERVICE + ".Owner")
        # Subscribe before the first lock is acquired, so that no signal is missed.
        self.owner.connect("g-signal", self.on_signal)
        self.owner.connect("notify::g-name-owner", self.on_service_changed)
        say(f"opened {path}")

    def acquire(self):
        """Lock both disks or none of them."""
        resources = [(disk, "exclusive") for disk in self.disks]
        # A disk that is locked is refused at once, unless the option timeout-usec allows to wait.
        # Then the call needs a timeout of its own: -1 means 25 seconds.
        (locks,) = call(self.owner, "Acquire", "(a(ss)a{sv})", resources, {})
        for disk, lock in zip(self.disks, locks):
            say(f"locked {disk} as {lock}")

    def on_signal(self, owner, sender, name, arguments):
        """Handle a signal of the owner object."""
        # Any user of the bus can send a signal that looks like the service's to this process. The
        # bus adds the unique name of the sender, which nothing can forge: compare it.
        if sender != owner.get_name_owner():
            return
        if name in ("LockLost", "LockReleased"):
            _lock, disk, reason = arguments.unpack()
            # After LockLost others may write to the disk: a VM that uses it must be stopped.
            say(f"{'lost' if name == 'LockLost' else 'released'} {disk}: {reason}")

    def on_service_changed(self, owner, _property):
        """Handle the end and the start of the service."""
        if owner.get_name_owner() is None:
            say("the service is gone; the lifeline keeps the owner")
            return
        # No signal reports what happened while the service was away, so ask.
        options = {"owner": GLib.Variant("o", owner.get_object_path())}
        try:
            (rows,) = call(self.manager, "ListLocks", "(a{sv})", options)
        except GLib.Error as error:
            # If the service has ended again, this function is called once it is back.
            say(f"cannot list the locks: {error.message}")
            return
        say("the service is back")
        for disk in self.disks:
            lost = [row["lost"] for row in rows if row["resource"] == disk]
            state = "released" if not lost else "lost" if lost[0] else "still locked"
            say(f"{state} {disk}")

    def on_input(self, fd, _condition):
        """Read standard input, and stop at its end."""
        return GLib.SOURCE_CONTINUE if os.read(fd, 4096) else self.on_stop()

    def on_stop(self):
        self.loop.quit()
        return GLib.SOURCE_REMOVE

    def run(self):
        self.open_owner()
        self.acquire()
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, self.on_stop)
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGINT, self.on_stop)
        readable = GLib.IOCondition.IN | GLib.IOCondition.HUP
        GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT, sys.stdin.fileno(), readable, self.on_input)
        self.loop.run()
        # Close releases all locks and ends the owner; Release would release single locks. If this
        # fails, the end of the lifeline does the same.
        call(self.owner, "Close", "(a{sv})", {})
        say("released all locks")


def main(words):
    bus_type = Gio.BusType.SYSTEM
    if words[:1] == ["--session"]:
        bus_type, words = Gio.BusType.SESSION, words[1:]
    if len(words) != 2:
        print(__doc__, file=sys.stderr)
        return EX_USAGE
    try:
        Client(Gio.bus_get_sync(bus_type, None), words).run()
    except GLib.Error as error:
        # Programs compare the name of an error; its message is for people, and names the holder.
        name = Gio.DBusError.get_remote_error(error)
        print(error.message.removeprefix(f"GDBus.Error:{name}: "), file=sys.stderr)
        held = (SERVICE + ".Error.LockHeld", SERVICE + ".Error.LockHeldElsewhere")
        return EX_TEMPFAIL if name in held else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
