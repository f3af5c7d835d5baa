//! The stream of "a pod's process has called listen()".
#![expect(unsafe_code, reason = "tokio cannot see by itself that a ring buffer keeps its file open")]

use aya::maps::{Map, MapData, RingBuf};
use slimfaas_ebpf::contract::{ListenRecord, map_names};
use tokio::io::unix::AsyncFd;

use super::KernelError;

pub struct Listens {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Listens {
    pub(super) fn new(map: Map) -> Result<Self, KernelError> {
        let ring = RingBuf::try_from(map).map_err(|error| KernelError::map(map_names::LISTENS, error))?;
        // SAFETY: a ring buffer keeps one and the same file open for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|error| KernelError::Records(error.into()))?;
        Ok(Self { ring })
    }

    /// The next record; loses none when it is not waited for to the end.
    pub async fn next(&mut self) -> Result<ListenRecord, KernelError> {
        loop {
            let mut ready = self.ring.readable_mut().await.map_err(KernelError::Records)?;
            while let Some(item) = ready.get_inner_mut().next() {
                if let Ok(bytes) = <&[u8; 16]>::try_from(&*item) {
                    return Ok(ListenRecord::from_bytes(bytes));
                }
            }
            ready.clear_ready();
        }
    }
}
