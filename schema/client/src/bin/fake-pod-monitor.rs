//! A monitor's process without containers, for tests of what starts monitors.

fn main() -> std::io::Result<()> {
    pod_monitor_client::fake::main()
}
