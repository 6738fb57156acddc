/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Keeps two disks locked until standard input ends, or SIGTERM or SIGINT arrives.
 *
 * Usage: lock-disks [--session] DISK1 DISK2
 *
 * gdbus-codegen(1) generates vmlockd.h and vmlockd.c from the installed interface files; the names
 * that begin with vmlockd_ come from there.
 */
#include <gio/gio.h>
#include <gio/gunixfdlist.h>
#include <glib-unix.h>
#include <unistd.h>

#include "vmlockd.h"

#define SERVICE "org.vmlockd1"
#define EX_USAGE 64    /* A wrong command line; the exit codes are those of vmlockctl. */
#define EX_TEMPFAIL 75 /* A disk is locked by another owner. */

static GMainLoop *loop;
static VmlockdManager *manager;
static char *disks[2]; /* Absolute paths. */

/* An empty dictionary of options. */
static GVariant *no_options(void) { return g_variant_new("a{sv}", NULL); }

/* Handles a signal of the owner object.
 *
 * Any user of the bus can send a signal that looks like the service's to this process. The bus adds
 * the unique name of the sender, which nothing can forge: compare it. The signals "lock-lost" and
 * "lock-released" of the generated proxy do not pass the sender. */
static void on_signal(GDBusProxy *owner, const char *sender, const char *name, GVariant *arguments,
                      void *data) {
    g_autofree char *service = g_dbus_proxy_get_name_owner(owner);
    gboolean lost = g_str_equal(name, "LockLost");
    const char *lock, *disk, *reason;
    if (g_strcmp0(sender, service) != 0 || (!lost && !g_str_equal(name, "LockReleased")))
        return;
    g_variant_get(arguments, "(&o&s&s)", &lock, &disk, &reason);
    /* After LockLost others may write to the disk: a VM that uses it must be stopped. */
    g_print("%s %s: %s\n", lost ? "lost" : "released", disk, reason);
}

/* Handles the end and the start of the service. */
static void on_service_changed(GDBusProxy *owner, GParamSpec *property, void *data) {
    g_autofree char *service = g_dbus_proxy_get_name_owner(owner);
    g_autoptr(GVariant) rows = NULL;
    g_autoptr(GError) error = NULL;
    GVariant *options;
    if (service == NULL) {
        g_print("the service is gone; the lifeline keeps the owner\n");
        return;
    }
    /* No signal reports what happened while the service was away, so ask. */
    options = g_variant_new_parsed("{'owner': <%o>}", g_dbus_proxy_get_object_path(owner));
    if (!vmlockd_manager_call_list_locks_sync(manager, options, &rows, NULL, &error)) {
        /* If the service has ended again, this function is called once it is back. */
        g_print("cannot list the locks: %s\n", error->message);
        return;
    }
    g_print("the service is back\n");
    for (int n = 0; n < 2; n++) {
        const char *state = "released", *resource;
        gboolean lost;
        for (gsize i = 0; i < g_variant_n_children(rows); i++) {
            g_autoptr(GVariant) row = g_variant_get_child_value(rows, i);
            if (g_variant_lookup(row, "resource", "&s", &resource) &&
                g_str_equal(resource, disks[n]) && g_variant_lookup(row, "lost", "b", &lost))
                state = lost ? "lost" : "still locked";
        }
        g_print("%s %s\n", state, disks[n]);
    }
}

static gboolean on_stop(void *data) {
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

/* Reads standard input, and stops at its end. */
static gboolean on_input(int fd, GIOCondition condition, void *data) {
    char buffer[4096];
    return read(fd, buffer, sizeof buffer) > 0 ? G_SOURCE_CONTINUE : on_stop(data);
}

/* Opens an owner, which stands for a virtual machine (VM). */
static VmlockdOwner *open_owner(GDBusConnection *bus, int *lifeline, GError **error) {
    g_autofree char *path = NULL;
    g_autoptr(GVariant) index = NULL;
    g_autoptr(GUnixFDList) descriptors = NULL;
    VmlockdOwner *owner;
    /* With an empty UUID the service makes one. A program that runs VMs passes the UUID and the
     * name of the VM: refusals show them to other callers. */
    if (!vmlockd_manager_call_open_owner_sync(manager, "", "example", no_options(), NULL, &path,
                                              &index, &descriptors, NULL, error))
        return NULL;
    /* File descriptors come in a list beside the reply; the reply has an index into it. The owner
     * and its locks live until the last copy of the lifeline is closed, which happens at the latest
     * when this process ends. They do not depend on the connection to the bus. */
    *lifeline = g_unix_fd_list_get(descriptors, g_variant_get_handle(index), error);
    if (*lifeline < 0)
        return NULL;
    /* Signals announce changes of a property, but not its value, so a cache is of no use. */
    owner = vmlockd_owner_proxy_new_sync(bus, G_DBUS_PROXY_FLAGS_DO_NOT_LOAD_PROPERTIES,
                                         SERVICE, path, NULL, error);
    if (owner == NULL)
        return NULL;
    /* Subscribe before the first lock is acquired, so that no signal is missed. */
    g_signal_connect(owner, "g-signal", G_CALLBACK(on_signal), NULL);
    g_signal_connect(owner, "notify::g-name-owner", G_CALLBACK(on_service_changed), NULL);
    g_print("opened %s\n", path);
    return owner;
}

/* Locks both disks or none of them. */
static gboolean acquire(VmlockdOwner *owner, GError **error) {
    g_auto(GStrv) paths = NULL;
    GVariantBuilder resources;
    g_variant_builder_init(&resources, G_VARIANT_TYPE("a(ss)"));
    for (int n = 0; n < 2; n++)
        g_variant_builder_add(&resources, "(ss)", disks[n], "exclusive");
    /* A disk that is locked is refused at once, unless the option timeout-usec allows to wait.
     * Then the call needs a timeout of its own: see g_dbus_proxy_set_default_timeout(). */
    if (!vmlockd_owner_call_acquire_sync(owner, g_variant_builder_end(&resources), no_options(),
                                         &paths, NULL, error))
        return FALSE;
    for (int n = 0; n < 2; n++)
        g_print("locked %s as %s\n", disks[n], paths[n]);
    return TRUE;
}

/* Acquires the locks, waits, and releases them. */
static gboolean run(GBusType type, GError **error) {
    g_autoptr(GDBusConnection) bus = g_bus_get_sync(type, NULL, error);
    g_autoptr(VmlockdOwner) owner = NULL;
    int lifeline = -1;
    if (bus == NULL)
        return FALSE;
    manager = vmlockd_manager_proxy_new_sync(bus, G_DBUS_PROXY_FLAGS_DO_NOT_LOAD_PROPERTIES,
                                             SERVICE, "/org/vmlockd1", NULL, error);
    if (manager == NULL || (owner = open_owner(bus, &lifeline, error)) == NULL ||
        !acquire(owner, error))
        return FALSE;
    g_unix_signal_add(SIGTERM, on_stop, NULL);
    g_unix_signal_add(SIGINT, on_stop, NULL);
    g_unix_fd_add(STDIN_FILENO, G_IO_IN | G_IO_HUP, on_input, NULL);
    g_main_loop_run(loop);
    /* Close releases all locks and ends the owner; Release would release single locks. If this
     * fails, the end of the lifeline does the same. */
    if (!vmlockd_owner_call_close_sync(owner, no_options(), NULL, error))
        return FALSE;
    g_print("released all locks\n");
    return TRUE;
}

int main(int argc, char **argv) {
    g_autoptr(GError) error = NULL;
    gboolean session = argc > 1 && g_str_equal(argv[1], "--session");
    if (argc - session != 3) {
        g_printerr("Usage: lock-disks [--session] DISK1 DISK2\n");
        return EX_USAGE;
    }
    loop = g_main_loop_new(NULL, FALSE);
    for (int n = 0; n < 2; n++)
        disks[n] = g_canonicalize_filename(argv[argc - 2 + n], NULL);
    if (run(session ? G_BUS_TYPE_SESSION : G_BUS_TYPE_SYSTEM, &error))
        return 0;
    /* Programs compare the name of an error; its message is for people, and names the holder. */
    g_autofree char *name = g_dbus_error_get_remote_error(error);
    g_dbus_error_strip_remote_error(error);
    g_printerr("%s\n", error->message);
    return name != NULL && g_str_has_prefix(name, SERVICE ".Error.LockHeld") ? EX_TEMPFAIL : 1;
}
