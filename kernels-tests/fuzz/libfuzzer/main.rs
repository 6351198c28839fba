//! Feeds libFuzzer's inputs to the target that has this program's name.

#![no_main]

#[path = "../targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::abort;

libfuzzer_sys::fuzz_target!(
    // By itself libFuzzer stops at any panic, also at one of a decoder that stssad catches.
    init: set_hook(Box::new(|_| ())),
    |bytes: &[u8]| {
        let run = AssertUnwindSafe(|| targets::run(env!("CARGO_BIN_NAME"), bytes));
        if catch_unwind(run).is_err() {
            abort();
        }
    }
);
