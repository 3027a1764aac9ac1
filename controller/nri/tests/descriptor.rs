//! Our protocol against upstream's: names, numbers and types, one line for each.
//!
//! `descriptor.txt` holds upstream's facts as of the version that `lib.rs` names. To see what another
//! version changes:
//!
//! ```text
//! NRI_PROTO=…/github.com/containerd/nri@vX/pkg/api/api.proto \
//!     cargo test -p husk-nri --test descriptor -- --ignored --nocapture
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use prost_types::field_descriptor_proto::Label;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto};

const GOLDEN: &str = include_str!("descriptor.txt");

#[test]
fn our_protocol_is_upstreams() {
    let ours = facts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/nri.proto"));
    let upstream = golden();
    assert_eq!(ours, upstream);
    let calls = |service: &str| ours.iter().filter(|fact| fact.starts_with(service)).count();
    assert_eq!((calls("rpc Plugin."), calls("rpc Runtime.")), (18, 2));
}

/// Run with the path of an api.proto in `NRI_PROTO`.
#[test]
#[ignore = "needs a release's api.proto; run when the version moves"]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's argument, given by hand"
)]
fn upstream_adds_nothing() {
    let path = std::env::var("NRI_PROTO").expect("NRI_PROTO names a release's api.proto");
    let upstream = facts(Path::new(&path));
    for fact in &upstream {
        println!("{fact}");
    }
    assert_eq!(upstream, golden());
}

fn golden() -> BTreeSet<String> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Every fact of a file, but those of the functions that only WebAssembly has.
fn facts(proto: &Path) -> BTreeSet<String> {
    let directory = proto.parent().unwrap_or(proto);
    let descriptors = protox::compile([proto], [directory]);
    let descriptors = descriptors.unwrap_or_else(|error| panic!("{error:?}"));
    let mut facts = BTreeSet::new();
    let of_package = |package: &str| package == "nri.pkg.api.v1alpha1";
    let file = descriptors
        .file
        .iter()
        .find(|file| of_package(file.package()));
    let file = file.unwrap_or_else(|| panic!("{} is of another package", proto.display()));
    for service in &file.service {
        for call in &service.method {
            facts.insert(format!(
                "rpc {}.{}: {} -> {}",
                service.name(),
                call.name(),
                bare(call.input_type()),
                bare(call.output_type())
            ));
        }
    }
    file.message_type
        .iter()
        .for_each(|message| fields(message, "", &mut facts));
    file.enum_type
        .iter()
        .for_each(|values| variants(values, "", &mut facts));
    facts.retain(|fact| !fact.contains("HostFunctions.") && !fact.contains(" LogRequest"));
    facts
}

fn fields(message: &DescriptorProto, outer: &str, facts: &mut BTreeSet<String>) {
    let name = format!("{outer}{}", message.name());
    facts.insert(format!("message {name}"));
    for field in &message.field {
        let kind = kind(field);
        facts.insert(format!(
            "field {name}.{}={}:{kind}",
            field.name(),
            field.number()
        ));
    }
    let inner = format!("{name}.");
    message
        .nested_type
        .iter()
        .for_each(|nested| fields(nested, &inner, facts));
    message
        .enum_type
        .iter()
        .for_each(|values| variants(values, &inner, facts));
}

fn variants(values: &EnumDescriptorProto, outer: &str, facts: &mut BTreeSet<String>) {
    for value in &values.value {
        let name = format!("{outer}{}.{}", values.name(), value.name());
        facts.insert(format!("enum {name}={}", value.number()));
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    let name = match field.type_name() {
        "" => field
            .r#type()
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
        named => bare(named).to_owned(),
    };
    let repeated = field.label() == Label::Repeated;
    format!("{}{name}", if repeated { "repeated " } else { "" })
}

fn bare(name: &str) -> &str {
    name.strip_prefix(".nri.pkg.api.v1alpha1.").unwrap_or(name)
}
