#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::write_seeds("codec_body"),
    |data: &[u8]| fuzz::bodies::codec_body(data)
);
