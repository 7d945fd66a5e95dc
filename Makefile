# `make demo` and `make test` work on a fresh machine; `make help` lists the rest.

.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
UV ?= uv
DESTDIR ?=
BIN := $(VENV)/bin
UV_COMPILE = $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
HOUSE_TESTS = tests/unit/test_house_*.py tests/component/test_units_*.py

export PYTHON VENV
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help demo test check campaign e2e bench proto lock install install-python install-files clean image vm bootstrap-demo bootstrap-test bootstrap-image bootstrap-vm bootstrap-install

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

bootstrap-demo bootstrap-test bootstrap-image bootstrap-vm bootstrap-install:
	@./bootstrap.sh $(@:bootstrap-%=%)

demo: bootstrap-demo  ## two slots in a file, a signed release, an update, a refused forgery, a rollback
	@$(BIN)/python -m tests.e2e.demo

image: bootstrap-image  ## a disk image with two slots and a boot loader that updates itself: image-out/disk.img
	@$(BIN)/python -m tests.e2e.screen image

vm: bootstrap-vm  ## that machine on your screen (QEMU), with an update waiting: it updates itself before your eyes
	@$(BIN)/python -m tests.e2e.screen vm

test: check  ## everything that CI runs
	$(BIN)/pytest -n $(JOBS) --dist worksteal

check: bootstrap-test  ## lint, types, layers, units: seconds
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -p no:cacheprovider $(HOUSE_TESTS)

campaign: bootstrap-test  ## the whole suite with the large numbers: long
	CAMPAIGN=1 $(BIN)/pytest -n $(JOBS) --dist worksteal

e2e: bootstrap-test  ## whole machines, containers and VMs: a table of each boot; CAMPAIGN=1 for all of them
	LONG=1 REQUIRE_MACHINES=1 $(BIN)/pytest -q -n $(JOBS) --dist worksteal tests/e2e

bench: bootstrap-test  ## the tables of docs/benchmarks.md, on this machine: an hour; ROWS=fleet ROWS=full,cpu RUNS=5 JSON=FILE
	$(if $(filter-out fleet,$(ROWS)),,$(BIN)/python -m tests.bench.fleet)
	$(if $(filter fleet,$(ROWS)),,$(BIN)/python -m tests.bench $(if $(ROWS),--rows $(ROWS)) $(if $(RUNS),--runs $(RUNS)) $(if $(JSON),--json $(JSON)))

proto: bootstrap-test  ## update_metadata_pb2 from its .proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. updated/payload/update_metadata.proto

lock:  ## both lock files from pyproject.toml
	@command -v $(UV) >/dev/null || { echo "error: no uv; install it, or make lock UV=/path/to/uv" >&2; exit 1; }
	$(UV_COMPILE) --extra server --extra release --extra build pyproject.toml -o requirements.lock
	$(UV_COMPILE) --extra server --extra release --extra build --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

install: install-files install-python  ## a whole host below DESTDIR: commands, units, policies, defaults, man pages

# The commands carry their own libraries, out of the way of the system's Python; -I keeps the environment and the
# current directory out of a root daemon's import path.
# TARGET_PYTHON=3.13: for a root whose Python is another than this machine's; compiled packages differ between them.
LIBRARY := /usr/lib/updated/python
TARGET_PYTHON ?=
FOR_TARGET := $(if $(TARGET_PYTHON),--python-version $(TARGET_PYTHON) --implementation cp --no-compile)
install-python: bootstrap-install
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --upgrade -r requirements.lock \
	    --target $(DESTDIR)$(LIBRARY) $(if $(TARGET_PYTHON),--only-binary :all: $(FOR_TARGET))
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --upgrade . \
	    --target $(DESTDIR)$(LIBRARY) $(FOR_TARGET)
	cd $(DESTDIR)$(LIBRARY) && rm -rf bin setuptools setuptools-* _distutils_hack distutils-precedence.pth pkg_resources  # only installs
	rm -rf build
	install -d $(DESTDIR)/usr/bin
	sed -n '/^\[project.scripts\]/,/^$$/s/^\([a-z-]*\) = "\(.*\):main"$$/\1 \2/p' pyproject.toml | \
	while read -r name module; do \
	    printf '#!/usr/bin/python3 -I\nimport sys\n\nsys.path.insert(0, "$(LIBRARY)")\nfrom %s import main\n\nsys.exit(main())\n' \
	        "$$module" > $(DESTDIR)/usr/bin/$$name && chmod 755 $(DESTDIR)/usr/bin/$$name || exit 1; \
	done

install-files:
	install -D -m 644 -t $(DESTDIR)/usr/lib/systemd/system systemd/*.service
	install -D -m 644 -t $(DESTDIR)/usr/share/dbus-1/system.d systemd/dbus/*.conf
	install -D -m 644 -t $(DESTDIR)/usr/share/dbus-1/system-services systemd/dbus/*.service
	install -D -m 644 -t $(DESTDIR)/usr/share/polkit-1/rules.d systemd/polkit/*.rules
	install -D -m 644 -t $(DESTDIR)/usr/lib/sysusers.d systemd/sysusers.d/*.conf
	install -D -m 644 -t $(DESTDIR)/usr/lib/tmpfiles.d systemd/tmpfiles.d/*.conf
	install -D -m 644 systemd/config/updated.toml $(DESTDIR)/usr/lib/updated/updated.toml
	install -D -m 644 systemd/config/lockd.toml $(DESTDIR)/usr/lib/lockd/lockd.toml
	install -D -m 644 systemd/config/lockd-fleetlock.toml $(DESTDIR)/usr/lib/lockd-fleetlock/lockd-fleetlock.toml
	install -D -m 644 -t $(DESTDIR)/usr/share/man/man1 docs/man/*.1
	install -D -m 644 -t $(DESTDIR)/usr/share/man/man8 docs/man/*.8

clean:  ## what was made here, the environment too
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-out image-out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
