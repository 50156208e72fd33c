#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::write_seeds("journal_recovery"),
    |data: &[u8]| fuzz::bodies::journal_recovery(data)
);
