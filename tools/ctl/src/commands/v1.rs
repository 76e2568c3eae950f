//! `--v1`.
use crate::context::Target;
use crate::failure::Failure;
use crate::options::Command;
use crate::output::Output;

pub(super) fn run(_: &Target, _: &Command, _: &mut Output) -> Result<(), Failure> {
    Err(Failure::usage("v1 is not there yet", None))
}
