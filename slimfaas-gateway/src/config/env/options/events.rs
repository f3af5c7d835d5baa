//! Options of events.

use super::super::option::{Opt, Reads};
use super::{GIB, KIB, TIB, narrow};
use crate::config::event_targets;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        name: "SlimFaas__SubscribeEvents",
        old: &["SLIMFAAS_SUBSCRIBE_EVENTS"],
        default: "",
        doc: "Addresses that get events besides functions: `reload=>http://10.0.0.9:5002;http://audit/in,paid=>…`. An \
              event's path and query go behind the URL. Whoever reaches the gateway may publish to them; with \
              `Private:paid=>…` only callers inside its own namespace may.",
        is_list: true,
        reads: Reads::Text("`event=>url;url`, separated by commas", |draft, text| {
            draft.config.event_targets = event_targets::parse(text)?;
            Ok(())
        }),
    },
    Opt {
        name: "SlimFaas__Events__AtOnce",
        old: &[],
        default: "1024",
        doc: "Events whose body is being read or that are being delivered; over it publishers get 429. Each may take \
              `SlimFaas__Events__MemoryBytes`: 64 MiB in all. A replica that hangs holds up 272 at most.",
        is_list: false,
        reads: Reads::Whole(1..=100_000, |draft, n| draft.config.events.at_once = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Events__Deliveries",
        old: &[],
        default: "1024",
        doc: "Deliveries of events that are being sent at once, 16 of them at most to one replica; others wait. Each \
              may take a file descriptor and 128 KiB.",
        is_list: false,
        reads: Reads::Whole(1..=100_000, |draft, n| draft.config.events.deliveries = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Events__BodyBytes",
        old: &[],
        default: "500MiB",
        doc: "An event's body; over it publishers get 413. It is kept until its last delivery has ended. \
              `SlimFaas__Limits__BodyBytes` holds too.",
        is_list: false,
        reads: Reads::Bytes(0..=TIB, |draft, n| draft.config.events.body_bytes = n),
    },
    Opt {
        name: "SlimFaas__Events__MemoryBytes",
        old: &[],
        default: "64KiB",
        doc: "A larger body is kept in a file meanwhile: beside the store, or where there is none in the system's \
              folder of temporary files.",
        is_list: false,
        reads: Reads::Bytes(0..=GIB, |draft, n| draft.config.events.memory_bytes = narrow(n)),
    },
    Opt {
        name: "SlimFaas__Events__FileBytes",
        old: &[],
        default: "1GiB",
        doc: "All these files together; over it publishers get 429. Half of the volume that the manifests ask for. `SlimFaas__Queue__DiskReserveBytes` holds too: \
              below it they get 507.",
        is_list: false,
        reads: Reads::Bytes(0..=1024 * TIB, |draft, n| draft.config.events.file_bytes = n),
    },
    Opt {
        name: "SlimFaas__Events__StructuredBytes",
        old: &[],
        default: "16MiB",
        doc: "The body of a structured CloudEvent, or of a batch of them, which is read to be checked; over it \
              publishers get 413.",
        is_list: false,
        reads: Reads::Bytes(KIB..=GIB, |draft, n| draft.config.events.structured_bytes = n),
    },
];
