//! Options of jobs.

use super::super::option::{Opt, Reads};
use super::{KIB, narrow};
use crate::config::jobs;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        name: "SlimFaas__JobsConfiguration",
        old: &[jobs::KEY],
        default: "",
        doc: "Jobs and their schedules ([jobs.md](jobs.md)): \
          `{\"Configurations\":{\"report\":{\"Image\":\"example/report:1\"}}}`. The shape of the first versions is read \
          too.",
        is_list: false,
        reads: Reads::Text("JSON", |draft, text| {
            let (configuration, warnings) = jobs::parse(text)?;
            draft.config.jobs_configuration = configuration;
            draft.warnings.extend(warnings);
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Jobs__RequestBytes",
        old: &[],
        default: "64KiB",
        doc: "The body that asks for a run or a schedule; over it callers get 413. It is stored in the log, which every \
          node keeps: large input belongs where the run can fetch it.",
        is_list: false,
        reads: Reads::Bytes(KIB..=128 * KIB, |draft, n| draft.config.jobs.request_bytes = n),
    },
    Opt {
        name: "SlimFaas__Jobs__WaitingPerJob",
        old: &[],
        default: "1000",
        doc: "Runs of one job that wait for a slot; over it callers get 429.",
        is_list: false,
        reads: Reads::Whole(1..=100_000, |draft, n| draft.config.jobs.waiting_per_job = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Jobs__Waiting",
        old: &[],
        default: "10000",
        doc: "The same of all jobs. Each costs every gateway node some hundred bytes of memory.",
        is_list: false,
        reads: Reads::Whole(1..=100_000, |draft, n| draft.config.jobs.waiting = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Jobs__SchedulesPerJob",
        old: &[],
        default: "100",
        doc: "Schedules of one job that were asked for over HTTP; over it callers get 429.",
        is_list: false,
        reads: Reads::Whole(1..=10_000, |draft, n| draft.config.jobs.schedules_per_job = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Jobs__Schedules",
        old: &[],
        default: "1000",
        doc: "The same of all jobs.",
        is_list: false,
        reads: Reads::Whole(1..=10_000, |draft, n| draft.config.jobs.schedules = narrow(n)),
    },
];
