//! The one-command demonstration: a gateway in front of demonstration sites.
//!
//! With `--unikernel` the gateway runs in a virtual machine; everything else stays where it is.
//!
//! It plays the part of a user who reads the README: it starts the real `tlstunnel` with a block device file and a
//! development certificate, starts two small sites and a third one straight from git with the real `unipi`, and registers
//! them with the real `tlstunnel-ctl`. Everything that it makes lies under one folder, and a second start finds it again.
//! It must not know the inside of the programs: whatever it needs, a user can do.
#![forbid(unsafe_code)]

mod files;
mod gateway;
mod options;
mod pages;
mod programs;
mod site;
mod stop;
mod unikernel;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::gateway::Gateway;
use crate::options::{Backend, Options};
use crate::pages::Pages;
use crate::programs::{Programs, quote};
use crate::stop::Stop;

/// The sites that are registered at start, and the one that is left for the user to add.
const REGISTERED: [&str; 2] = ["blog", "wiki"];
const TO_BE_ADDED: &str = "shop";
/// The site from git.
const FROM_GIT: &str = "site";

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("quickstart: no event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demonstrate(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demonstrate(options: &Options) -> anyhow::Result<()> {
    if options.unikernel {
        // Before minutes of building.
        unikernel::check_machine(options.backend)?;
    }
    let programs = Programs::build_or_find(options.unikernel)?;
    std::fs::create_dir_all(&options.dir)
        .with_context(|| format!("cannot make the folder {}", options.dir.display()))?;
    let mut stop = Stop::listen()?;
    let (mut gateway, pages) = tokio::select! {
        started = start(&programs, options) => started?,
        // What has been started ends with its values.
        () = stop.asked() => return Ok(()),
    };
    let stopped = gateway.run_until_stopped(&mut stop).await;
    if let Some(pages) = pages {
        pages.stop().await?;
    }
    stopped
}

/// Starts everything and says what can be done with it.
async fn start<'a>(
    programs: &Programs,
    options: &'a Options,
) -> anyhow::Result<(Gateway<'a>, Option<Pages>)> {
    let gateway = Gateway::start(programs, options).await?;
    for (name, port) in REGISTERED.into_iter().zip(options.site_port..) {
        let backend = site::serve(name, port).await?;
        gateway.add(programs, name, backend).await?;
    }
    let spare_port =
        (options.site_port..).nth(REGISTERED.len()).context("--site-port is too high")?;
    let spare = site::serve(TO_BE_ADDED, spare_port).await?;
    let pages = Pages::start(programs, options).await?;
    if pages.is_some() {
        gateway.add(programs, FROM_GIT, options.pages_address()).await?;
    }
    explain(options, programs, gateway.reaches(spare));
    if let Some(pages) = &pages {
        explain_pages(options, programs, pages);
    }
    let strangers = gateway.strangers(programs).await?;
    if !strangers.is_empty() {
        let host = gateway.reaches((std::net::Ipv4Addr::LOCALHOST, 0).into()).ip();
        println!(
            "\nTheir backends have another address now that the gateway runs another way: {}. This machine is {host}; \
             add them with --replace.",
            strangers.join(", ")
        );
    }
    let (dir, pid) = (options.dir.display(), gateway.process_id());
    println!(
        "\nEverything lies under {dir}; the gateway is process {pid}. Ctrl-C stops it; the next start finds all of it again."
    );
    Ok((gateway, pages))
}

/// Prints how the site from git is changed.
fn explain_pages(options: &Options, programs: &Programs, pages: &Pages) {
    let url = format!("https://{FROM_GIT}.{}:{}/", options.domain, options.https_port);
    let path = |path: std::path::PathBuf| quote(path.display().to_string());
    let (ca, token) = (path(options.ca_file()), path(options.pages_token()));
    // It goes into the clone's configuration, which is used in other folders.
    let absolute = path(std::path::absolute(options.ca_file()).unwrap_or_default());
    let ctl = programs.site_command(options);
    println!("\nA web site straight from git:\n  curl --cacert {ca} {url}");
    if pages.has_repository {
        let repository = path(options.repository());
        println!(
            "\nChange it with git push:\n  git clone {repository} my-site\n  \
             echo '<h1>My own page</h1>' > my-site/index.html\n  \
             git -C my-site commit -am 'My own page'\n  git -C my-site push\n  curl --cacert {ca} {url}"
        );
    } else {
        println!(
            "  (its repository is gone; the site goes on from {})",
            path(options.pages_storage())
        );
    }
    println!(
        "\nOr without any repository in between, straight to the site server (the password is in {token}):\n  \
         git clone -c http.sslCAInfo={absolute} {url}site.git\n\n\
         What happened to it, and the way back:\n  {ctl} site log default\n  {ctl} site rollback default"
    );
}

/// Prints what to open and what to type next.
fn explain(options: &Options, programs: &Programs, spare: std::net::SocketAddr) {
    let (https, http) = (options.https_port, options.http_port);
    let ca = options.ca_file();
    let (ca, ctl) = (ca.display(), programs.ctl_command(options));
    let running = match (options.unikernel, options.backend) {
        (false, _) => "The gateway is running",
        (true, Backend::Kvm) => {
            "The gateway is running, in a virtual machine without an operating system"
        }
        (true, Backend::Process) => "The gateway is running, a unikernel in a confined process",
    };
    println!(
        "\n{running}: one address, {} services behind it.\n\n\
         Ask it:\n  curl --cacert {ca} https://blog.{domain}:{https}/\n  curl --cacert {ca} https://wiki.{domain}:{https}/\n  \
         curl -i http://blog.{domain}:{http}/            (redirects to https)\n\n\
         Or open https://blog.{domain}:{https}/ in a browser that trusts {ca}.\n\n\
         Add another service while it runs ({spare} is waiting):\n  {ctl} add {TO_BE_ADDED} {spare}\n  \
         curl --cacert {ca} https://{TO_BE_ADDED}.{domain}:{https}/\n\n\
         Look around:\n  {ctl} list\n  {ctl} status\n  {ctl} why {TO_BE_ADDED}.{domain}",
        REGISTERED.len(),
        domain = options.domain,
    );
}
