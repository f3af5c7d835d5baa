//! The table of options: what each is called, allows, means and is by default, and why.

mod events;
mod jobs;

use super::option::{Choice, Opt, Reads};
use super::values;
use crate::config::url_template::UrlTemplate;
use crate::config::{LogFormat, fixed_functions};

pub(super) const NAMESPACE: &str = "SlimFaas__Namespace";
pub(super) const ORCHESTRATOR: &str = "SlimFaas__Orchestrator";
pub(super) const PEER_NODES: &str = "SlimFaas__Peer__Nodes";

/// A number that the option's range keeps within its type.
fn narrow<T: TryFrom<u64>>(number: u64) -> T {
    T::try_from(number).ok().expect("the option's range fits its type")
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Every option, in the order of the reference page.
pub(super) fn all() -> impl Iterator<Item = &'static Opt> {
    OPTIONS.iter().chain(events::OPTIONS).chain(jobs::OPTIONS)
}

const OPTIONS: &[Opt] = &[
    Opt {
        name: NAMESPACE,
        old: &["NAMESPACE"],
        default: "default",
        doc: "The gateway's own namespace, whose functions are called by their plain names. When not set, a pod takes \
              the one it runs in.",
        is_list: false,
        reads: Reads::Text("a namespace's name", |draft, text| {
            draft.config.namespace = values::namespace(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Namespaces",
        old: &["SLIMFAAS_NAMESPACES"],
        default: "",
        doc: "Further namespaces whose functions are served, as `/function/{name}.{namespace}/…`. The gateway's service \
              account needs the same Role in each.",
        is_list: true,
        reads: Reads::Text("namespaces, separated by commas", |draft, text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            draft.config.other_namespaces = names.map(values::namespace).collect::<Result<_, _>>()?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Hostname",
        old: &["HOSTNAME"],
        default: "slimfaas-0",
        doc: "This gateway's name among its peers. In a pod, the pod's name, which Kubernetes puts there.",
        is_list: false,
        reads: Reads::Text("a pod's name", |draft, text| {
            draft.config.pod_name = text.trim().to_owned();
            Ok(())
        }),
    },
    Opt {
        name: ORCHESTRATOR,
        old: &["SLIMFAAS_ORCHESTRATOR"],
        default: "",
        doc: "Where functions come from: `Kubernetes`; `Local` or `Process`, child processes of the local mode; \
              `Mock`, the fixed list of `MOCK_KUBERNETES_FUNCTIONS`. When not set: `Mock` if there is such a list, \
              else `Kubernetes`.",
        is_list: false,
        reads: Reads::Text("`Kubernetes`, `Local`, `Process`, `Mock`", |draft, text| {
            draft.orchestrator = Choice::parse(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__MockKubernetesFunctions",
        old: &[fixed_functions::KEY],
        default: "",
        doc: "A fixed list of functions that run elsewhere, for docker-compose: \
              `{\"Functions\":[{\"Name\":\"fibonacci\",\"NumberParallelRequest\":1}]}`. Each may have `Annotations` (a \
              map) and a `Url` of its own. They are not scaled.",
        is_list: false,
        reads: Reads::Text("JSON", |draft, text| {
            draft.functions = Some(text.to_owned());
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__BaseFunctionUrl",
        old: &["BASE_FUNCTION_URL"],
        default: "http://{pod_ip}:{pod_port}",
        doc: "Where functions are, with `{function_name}`, `{namespace}`, `{service_name}`, `{pod_name}`, `{pod_ip}`, \
              `{pod_port}` (the first declared port) or `{pod_port_N}` (counted from 0). A path goes before the \
              request's path. By default each pod's own address, so that the gateway balances and a scaled-down pod \
              gets nothing.",
        is_list: false,
        reads: Reads::Text("`http://…`", |draft, text| {
            // Kept also when it is bad, so that nothing is checked against another one.
            draft.config.base_function_url = text.to_owned();
            UrlTemplate::parse(text).map(drop).map_err(|error| error.to_string())
        }),
    },
    Opt {
        name: "SlimFaas__Ports",
        old: &["SLIMFAAS_PORTS"],
        default: "5000",
        doc: "Ports to listen on; all serve the same. `0` is any free port.",
        is_list: true,
        reads: Reads::Text("ports, separated by commas", |draft, text| {
            draft.config.listen.ports = values::ports(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Listen__Address",
        old: &[],
        default: "::",
        doc: "Address to listen on. `::` is every address, of IPv4 too; where the machine has no IPv6, use `0.0.0.0`.",
        is_list: false,
        reads: Reads::Text("an IP address", |draft, text| {
            draft.config.listen.address = values::address(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Peer__Port",
        old: &[],
        default: "3262",
        doc: "Where gateway nodes reach each other, on the same address as the other ports. All nodes need the same. \
              Nothing of it is served to whom does not hold the key.",
        is_list: false,
        reads: Reads::Whole(1..=65_535, |draft, n| draft.config.peer.port = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Peer__KeyFile",
        old: &[],
        default: "",
        doc: "A file with the key that all gateway nodes share, such as a mounted Secret: a line of at least 32 random \
              characters (`openssl rand -base64 32`). Needed with more than one node; without it the peer port is not \
              opened. A second line is accepted from others but not used: to change keys without a stop, put the new \
              one before the old one, and take the old one away when every node has read the file (every 5 seconds).",
        is_list: false,
        reads: Reads::Text("a file's path", |draft, text| {
            draft.config.peer.key_file = Some(text.into());
            Ok(())
        }),
    },
    Opt {
        name: PEER_NODES,
        old: &[],
        default: "",
        doc: "All gateway nodes (this one may be left out) where functions are a fixed list: \
              `slimfaas-0=gateway-a:3262,slimfaas-1=gateway-b:3262`, each with its `SlimFaas__Hostname` and where its \
              peer port is reached. At the very first start all of them must run. On Kubernetes nodes find each other.",
        is_list: true,
        reads: Reads::Text("`name=host:port`, separated by commas", |draft, text| {
            draft.config.peer.nodes = values::nodes(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Identity__SaltFile",
        old: &[],
        default: "",
        doc: "On Kubernetes with node agents: a file with the salt of identities, 32 hexadecimal digits (`openssl rand \
              -hex 16`), the same for all gateways and agents. With it the gateway asks the kernel who calls, and \
              believes nothing else where the kernel answers; without it, and on nodes without an agent, callers are \
              known by the address of their pod. Read at start.",
        is_list: false,
        reads: Reads::Text("a file's path", |draft, text| {
            draft.config.identity_salt_file = Some(text.into());
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__TrafficThreads",
        old: &[],
        default: "auto",
        doc: "Threads that serve requests, each with its own listener and connections to functions. `auto` is the \
              number of processors that the process may use: under a CPU limit of a container, the limit rounded down \
              (at least 1), so that no thread is throttled for another's work.",
        is_list: false,
        reads: Reads::Text("`auto`, or 1 to 1024", |draft, text| {
            draft.config.traffic_threads = values::threads(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__CorsAllowOrigin",
        old: &["SLIMFAAS_CORS_ALLOW_ORIGIN"],
        default: "*",
        doc: "Origins whose pages may call, as browsers send them, separated by commas; `*` is any.",
        is_list: false,
        reads: Reads::Text("`*`, or origins", |draft, text| {
            draft.config.cors = values::origins(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__PodScaledUpByDefaultWhenInfrastructureHasNeverCalled",
        old: &["POD_SCALED_UP_BY_DEFAULT_WHEN_INFRASTRUCTURE_HAS_NEVER_CALLED"],
        default: "false",
        doc: "A function that nobody has called yet counts as called when the gateway starts.",
        is_list: false,
        reads: Reads::Text("`true`, `false`", |draft, text| {
            draft.config.awake_when_never_called = values::boolean(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__DrainDelaySeconds",
        old: &[],
        default: "",
        doc: "How long connections are still accepted after SIGTERM, while `/ready` says no and clients are told to \
              connect elsewhere: until every node of the cluster has learnt that this pod leaves. When not set: 5 on \
              Kubernetes, else 0.",
        is_list: false,
        reads: Reads::Text("0 to 3600 seconds", |draft, text| {
            let delay = values::duration(text, &(0..=HOUR_MS)).ok_or("allowed: 0 to 3600 seconds")?;
            draft.drain_delay = Some(delay);
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__DrainTimeoutSeconds",
        old: &[],
        default: "30",
        doc: "How long running requests may take to finish after that; then they are cut. Kubernetes kills a pod 30 \
              seconds after SIGTERM unless its `terminationGracePeriodSeconds` says more: it must outlast both.",
        is_list: false,
        reads: Reads::Seconds(0..=HOUR_MS, |draft, time| draft.config.drain_timeout = time),
    },
    Opt {
        name: "SlimFaas__Limits__Connections",
        old: &["Kestrel__Limits__MaxConcurrentConnections"],
        default: "16384",
        doc: "Connections of clients at once. A running request needs a second file descriptor, for the function: together \
              half of the 65536 that containers commonly have.",
        is_list: false,
        reads: Reads::Whole(1..=1_000_000, |draft, n| draft.config.limits.connections = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Limits__HeadersTimeoutSeconds",
        old: &["Kestrel__Limits__RequestHeadersTimeout"],
        default: "30",
        doc: "For all headers of a request to arrive: from its first byte, and for the first request of a connection \
              (also over HTTP/2) from the connection's start. Headers fit a few packets; whoever needs longer holds \
              connections on purpose.",
        is_list: false,
        reads: Reads::Seconds(1000..=HOUR_MS, |draft, time| draft.config.limits.headers_timeout = time),
    },
    Opt {
        name: "SlimFaas__Limits__KeepAliveTimeoutSeconds",
        old: &["Kestrel__Limits__KeepAliveTimeout"],
        default: "300",
        doc: "How long a connection is kept between two requests. Longer than load balancers keep theirs (60 seconds \
              is common), so that it is not the gateway that closes one under a request.",
        is_list: false,
        reads: Reads::Seconds(1000..=DAY_MS, |draft, time| draft.config.limits.keep_alive_timeout = time),
    },
    Opt {
        name: "SlimFaas__Limits__HeaderBytes",
        old: &["Kestrel__Limits__MaxRequestHeadersTotalSize"],
        default: "64KiB",
        doc: "All headers of a request together. Twice what Kestrel allows, for tokens and cookies; it is buffered \
              memory per connection.",
        is_list: false,
        // hyper refuses to work with a smaller buffer.
        reads: Reads::Bytes(8 * KIB..=MIB, |draft, n| draft.config.limits.header_bytes = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Limits__BodyBytes",
        old: &["Kestrel__Limits__MaxRequestBodySize"],
        default: "16GiB",
        doc: "A request's body. Bodies are streamed and cost no memory, so this only ends what never ends.",
        is_list: false,
        reads: Reads::Bytes(0..=1024 * TIB, |draft, n| draft.config.limits.body_bytes = n),
    },
    Opt {
        name: "SlimFaas__Limits__BodyBytesPerSecond",
        old: &["Kestrel__Limits__MinRequestBodyDataRate__BytesPerSecond"],
        default: "240",
        doc: "The slowest sending of a body, on average: Kestrel's limit. Slower senders hold a slot of a function for \
              nothing. `0` is no limit.",
        is_list: false,
        reads: Reads::Bytes(0..=GIB, |draft, n| draft.config.limits.body_bytes_per_second = n),
    },
    Opt {
        name: "SlimFaas__Limits__BodyRateGraceSeconds",
        old: &["Kestrel__Limits__MinRequestBodyDataRate__GracePeriod"],
        default: "10",
        doc: "From the start of a body until that rate is asked for: Kestrel's value, enough for a mobile network's \
              pause.",
        is_list: false,
        reads: Reads::Seconds(1000..=HOUR_MS, |draft, time| draft.config.limits.body_rate_grace = time),
    },
    Opt {
        name: "SlimFaas__Limits__H2Streams",
        old: &["Kestrel__Limits__Http2__MaxStreamsPerConnection"],
        default: "256",
        doc: "Requests at once on one HTTP/2 connection. HTTP/2 recommends at least 100; a gRPC client of many calls \
              uses one connection for all.",
        is_list: false,
        reads: Reads::Whole(1..=10_000, |draft, n| draft.config.limits.h2_streams = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Limits__WaitingPerFunction",
        old: &[],
        default: "10000",
        doc: "Requests that wait for one function, to wake or for a free slot; further ones get 503 at once. Below the \
              number of connections, so that one slow function cannot take all of them.",
        is_list: false,
        reads: Reads::Whole(0..=1_000_000, |draft, n| draft.config.limits.waiting_per_function = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Limits__SlotTimeoutSeconds",
        old: &[],
        default: "120",
        doc: "The longest wait for a free slot of a function that is awake. The default of `HttpTimeout`: callers wait \
              no longer.",
        is_list: false,
        reads: Reads::Seconds(0..=DAY_MS, |draft, time| draft.config.limits.slot_timeout = time),
    },
    Opt {
        name: "SlimFaas__Limits__ConnectTimeoutSeconds",
        old: &[],
        default: "2",
        doc: "For a connection to a pod. Within a cluster it takes under a millisecond; 2 seconds outlast one lost \
              packet (a SYN is sent again after 1), then another pod is tried.",
        is_list: false,
        reads: Reads::Seconds(10..=MINUTE_MS, |draft, time| draft.config.limits.connect_timeout = time),
    },
    Opt {
        name: "SlimFaas__Limits__IdleUpstream",
        old: &[],
        default: "128",
        doc: "Unused connections kept per pod and traffic thread: as many requests may start at once without \
              connecting. `0` keeps none.",
        is_list: false,
        reads: Reads::Whole(0..=10_000, |draft, n| draft.config.limits.idle_upstream = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Limits__IdleUpstreamTimeoutSeconds",
        old: &[],
        default: "4",
        doc: "How long they are kept. Below the 5 seconds of Node and uvicorn, which would otherwise close one under a \
              request.",
        is_list: false,
        reads: Reads::Seconds(0..=HOUR_MS, |draft, time| draft.config.limits.idle_upstream_timeout = time),
    },
    Opt {
        name: "SlimFaas__Store__Directory",
        old: &["SlimData__Directory", "SLIMDATA_DIRECTORY"],
        default: "",
        doc: "A directory of this process alone, in which asynchronous requests are stored. When not set: \
              `/var/lib/slimfaas` on Kubernetes, a part of the state directory in the local mode, else none, and then \
              asynchronous calls are answered with 503.",
        is_list: false,
        reads: Reads::Text("a directory", |draft, text| {
            draft.config.store_directory = Some(text.into());
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Queue__ElementsPerFunction",
        old: &[],
        default: "1000000",
        doc: "Stored requests of one function that are not done; over it callers get 429. They cost disk, no memory.",
        is_list: false,
        reads: Reads::Whole(1..=1_000_000_000, |draft, n| draft.config.queue.function_elements = n),
    },
    Opt {
        name: "SlimFaas__Queue__BytesPerFunction",
        old: &[],
        default: "4GiB",
        doc: "Their bytes, headers and bodies together.",
        is_list: false,
        reads: Reads::Bytes(MIB..=1024 * TIB, |draft, n| draft.config.queue.function_bytes = n),
    },
    Opt {
        name: "SlimFaas__Queue__Elements",
        old: &[],
        default: "4000000",
        doc: "Stored requests of all functions, dead letters included.",
        is_list: false,
        reads: Reads::Whole(1..=1_000_000_000, |draft, n| draft.config.queue.total_elements = n),
    },
    Opt {
        name: "SlimFaas__Queue__Bytes",
        old: &[],
        default: "8GiB",
        doc: "Their bytes. Keep it well below the size of the directory's disk, which also holds the log.",
        is_list: false,
        reads: Reads::Bytes(MIB..=1024 * TIB, |draft, n| draft.config.queue.total_bytes = n),
    },
    Opt {
        name: "SlimFaas__Queue__DeadLetters",
        old: &[],
        default: "10000",
        doc: "Requests of one function that are kept after their last attempt failed; over it the oldest are forgotten.",
        is_list: false,
        reads: Reads::Whole(0..=1_000_000_000, |draft, n| draft.config.queue.dead_elements = n),
    },
    Opt {
        name: "SlimFaas__Queue__DeadLetterAgeSeconds",
        old: &[],
        default: "604800",
        doc: "How long such a request is kept; a week gives its owner a working day to look at it. `0` is for ever.",
        is_list: false,
        reads: Reads::Seconds(0..=366 * DAY_MS, |draft, time| draft.config.queue.dead_age = time),
    },
    Opt {
        name: "SlimFaas__Queue__BodyBytes",
        old: &[],
        default: "1GiB",
        doc: "The body of an asynchronous call; over it callers get 413. Bodies over 192 KiB are streamed to files, on \
              every gateway node, and cost no memory. `SlimFaas__Limits__BodyBytes` holds too, and no body is larger \
              than all bytes that a function may store.",
        is_list: false,
        reads: Reads::Bytes(192 * KIB..=1024 * TIB, |draft, n| draft.config.queue.body_bytes = n),
    },
    Opt {
        name: "SlimFaas__Queue__DiskReserveBytes",
        old: &[],
        default: "256MiB",
        doc: "Room on the store's disk that asynchronous calls leave free, for the log and for what was accepted; \
              without it callers get 507.",
        is_list: false,
        reads: Reads::Bytes(0..=1024 * TIB, |draft, n| draft.config.queue.disk_reserve = n),
    },
    Opt {
        name: "SlimFaas__AdminTokenFile",
        old: &[],
        default: "",
        doc: "A file whose first line is a token of at least 32 characters, such as a mounted Secret. Whoever sends it \
              (`Authorization: Bearer …`) may use `/async-functions/…` of every function, also from outside. It is read \
              at each use; without it only callers inside may.",
        is_list: false,
        reads: Reads::Text("a file's path", |draft, text| {
            draft.config.admin_token_file = Some(text.into());
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Log__Filter",
        old: &["RUST_LOG"],
        default: "info,openraft=off",
        doc: "What is logged: a level, or levels of parts, as in `info,slimfaas_gateway=debug`. `openraft` logs each \
              attempt to reach a node that is down; what matters of it, the gateway says itself.",
        is_list: false,
        reads: Reads::Text("`error`, `warn`, `info`, `debug`, `trace`, `off`, `part=level`", |draft, text| {
            tracing_subscriber::EnvFilter::try_new(text)
                .map_err(|_error| "allowed: a level, or part=level, separated by commas".to_owned())?;
            draft.config.log.filter = text.to_owned();
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Log__Format",
        old: &[],
        default: "text",
        doc: "`text` is for people, `json` for log collectors.",
        is_list: false,
        reads: Reads::Text("`text`, `json`", |draft, text| {
            draft.config.log.format = match text.to_ascii_lowercase().as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err("allowed: text or json".to_owned()),
            };
            Ok(())
        }),
    },
    Opt {
        name: "NO_COLOR",
        old: &[],
        default: "",
        doc: "Any value: no colours, also on a terminal (no-color.org).",
        is_list: false,
        reads: Reads::Text("any", |draft, text| {
            draft.config.log.no_color = !text.is_empty();
            Ok(())
        }),
    },
];
