# SPDX-License-Identifier: MIT OR Apache-2.0
#
#   make             build
#   make install     as root; or into DESTDIR=, for a package
#   make uninstall   remove what make install put there
#                    INIT=openrc or INIT=lsb with both: a script for /etc/init.d, too
#   make test        the quick tests: no root, about 3 minutes (see tests/README.md)
#   make test-host   the tests that need root, systemd, libvirt or a shared file system
#   make test-vm     the tests that need virtual machines
#   make test-all    all three; each installs what it needs, or names it
#   make soak        kill the service some hundred times, and check its state; run a million random
#                    operations, and compare the results with a model
#   make demo        demonstrate the main features on a private bus
#   make bench       compare the speed and memory with virtlockd, in about 10 minutes; WORDS="quick",
#                    WORDS="kinds=kept-bus direct" and others: see benches/virtlockd/main.rs
#   make bench-table write the table of README.md from the output of make bench in the file BENCH=
#   make bench-more  the other measurements
#   make fuzz        look for bytes that the decoder of libvirt's protocol can't take
#   make lint        all that has an opinion on the source
#   make pot         update the template of translations from the polkit actions

PREFIX    = /usr/local
sbindir   = $(PREFIX)/sbin
bindir    = $(PREFIX)/bin
unitdir   = $(PREFIX)/lib/systemd
datadir   = $(PREFIX)/share
docdir    = $(datadir)/doc/vmlockd
mandir    = $(datadir)/man
bashdir   = $(datadir)/bash-completion/completions
zshdir    = $(datadir)/zsh/site-functions
fishdir   = $(datadir)/fish/vendor_completions.d
dbusdir   = $(datadir)/dbus-1
localedir = $(datadir)/locale

# Two readers don't look below /usr/local: message buses take their policy from
# /usr/share and, for what the administrator adds, /etc; polkit its actions from
# /usr/share only (before version 126). So these two stay outside of PREFIX.
dbusconfdir      = $(if $(filter /usr,$(PREFIX)),/usr/share,/etc)/dbus-1/system.d
polkitactionsdir = /usr/share/polkit-1/actions

# journalctl -x reads catalogs below /usr/lib and /usr/local/lib, from a database that a package has
# updated when it is installed: by journalctl --update-catalog.
catalogdir = $(unitdir)/catalog

# The init system that starts the service beside systemd and the message bus: none, openrc or lsb.
# These look into /etc/init.d only.
INIT    =
initdir = /etc/init.d
ifneq ($(filter-out openrc lsb,$(INIT))$(word 2,$(INIT)),)
$(error INIT is openrc or lsb, or empty)
endif

# The systemd that the units are for: the one here, unless told otherwise. Units
# are written for 254; for older ones, keys that these don't know are replaced.
SYSTEMD_VERSION = $(shell systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')

CARGO   = cargo
INSTALL = install
built   = $(or $(CARGO_TARGET_DIR),target)/release
shells  = $(built)/completions

older      = $(shell test "$(or $(SYSTEMD_VERSION),999)" -lt $(1) && echo yes)
substitute = sed -e 's|@sbindir@|$(sbindir)|' -e 's|@bindir@|$(bindir)|' \
	$(if $(call older,254),-e '/^RestartSteps=/d' -e '/^RestartMaxDelaySec=/d' -e '/^FileDescriptorStorePreserve=/d' -e 's/^RestartSec=.*/RestartSec=2s/')

update-catalog = $(if $(DESTDIR),,-if command -v journalctl >/dev/null; then journalctl --update-catalog; fi)

next = systemctl daemon-reload && systemctl enable --now vmlockd.service
ifeq ($(INIT),openrc)
next = rc-update add vmlockd default && rc-service vmlockd start
else ifeq ($(INIT),lsb)
next = have vmlockd started at boot (insserv, update-rc.d or chkconfig), and $(initdir)/vmlockd start
endif

docs = README.md CHANGELOG.md LICENSE LICENSE-APACHE LICENSE-MIT vmlockd.toml.example polkit/vmlockd.rules.example

examples = README.md python/lock-disks.py c/lock-disks.c c/Makefile javascript/lock-disks.js

# polkit shows the messages of its actions in the user's language. Without msgfmt (gettext), no
# translations are installed.
all_languages = $(shell sed '/^\#/d' po/LINGUAS)
languages     = $(if $(shell command -v msgfmt),$(all_languages))

man1 = $(wildcard man/*.1)
man5 = $(wildcard man/*.5)
man8 = $(wildcard man/*.8)

.PHONY: all completions install uninstall test test-host test-vm test-all soak demo bench bench-table bench-more fuzz lint pot

all:
	$(CARGO) build --release --locked
	$(MAKE) --no-print-directory completions

# The tool that is there writes them.
completions:
	mkdir -p $(shells)
	$(built)/vmlockctl completions bash >$(shells)/vmlockctl
	$(built)/vmlockctl completions zsh >$(shells)/_vmlockctl
	$(built)/vmlockctl completions fish >$(shells)/vmlockctl.fish

# Builds nothing, so that root need not: run make first.
install:
	$(INSTALL) -D -m 755 -t $(DESTDIR)$(sbindir) $(built)/vmlockd
	$(INSTALL) -D -m 755 -t $(DESTDIR)$(bindir) $(built)/vmlockctl
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(bashdir) $(shells)/vmlockctl
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(zshdir) $(shells)/_vmlockctl
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(fishdir) $(shells)/vmlockctl.fish
	$(substitute) systemd/vmlockd.service.in | $(INSTALL) -D -m 644 /dev/stdin $(DESTDIR)$(unitdir)/system/vmlockd.service
	$(substitute) systemd/vmlockd.user.service.in | $(INSTALL) -D -m 644 /dev/stdin $(DESTDIR)$(unitdir)/user/vmlockd.service
	$(substitute) systemd/vmlockd-inspector@.service.in | $(INSTALL) -D -m 644 /dev/stdin $(DESTDIR)$(unitdir)/system/vmlockd-inspector@.service
	$(INSTALL) -D -m 644 systemd/vmlockd-inspector.socket $(DESTDIR)$(unitdir)/system/vmlockd-inspector.socket
	$(INSTALL) -D -m 644 systemd/vmlockd-virtlockd.socket $(DESTDIR)$(unitdir)/system/vmlockd-virtlockd.socket
	$(INSTALL) -D -m 644 systemd/vmlockd-virtlockd.user.socket $(DESTDIR)$(unitdir)/user/vmlockd-virtlockd.socket
	$(substitute) dbus/org.vmlockd1.service.in | $(INSTALL) -D -m 644 /dev/stdin $(DESTDIR)$(dbusdir)/system-services/org.vmlockd1.service
	$(substitute) dbus/org.vmlockd1.session.service.in | $(INSTALL) -D -m 644 /dev/stdin $(DESTDIR)$(dbusdir)/services/org.vmlockd1.service
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(catalogdir) systemd/vmlockd.catalog
	$(if $(INIT),$(substitute) init/vmlockd.$(INIT).in | $(INSTALL) -D -m 755 /dev/stdin $(DESTDIR)$(initdir)/vmlockd)
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(dbusdir)/interfaces dbus/*.xml
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(dbusconfdir) dbus/org.vmlockd1.conf
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(polkitactionsdir) polkit/org.vmlockd1.policy
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(docdir) $(docs)
	$(foreach file,$(examples),$(INSTALL) -D -m 644 examples/$(file) $(DESTDIR)$(docdir)/examples/$(file) &&) true
	$(foreach language,$(languages),msgfmt --check -o - po/$(language).po | $(INSTALL) -D -m 644 /dev/stdin $(DESTDIR)$(localedir)/$(language)/LC_MESSAGES/vmlockd.mo &&) true
	$(if $(man1),$(INSTALL) -D -m 644 -t $(DESTDIR)$(mandir)/man1 $(man1))
	$(if $(man5),$(INSTALL) -D -m 644 -t $(DESTDIR)$(mandir)/man5 $(man5))
	$(if $(man8),$(INSTALL) -D -m 644 -t $(DESTDIR)$(mandir)/man8 $(man8))
	$(update-catalog)
	$(if $(DESTDIR),,@echo "Next: $(next)")

uninstall:
	rm -f $(DESTDIR)$(sbindir)/vmlockd $(DESTDIR)$(bindir)/vmlockctl
	rm -f $(DESTDIR)$(bashdir)/vmlockctl $(DESTDIR)$(zshdir)/_vmlockctl $(DESTDIR)$(fishdir)/vmlockctl.fish
	rm -f $(DESTDIR)$(unitdir)/system/vmlockd.service $(DESTDIR)$(unitdir)/user/vmlockd.service
	rm -f $(DESTDIR)$(unitdir)/system/vmlockd-inspector@.service $(DESTDIR)$(unitdir)/system/vmlockd-inspector.socket
	rm -f $(DESTDIR)$(unitdir)/system/vmlockd-virtlockd.socket $(DESTDIR)$(unitdir)/user/vmlockd-virtlockd.socket
	rm -f $(DESTDIR)$(catalogdir)/vmlockd.catalog
	$(if $(INIT),rm -f $(DESTDIR)$(initdir)/vmlockd)
	rm -f $(DESTDIR)$(dbusdir)/system-services/org.vmlockd1.service $(DESTDIR)$(dbusdir)/services/org.vmlockd1.service
	rm -f $(patsubst dbus/%,$(DESTDIR)$(dbusdir)/interfaces/%,$(wildcard dbus/*.xml))
	rm -f $(DESTDIR)$(dbusconfdir)/org.vmlockd1.conf $(DESTDIR)$(polkitactionsdir)/org.vmlockd1.policy
	rm -f $(addprefix $(DESTDIR)$(docdir)/,$(notdir $(docs))) $(addprefix $(DESTDIR)$(docdir)/examples/,$(examples))
	rm -f $(foreach language,$(all_languages),$(DESTDIR)$(localedir)/$(language)/LC_MESSAGES/vmlockd.mo)
	rm -f $(patsubst man/%,$(DESTDIR)$(mandir)/man1/%,$(man1))
	rm -f $(patsubst man/%,$(DESTDIR)$(mandir)/man5/%,$(man5))
	rm -f $(patsubst man/%,$(DESTDIR)$(mandir)/man8/%,$(man8))
	test ! -d $(DESTDIR)$(docdir) || find $(DESTDIR)$(docdir) -depth -type d -empty -delete
	$(update-catalog)

test:
	CARGO="$(CARGO)" tests/run quick

test-host:
	CARGO="$(CARGO)" tests/run host

# Some minutes, on emulated processors; the first time, some more for the disk image.
test-vm:
	CARGO="$(CARGO)" tests/run vm

test-all: test test-host test-vm

# A quarter of an hour or more. The numbers can be raised; a printed seed repeats the choices of a run.
VMLOCKD_SOAK_KILLS ?= 500
VMLOCKD_SOAK_RUNS  ?= 20
VMLOCKD_MODEL_SEQUENCES ?= 20000

soak:
	tests/deps host
	VMLOCKD_SOAK_KILLS=$(VMLOCKD_SOAK_KILLS) VMLOCKD_SOAK_RUNS=$(VMLOCKD_SOAK_RUNS) \
		$(CARGO) test --locked --test it -- --nocapture --test-threads=1 host::soak::
	VMLOCKD_MODEL_SEQUENCES=$(VMLOCKD_MODEL_SEQUENCES) \
		$(CARGO) test --release --locked --test it -- --nocapture host::soak::many_locks:: model::the_service

# The unoptimized build: it is there sooner, and the tests use it too.
demo:
	tests/deps demo
	$(CARGO) build --locked
	VMLOCKD_BIN="$(abspath $(or $(CARGO_TARGET_DIR),target)/debug)" \
		$$(test "$$(id -u)" -eq 0 || echo tests/userns) tests/demo

# The build needs no root; the run needs it as the tests do.
bench:
	$(CARGO) bench --locked --bench virtlockd --no-run
	$$(test "$$(id -u)" -eq 0 || echo tests/userns) $(CARGO) bench --locked --bench virtlockd -- $(WORDS)

BENCH = bench.txt

bench-table:
	benches/update-readme $(BENCH)

bench-more:
	$(CARGO) bench --locked --bench acquire --bench held --bench far --bench flood --bench wait

# Some minutes, on one core. New inputs are written below the target directory, and into the corpus
# only by `cargo fuzz cmin`.
VMLOCKD_FUZZ_RUNS ?= 10000000

fuzz: fuzz-frame fuzz-payload

fuzz-%:
	mkdir -p $(or $(CARGO_TARGET_DIR),fuzz/target)/corpus/$*
	$(CARGO) fuzz run --sanitizer none $* $(abspath $(or $(CARGO_TARGET_DIR),fuzz/target))/corpus/$* \
		$(abspath fuzz/corpus)/$* -- \
		-runs=$(VMLOCKD_FUZZ_RUNS) -max_len=1024 -rss_limit_mb=1024 -print_final_stats=1

# cargo deny reads the manifests of all dependencies, those of other platforms included, so all are
# fetched before.
lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items --locked
	$(CARGO) fetch --locked
	$(CARGO) deny --offline check bans licenses sources

# For a new translation: msginit -i po/vmlockd.pot -o po/LANGUAGE.po, and its name in po/LINGUAS.
# xgettext finds polkit's rules for .policy files where polkit is installed.
pot:
	xgettext --package-name=vmlockd --from-code=UTF-8 --no-location -f po/POTFILES.in -o po/vmlockd.pot
	sed -i -e '1,5d' -e '/^"POT-Creation-Date/d' -e 's/charset=CHARSET/charset=UTF-8/' po/vmlockd.pot
	for po in po/*.po; do msgmerge --quiet --update --backup=none --no-location "$$po" po/vmlockd.pot; done
