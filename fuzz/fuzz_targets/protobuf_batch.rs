#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::write_seeds("protobuf_batch"),
    |data: &[u8]| fuzz::bodies::protobuf_batch(data)
);
