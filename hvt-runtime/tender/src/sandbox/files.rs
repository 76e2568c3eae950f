//! Landlock: no file, no TCP, no signal or abstract socket to anyone outside.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::SandboxError;

/// Forbids everything that landlock can forbid, but making a file in `core_folder`. Whether the kernel has it at all.
pub(super) fn forbid(core_folder: Option<i32>) -> Result<bool, SandboxError> {
    let restrict = || -> Result<RestrictionStatus, RulesetError> {
        // Best effort: on an older kernel what it does not know stays out.
        let rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V6))?
            .handle_access(AccessNet::from_all(ABI::V6))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?;
        let rules = match core_folder {
            None => rules,
            Some(folder) => {
                // SAFETY: the folder's owner keeps it open while the sandbox is set up, and longer.
                let folder = unsafe { BorrowedFd::borrow_raw(folder) };
                rules.add_rule(PathBeneath::new(folder, AccessFs::MakeReg | AccessFs::WriteFile))?
            }
        };
        rules.restrict_self()
    };
    let status = restrict().map_err(|e| SandboxError::Landlock(e.to_string()))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
