//! `cargo xtask bench identity`: builds the kernel programs, and runs the bench of the black-box package, which knows
//! how to make nodes and pods of cgroups.

use anyhow::{Context, Result, ensure};

use crate::{ebpf, repository, test};

pub(super) fn run() -> Result<()> {
    let object = ebpf::build(ebpf::Variant::Silent)?;
    // Nothing to skip: whoever asks for numbers wants to hear why there are none.
    let bench = ["bench", "--package", "slimfaas-tests", "--bench", "identity"];
    let mut command = test::cargo(&repository(), &bench);
    command.env(ebpf::OBJECT_VARIABLE, object).env(test::REQUIRE, "all");
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "the bench failed");
    Ok(())
}
