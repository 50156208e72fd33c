#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::write_seeds("json_request"),
    |data: &[u8]| fuzz::bodies::json_request(data)
);
