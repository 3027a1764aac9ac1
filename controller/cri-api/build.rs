//! Compiles the protocol without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/cri.proto");
    let descriptors = protox::compile(["cri.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .generate_default_stubs(true)
        .codec_path("crate::Codec")
        // src/list.rs has these.
        .extern_path(
            ".runtime.v1.ListContainersResponse",
            "crate::v1::ListContainersResponse",
        )
        .extern_path(
            ".runtime.v1.ListPodSandboxResponse",
            "crate::v1::ListPodSandboxResponse",
        )
        .extern_path(
            ".runtime.v1.ListPodSandboxMetricsResponse",
            "crate::v1::ListPodSandboxMetricsResponse",
        )
        .extern_path(
            ".runtime.v1.StreamPodSandboxMetricsResponse",
            "crate::v1::StreamPodSandboxMetricsResponse",
        )
        // Every container that is kept would have room for them.
        .boxed("runtime.v1.ContainerConfig.windows")
        .boxed("runtime.v1.PodSandboxConfig.windows")
        // src/lib.rs writes this one, without the secrets.
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
