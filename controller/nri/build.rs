//! Compiles the protocol's messages without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/nri.proto");
    let descriptors = protox::compile(["nri.proto"], ["proto"])?;
    prost_build::Config::new()
        // Ordered maps: what is sent and what is merged is the same every time.
        .btree_map(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
