//! What is proposed to the log about the queue, and what applying it answers and causes.

use bytes::Bytes;

use super::codec::{DecodeError, Reader, Result, Writer};
use super::element::{ElementId, End, PeerRun, Place, Policy};
use super::request::BodyFile;
use crate::jobs::command::JobCommand;
use crate::model::function::FunctionId;

/// One change of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stores a request. An element with the same id is not stored twice.
    Enqueue(Enqueue),
    /// The peer that delivers the element says how the attempt ended.
    Complete { element: ElementId, attempt: u32, end: End },
    /// The function says how an element ended that it had accepted with 202.
    Callback { element: ElementId, succeeded: bool },
    /// The time of the log entry has come: does what its timers ask for.
    Due,
    /// A gateway process takes part in deliveries. What earlier processes of its node held is released.
    PeerUp(PeerRun),
    /// A gateway process gets no further elements.
    PeerDraining(PeerRun),
    /// A gateway process is gone: what it held is released.
    PeerDown(PeerRun),
    /// How many elements of a function may run at once.
    Budget { function: FunctionId, slots: u32 },
    /// Stops, or takes up again, the deliveries of a function.
    Pause { function: FunctionId, paused: bool },
    /// Delivers a dead letter again, with all its tries.
    Replay(ElementId),
    /// Delivers up to `max` dead letters of a function again, the oldest first.
    ReplayAll { function: FunctionId, max: u32 },
    /// Forgets an element, whatever its phase.
    Delete(ElementId),
    /// Forgets up to `max` dead letters of a function, the oldest first.
    DeleteDead { function: FunctionId, max: u32 },
    /// Forgets up to `max` elements of a function that wait for a slot, the oldest first.
    Purge { function: FunctionId, max: u32 },
    /// Replaces the limits.
    Limits(Limits),
    /// Of jobs, which have a state machine of their own.
    Job(JobCommand),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enqueue {
    /// Given by the proposer, so that a proposal that is repeated stores nothing twice.
    pub id: ElementId,
    pub function: FunctionId,
    pub policy: Policy,
    /// An encoded [`super::request::StoredRequest`].
    pub request: Bytes,
    /// Where in the log that is. Not encoded: known when the command is read there.
    pub place: Place,
    /// The file that the request names as its body.
    pub body_file: Option<BodyFile>,
}

/// They are part of the state, so that all peers decide the same whatever their options are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Elements of one function that are not dead.
    pub function_elements: u64,
    pub function_bytes: u64,
    /// Elements of all functions, dead ones included.
    pub total_elements: u64,
    pub total_bytes: u64,
    /// Dead letters of one function; over it the oldest are forgotten.
    pub dead_elements: u64,
    pub dead_bytes: u64,
    /// Age at which a dead letter is forgotten; zero: never.
    pub dead_age_ms: u64,
}

impl Default for Limits {
    /// A million elements for one function, dead letters for a week; bytes well below the disks that clusters give to a
    /// pod by default.
    fn default() -> Self {
        Self {
            function_elements: 1_000_000,
            function_bytes: 4 << 30,
            total_elements: 4_000_000,
            total_bytes: 8 << 30,
            dead_elements: 10_000,
            dead_bytes: 1 << 30,
            dead_age_ms: 7 * 24 * 3600 * 1000,
        }
    }
}

/// What applying a command answers to its proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// Nothing was stored: over this limit.
    Refused(Limit),
    /// No such element, or not in the phase or attempt that the command is about. Nothing changed.
    Stale,
    /// So many elements changed, and whether there are more.
    Changed {
        count: u32,
        more: bool,
    },
}

/// A limit, as named to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    FunctionElements,
    FunctionBytes,
    TotalElements,
    TotalBytes,
    /// Runs of one job that wait.
    JobRuns,
    /// Runs of all jobs that wait.
    AllJobRuns,
    JobSchedules,
}

impl Limit {
    pub const ALL: [Self; 7] = [
        Self::FunctionElements,
        Self::FunctionBytes,
        Self::TotalElements,
        Self::TotalBytes,
        Self::JobRuns,
        Self::AllJobRuns,
        Self::JobSchedules,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::FunctionElements => "function_elements",
            Self::FunctionBytes => "function_bytes",
            Self::TotalElements => "total_elements",
            Self::TotalBytes => "total_bytes",
            Self::JobRuns => "job_runs",
            Self::AllJobRuns => "all_job_runs",
            Self::JobSchedules => "job_schedules",
        }
    }
}

/// What applying asks the gateway nodes to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `to` delivers the element, and completes the attempt.
    Assigned(Assignment),
    /// `from` need not go on with the attempt: its end no longer counts.
    Revoked { element: ElementId, attempt: u32, from: PeerRun },
    /// The element whose body this file is exists no more; every node may remove its copy.
    BodyReleased { element: ElementId, file: BodyFile },
    /// A process was declared gone, though it may not know.
    PeerGone(PeerRun),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub to: PeerRun,
    pub element: ElementId,
    pub attempt: u32,
    /// Counted from 1.
    pub try_number: u32,
    pub is_last_try: bool,
    pub function: FunctionId,
    /// For the whole attempt.
    pub timeout_ms: u64,
    pub enqueued_ms: u64,
}

impl Command {
    pub fn write(&self, writer: &mut Writer) {
        match self {
            Self::Enqueue(enqueue) => {
                writer.byte(1);
                enqueue.write(writer);
            }
            Self::Complete { element, attempt, end } => {
                writer.byte(2);
                writer.raw(&element.0);
                writer.number(u64::from(*attempt));
                end.write(writer);
            }
            Self::Callback { element, succeeded } => {
                writer.byte(3);
                writer.raw(&element.0);
                writer.flag(*succeeded);
            }
            Self::Due => writer.byte(4),
            Self::PeerUp(peer) => write_peer(writer, 5, peer),
            Self::PeerDraining(peer) => write_peer(writer, 6, peer),
            Self::PeerDown(peer) => write_peer(writer, 7, peer),
            Self::Budget { function, slots } => write_for_function(writer, 8, function, u64::from(*slots)),
            Self::Pause { function, paused } => write_for_function(writer, 9, function, u64::from(*paused)),
            Self::Replay(element) => write_element(writer, 10, element),
            Self::ReplayAll { function, max } => write_for_function(writer, 11, function, u64::from(*max)),
            Self::Delete(element) => write_element(writer, 12, element),
            Self::DeleteDead { function, max } => write_for_function(writer, 13, function, u64::from(*max)),
            Self::Purge { function, max } => write_for_function(writer, 14, function, u64::from(*max)),
            Self::Limits(limits) => {
                writer.byte(15);
                limits.write(writer);
            }
            Self::Job(command) => {
                writer.byte(16);
                command.write(writer);
            }
        }
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(match reader.byte()? {
            1 => Self::Enqueue(Enqueue::read(reader)?),
            2 => {
                Self::Complete { element: ElementId::read(reader)?, attempt: reader.narrow()?, end: End::read(reader)? }
            }
            3 => Self::Callback { element: ElementId::read(reader)?, succeeded: reader.flag()? },
            4 => Self::Due,
            5 => Self::PeerUp(PeerRun::read(reader)?),
            6 => Self::PeerDraining(PeerRun::read(reader)?),
            7 => Self::PeerDown(PeerRun::read(reader)?),
            8 => Self::Budget { function: reader.function()?, slots: reader.narrow()? },
            9 => Self::Pause { function: reader.function()?, paused: reader.flag()? },
            10 => Self::Replay(ElementId::read(reader)?),
            11 => Self::ReplayAll { function: reader.function()?, max: reader.narrow()? },
            12 => Self::Delete(ElementId::read(reader)?),
            13 => Self::DeleteDead { function: reader.function()?, max: reader.narrow()? },
            14 => Self::Purge { function: reader.function()?, max: reader.narrow()? },
            15 => Self::Limits(Limits::read(reader)?),
            16 => Self::Job(JobCommand::read(reader)?),
            _ => return Err(DecodeError("has an unknown command")),
        })
    }

    /// About as many bytes as its encoded form takes.
    pub fn size_hint(&self) -> usize {
        match self {
            Self::Enqueue(enqueue) => enqueue.request.len() + 160,
            Self::Job(command) => command.size_hint() + 1,
            _ => 96,
        }
    }
}

impl Enqueue {
    fn write(&self, writer: &mut Writer) {
        writer.raw(&self.id.0);
        writer.function(&self.function);
        self.policy.write(writer);
        writer.bytes(&self.request);
        writer.option(self.body_file, |writer, file| file.write(writer));
    }

    fn read(reader: &mut Reader) -> Result<Self> {
        let (id, function, policy) = (ElementId::read(reader)?, reader.function()?, Policy::read(reader)?);
        let request = reader.bytes()?;
        let bytes = request.len() as u64;
        // The entry's index is not in the entry.
        let place = Place { entry: 0, offset: reader.position() as u64 - bytes, bytes };
        Ok(Self { id, function, policy, request, place, body_file: reader.option(BodyFile::read)? })
    }
}

impl Limits {
    pub fn write(&self, writer: &mut Writer) {
        let counts = [self.function_elements, self.function_bytes, self.total_elements, self.total_bytes];
        for number in counts.into_iter().chain([self.dead_elements, self.dead_bytes, self.dead_age_ms]) {
            writer.number(number);
        }
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self {
            function_elements: reader.number()?,
            function_bytes: reader.number()?,
            total_elements: reader.number()?,
            total_bytes: reader.number()?,
            dead_elements: reader.number()?,
            dead_bytes: reader.number()?,
            dead_age_ms: reader.number()?,
        })
    }
}

impl Reply {
    pub fn write(&self, writer: &mut Writer) {
        match self {
            Self::Done => writer.byte(0),
            Self::Refused(limit) => {
                writer.byte(1);
                writer.byte(*limit as u8);
            }
            Self::Stale => writer.byte(2),
            Self::Changed { count, more } => {
                writer.byte(3);
                writer.number(u64::from(*count));
                writer.flag(*more);
            }
        }
    }

    pub fn read(reader: &mut Reader) -> Result<Self> {
        Ok(match reader.byte()? {
            0 => Self::Done,
            1 => {
                let limit = Limit::ALL.get(usize::from(reader.byte()?));
                Self::Refused(*limit.ok_or(DecodeError("has an unknown limit"))?)
            }
            2 => Self::Stale,
            3 => Self::Changed { count: reader.narrow()?, more: reader.flag()? },
            _ => return Err(DecodeError("has an unknown reply")),
        })
    }
}

fn write_peer(writer: &mut Writer, tag: u8, peer: &PeerRun) {
    writer.byte(tag);
    peer.write(writer);
}

fn write_element(writer: &mut Writer, tag: u8, element: &ElementId) {
    writer.byte(tag);
    writer.raw(&element.0);
}

fn write_for_function(writer: &mut Writer, tag: u8, function: &FunctionId, number: u64) {
    writer.byte(tag);
    writer.function(function);
    writer.number(number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_written() {
        let element = ElementId([9; 16]);
        let function = || FunctionId::new("demo", "a");
        let peer = PeerRun { node: 1, incarnation: u64::MAX };
        let enqueue = Enqueue {
            id: element,
            function: function(),
            policy: Policy { timeout_ms: 120_000, retry_delays_ms: vec![2000, 4000], retry_statuses: vec![500, 502] },
            request: Bytes::from_static(b"request"),
            place: Place { entry: 0, offset: 38, bytes: 7 },
            body_file: Some(BodyFile { digest: [3; 32], bytes: 1 << 30 }),
        };
        let commands = [
            Command::Enqueue(Enqueue { body_file: None, ..enqueue.clone() }),
            Command::Enqueue(enqueue),
            Command::Complete { element, attempt: 3, end: End::Failed("refused".to_owned()) },
            Command::Callback { element, succeeded: true },
            Command::Due,
            Command::PeerUp(peer),
            Command::PeerDraining(peer),
            Command::PeerDown(peer),
            Command::Budget { function: function(), slots: u32::MAX },
            Command::Pause { function: function(), paused: true },
            Command::Replay(element),
            Command::ReplayAll { function: function(), max: 1000 },
            Command::Delete(element),
            Command::DeleteDead { function: function(), max: 1000 },
            Command::Purge { function: function(), max: 1000 },
            Command::Limits(Limits::default()),
            Command::Job(JobCommand::Delete { id: element }),
        ];
        for command in commands {
            let mut writer = Writer::default();
            command.write(&mut writer);
            assert!(writer.0.len() <= command.size_hint(), "{command:?}");
            let mut reader = Reader::of(&writer.0);
            assert_eq!(Command::read(&mut reader), Ok(command));
            assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn replies_are_read_as_written() {
        let refused = Limit::ALL.map(Reply::Refused);
        let others = [Reply::Done, Reply::Stale, Reply::Changed { count: 1000, more: true }];
        for reply in refused.into_iter().chain(others) {
            let mut writer = Writer::default();
            reply.write(&mut writer);
            assert_eq!(Reply::read(&mut Reader::of(&writer.0)), Ok(reply));
        }
    }
}
