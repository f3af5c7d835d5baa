use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use super::*;
use crate::config::jobs::JobsConfiguration;
use crate::config::{CorsOrigins, EventLimits, JobLimits, Limits, Listen, Log, LogFormat, PeerPort, QueueLimits};

fn vars(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn defaults() -> Config {
    load([]).expect("the defaults are valid").config
}

/// `pairs` change the defaults by `change`, with these warnings.
#[track_caller]
fn check(pairs: &[(&str, &str)], change: impl FnOnce(&mut Config), warnings: &[&str]) {
    let mut expected = defaults();
    change(&mut expected);
    let loaded = load(vars(pairs)).expect("valid");
    assert_eq!(loaded.config, expected, "{pairs:?}");
    assert_eq!(shown(&loaded.warnings), warnings, "{pairs:?}");
}

#[track_caller]
fn check_invalid(pairs: &[(&str, &str)], problems: &[&str]) {
    let invalid = load(vars(pairs)).expect_err("invalid");
    assert_eq!(shown(&invalid.problems), problems, "{pairs:?}");
}

#[test]
fn the_defaults() {
    let limits = Limits {
        connections: 16_384,
        headers_timeout: Duration::from_secs(30),
        keep_alive_timeout: Duration::from_secs(300),
        header_bytes: 65_536,
        body_bytes: 17_179_869_184,
        body_bytes_per_second: 240,
        body_rate_grace: Duration::from_secs(10),
        h2_streams: 256,
        waiting_per_function: 10_000,
        slot_timeout: Duration::from_secs(120),
        connect_timeout: Duration::from_secs(2),
        idle_upstream: 128,
        idle_upstream_timeout: Duration::from_secs(4),
    };
    let expected = Config {
        namespace: "default".into(),
        other_namespaces: vec![],
        pod_name: "slimfaas-0".into(),
        cluster: ClusterSource::Kubernetes,
        listen: Listen { address: "::".parse().expect("an address"), ports: vec![5000] },
        traffic_threads: std::thread::available_parallelism().expect("known here").get(),
        cors: CorsOrigins::Any,
        base_function_url: "http://{pod_ip}:{pod_port}".into(),
        awake_when_never_called: false,
        store_directory: Some("/var/lib/slimfaas".into()),
        queue: QueueLimits {
            function_elements: 1_000_000,
            function_bytes: 4 << 30,
            total_elements: 4_000_000,
            total_bytes: 8 << 30,
            dead_elements: 10_000,
            dead_age: Duration::from_secs(7 * 24 * 3600),
            body_bytes: 1 << 30,
            disk_reserve: 256 << 20,
        },
        events: EventLimits {
            at_once: 1024,
            deliveries: 1024,
            body_bytes: 500 << 20,
            memory_bytes: 65_536,
            file_bytes: 1 << 30,
            structured_bytes: 16 << 20,
        },
        event_targets: vec![],
        jobs: JobLimits {
            request_bytes: 64 << 10,
            waiting_per_job: 1000,
            waiting: 10_000,
            schedules_per_job: 100,
            schedules: 1000,
        },
        jobs_configuration: JobsConfiguration::default(),
        admin_token_file: None,
        limits,
        log: Log { filter: "info,openraft=off".into(), format: LogFormat::Text, no_color: false },
        peer: PeerPort { port: 3262, key_file: None, nodes: vec![] },
        identity_salt_file: None,
        drain_delay: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(30),
    };
    assert_eq!(load([]), Ok(Loaded { config: expected, warnings: vec![] }));
}

/// Whatever a field of the blank configuration holds, some option's default replaces it.
#[test]
fn every_field_has_an_option() {
    let second = Duration::from_secs(1);
    let mut other = Draft::blank();
    other.config = Config {
        namespace: "x".into(),
        // Nothing by default, so that there is nothing to replace.
        other_namespaces: vec![],
        pod_name: "x".into(),
        cluster: ClusterSource::Local,
        listen: Listen { address: "127.0.0.1".parse().expect("an address"), ports: vec![1] },
        traffic_threads: 99,
        cors: CorsOrigins::Listed(vec![]),
        base_function_url: "x".into(),
        awake_when_never_called: true,
        store_directory: None,
        queue: QueueLimits {
            function_elements: 1,
            function_bytes: 1,
            total_elements: 1,
            total_bytes: 1,
            dead_elements: 1,
            dead_age: second,
            body_bytes: 1,
            disk_reserve: 1,
        },
        events: EventLimits {
            at_once: 1,
            deliveries: 1,
            body_bytes: 1,
            memory_bytes: 1,
            file_bytes: 1,
            structured_bytes: 1,
        },
        event_targets: vec![],
        jobs: JobLimits { request_bytes: 1, waiting_per_job: 1, waiting: 1, schedules_per_job: 1, schedules: 1 },
        // Nothing by default.
        jobs_configuration: JobsConfiguration::default(),
        admin_token_file: None,
        limits: Limits {
            connections: 1,
            headers_timeout: second,
            keep_alive_timeout: second,
            header_bytes: 1,
            body_bytes: 1,
            body_bytes_per_second: 1,
            body_rate_grace: second,
            h2_streams: 1,
            waiting_per_function: 1,
            slot_timeout: second,
            connect_timeout: second,
            idle_upstream: 1,
            idle_upstream_timeout: second,
        },
        log: Log { filter: "x".into(), format: LogFormat::Json, no_color: false },
        // Neither key nor nodes by default, so that there is nothing to replace.
        peer: PeerPort { port: 1, key_file: None, nodes: vec![] },
        identity_salt_file: None,
        drain_delay: second,
        drain_timeout: second,
    };
    assert_eq!(load_onto(other, []), load([]));
}

#[test]
fn flat_and_hierarchical_names() {
    for name in ["SLIMFAAS_PORTS", "SlimFaas__Ports", "slimfaas__ports", "SLIMFAAS__PORTS"] {
        check(&[(name, "5000, 6000")], |config| config.listen.ports = vec![5000, 6000], &[]);
    }
    check(
        &[("SlimFaas__Ports__1", "6000"), ("SlimFaas__Ports__0", "5000"), ("SLIMFAAS__PORTS__10", "7000")],
        |config| config.listen.ports = vec![5000, 6000, 7000],
        &[],
    );
    check(
        &[
            ("NAMESPACE", "demo"),
            ("SLIMFAAS_CORS_ALLOW_ORIGIN", "https://a.example"),
            ("BASE_FUNCTION_URL", "http://{function_name}.{namespace}.svc.cluster.local:5000"),
            ("POD_SCALED_UP_BY_DEFAULT_WHEN_INFRASTRUCTURE_HAS_NEVER_CALLED", "True"),
            ("RUST_LOG", "warn,hyper=error"),
        ],
        |config| {
            config.namespace = "demo".into();
            config.cors = CorsOrigins::Listed(vec!["https://a.example".into()]);
            config.base_function_url = "http://{function_name}.{namespace}.svc.cluster.local:5000".into();
            config.awake_when_never_called = true;
            config.log.filter = "warn,hyper=error".into();
        },
        &[],
    );
}

#[test]
fn kestrel_names_and_time_spans() {
    check(
        &[
            ("Kestrel__Limits__MaxRequestBodySize", "524288000"),
            ("Kestrel__Limits__KeepAliveTimeout", "00:02:00"),
            ("KESTREL__LIMITS__REQUESTHEADERSTIMEOUT", "00:00:05.5"),
            ("Kestrel__Limits__MaxRequestHeadersTotalSize", "32768"),
        ],
        |config| {
            config.limits.body_bytes = 524_288_000;
            config.limits.keep_alive_timeout = Duration::from_secs(120);
            config.limits.headers_timeout = Duration::from_millis(5500);
            config.limits.header_bytes = 32_768;
        },
        &[],
    );
}

#[test]
fn an_empty_value_is_absent() {
    check(&[("SLIMFAAS_PORTS", ""), ("SlimFaas__Wrong", " "), ("SLIMFAAS_ORCHESTRATOR", "")], |_| {}, &[]);
}

#[test]
fn the_current_name_wins_and_says_so() {
    check(
        &[("SLIMFAAS_PORTS", "6000"), ("SlimFaas__Ports", "7000"), ("slimfaas__ports", "8000")],
        |config| config.listen.ports = vec![7000],
        &[
            "slimfaas__ports: it is ignored, since SlimFaas__Ports is given too, with another value",
            "SLIMFAAS_PORTS: it is ignored, since SlimFaas__Ports is given too, with another value",
        ],
    );
    check(&[("SLIMFAAS_PORTS", "7000"), ("SlimFaas__Ports", " 7000")], |config| config.listen.ports = vec![7000], &[]);
}

#[test]
fn every_problem_is_said_at_once() {
    check_invalid(
        &[
            ("SLIMFAAS_PORTS", "http"),
            ("NAMESPACE", "My Space"),
            ("SlimFaas__Limits__Connections", "0"),
            ("SlimFaas__Limits__HeaderBytes", "4KiB"),
            ("SlimFaas__DrainTimeoutSeconds", "1h"),
            ("SlimFaas__Listen__Address", "localhost"),
            ("BASE_FUNCTION_URL", "https://{pod_ip}"),
            ("SlimFaas__Log__Filter", "a=b=c"),
            ("SlimFaas__Log__Format", "xml"),
            ("SlimFaas__TrafficThreads", "-1"),
            ("SLIMFAAS_ORCHESTRATOR", "Docker"),
        ],
        &[
            "NAMESPACE: found \"My Space\"; allowed: lower-case letters, digits and inner '-', at most 63 of them",
            "SLIMFAAS_ORCHESTRATOR: found \"Docker\"; Docker is not supported: list the containers in \
             MOCK_KUBERNETES_FUNCTIONS, or run functions as processes with `slimfaas local up`",
            "BASE_FUNCTION_URL: found \"https://{pod_ip}\"; https to functions is not supported: use http",
            "SLIMFAAS_PORTS: found \"http\"; \
             allowed: ports from 0 (any free one) to 65535, separated by commas, unlike \"http\"",
            "SlimFaas__Listen__Address: found \"localhost\"; \
             allowed: an IP address such as :: or 0.0.0.0 or 127.0.0.1",
            "SlimFaas__TrafficThreads: found \"-1\"; allowed: auto, or a whole number from 1 to 1024",
            "SlimFaas__DrainTimeoutSeconds: found \"1h\"; allowed: 0 to 3600 seconds",
            "SlimFaas__Limits__Connections: found \"0\"; allowed: 1 to 1000000",
            "SlimFaas__Limits__HeaderBytes: found \"4KiB\"; allowed: 8KiB to 1MiB",
            "SlimFaas__Log__Filter: found \"a=b=c\"; allowed: a level, or part=level, separated by commas",
            "SlimFaas__Log__Format: found \"xml\"; allowed: text or json",
        ],
    );
}

/// The ends of every range are accepted, what is just beyond is not, and no range is wider than its field's type.
#[test]
fn ranges_hold_at_both_ends() {
    for option in options::all() {
        let (range, show): (_, fn(u64) -> String) = match &option.reads {
            option::Reads::Whole(range, _) | option::Reads::Bytes(range, _) => (range, |n| n.to_string()),
            option::Reads::Seconds(range, _) => (range, values::show_seconds),
            option::Reads::Text(..) => continue,
        };
        for good in [*range.start(), *range.end()] {
            assert!(load(vars(&[(option.name, &show(good))])).is_ok(), "{} {good}", option.name);
        }
        for bad in [range.start().checked_sub(1), range.end().checked_add(1)].into_iter().flatten() {
            assert!(load(vars(&[(option.name, &show(bad))])).is_err(), "{} {bad}", option.name);
        }
    }
}

#[test]
fn which_cluster() {
    const LIST: &str = r#"{"Functions":[{"Name":"a","Url":"http://a:5000"}]}"#;
    let becomes = |config: &mut Config, cluster| {
        config.cluster = cluster;
        config.drain_delay = Duration::ZERO;
        config.store_directory = None;
    };
    let fixed = || ClusterSource::Fixed(LIST.to_owned());
    check(&[("SLIMFAAS_ORCHESTRATOR", "kubernetes")], |_| {}, &[]);
    check(
        &[("SLIMFAAS_NAMESPACES", "a, b"), ("HOSTNAME", "slimfaas-2"), ("SlimFaas__DrainDelaySeconds", "1.5")],
        |config| {
            config.other_namespaces = vec!["a".into(), "b".into()];
            config.pod_name = "slimfaas-2".into();
            config.drain_delay = Duration::from_millis(1500);
        },
        &[],
    );
    for name in ["Local", "Process"] {
        check(&[("SlimFaas__Orchestrator", name)], |config| becomes(config, ClusterSource::Local), &[]);
    }
    check(&[("MOCK_KUBERNETES_FUNCTIONS", LIST)], |config| becomes(config, fixed()), &[]);
    check(&[("SlimFaas__MockKubernetesFunctions", LIST)], |config| becomes(config, fixed()), &[]);
    check(
        &[("MOCK_KUBERNETES_FUNCTIONS", LIST), ("SLIMFAAS_ORCHESTRATOR", "Mock")],
        |config| becomes(config, fixed()),
        &[],
    );
    check(
        &[("MOCK_KUBERNETES_FUNCTIONS", LIST), ("SLIMFAAS_ORCHESTRATOR", "Kubernetes")],
        |_| {},
        &["MOCK_KUBERNETES_FUNCTIONS: it is ignored, since another orchestrator is asked for: \
           set SLIMFAAS_ORCHESTRATOR to Mock"],
    );
    check_invalid(
        &[("SLIMFAAS_ORCHESTRATOR", "Mock")],
        &["SlimFaas__Orchestrator: the orchestrator is Mock, but MOCK_KUBERNETES_FUNCTIONS is not set"],
    );
    check_invalid(
        &[("SLIMFAAS_ORCHESTRATOR", "Swarm")],
        &["SLIMFAAS_ORCHESTRATOR: found \"Swarm\"; allowed: Kubernetes, Local, Process or Mock"],
    );
}

#[test]
fn the_fixed_list_is_checked_with_the_rest() {
    check_invalid(
        &[("MOCK_KUBERNETES_FUNCTIONS", r#"{"Functions":[{"Name":"a"}]}"#), ("SLIMFAAS_PORTS", "x")],
        &[
            "SLIMFAAS_PORTS: found \"x\"; \
             allowed: ports from 0 (any free one) to 65535, separated by commas, unlike \"x\"",
            "MOCK_KUBERNETES_FUNCTIONS: the address of \"a\": there is nothing to put in for {pod_ip} here, since a \
             fixed list has no pods: set BASE_FUNCTION_URL to something like http://{function_name}:5000, or give the \
             function a Url",
        ],
    );
    // A bad template is one problem, not one for each function.
    check_invalid(
        &[("MOCK_KUBERNETES_FUNCTIONS", r#"{"Functions":[{"Name":"a"}]}"#), ("BASE_FUNCTION_URL", "x")],
        &["BASE_FUNCTION_URL: found \"x\"; it must start with http://"],
    );
}

#[test]
fn unknown_names_are_said() {
    check(
        &[
            ("SLIMFAAS_PORT", "6000"),
            ("SlimFaas__Limits__Connection", "1"),
            ("slimfaas_ports", "1"),
            ("Workers__Nonsense", "1"),
            ("PATH", "/bin"),
            ("HOSTNAME", "slimfaas-0"),
        ],
        |_| {},
        &[
            "SLIMFAAS_PORT: there is no such option, it is ignored; did you mean SLIMFAAS_PORTS?",
            "SlimFaas__Limits__Connection: there is no such option, it is ignored; \
             did you mean SlimFaas__Limits__Connections?",
            "Workers__Nonsense: there is no such option, it is ignored",
            "slimfaas_ports: there is no such option, it is ignored; did you mean SLIMFAAS_PORTS?",
        ],
    );
}

#[test]
fn variables_of_kubernetes_services_are_not_unknown() {
    for (name, text) in [
        ("SLIMFAAS_SERVICE_HOST", "10.96.0.7"),
        ("SLIMFAAS_SERVICE_PORT", "5000"),
        ("SLIMFAAS_SERVICE_PORT_HTTP", "5000"),
        ("SLIMFAAS_PORT", "tcp://10.96.0.7:5000"),
        ("SLIMFAAS_PORT_5000_TCP", "tcp://10.96.0.7:5000"),
        ("SLIMFAAS_PORT_5000_TCP_PROTO", "tcp"),
        ("SLIMFAAS_PORT_5000_TCP_PORT", "5000"),
        ("SLIMFAAS_PORT_5000_TCP_ADDR", "10.96.0.7"),
        ("SLIMFAAS_PEER_PORT_3262_UDP", "udp://10.96.0.7:3262"),
        ("SLIMFAAS_PEER_SERVICE_HOST", "10.96.0.7"),
    ] {
        check(&[(name, text)], |_| {}, &[]);
    }
    for name in ["SLIMFAAS_PORT_5000", "SLIMFAAS_PORT_X_TCP", "SLIMFAAS_PORT_5000_TCP_ADDR_X"] {
        assert_eq!(load(vars(&[(name, "1")])).expect("valid").warnings.len(), 1, "{name}");
    }
}

#[test]
fn options_that_are_not_used_are_said() {
    check(
        &[
            ("SLIMDATA_CONFIGURATION", "{}"),
            ("SLIM_WORKER_DELAY_MILLISECONDS", "50"),
            ("slimdata__batchmode", "1"),
            ("SlimFaas__AllowUnsecureSsl", "false"),
        ],
        |_| {},
        &[
            "SLIMDATA_CONFIGURATION: accepted, not used: the store of this version needs no such setting",
            "SLIM_WORKER_DELAY_MILLISECONDS: accepted, not used: changes are watched, nothing is polled",
            "SlimFaas__AllowUnsecureSsl: accepted, not used: functions are reached without TLS",
            "slimdata__batchmode: accepted, not used: the store of this version needs no such setting",
        ],
    );
}

#[test]
fn no_name_is_there_twice() {
    let mut seen = BTreeSet::new();
    for name in options::all().flat_map(Opt::names).chain(UNUSED.iter().flat_map(Unused::names)) {
        assert!(seen.insert(name.to_ascii_lowercase()), "{name}");
    }
}

#[test]
fn what_is_not_text_is_a_problem_only_where_it_matters() {
    let bad = || OsString::from_vec(vec![b'a', 0xff]);
    let (texts, problems) = decode([
        ("SLIMFAAS_PORTS".into(), bad()),
        ("OTHER".into(), bad()),
        (bad(), "x".into()),
        ("NAMESPACE".into(), "demo".into()),
    ]);
    assert_eq!(texts.into_iter().collect::<Vec<_>>(), vars(&[("NAMESPACE", "demo")]));
    assert_eq!(shown(&problems), ["SLIMFAAS_PORTS: the value is not UTF-8 text"]);
}

#[test]
fn a_pod_takes_its_namespace_unless_told_otherwise() {
    for (given, expected) in [
        (&[][..], "pod"),
        (&[("NAMESPACE", "")], "pod"),
        (&[("NAMESPACE", "told")], "told"),
        (&[("slimfaas__namespace", "told")], "told"),
    ] {
        let mut vars = vars(given).into_iter().collect();
        add_pod_namespace(&mut vars, Some("pod\n".to_owned()));
        assert_eq!(load(vars).expect("valid").config.namespace, expected, "{given:?}");
    }
    let mut none = BTreeMap::new();
    add_pod_namespace(&mut none, None);
    assert_eq!(none, BTreeMap::new());
}

#[test]
fn an_invalid_environment_reads_as_a_list() {
    let invalid = load(vars(&[("SLIMFAAS_PORTS", "x,"), ("SlimFaas__Log__Format", "xml")])).expect_err("invalid");
    assert_eq!(
        invalid.to_string(),
        "the environment cannot be used\n  \
         SLIMFAAS_PORTS: found \"x,\"; \
         allowed: ports from 0 (any free one) to 65535, separated by commas, unlike \"x\"\n  \
         SlimFaas__Log__Format: found \"xml\"; allowed: text or json"
    );
}

#[test]
fn the_document_is_up_to_date() {
    crate::config::check_document("docs/configuration.md", &reference());
}
