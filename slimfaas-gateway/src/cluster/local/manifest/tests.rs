use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;

/// A directory of its own for each test, gone with it.
struct Files {
    directory: PathBuf,
}

impl Files {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("slimfaas-manifest-{}-{number}", std::process::id()));
        fs::create_dir_all(directory.join("sub")).unwrap();
        Self { directory }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads `text` alone; problems without the directory.
fn load_text(text: &str) -> Result<(Manifest, Vec<String>), Vec<String>> {
    let files = Files::new();
    let file = files.write("m.yaml", text);
    let directory = format!("{}/", files.directory.display());
    let plain = |problems: Vec<Problem>| problems.iter().map(|p| p.to_string().replace(&directory, "")).collect();
    match load(&[file], &[], &env(&[("SET", "5100"), ("SECRET", "hunter2")])) {
        Ok((manifest, warnings)) => Ok((manifest, plain(warnings))),
        Err(problems) => Err(plain(problems)),
    }
}

#[test]
fn an_empty_manifest_has_the_defaults_of_the_reference() {
    let (manifest, warnings) = load_text("").unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(manifest.name, "slimfaas-local");
    assert_eq!((manifest.entrypoint_port, manifest.node_http_port, manifest.raft_port), (30020, 30021, 3262));
    assert_eq!(manifest.log_level, None);
    assert_eq!(manifest.process_ports, 5000..=5999);
    assert!(manifest.state.persistent);
    assert!(manifest.state.directory.ends_with(".slimfaas/slimfaas-local"));
    assert_eq!((manifest.functions.len(), manifest.processes.len()), (0, 0));
}

#[test]
fn a_function_has_the_defaults_of_the_reference() {
    let text = "functions: {fib: {command: [x], annotations: {SlimFaas/Function: true}}}";
    let (manifest, _) = load_text(text).unwrap();
    let function = &manifest.functions["fib"];
    let Runs::Processes(launch) = &function.runs else { panic!("processes") };
    assert_eq!(launch.command, ["x"]);
    assert_eq!(function.shutdown, None);
    let health = Health {
        path: "/health".into(),
        period: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
        startup_timeout: Duration::from_secs(120),
    };
    assert_eq!(function.health, health);
}

#[test]
fn everything_can_be_said_and_keys_have_any_case() {
    let text = "
schemaversion: 1
NAME: shop
Cluster: {Nodes: 1, EntrypointPort: 31000, nodehttpportbase: 31001, raftPortBase: 31002, nodeLogLevel: debug}
processPorts: {from: '${SET}', to: 5200}
state: {mode: Ephemeral, directory: sub}
functions:
  fib-1:
    command: [./fib, '--port={port}', '$${HOME}', '${SECRET}']
    workingDirectory: sub
    annotations: {SlimFaas/Function: 'TRUE', SlimFaas/ReplicasMin: 2, SlimFaas/DependsOn: 'processes:db.1,other'}
    environment: {VERSION: 1.10, URL: 'http://localhost:{port}', EMPTY: '', GONE: ~}
    health: {path: '/h?x={replica}', periodSeconds: 3, timeoutSeconds: 4, startupTimeoutSeconds: 5}
    shutdown: {timeoutSeconds: 9}
  dbg: {debugUrl: 'http://[::1]:5005/', annotations: {SlimFaas/Function: 'true'}}
processes:
  db.1: {command: [db], port: 5432, restartPolicy: ONFAILURE}
  x: {command: [x], port: AUTO}
";
    let (manifest, warnings) = load_text(text).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((manifest.entrypoint_port, manifest.node_http_port, manifest.raft_port), (31000, 31001, 31002));
    assert_eq!((manifest.process_ports.clone(), manifest.log_level), (5100..=5200, Some(LogLevel::Debug)));
    assert!(!manifest.state.persistent && manifest.state.directory.ends_with("sub"));
    let function = &manifest.functions["fib-1"];
    let Runs::Processes(launch) = &function.runs else { panic!("processes") };
    assert_eq!(launch.command, ["./fib", "--port={port}", "${HOME}", "hunter2"]);
    assert!(launch.directory.is_absolute() && launch.directory.ends_with("sub"));
    assert_eq!(launch.environment, env(&[("EMPTY", ""), ("URL", "http://localhost:{port}"), ("VERSION", "1.10")]));
    assert_eq!(function.spec.replicas_min, 2);
    assert_eq!(function.health.path, "/h?x={replica}");
    assert_eq!(function.shutdown, Some(Shutdown { path: "/shutdown".into(), timeout: Duration::from_secs(9) }));
    assert_eq!(manifest.functions["dbg"].runs, Runs::Elsewhere(Address::Socket("[::1]:5005".parse().unwrap())));
    assert_eq!(manifest.processes["db.1"].port, ProcessPort::Fixed(5432));
    assert_eq!(manifest.processes["db.1"].restart, RestartPolicy::OnFailure);
    assert_eq!(manifest.processes["x"].port, ProcessPort::Auto);
    assert_eq!(manifest.processes["x"].restart, RestartPolicy::Always);
}

/// Exactly these problems.
fn fails(text: &str, expected: &[&str]) {
    assert_eq!(load_text(text).unwrap_err(), expected, "{text}");
}

#[test]
fn each_problem_of_a_function_says_where_and_what_is_allowed() {
    let function = |rest: &str| {
        format!("functions: {{fib: {{command: [x], annotations: {{SlimFaas/Function: 'true'}}, {rest}}}}}")
    };
    fails(
        &function("health: {path: health}"),
        &[
            r#"m.yaml:1 functions.fib.health.path: "health" is not a URL path: start it with / and percent-encode what is not ASCII"#,
        ],
    );
    fails(
        &function("health: {periodSeconds: 0}"),
        &[r#"m.yaml:1 functions.fib.health.periodSeconds: "0" is not a whole number from 1 to 86400"#],
    );
    fails(
        &function("debugUrl: 'https://localhost:1'"),
        &[
            "m.yaml:1 functions.fib.debugUrl: must be an absolute http URL with a port and no path, such as http://localhost:5005",
        ],
    );
    fails(
        &function("workingDirectory: nowhere"),
        &[
            "m.yaml:1 functions.fib.workingDirectory: there is no such directory; it is relative to the first manifest file",
        ],
    );
    fails(
        "functions: {fib: {}}",
        &[
            "m.yaml:1 functions.fib.command: a command is required: a list of the program and its arguments, run without a shell",
            "m.yaml:1 functions.fib.annotations: SlimFaas/Function: \"true\" is required",
        ],
    );
    fails(
        "functions: {fib: {command: x, annotations: {SlimFaas/Function: 'true'}}}",
        &["m.yaml:1 functions.fib.command: must be a list of values"],
    );
    fails(
        "functions: {F: {command: [x], annotations: {SlimFaas/Function: 'true'}}}",
        &["m.yaml:1 functions.F: functions are named by 3 to 63 lower-case letters, digits, `_` and `-`"],
    );
    fails(
        "processes: {redis: {command: [x]}}\nfunctions: {fib: {command: [x], annotations: {SlimFaas/Function: 'true', SlimFaas/DependsOn: 'processes:redi'}}}",
        &[
            r#"m.yaml:2 functions.fib.annotations.SlimFaas/DependsOn: there is no process "redi" under processes; did you mean redis?"#,
        ],
    );
}

#[test]
fn each_problem_of_the_rest_says_where_and_what_is_allowed() {
    fails(
        "cluster: {nodes: 3, nodeHttpPortBase: 30018}",
        &["m.yaml:1 cluster.nodeHttpPortBase: 30020 is cluster.entrypointPort already"],
    );
    fails("cluster: {nodes: 4}", &[r#"m.yaml:1 cluster.nodes: "4" is not a whole number from 1 to 3"#]);
    fails(
        "cluster: {nodeLogLevel: eror}",
        &[
            r#"m.yaml:1 cluster.nodeLogLevel: "eror" is not one of Trace, Debug, Information, Warning, Error, Critical, None; did you mean Error?"#,
        ],
    );
    fails(
        "cluster: {entrypointPort: 5500}",
        &["m.yaml:1 cluster.entrypointPort: 5500 is inside of processPorts; move one of them"],
    );
    fails(
        "cluster: {raftPortBase: 30020}",
        &["m.yaml:1 cluster.raftPortBase: 30020 is cluster.entrypointPort already"],
    );
    fails("processPorts: {from: 6000, to: 5100}", &["m.yaml:1 processPorts: from (6000) is above to (5100)"]);
    fails("schemaVersion: 2", &[r#"m.yaml:1 schemaVersion: "2" is not a whole number from 1 to 1"#]);
    fails(
        "processes: {db: {command: [x], port: no}}",
        &[
            "m.yaml:1 processes.db.port: must be `auto` or a port from 1 to 65535; leave it out for a process without a port",
        ],
    );
}

#[test]
fn values_of_variables_do_not_show() {
    let problems = load_text("cluster: {nodes: '${SECRET}', raftPortBase: '${MISSING}'}").unwrap_err();
    assert_eq!(
        problems,
        [
            "m.yaml:1 cluster.raftPortBase: variable MISSING is not set: set it in the environment or in a file given with --env-file",
            r#"m.yaml:1 cluster.nodes: "${SECRET}" is not a whole number from 1 to 3"#,
        ]
    );
}

#[test]
fn all_problems_of_all_files_come_at_once() {
    let files = Files::new();
    let one = files.write("one.yaml", "name: '!'\nfunctions:\n  fib:\n    comand: [x]\n");
    let two = files.write("two.yaml", "a: [\n");
    let env_file = files.write("x.env", "nonsense\n");
    let missing = files.directory.join("missing.yaml");
    let problems = load(&[one, two, missing], &[env_file], &env(&[])).unwrap_err();
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for part in
        ["one.yaml:1 name", "one.yaml:4 functions.fib.comand", "two.yaml:1", "missing.yaml: cannot be read", "x.env:1"]
    {
        assert!(shown.iter().any(|problem| problem.contains(part)), "{part} in {shown:#?}");
    }
}

#[test]
fn overlays_and_env_files_apply_in_order() {
    let files = Files::new();
    let base = files.write(
        "base.yaml",
        "name: a\nfunctions: {fib: {command: ['${A}', '${B}', '${C}'], annotations: {SlimFaas/Function: 'true'}}}\n",
    );
    let over = files.write("over.yaml", "functions: {fib: {environment: {X: y}}}\nname: b\n");
    let (first, second) = (files.write("1.env", "A=1\nB=1\nC=1\n"), files.write("2.env", "B=2\nC=2\n"));
    let (manifest, _) = load(&[base, over], &[first, second], &env(&[("C", "3")])).unwrap();
    let Runs::Processes(launch) = &manifest.functions["fib"].runs else { panic!("processes") };
    assert_eq!((launch.command.join(" "), manifest.name.as_str()), ("1 2 3".to_owned(), "b"));
    assert_eq!(launch.environment, env(&[("X", "y")]));
}

#[test]
fn a_manifest_can_name_the_running_program() {
    let text = "functions: {fib: {command: ['${SLIMFAAS_EXE}'], annotations: {SlimFaas/Function: 'true'}}}";
    let (manifest, _) = load_text(text).unwrap();
    let Runs::Processes(launch) = &manifest.functions["fib"].runs else { panic!("processes") };
    assert_eq!(launch.command, [std::env::current_exe().unwrap().display().to_string()]);
}

#[test]
fn jobs_are_read() {
    let text = "jobs: {report: {command: [x], ttlSecondsAfterFinished: 5, restartPolicy: OnFailure, resources: {limits: {cpu: 1}}, \
                annotations: {SlimFaas/Job: 'true', SlimFaas/NumberParallelJob: '2', SlimFaas/DefaultVisibility: x}}}";
    let (manifest, warnings) = load_text(text).unwrap();
    let spec = &manifest.jobs["report"].spec;
    assert_eq!((spec.parallel, spec.ttl_seconds, spec.backoff_limit), (2, 5, 1));
    assert_eq!(spec.restart_policy.as_str(), "OnFailure");
    let found = "found \"x\"; allowed: Public or Private; used instead: Private";
    assert_eq!(warnings, [format!("m.yaml:1 jobs.report.annotations.SlimFaas/DefaultVisibility: {found}")]);
    let problems = load_text("jobs: {report: {command: [x], backoffLimit: -1}, r: {command: [x]}}").unwrap_err();
    assert_eq!(
        problems,
        [
            "m.yaml:1 jobs.r: jobs are named by 3 to 30 lower-case letters, digits, `_` and `-`",
            "m.yaml:1 jobs.r.annotations: SlimFaas/Job: \"true\" is required",
            "m.yaml:1 jobs.report.backoffLimit: \"-1\" is not a whole number from 0 to 4294967295",
            "m.yaml:1 jobs.report.annotations: SlimFaas/Job: \"true\" is required",
        ]
    );
}

#[test]
fn a_bad_annotation_is_a_warning_and_the_function_stays() {
    let text = "functions: {fib: {command: [x], annotations: {SlimFaas/Function: 'true', SlimFaas/ReplicasMin: many}}}";
    let (manifest, warnings) = load_text(text).unwrap();
    assert_eq!(manifest.functions["fib"].problems.len(), 1);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("m.yaml:1 functions.fib.annotations.SlimFaas/ReplicasMin: "), "{warnings:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_loader_panic(text in "[ -~\n\t]{0,200}") {
        load_text(&text).ok();
    }

    /// Built from pieces of the schema, so that it gets further than the parser.
    #[test]
    fn no_schema_like_text_makes_the_loader_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "functions:", "fib:", "command:", "[x]", "health:", "path:", "/h", "{", "}", "[", "]", ",", "\n", "\n  ",
            "\n    ", "~", "${A}", "$", "- ", "&a ", "*a", "!!int ", "annotations:", "SlimFaas/Function:", "'true'",
            "processes:", "port:", "auto", "99999", "-1", "<<:", "cluster:", "nodes:", "jobs:", "debugUrl:", "http://[",
        ]), 0..40)
    ) {
        load_text(&pieces.join(" ")).ok();
    }
}
