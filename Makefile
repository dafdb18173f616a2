# What a developer or a first-time user types. `make demo` and `make test` start from a bare machine.
.PHONY: demo test test-slow build bench lint format docs packages
JOBS ?= $(shell nproc)
PYTEST = HETMEM_BINARY=$(CURDIR)/build/hetmem .venv/bin/python -m pytest -q

demo: build
	@scripts/make_venv.sh demo
	@scripts/demo.sh

# The packages of Python come first: the build takes pybind11 from them.
test: packages
	@scripts/make_venv.sh test
	@$(MAKE) --no-print-directory build
	cd build && ctest --output-on-failure -j $(JOBS)
	$(PYTEST) -m "not slow" tests/python

# With what builds the site, and a browser, in which the run report is looked at; without one those
# tests are skipped.
test-slow: test
	@scripts/make_venv.sh docs
	@scripts/install_packages.sh chromium-headless-shell
	$(PYTEST) -m slow tests/python
	$(PYTEST) tests/python/test_report.py

build: packages
	@cmake --preset cpu $(shell command -v ccache >/dev/null && echo -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
	@cmake --build --preset cpu -j $(JOBS)

bench: build
	@scripts/install_packages.sh fio
	@scripts/make_venv.sh test
	@scripts/make_venv.sh bench
	@.venv/bin/python benchmarks/run.py
	@.venv/bin/python benchmarks/memory.py

lint: build
	@scripts/make_venv.sh test
	@scripts/lint.sh

format:
	@git ls-files '*.h' '*.cpp' '*.cu' | xargs clang-format -i

# The site in build/site: the pages under docs/, and those made of headers, docstrings and the options.
docs: packages
	@scripts/make_venv.sh docs
	@$(MAKE) --no-print-directory build
	@.venv/bin/python -m mkdocs build --quiet
	@echo "docs: build/site/index.html"

packages:
	@scripts/install_packages.sh
