//! What is proposed to the log about jobs.

use bytes::Bytes;

use crate::model::function::FunctionId;
use crate::queue::codec::{DecodeError, Reader, Result, Writer};
use crate::queue::element::{ERROR_BYTES_MAX, ElementId, shortened};

/// One change of the runs or the schedules. A run and a schedule have ids like elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobCommand {
    /// Stores a run that waits. One with the same id is not stored twice.
    Run(NewRun),
    /// The run may be started, if fewer than `parallel` runs of its job hold a slot.
    Start { id: ElementId, parallel: u32 },
    /// The cluster has the run.
    Created { id: ElementId },
    /// The cluster's run has ended.
    Finish { id: ElementId, end: End },
    /// Somebody wants it gone. One that waits is forgotten at once.
    Delete { id: ElementId },
    /// The cluster has it no more: a run that has ended or is to be deleted is forgotten.
    Forget { id: ElementId },
    /// The cluster has a run that nobody here knows.
    Adopt { id: ElementId, job: FunctionId, queued_ms: u64, started_ms: u64, ttl_ms: u64 },
    /// Stores a schedule that somebody asked for.
    Schedule { id: ElementId, job: FunctionId, spec: Bytes, job_max: u32, total_max: u32 },
    /// Notes a schedule of a definition, seen for the first time: what was before does not count.
    See { id: ElementId, job: FunctionId },
    /// Forgets a schedule of either kind.
    Unschedule { id: ElementId },
    /// The instant has come for a schedule: stores its run, unless one was stored for this instant or a later one.
    Fire { schedule: ElementId, planned_ms: u64, run: Option<NewRun> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    pub id: ElementId,
    pub job: FunctionId,
    /// A `model::job::RunSpec` as JSON; the state machine does not look inside.
    pub spec: Bytes,
    pub ttl_ms: u64,
    /// Runs that may wait: of this job, and of all.
    pub job_max: u32,
    pub total_max: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Succeeded,
    /// With the reason, for people.
    Failed(String),
}

impl End {
    /// A failure whose text fits.
    pub fn failed(reason: &str) -> Self {
        Self::Failed(shortened(reason).to_owned())
    }

    pub fn write(&self, writer: &mut Writer) {
        match self {
            Self::Succeeded => writer.byte(0),
            Self::Failed(reason) => {
                writer.byte(1);
                writer.text(reason);
            }
        }
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(match reader.byte()? {
            0 => Self::Succeeded,
            1 => Self::Failed(reader.text()?),
            _ => return Err(DecodeError("has an unknown end of a run")),
        })
    }
}

impl JobCommand {
    pub fn write(&self, writer: &mut Writer) {
        match self {
            Self::Run(run) => {
                writer.byte(1);
                run.write(writer);
            }
            Self::Start { id, parallel } => {
                tagged(writer, 2, id);
                writer.number(u64::from(*parallel));
            }
            Self::Created { id } => tagged(writer, 3, id),
            Self::Finish { id, end } => {
                tagged(writer, 4, id);
                end.write(writer);
            }
            Self::Delete { id } => tagged(writer, 5, id),
            Self::Forget { id } => tagged(writer, 6, id),
            Self::Adopt { id, job, queued_ms, started_ms, ttl_ms } => {
                tagged(writer, 7, id);
                writer.function(job);
                [queued_ms, started_ms, ttl_ms].into_iter().for_each(|number| writer.number(*number));
            }
            Self::Schedule { id, job, spec, job_max, total_max } => {
                tagged(writer, 8, id);
                writer.function(job);
                writer.bytes(spec);
                writer.number(u64::from(*job_max));
                writer.number(u64::from(*total_max));
            }
            Self::See { id, job } => {
                tagged(writer, 9, id);
                writer.function(job);
            }
            Self::Unschedule { id } => tagged(writer, 10, id),
            Self::Fire { schedule, planned_ms, run } => {
                tagged(writer, 11, schedule);
                writer.number(*planned_ms);
                writer.option(run.as_ref(), |writer, run| run.write(writer));
            }
        }
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(match reader.byte()? {
            1 => Self::Run(NewRun::read(reader)?),
            2 => Self::Start { id: ElementId::read(reader)?, parallel: reader.narrow()? },
            3 => Self::Created { id: ElementId::read(reader)? },
            4 => Self::Finish { id: ElementId::read(reader)?, end: End::read(reader)? },
            5 => Self::Delete { id: ElementId::read(reader)? },
            6 => Self::Forget { id: ElementId::read(reader)? },
            7 => Self::Adopt {
                id: ElementId::read(reader)?,
                job: reader.function()?,
                queued_ms: reader.number()?,
                started_ms: reader.number()?,
                ttl_ms: reader.number()?,
            },
            8 => Self::Schedule {
                id: ElementId::read(reader)?,
                job: reader.function()?,
                spec: reader.bytes()?,
                job_max: reader.narrow()?,
                total_max: reader.narrow()?,
            },
            9 => Self::See { id: ElementId::read(reader)?, job: reader.function()? },
            10 => Self::Unschedule { id: ElementId::read(reader)? },
            11 => Self::Fire {
                schedule: ElementId::read(reader)?,
                planned_ms: reader.number()?,
                run: reader.option(NewRun::read)?,
            },
            _ => return Err(DecodeError("has an unknown command about jobs")),
        })
    }

    /// About as many bytes as its encoded form takes.
    pub fn size_hint(&self) -> usize {
        match self {
            Self::Run(run) | Self::Fire { run: Some(run), .. } => run.spec.len() + 256,
            Self::Schedule { spec, .. } => spec.len() + 256,
            Self::Finish { .. } => ERROR_BYTES_MAX + 64,
            _ => 192,
        }
    }
}

impl NewRun {
    fn write(&self, writer: &mut Writer) {
        writer.raw(&self.id.0);
        writer.function(&self.job);
        writer.bytes(&self.spec);
        writer.number(self.ttl_ms);
        writer.number(u64::from(self.job_max));
        writer.number(u64::from(self.total_max));
    }

    fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self {
            id: ElementId::read(reader)?,
            job: reader.function()?,
            spec: reader.bytes()?,
            ttl_ms: reader.number()?,
            job_max: reader.narrow()?,
            total_max: reader.narrow()?,
        })
    }
}

fn tagged(writer: &mut Writer, tag: u8, id: &ElementId) {
    writer.byte(tag);
    writer.raw(&id.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_written() {
        let id = ElementId([7; 16]);
        let job = || FunctionId::new("demo", "nightly");
        let spec = Bytes::from_static(b"{}");
        let run = NewRun { id, job: job(), spec: spec.clone(), ttl_ms: 60_000, job_max: 1, total_max: u32::MAX };
        let commands = [
            JobCommand::Run(run.clone()),
            JobCommand::Start { id, parallel: 3 },
            JobCommand::Created { id },
            JobCommand::Finish { id, end: End::Succeeded },
            JobCommand::Finish { id, end: End::failed(&"é".repeat(1000)) },
            JobCommand::Delete { id },
            JobCommand::Forget { id },
            JobCommand::Adopt { id, job: job(), queued_ms: 1, started_ms: 2, ttl_ms: 3 },
            JobCommand::Schedule { id, job: job(), spec, job_max: 5, total_max: 6 },
            JobCommand::See { id, job: job() },
            JobCommand::Unschedule { id },
            JobCommand::Fire { schedule: id, planned_ms: 9, run: None },
            JobCommand::Fire { schedule: id, planned_ms: 9, run: Some(run) },
        ];
        for command in commands {
            let mut writer = Writer::default();
            command.write(&mut writer);
            assert!(writer.0.len() <= command.size_hint(), "{command:?}");
            let mut reader = Reader::of(&writer.0);
            assert_eq!(JobCommand::read(&mut reader), Ok(command));
            assert_eq!(reader.end(), Ok(()));
        }
    }
}
