// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Keeps two disks locked until standard input ends, or SIGTERM or SIGINT arrives.
//
// Usage: gjs -m lock-disks.js [--session] DISK1 DISK2
//
// In Cockpit, use cockpit.dbus("org.vmlockd1", {superuser: "try"}) in place of Gio. What differs:
//  - A page cannot keep a descriptor once it is closed, nor send one. Call RegisterOwner with the
//    number of the VM's process in place of OpenOwner: the owner then lives as long as the VM.
//  - The event "owner" of the client reports the end and the start of the service.

import Gio from 'gi://Gio';
import GLib from 'gi://GLib';
import System from 'system';

const SERVICE = 'org.vmlockd1';
const EX_USAGE = 64; // A wrong command line; the exit codes are those of vmlockctl.
const EX_TEMPFAIL = 75; // A disk is locked by another owner.
const SIGINT = 2;
const SIGTERM = 15;

// Returns a proxy: a local object whose calls go to an object of the service.
function proxyFor(bus, path, interfaceName) {
    // Signals announce changes of a property, but not its value, so a cache is of no use.
    const flags = Gio.DBusProxyFlags.DO_NOT_LOAD_PROPERTIES;
    return Gio.DBusProxy.new_sync(bus, flags, null, SERVICE, path, interfaceName, null);
}

// Calls a method and returns its results as an array. Throws a GLib.Error.
function call(proxy, method, signature, ...parameters) {
    const packed = new GLib.Variant(signature, parameters);
    return proxy.call_sync(method, packed, Gio.DBusCallFlags.NONE, -1, null).recursiveUnpack();
}

// Locks two disks.
class Client {
    constructor(bus, disks) {
        this.bus = bus;
        this.disks = disks.map(disk => GLib.canonicalize_filename(disk, null));
        this.loop = new GLib.MainLoop(null, false);
        this.manager = proxyFor(bus, '/org/vmlockd1', `${SERVICE}.Manager`);
    }

    // Opens an owner, which stands for a virtual machine (VM).
    openOwner() {
        // With an empty UUID the service makes one. A program that runs VMs passes the UUID and the
        // name of the VM: refusals show them to other callers.
        const parameters = new GLib.Variant('(ssa{sv})', ['', 'example', {}]);
        // File descriptors come in a list beside the reply; the reply has an index into it.
        const [reply, descriptors] = this.manager.call_with_unix_fd_list_sync(
            'OpenOwner', parameters, Gio.DBusCallFlags.NONE, -1, null, null);
        const [path, index] = reply.recursiveUnpack();
        // The owner and its locks live until the last copy of the lifeline is closed, which happens
        // at the latest when this process ends. They do not depend on the connection to the bus.
        this.lifeline = descriptors.get(index);
        this.owner = proxyFor(this.bus, path, `${SERVICE}.Owner`);
        // Subscribe before the first lock is acquired, so that no signal is missed.
        this.owner.connect('g-signal', this.onSignal.bind(this));
        this.owner.connect('notify::g-name-owner', this.onServiceChanged.bind(this));
        print(`opened ${path}`);
    }

    // Locks both disks or none of them.
    acquire() {
        const resources = this.disks.map(disk => [disk, 'exclusive']);
        // A disk that is locked is refused at once, unless the option timeout-usec allows to wait.
        // Then the call needs a timeout of its own: -1 means 25 seconds.
        const [locks] = call(this.owner, 'Acquire', '(a(ss)a{sv})', resources, {});
        this.disks.forEach((disk, n) => print(`locked ${disk} as ${locks[n]}`));
    }

    // Handles a signal of the owner object.
    onSignal(owner, sender, name, parameters) {
        // Any user of the bus can send a signal that looks like the service's to this process. The
        // bus adds the unique name of the sender, which nothing can forge: compare it.
        if (sender !== owner.get_name_owner())
            return;
        if (name === 'LockLost' || name === 'LockReleased') {
            const [, disk, reason] = parameters.recursiveUnpack();
            // After LockLost others may write to the disk: a VM that uses it must be stopped.
            print(`${name === 'LockLost' ? 'lost' : 'released'} ${disk}: ${reason}`);
        }
    }

    // Handles the end and the start of the service.
    onServiceChanged(owner) {
        if (owner.get_name_owner() === null) {
            print('the service is gone; the lifeline keeps the owner');
            return;
        }
        // No signal reports what happened while the service was away, so ask.
        const options = {owner: new GLib.Variant('o', owner.get_object_path())};
        let rows;
        try {
            [rows] = call(this.manager, 'ListLocks', '(a{sv})', options);
        } catch (error) {
            // If the service has ended again, this function is called once it is back.
            print(`cannot list the locks: ${error.message}`);
            return;
        }
        print('the service is back');
        for (const disk of this.disks) {
            const row = rows.find(each => each['resource'] === disk);
            const state = row === undefined ? 'released' : row['lost'] ? 'lost' : 'still locked';
            print(`${state} ${disk}`);
        }
    }

    run() {
        this.openOwner();
        this.acquire();
        const stop = () => this.loop.quit();
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, SIGTERM, stop);
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, SIGINT, stop);
        const input = GLib.IOChannel.unix_new(0);
        const readable = GLib.IOCondition.IN | GLib.IOCondition.HUP;
        GLib.io_add_watch(input, GLib.PRIORITY_DEFAULT, readable, () => {
            // Reads standard input, and stops at its end.
            const [status] = input.read_line();
            if (status !== GLib.IOStatus.EOF)
                return GLib.SOURCE_CONTINUE;
            stop();
            return GLib.SOURCE_REMOVE;
        });
        this.loop.run();
        // Close releases all locks and ends the owner; Release would release single locks. If this
        // fails, the end of the lifeline does the same.
        call(this.owner, 'Close', '(a{sv})', {});
        print('released all locks');
    }
}

function main(words) {
    let busType = Gio.BusType.SYSTEM;
    if (words[0] === '--session') {
        busType = Gio.BusType.SESSION;
        words = words.slice(1);
    }
    if (words.length !== 2) {
        printerr('Usage: gjs -m lock-disks.js [--session] DISK1 DISK2');
        return EX_USAGE;
    }
    try {
        new Client(Gio.bus_get_sync(busType, null), words).run();
    } catch (error) {
        if (!(error instanceof GLib.Error))
            throw error;
        // Programs compare the name of an error; its message is for people, and names the holder.
        const name = Gio.DBusError.get_remote_error(error);
        printerr(error.message.replace(`GDBus.Error:${name}: `, ''));
        const held = [`${SERVICE}.Error.LockHeld`, `${SERVICE}.Error.LockHeldElsewhere`];
        return held.includes(name) ? EX_TEMPFAIL : 1;
    }
    return 0;
}

System.exit(main(ARGV));
