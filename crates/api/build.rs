//! Compiles `proto/` without `protoc`, and keeps the descriptors for server reflection.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(["jigap/v1/wallet.proto"], ["proto"])?;
    std::fs::write(out.join("wallet.descriptors"), descriptors.encode_to_vec())?;

    // The two messages of the stream stay bytes: `wire` reads and writes them by hand.
    tonic_prost_build::configure()
        .extern_path(".jigap.v1.TransferBatch", "crate::wire::Message")
        .extern_path(".jigap.v1.TransferBatchResult", "crate::wire::Message")
        .compile_fds(descriptors.clone())?;

    // All messages as the library reads them, for the tests that hold `wire` against it.
    let reference = out.join("reference");
    std::fs::create_dir_all(&reference)?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .out_dir(reference)
        .compile_fds(descriptors)?;
    Ok(())
}
