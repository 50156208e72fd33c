//! Holds `src/generated/` against `proto/`: after a change of the contract, `JIGAP_GENERATE=1 cargo test -p api --test generated` writes
//! it anew.

use std::error::Error;
use std::path::Path;

use prost::Message;

const DESCRIPTORS: &str = "wallet.descriptors";
const WALLET: &str = "wallet.rs";
const REFERENCE: &str = "reference.rs";

/// Compiles `proto/` without `protoc`.
fn generate(out: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(["jigap/v1/wallet.proto"], ["proto"])?;
    std::fs::write(out.join(DESCRIPTORS), descriptors.encode_to_vec())?;

    // The two messages of the stream stay bytes: `wire` reads and writes them by hand.
    tonic_prost_build::configure()
        .extern_path(".jigap.v1.TransferBatch", "crate::wire::Message")
        .extern_path(".jigap.v1.TransferBatchResult", "crate::wire::Message")
        .out_dir(out)
        .compile_fds(descriptors.clone())?;
    std::fs::rename(out.join("jigap.v1.rs"), out.join(WALLET))?;

    // All messages as the library reads them, for the tests that hold `wire` against it.
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .out_dir(out)
        .compile_fds(descriptors)?;
    std::fs::rename(out.join("jigap.v1.rs"), out.join(REFERENCE))?;
    Ok(())
}

#[test]
fn the_generated_code_is_what_the_contract_says() -> Result<(), Box<dyn Error>> {
    let out = tempfile::tempdir()?;
    generate(out.path())?;
    let kept = Path::new("src/generated");
    for name in [DESCRIPTORS, WALLET, REFERENCE] {
        let made = std::fs::read(out.path().join(name))?;
        if std::env::var_os("JIGAP_GENERATE").is_some() {
            std::fs::write(kept.join(name), &made)?;
        }
        let hint = "proto/ was changed: JIGAP_GENERATE=1 cargo test -p api --test generated";
        assert!(std::fs::read(kept.join(name))? == made, "{name}: {hint}");
    }
    Ok(())
}
