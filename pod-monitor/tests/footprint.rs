//! What a monitor costs. The numbers of a release build are held by the workspace's budgets; here
//! is what must hold for any build.

#[cfg(test)]
mod common;

use common::*;

const IDS: [&str; 3] = ["c1", "c2", "c3"];

#[cfg(test)]
mod steps {
    use super::*;

    pub(crate) async fn run_three(pod: &Pod) {
        for id in IDS {
            pod.run(id, script("echo up; exec sleep 1000")).await;
            eventually("up", || (pod.log(id) == ["stdout F up"]).then_some(())).await;
        }
    }

    pub(crate) async fn exec_twenty(pod: &Pod) {
        let config = pod.exec_config("c1", &["/bin/echo", "x"]);
        for _ in 0..20 {
            let exec = pod.monitor.exec(&trace(), &config).await.unwrap();
            read_all(exec.streams.stdout.unwrap()).await;
            exec.process.wait().await.unwrap();
        }
    }

    pub(crate) async fn write_much(pod: &mut Pod) {
        pod.run("loud", script("seq 1 400000; head -c 20000000 /dev/zero"))
            .await;
        pod.exit("loud").await;
    }
}

#[test]
fn a_monitor_is_one_thread_and_keeps_nothing_of_what_is_over() {
    alone(async || {
        // Two of them, which share the program's pages.
        let mut pods = [Pod::new("runc").await, Pod::new("runc").await];
        let print = |when: &str, pods: &[Pod; 2]| {
            let kilobytes = pods.each_ref().map(|pod| private(pod.monitor.pid()));
            println!("private memory {when}: {kilobytes:?} KB");
        };
        print("at the start", &pods);
        let start = fds(&pods[0]);
        for pod in &pods {
            steps::run_three(pod).await;
        }
        let running = fds(&pods[0]);
        print("with three containers", &pods);
        for pod in &pods {
            steps::exec_twenty(pod).await;
            assert_eq!(count(format!("/proc/{}/task", pod.monitor.pid())), 1);
            eventually("execs are closed", || (fds(pod) == running).then_some(())).await;
        }
        print("after twenty execs", &pods);
        for pod in &mut pods {
            steps::write_much(pod).await;
            assert_eq!(count(format!("/proc/{}/task", pod.monitor.pid())), 1);
        }
        print("after much output", &pods);
        for pod in pods {
            for id in IDS.iter().chain(&["loud"]) {
                pod.monitor.delete(&trace(), id, true).await.unwrap();
            }
            eventually("all is closed", || (fds(&pod) == start).then_some(())).await;
            println!(
                "private memory at the end: {} KB",
                private(pod.monitor.pid())
            );
            pod.close().await;
        }
    });
}
