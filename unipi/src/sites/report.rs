//! What is told about sites over the control port.

use config_proto::site::{SiteDeploy, SiteGeneration, SiteInfo, SiteLog};

use super::{Hosted, Trust};
use crate::site::Site;
use crate::site::generations::{Deploy, Generation};

/// Problems of one log entry that are told; the status page has them all.
const MAX_PROBLEMS: usize = 20;

impl Hosted {
    /// How the site is.
    pub fn info(&self) -> SiteInfo {
        let mut settings = self.config.settings.clone();
        // Long, and known to whoever gave it.
        settings.allowed_signers = None;
        let live = self.generations.current();
        SiteInfo {
            name: self.name.clone(),
            settings,
            fixed: self.fixed,
            hook: matches!(self.config.hook, Some(Trust::Signed(_) | Trust::Path)),
            push: self.config.push.is_some(),
            signers: self.config.signers.as_ref().map(|signers| count(signers.len())),
            live: live.as_deref().map(generation),
            pinned: self.generations.is_pinned(),
            failure: self.failure(),
        }
    }

    /// What happened to the site: at most `limit` entries, newest first.
    pub fn log(&self, limit: usize) -> SiteLog {
        let live = self.generations.current();
        SiteLog {
            name: self.name.clone(),
            live: live.map(|live| live.number),
            pinned: self.generations.is_pinned(),
            kept: self.generations.kept().iter().map(generation).collect(),
            log: self.generations.log().into_iter().take(limit).map(entry).collect(),
        }
    }
}

fn generation(generation: &Generation) -> SiteGeneration {
    let site: &Site = &generation.site;
    let commit = site.commit();
    SiteGeneration {
        number: generation.number,
        commit: commit.id.clone(),
        time: commit.time,
        author: commit.author.clone(),
        subject: commit.subject.clone(),
        size: site.size(),
        files: count(site.len()),
        problems: count(site.problems().len()),
    }
}

fn entry(deploy: Deploy) -> SiteDeploy {
    let problems = count(deploy.problems.len());
    let generation = deploy.commit.zip(deploy.generation).map(|(commit, number)| SiteGeneration {
        number,
        commit: commit.id,
        time: commit.time,
        author: commit.author,
        subject: commit.subject,
        size: deploy.size.unwrap_or_default(),
        files: deploy.files.map(count).unwrap_or_default(),
        problems,
    });
    let texts =
        deploy.problems.iter().take(MAX_PROBLEMS).map(|problem| match problem.path.is_empty() {
            true => problem.text.clone(),
            false => problem.to_string(),
        });
    SiteDeploy {
        time: deploy.time,
        outcome: deploy.outcome.word().to_owned(),
        by: deploy.by,
        generation,
        problems: texts.collect(),
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
