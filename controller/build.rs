//! Compiles the admin protocol without `protoc`, and has the program linked with small relocations.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/admin.proto");
    let descriptors = protox::compile(["admin.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    // Without it the dynamic linker reads, and so keeps in memory, 24 bytes for each address in the
    // program's tables; packed it is a bit for most of them. glibc understands it since 2.36.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    Ok(())
}
