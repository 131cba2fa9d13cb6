# Every target does its own set-up. `make` alone lists them.

PYTHON := .venv/bin/python
PACKAGES := python3-venv python3-bpfcc libbpf1 iproute2 nftables iptables wireguard-go wireguard-tools \
            iputils-ping iperf3 tcpdump ethtool procps
BENCH_PACKAGES := tinc openssl

.PHONY: help venv demo test quick lint bench silence clean

help:
	@echo "make demo    a path that shrinks under a transfer: it hangs without clampd and goes on with it (root)"
	@echo "make test    all tests but those on other kernels (root)"
	@echo "make quick   the tests that need no privileges"
	@echo "make lint    ruff and mypy"
	@echo "make bench   what it costs, and how fast it heals, beside others (root)"
	@echo "make silence 100 idle peers for ten minutes: clampd causes no packet (root)"
	@echo "make vm-test KERNEL=6.12|6.1   the suite for real kernels, in virtual machines: docs/vagrant.md (root)"
	@echo "make vm-up, vm-down, vm-smoke, vm-matrix   the machines alone, away again, the shortest run, its table in docs/"
	@echo "make venv    Debian's packages and .venv, which the others call"

# Debian's packages, as far as they are missing.
define install
	@missing=""; for p in $(1); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" != 0 ]; then echo "make: as root, or install first:$$missing" >&2; exit 1; fi; \
	  echo "installing$$missing"; \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	fi
endef

# Debian's own Python, because bcc comes with it (python3-bpfcc); idempotent.
venv: .venv/ready

.venv/ready: pyproject.toml
	$(call install,$(PACKAGES))
	@test -x $(PYTHON) || /usr/bin/python3 -m venv --system-site-packages .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: venv
	$(PYTHON) tests/demo.py

lint: venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Two at a time, a file's tests in one process: most of them wait for something.
test: lint
	$(PYTHON) -m pytest -n 2 --dist loadfile

quick: venv
	$(PYTHON) -m pytest -m "not bpf and not netns"

bench: venv
	$(call install,$(BENCH_PACKAGES))
	$(PYTHON) tests/bench/bench.py

silence: venv
	$(PYTHON) tests/bench/silence.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Virtual machines with a distribution's kernel, see docs/vagrant.md. VM_TESTS: more arguments for pytest.
KERNEL ?= 6.12

.PHONY: vm-up vm-test vm-smoke vm-matrix vm-down

vm-up: venv
	KERNEL=$(KERNEL) vagrant/vm up

vm-test: venv
	KERNEL=$(KERNEL) vagrant/vm test $(VM_TESTS)

vm-smoke: venv
	KERNEL=$(KERNEL) vagrant/vm test -m smoke $(VM_TESTS); status=$$?; vagrant/vm down && exit $$status

vm-matrix: venv
	vagrant/vm matrix

vm-down:
	vagrant/vm down
