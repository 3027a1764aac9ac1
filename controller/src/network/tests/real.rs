//! With the plugins that the distribution ships. All of it happens in network namespaces that the
//! test makes: one plays the node, others the pods.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use super::*;

const PLUGINS: &str = "/usr/lib/cni";

/// Runs something on a runtime of one thread in the namespace, so that plugins start in it, too.
fn on_node<F: Future<Output = ()>>(node: &Netns, work: impl FnOnce() -> F + Send + 'static) {
    let builder = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    node.run(move || builder().block_on(work()));
}

fn bridge_list(version: &str, leases: &Path) -> Value {
    json!({
        "cniVersion": version,
        "name": "real",
        "plugins": [
            {
                "type": "bridge", "bridge": "husk0", "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local", "dataDir": leases,
                    "ranges": [[{"subnet": "10.250.7.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
                "dns": {"nameservers": ["10.250.7.53"], "search": ["example.test"]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

fn open_with(node: &Node, list: &Value) -> Network {
    fs::write(
        node.path("net.d").join("10-real.conflist"),
        list.to_string(),
    )
    .unwrap();
    Network::open(Config {
        conf_dir: node.path("net.d"),
        bin_dirs: vec![PLUGINS.into()],
        cache_dir: node.path("cache"),
        timeout: DEADLINE,
    })
    .unwrap()
}

/// The addresses that host-local has given away.
fn leases(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir.join("real"))
        .into_iter()
        .flatten()
        .flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("10.")).collect();
    names.sort();
    names
}

/// Sends a greeting to the first caller.
fn greet(pod: &Netns) -> JoinHandle<()> {
    let listener = pod.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"hello").unwrap();
    })
}

fn call(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

async fn drive(version: &str) {
    let node = Node::new();
    let lease_dir = node.path("leases");
    let network = open_with(&node, &bridge_list(version, &lease_dir));
    assert_eq!(network.readiness(), Readiness::Ready, "{version}");

    let (one, two) = (Netns::new(), Netns::new());
    let mut pod = one.pod("pod-one");
    pod.port_mappings.push(PortMapping {
        host_port: 18_080,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    });
    let (first, second) = tokio::join!(async { network.add(&pod).await.unwrap() }, async {
        network.add(&two.pod("pod-two")).await.unwrap()
    },);
    assert_ne!(first.ips, second.ips);
    assert_eq!(first.result["cniVersion"], version);
    assert_eq!(
        first.mac.as_deref().map(str::len),
        Some(17),
        "{:?}",
        first.mac
    );
    assert_eq!(first.dns.servers, ["10.250.7.53"]);
    assert_eq!(first.routes[0].dst.to_string(), "0.0.0.0/0");
    assert_eq!(leases(&lease_dir).len(), 2);

    // Straight to the pod, and through the node's port.
    for address in [
        SocketAddr::new(first.ips[0], 80),
        "127.0.0.1:18080".parse().unwrap(),
    ] {
        let greeter = greet(&one);
        assert_eq!(call(address).unwrap(), "hello", "{version} {address}");
        greeter.join().unwrap();
    }
    // Older portmap plugins find fault with every pod that has ports but no IPv6 address.
    network.check("pod-two").await.unwrap();

    // A later controller, the namespace of the second pod being gone.
    drop(network);
    let network = open_with(&node, &bridge_list(version, &lease_dir));
    assert_eq!(network.cached("pod-one"), Some(first.clone()));
    drop(two);
    network.gc(&["pod-one"]).await.unwrap();
    assert_eq!(leases(&lease_dir), [first.ips[0].to_string()]);
    network.del("pod-one", Some(&one.path)).await.unwrap();
    assert!(leases(&lease_dir).is_empty(), "{version}");
    assert!(call("127.0.0.1:18080".parse().unwrap()).is_err());
    assert!(
        network.add(&pod).await.is_ok(),
        "the pod's namespace is as good as new"
    );
    network.del("pod-one", Some(&one.path)).await.unwrap();
}

#[test]
fn bridge_host_local_and_portmap() {
    assert!(
        Path::new(PLUGINS).join("bridge").exists(),
        "install containernetworking-plugins"
    );
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let node = Netns::new();
        let own = node.path.clone();
        on_node(&node, move || async move {
            loopback::up(own).await.unwrap();
            drive(version).await;
        });
    }
}

#[test]
fn a_version_that_the_plugins_do_not_speak_is_told() {
    let node = Netns::new();
    on_node(&node, || async {
        let (node, netns) = (Node::new(), Netns::new());
        let network = open_with(&node, &bridge_list("1.1.0", &node.path("leases")));
        match network.refresh_status().await {
            // The distribution's plugins have moved on.
            Readiness::Ready => {
                let attachment = network.add(&netns.pod("p")).await.unwrap();
                assert_eq!(attachment.result["cniVersion"], "1.1.0");
                network.del("p", Some(&netns.path)).await.unwrap();
            }
            Readiness::NotReady { reason } => {
                assert!(reason.contains("plugin bridge failed STATUS"), "{reason}");
                let text = chain_of(&network.add(&netns.pod("p")).await.unwrap_err());
                assert!(text.contains("plugin bridge failed ADD"), "{text}");
            }
        }
    });
}

#[test]
fn addresses_are_given_in_the_plugins_order() {
    let node = Netns::new();
    on_node(&node, || async {
        let (node, netns) = (Node::new(), Netns::new());
        let mut list = bridge_list("1.0.0", &node.path("leases"));
        list["plugins"][0]["ipam"]["ranges"] =
            json!([[{"subnet": "fd00:250::/64"}], [{"subnet": "10.250.8.0/24"}]]);
        list["plugins"][0]["ipMasq"] = false.into();
        let network = open_with(&node, &list);
        let attachment = network.add(&netns.pod("dual")).await.unwrap();
        let families: Vec<bool> = attachment.ips.iter().map(IpAddr::is_ipv6).collect();
        assert_eq!(families, [true, false], "{:?}", attachment.ips);
        network.del("dual", Some(&netns.path)).await.unwrap();
    });
}

/// How the node's interfaces queue packets.
#[expect(
    clippy::disallowed_methods,
    reason = "the answer of tc is what the test is about"
)]
fn queue_disciplines() -> String {
    let output = std::process::Command::new("tc")
        .args(["qdisc", "show"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bandwidth_is_limited_as_annotated() {
    let node = Netns::new();
    on_node(&node, || async {
        let (node, netns) = (Node::new(), Netns::new());
        let mut list = bridge_list("1.0.0", &node.path("leases"));
        list["plugins"][0]["ipMasq"] = false.into();
        list["plugins"][1] = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        let network = open_with(&node, &list);
        let mut pod = netns.pod("slow");
        pod.bandwidth =
            Bandwidth::from_annotations(|key| key.contains("/ingress").then_some("8M")).unwrap();
        network.add(&pod).await.unwrap();
        network.check("slow").await.unwrap();
        let disciplines = queue_disciplines();
        assert!(
            disciplines.contains("tbf") && disciplines.contains("8Mbit"),
            "{disciplines}"
        );
        network.del("slow", Some(&netns.path)).await.unwrap();
    });
}
