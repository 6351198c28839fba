# Two commands: `make demo` trains a detector on the packaged digits, `make test` runs every test.
# Beneath them is plain cargo; what they add is a Vulkan driver on a Debian or Ubuntu machine that has none.

# Mesa's drivers print a line per process where this is unset.
export XDG_RUNTIME_DIR ?= /tmp

.PHONY: demo test mutate lint setup

demo: setup
	cargo run --release --locked -- demo

test: setup
	cargo test --locked

# What share of faulty kernels the sanitizer and the cases find: some minutes, apart from `make test`.
mutate:
	cargo run --release --locked --example mutate

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --no-default-features -- -D warnings # the engine alone
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

setup:
	@.ci/setup
