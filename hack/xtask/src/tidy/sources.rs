//! Rules about text: unsafe code in its two places, no `allow`, short scripts, a monitor that is a product of its own.

/// Where unsafe code may be.
const UNSAFE: &[&str] = &[
    "pod-monitor/src/sys/",
    "schema/client/src/fd.rs",
    "schema/client/src/fd/",
];

/// What a script may have; more belongs into a program.
const SCRIPT_LINES: usize = 50;

/// What is wrong with one file of the repository.
pub(super) fn check(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_rust = std::path::Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs");
    if is_rust && !text.starts_with("// @generated") && !path.contains("/generated") {
        wrong.extend(rust(path, text));
    }
    let is_script =
        text.starts_with("#!") && (path.starts_with("hack/") || path.starts_with(".ci/"));
    let lines = text.lines().count();
    if is_script && lines > SCRIPT_LINES {
        wrong.push(format!(
            "{path}: {lines} lines; a script has at most {SCRIPT_LINES}"
        ));
    }
    let is_monitor = path.starts_with("schema/") || path.starts_with("pod-monitor/");
    if is_monitor && (is_rust || path.to_ascii_lowercase().ends_with(".capnp")) {
        wrong.extend(foreign_words(path, text));
    }
    wrong
}

fn rust(path: &str, text: &str) -> Vec<String> {
    let may_be_unsafe = UNSAFE.iter().any(|place| path.starts_with(place));
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default().trim();
        let place = format!("{path}:{}", number + 1);
        if code.starts_with(&format!("#[{}(", "allow"))
            || code.starts_with(&format!("#![{}(", "allow"))
        {
            wrong.push(format!(
                "{place}: use #[expect(lint, reason = …)] on one item"
            ));
        }
        let unsafe_code = ["{", "fn ", "impl ", "extern "]
            .iter()
            .any(|next| code.contains(&format!("{} {next}", "unsafe")));
        if unsafe_code && !may_be_unsafe && !code.contains('"') {
            wrong.push(format!(
                "{place}: unsafe code outside its places {UNSAFE:?}"
            ));
        }
    }
    wrong
}

/// The monitor and its protocol serve any runtime: the words of this one have no place there.
fn foreign_words(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let lower = line.to_ascii_lowercase();
        for word in ["husk", "kubernetes", "kubelet"] {
            if lower.contains(word) {
                wrong.push(format!(
                    "{path}:{}: the monitor's own code names {word}",
                    number + 1
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_broken_by_its_own_line_only() {
        let long = format!("#!/bin/sh\n{}", "true\n".repeat(50));
        let allow = format!("#[{}(dead_code)]\n", "allow");
        let block = format!("let x = {} {{ y() }};\n", "unsafe");
        for (path, text, count) in [
            ("controller/src/a.rs", "fn main() {}\n", 0),
            ("controller/src/a.rs", allow.as_str(), 1),
            ("controller/src/a.rs", block.as_str(), 1),
            ("pod-monitor/src/sys/clone.rs", block.as_str(), 0),
            ("pod-monitor/src/pod.rs", "// as the kubelet wants\n", 1),
            ("controller/src/a.rs", "// as the kubelet wants\n", 0),
            ("hack/demo", long.as_str(), 1),
            ("docs/x", long.as_str(), 0),
        ] {
            assert_eq!(check(path, text).len(), count, "{path}: {text}");
        }
    }
}
