//! The keys of `slimfaas.local.yaml` (their meaning is in `manifest`).

use super::overlay::Shape;

pub(super) static ROOT: Shape = Shape::Keys(&[
    ("schemaVersion", Shape::Scalar),
    ("name", Shape::Scalar),
    (
        "cluster",
        Shape::Keys(&[
            ("nodes", Shape::Scalar),
            ("entrypointPort", Shape::Scalar),
            ("nodeHttpPortBase", Shape::Scalar),
            ("raftPortBase", Shape::Scalar),
            ("nodeLogLevel", Shape::Scalar),
        ]),
    ),
    ("processPorts", Shape::Keys(&[("from", Shape::Scalar), ("to", Shape::Scalar)])),
    ("state", Shape::Keys(&[("mode", Shape::Scalar), ("directory", Shape::Scalar)])),
    ("functions", Shape::Named(&FUNCTION)),
    ("jobs", Shape::Named(&JOB)),
    ("processes", Shape::Named(&PROCESS)),
]);

static FUNCTION: Shape = Shape::Keys(&[
    ("command", Shape::List),
    ("workingDirectory", Shape::Scalar),
    ("debugUrl", Shape::Scalar),
    ("annotations", Shape::Named(&Shape::Scalar)),
    ("environment", Shape::Named(&Shape::Scalar)),
    (
        "health",
        Shape::Keys(&[
            ("path", Shape::Scalar),
            ("periodSeconds", Shape::Scalar),
            ("timeoutSeconds", Shape::Scalar),
            ("startupTimeoutSeconds", Shape::Scalar),
        ]),
    ),
    ("shutdown", Shape::Keys(&[("path", Shape::Scalar), ("timeoutSeconds", Shape::Scalar)])),
]);

static JOB: Shape = Shape::Keys(&[
    ("command", Shape::List),
    ("workingDirectory", Shape::Scalar),
    ("annotations", Shape::Named(&Shape::Scalar)),
    ("environment", Shape::Named(&Shape::Scalar)),
    ("ttlSecondsAfterFinished", Shape::Scalar),
    ("backoffLimit", Shape::Scalar),
    ("restartPolicy", Shape::Scalar),
    ("resources", Shape::Anything),
]);

static PROCESS: Shape = Shape::Keys(&[
    ("command", Shape::List),
    ("workingDirectory", Shape::Scalar),
    ("environment", Shape::Named(&Shape::Scalar)),
    ("port", Shape::Scalar),
    ("restartPolicy", Shape::Scalar),
]);
