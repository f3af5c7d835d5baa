//! What a gateway does where no agent tells it who calls: it looks for the pod that has the address. Measured of the
//! gateway's own view of a cluster, which it has from an API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use slimfaas_gateway::cluster::kube::{KubeCluster, KubeOptions};
use slimfaas_gateway::config::url_template::UrlTemplate;
use slimfaas_gateway::drain;
use slimfaas_gateway::model::caller::Caller;
use slimfaas_gateway::model::function::FunctionId;
use slimfaas_gateway::readiness::Readiness;
use slimfaas_gateway::table::{CallerIndex, Table};
use slimfaas_tests::process::Scratch;

use super::api_server::{self, ApiServer};
use super::middle;

/// This program's argument for measuring this and nothing else.
pub(crate) const ARGUMENT: &str = "by-address";

const NAMESPACE: &str = "shop";
const PODS_PER_DEPLOYMENT: u32 = 10;
const PODS: [u32; 3] = [100, 1_000, 10_000];
const ROUNDS: usize = 40;
const QUESTIONS: u32 = 20_000;

/// In processes of their own, since a client finds its API server by the environment.
pub(crate) fn report() -> Result<()> {
    println!("\nwithout an agent, who has the address: {ROUNDS} rounds of {QUESTIONS} questions; medians of rounds\n");
    println!("| pods | address of a pod | of nobody |");
    println!("|---|---|---|");
    for pods in PODS {
        let api = cluster_of(pods)?;
        let folder = Scratch::new("by-address")?;
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ARGUMENT).arg(pods.to_string()).env("KUBECONFIG", kubeconfig).stderr(Stdio::inherit());
        let output = command.output()?;
        ensure!(output.status.success(), "the measurement with {pods} pods failed");
        println!("{}", String::from_utf8(output.stdout)?.trim_end());
    }
    Ok(())
}

/// Deployments with their ReplicaSets and pods, each with an address of its own.
fn cluster_of(pods: u32) -> Result<ApiServer> {
    let api = ApiServer::start()?;
    for number in 0..pods / PODS_PER_DEPLOYMENT {
        let (name, replica_set) = (format!("web-{number}"), format!("web-{number}-5d4f8"));
        api.add_object(
            "deployments",
            json!({
                "metadata": {"name": name, "namespace": NAMESPACE, "uid": name},
                "spec": {"selector": {}, "template": {"metadata": {}, "spec": {"containers": [{"name": "c"}]}}},
            }),
        );
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": name, "controller": true}]);
        api.add_object(
            "replicasets",
            json!({"metadata": {
                "name": replica_set, "namespace": NAMESPACE, "uid": replica_set, "ownerReferences": owner
            }}),
        );
    }
    for number in 0..pods {
        let replica_set = format!("web-{}-5d4f8", number / PODS_PER_DEPLOYMENT);
        let mut pod = api_server::pod(&format!("pod-{number}"), NAMESPACE, "ReplicaSet", &replica_set);
        pod["status"]["podIP"] = address(number).to_string().into();
        api.add_object("pods", pod);
    }
    Ok(api)
}

fn address(pod: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + pod).into()
}

/// Prints a line of the table.
pub(crate) fn measure(pods: u32) -> Result<()> {
    // One thread follows the API server, the other asks, as one of a gateway's cores does.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let options = KubeOptions {
            namespace: NAMESPACE.to_owned(),
            other_namespaces: Vec::new(),
            template: UrlTemplate::parse("http://{pod_ip}:{pod_port}")?,
            pod_name: "slimfaas-0".to_owned(),
            peer_port: 1,
            salt: None,
        };
        let cluster = KubeCluster::connect(options, Table::new(NAMESPACE)).await?;
        let (_trigger, end) = drain::channel();
        let mut listed = cluster.is_listed();
        tokio::spawn(Arc::clone(&cluster).run(Readiness::default().block("the first list"), end));
        listed.wait_for(|listed| *listed).await?;
        let last = pods - 1;
        let Caller::Pod { workload, .. } = ask(&cluster, address(last)).await else {
            anyhow::bail!("pods are unknown")
        };
        let number = last / PODS_PER_DEPLOYMENT;
        ensure!(workload == FunctionId::new(NAMESPACE, &format!("web-{number}")), "the caller is {workload}");
        ensure!(ask(&cluster, address(pods)).await == Caller::Outside, "nobody has this address");
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            known.push(round(&cluster, pods, 0).await);
            unknown.push(round(&cluster, pods, pods).await);
        }
        println!("| {pods} | {:.0} ns | {:.0} ns |", middle(&known), middle(&unknown));
        Ok(())
    })
}

/// Nanoseconds for one question, of addresses all over `pods` ones from `first` on.
async fn round(cluster: &KubeCluster, pods: u32, first: u32) -> f64 {
    // A prime, so that each comes as often, and none near the one before it.
    const STRIDE: u32 = 7_919;
    let start = Instant::now();
    for number in 0..QUESTIONS {
        std::hint::black_box(ask(cluster, address(first + number * STRIDE % pods)).await);
    }
    start.elapsed().as_nanos() as f64 / f64::from(QUESTIONS)
}

async fn ask(cluster: &KubeCluster, ip: IpAddr) -> Caller {
    cluster.identify(SocketAddr::new(ip, 40_000), SocketAddr::new(ip, 5_000)).await
}
