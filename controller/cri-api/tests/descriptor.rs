//! Our protocol against upstream's: names, numbers and types, one line for each.
//!
//! `descriptor.txt` holds upstream's facts as of the pinned version, so the comparison needs no
//! network. [`upstream_adds_nothing`] takes a release's own file and prints what differs, which is
//! how one moves to the next Kubernetes minor:
//!
//! ```text
//! CRI_PROTO=…/k8s.io/cri-api@vX/pkg/apis/runtime/v1/api.proto \
//!     cargo test -p husk-cri-api --test descriptor -- --ignored --nocapture
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

const GOLDEN: &str = include_str!("descriptor.txt");

#[test]
fn our_protocol_is_upstreams() {
    let ours = facts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/cri.proto"));
    let upstream: BTreeSet<String> = GOLDEN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    assert_same(&ours, &upstream);
    let calls = |service: &str| ours.iter().filter(|fact| fact.starts_with(service)).count();
    assert_eq!(
        (calls("rpc RuntimeService."), calls("rpc ImageService.")),
        (37, 6)
    );
}

/// Run with the path of an api.proto in `CRI_PROTO`.
#[test]
#[ignore = "needs a release's api.proto; run when the Kubernetes version moves"]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's argument, given by hand"
)]
fn upstream_adds_nothing() {
    let path = std::env::var("CRI_PROTO").expect("CRI_PROTO names a release's api.proto");
    let upstream = facts(Path::new(&path));
    println!(
        "{}",
        upstream.iter().cloned().collect::<Vec<_>>().join("\n")
    );
    let ours = GOLDEN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    assert_same(&ours, &upstream);
}

fn assert_same(ours: &BTreeSet<String>, upstream: &BTreeSet<String>) {
    let lines = |left: &BTreeSet<String>, right: &BTreeSet<String>, sign: char| -> Vec<String> {
        left.difference(right)
            .map(|fact| format!("{sign} {fact}"))
            .collect()
    };
    let mut difference = lines(upstream, ours, '+');
    difference.extend(lines(ours, upstream, '-'));
    assert!(
        difference.is_empty(),
        "upstream differs from us:\n{}",
        difference.join("\n")
    );
}

/// Every fact of a file, in words that sort.
fn facts(proto: &Path) -> BTreeSet<String> {
    let directory = proto.parent().unwrap_or(proto);
    let descriptors: FileDescriptorSet =
        protox::compile([proto], [directory]).unwrap_or_else(|error| panic!("{error:?}"));
    let file = descriptors
        .file
        .iter()
        .find(|file| file.package() == "runtime.v1");
    let file = file.unwrap_or_else(|| panic!("{} is of another package", proto.display()));
    let mut facts = BTreeSet::new();
    file.service
        .iter()
        .for_each(|service| calls(service, &mut facts));
    file.message_type
        .iter()
        .for_each(|message| fields(message, "", &mut facts));
    file.enum_type
        .iter()
        .for_each(|values| variants(values, "", &mut facts));
    facts
}

fn calls(service: &ServiceDescriptorProto, facts: &mut BTreeSet<String>) {
    for method in &service.method {
        let stream = |is: bool| if is { "stream " } else { "" };
        facts.insert(format!(
            "rpc {}.{}: {}{} -> {}{}",
            service.name(),
            method.name(),
            stream(method.client_streaming()),
            bare(method.input_type()),
            stream(method.server_streaming()),
            bare(method.output_type()),
        ));
    }
}

fn fields(message: &DescriptorProto, outer: &str, facts: &mut BTreeSet<String>) {
    let name = format!("{outer}{}", message.name());
    facts.insert(format!("message {name}"));
    for field in &message.field {
        let (number, kind) = (field.number(), kind(field));
        facts.insert(format!("field {name}.{}={number}:{kind}", field.name()));
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
        facts.insert(format!(
            "enum {outer}{}.{}={}",
            values.name(),
            value.name(),
            value.number()
        ));
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    let repeated = if field.label() == Label::Repeated {
        "repeated "
    } else {
        ""
    };
    let is_named = matches!(field.r#type(), Type::Message | Type::Enum);
    let name = match is_named {
        true => bare(field.type_name()).to_owned(),
        false => field
            .r#type()
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    };
    let deprecated = field
        .options
        .as_ref()
        .is_some_and(|options| options.deprecated());
    format!(
        "{repeated}{name}{}",
        if deprecated { " deprecated" } else { "" }
    )
}

fn bare(name: &str) -> &str {
    name.strip_prefix(".runtime.v1.").unwrap_or(name)
}
