//! The generated code in git is what the schema says.
//!
//! `monitor.cgr` is the code generator's input as the `capnp` program made it from
//! `monitor.capnp`. With it in git, nobody needs that program to build.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test helper fails its test by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn crate_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// What `capnpc` makes of a code generator request. `directory` keeps tests apart that run at
/// the same time.
fn generate(request: &[u8], directory: &str) -> String {
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory);
    capnpc::codegen::CodeGenerationCommand::new()
        .output_directory(&output)
        .default_parent_module(vec!["generated".to_owned()])
        .run(request)
        .unwrap();
    fs::read_to_string(output.join("monitor_capnp.rs")).unwrap()
}

/// The request as the `capnp` program on this machine makes it.
#[expect(
    clippy::disallowed_methods,
    reason = "a test runs the schema compiler, once and without fds or namespaces"
)]
fn compile() -> Vec<u8> {
    let output = Command::new("capnp")
        .args(["compile", "-o-", "monitor.capnp"])
        .current_dir(crate_file(""))
        .output()
        .expect("run capnp, of the package capnproto: `cargo xtask packages` installs it");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// The code without the comments, which name the version of the `capnp` program.
fn without_comments(code: &str) -> Vec<&str> {
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect()
}

#[test]
fn code_in_git_is_made_from_the_request_in_git() {
    let request = fs::read(crate_file("monitor.cgr")).unwrap();
    let code = fs::read_to_string(crate_file("src/generated/monitor_capnp.rs")).unwrap();
    assert!(
        generate(&request, "from-request") == code,
        "src/generated/monitor_capnp.rs is stale: run `cargo xtask generate`"
    );
}

#[test]
fn request_in_git_is_made_from_the_schema_in_git() {
    let request = compile();
    let code = fs::read_to_string(crate_file("src/generated/monitor_capnp.rs")).unwrap();
    assert!(
        without_comments(&generate(&request, "from-schema")) == without_comments(&code),
        "monitor.cgr is stale: run `cargo xtask generate`"
    );
}

#[test]
#[ignore = "writes into the source tree; `cargo xtask generate` runs it"]
fn rewrite() {
    fs::write(crate_file("monitor.cgr"), compile()).unwrap();
    let request = fs::read(crate_file("monitor.cgr")).unwrap();
    let code = generate(&request, "rewrite");
    fs::write(crate_file("src/generated/monitor_capnp.rs"), code).unwrap();
}
