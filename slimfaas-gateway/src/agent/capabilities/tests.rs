use std::fs;
use std::io;

use super::*;

/// A machine where everything is as it should be; tests take away from it.
fn good_machine() -> Facts {
    Facts {
        kernel_release: Ok("6.1.0-28-amd64".into()),
        effective_capabilities: Ok(1 << 39 | 1 << 12 | 1 << 38),
        is_initial_user_namespace: Ok(true),
        mounts: Ok(mountinfo::parse(
            "29 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n33 25 0:30 / /sys/fs/bpf rw - bpf bpf rw\n",
        )),
        cgroup_roots: vec!["/sys/fs/cgroup".into()],
        has_kernel_btf: Ok(true),
        unprivileged_bpf_disabled: Ok(Some(2)),
    }
}

fn unreadable<T>() -> Result<T, FactError> {
    Err(FactError::Read { path: "/x".into(), source: io::Error::from(io::ErrorKind::PermissionDenied) })
}

/// What is not ok, as (topic, state, found).
fn complaints(facts: &Facts) -> Vec<(&'static str, State, String)> {
    let report = Report::of(facts);
    let complaints: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.state != State::Ok)
        .map(|finding| (finding.topic, finding.state, finding.found.clone()))
        .collect();
    assert_eq!(report.identity_can_run, complaints.iter().all(|(_, state, _)| *state != State::Missing));
    for finding in &report.findings {
        assert_eq!(finding.next_step.is_some(), finding.state != State::Ok, "{}", finding.topic);
    }
    complaints
}

#[test]
fn a_good_machine_has_no_complaint() {
    assert_eq!(complaints(&good_machine()), []);
    assert!(Report::of(&good_machine()).identity_can_run);
}

#[test]
fn each_lack_is_named() {
    let check = |spoil: &dyn Fn(&mut Facts), topic: &'static str, state: State, found: &str| {
        let mut facts = good_machine();
        spoil(&mut facts);
        assert_eq!(complaints(&facts), [(topic, state, found.to_owned())]);
    };
    let missing = State::Missing;
    let limited = State::Limited;
    let odd = "\"odd\", which does not start with a version";
    check(&|f| f.kernel_release = Ok("odd".into()), "kernel version", missing, odd);
    check(&|f| f.effective_capabilities = Ok(1 << 12 | 1 << 38), "CAP_BPF", missing, "not effective");
    check(&|f| f.effective_capabilities = Ok(1 << 39 | 1 << 38), "CAP_NET_ADMIN", missing, "not effective");
    check(&|f| f.effective_capabilities = Ok(1 << 39 | 1 << 12), "CAP_PERFMON", missing, "not effective");
    check(&|f| f.is_initial_user_namespace = Ok(false), "user namespace", missing, "a nested one");
    let part = "only a part of the hierarchy at /sys/fs/cgroup";
    check(&|f| f.cgroup_roots.clear(), "cgroup v2", missing, part);
    check(&|f| f.unprivileged_bpf_disabled = Ok(None), "bpf system call", missing, "absent");
    check(&|f| f.unprivileged_bpf_disabled = Ok(Some(0)), "unprivileged BPF", limited, "open to every process");
    check(
        &|f| f.kernel_release = unreadable(),
        "kernel version",
        missing,
        "unknown: cannot read /x: permission denied",
    );
    let only = |text: &'static str| move |f: &mut Facts| f.mounts = Ok(mountinfo::parse(text));
    let cgroup_only = only("29 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    check(&cgroup_only, "bpffs", limited, "not mounted");
    let read_only = only("33 25 0:30 / /sys/fs/bpf ro - bpf bpf rw\n");
    check(&read_only, "bpffs", limited, "read-only at /sys/fs/bpf");
}

#[test]
fn the_lowest_kernel_is_enough() {
    let mut facts = good_machine();
    facts.kernel_release = Ok("5.10.0".into());
    assert_eq!(complaints(&facts), []);
    assert!(Report::of(&facts).hooks.iter().all(|state| state.available == Some(true)));
}

/// Each version from which something is there, and the one before it.
#[test]
fn older_kernels_are_refused_for_what_they_lack() {
    let lacks = |release: &str| -> Vec<&'static str> {
        let mut facts = good_machine();
        facts.kernel_release = Ok(release.into());
        let report = Report::of(&facts);
        let hooks = report.hooks.iter().filter(|state| state.available == Some(false));
        let names: Vec<&str> = hooks.map(|state| state.hook.name).collect();
        let found = format!("{release}, which lacks {}", names.join(", "));
        assert_eq!(complaints(&facts), [("kernel version", State::Missing, found)]);
        names
    };
    let options = "TCP header options in sock_ops";
    let detaching = "detaching a link";
    let skb = "bpf_skb_ancestor_cgroup_id in cgroup_skb/ingress";
    let links = "bpf_link on cgroups";
    let process = "bpf_get_current_ancestor_cgroup_id in connect";
    let storage = "socket storage in connect and sock_ops";
    let answer = "cgroup/getsockopt";
    assert_eq!(lacks("5.9.16"), [options]);
    assert_eq!(lacks("5.8.18"), [detaching, options]);
    assert_eq!(lacks("5.7.19"), [skb, detaching, options]);
    assert_eq!(lacks("5.6.19"), [links, process, skb, detaching, options]);
    assert_eq!(lacks("5.3.18"), [links, process, skb, detaching, options]);
    assert_eq!(lacks("4.18.0-553.el8"), [storage, answer, links, process, skb, detaching, options]);
    assert_eq!(lacks("4.16.18").len(), HOOKS.len());
}

#[test]
fn sys_admin_includes_the_others() {
    let mut facts = good_machine();
    facts.effective_capabilities = Ok(1 << 21);
    assert_eq!(complaints(&facts), []);
}

#[test]
fn all_lacks_are_told_at_once() {
    let facts = Facts {
        kernel_release: unreadable(),
        effective_capabilities: unreadable(),
        is_initial_user_namespace: unreadable(),
        mounts: unreadable(),
        cgroup_roots: Vec::new(),
        has_kernel_btf: unreadable(),
        unprivileged_bpf_disabled: unreadable(),
    };
    let found: Vec<_> = complaints(&facts).into_iter().map(|(topic, state, _)| (topic, state)).collect();
    let expected = [
        ("kernel version", State::Missing),
        ("bpf system call", State::Missing),
        ("CAP_BPF", State::Missing),
        ("CAP_NET_ADMIN", State::Missing),
        ("CAP_PERFMON", State::Missing),
        ("user namespace", State::Missing),
        ("cgroup v2", State::Missing),
        ("bpffs", State::Limited),
    ];
    assert_eq!(found, expected);
    assert!(Report::of(&facts).hooks.iter().all(|state| state.available.is_none()));
}

#[test]
fn text_names_what_is_missing_and_the_next_step() {
    let mut facts = good_machine();
    facts.effective_capabilities = Ok(1 << 12 | 1 << 38);
    let text = Report::of(&facts).to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "In-kernel identity cannot run on this node, by its kernel's version and this process's rights."
    );
    assert_eq!(lines[2], "ok       kernel version   6.1.0-28-amd64");
    assert_eq!(lines[4], "missing  CAP_BPF          not effective");
    assert_eq!(lines[5], "         why: to load programs and to make maps");
    assert_eq!(lines[6], "         next: add BPF to the container's securityContext.capabilities.add");
    assert!(text.contains("\n5.10  TCP header options in sock_ops (here): write the tag into the SYN, and read it\n"));
}

#[test]
fn json_has_stable_names() {
    let json = serde_json::to_value(Report::of(&good_machine())).expect("a report is serializable");
    assert_eq!(json["identity_can_run"], true);
    let kernel = serde_json::json!({
        "topic": "kernel version",
        "state": "ok",
        "found": "6.1.0-28-amd64",
        "reason": "the programs need the TCP header options of sock_ops, from Linux 5.10 on",
        "next_step": null,
    });
    assert_eq!(json["findings"][0], kernel);
    let connect = serde_json::json!({
        "name": "cgroup/connect4 and connect6",
        "since": "4.17",
        "purpose": "run when a process connects",
        "available": true,
    });
    assert_eq!(json["hooks"][0], connect);
}

/// A directory laid out like `/`, removed at the end.
struct Machine(std::path::PathBuf);

impl Machine {
    fn for_test(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("slimfaas-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).expect("the temporary directory is writable");
        Self(root)
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("paths here have a directory")).expect("writable");
        fs::write(path, text).expect("writable");
        self
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            assert!(std::thread::panicking(), "cannot remove {}: {error}", self.0.display());
        }
    }
}

/// In a container the first cgroup2 mount is the container's own part; the node's whole hierarchy is another.
#[test]
fn facts_are_read_from_files() {
    let machine = Machine::for_test("facts");
    let mountinfo = "\
701 690 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw
733 690 0:26 /../.. /host/c\\040group rw - cgroup2 cgroup2 rw
734 690 0:27 / /gone rw - cgroup2 cgroup2 rw
";
    machine
        .file("proc/sys/kernel/osrelease", "6.8.0-49-generic\n")
        .file("proc/self/status", "Name:\tx\nCapEff:\t000000c000001000\n")
        .file("proc/self/uid_map", "         0          0 4294967295\n")
        .file("proc/self/mountinfo", mountinfo)
        .file("proc/sys/kernel/unprivileged_bpf_disabled", "2\n")
        .file("sys/fs/cgroup/cgroup.controllers", "")
        .file("sys/fs/cgroup/cgroup.type", "domain\n")
        .file("host/c group/cgroup.controllers", "");
    let facts = Facts::read(&machine.0);
    assert_eq!(facts.kernel_release.as_deref().ok(), Some("6.8.0-49-generic"));
    assert_eq!(facts.effective_capabilities.as_ref().ok(), Some(&(1 << 12 | 1 << 38 | 1 << 39)));
    assert_eq!(facts.cgroup_roots, [Path::new("/host/c group")]);
    assert_eq!(facts.has_kernel_btf.as_ref().ok(), Some(&false));
    assert_eq!(complaints(&facts), [("bpffs", State::Limited, "not mounted".to_owned())]);
}

#[test]
fn a_missing_setting_differs_from_an_unreadable_one() {
    let machine = Machine::for_test("setting");
    assert!(matches!(Facts::read(&machine.0).unprivileged_bpf_disabled, Ok(None)));
    machine.file("proc/sys/kernel/unprivileged_bpf_disabled", "what\n");
    let error = Facts::read(&machine.0).unprivileged_bpf_disabled.expect_err("it is no number").to_string();
    assert!(error.ends_with("has another form than expected: \"what\\n\""), "{error}");
}
