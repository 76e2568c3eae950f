//! Landlock: no file, no TCP, no signal or abstract socket to anyone outside.

use landlock::{
    ABI, Access, AccessFs, AccessNet, RestrictionStatus, Ruleset, RulesetAttr, RulesetError,
    RulesetStatus, Scope,
};

use super::SandboxError;

/// Forbids everything that landlock can forbid. Whether the kernel has it at all.
pub(super) fn forbid() -> Result<bool, SandboxError> {
    let restrict = || -> Result<RestrictionStatus, RulesetError> {
        // Best effort: on an older kernel what it does not know stays out.
        let rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V6))?
            .handle_access(AccessNet::from_all(ABI::V6))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?;
        rules.restrict_self()
    };
    let status = restrict().map_err(|e| SandboxError::Landlock(e.to_string()))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
