//! The part of the command line that belongs to the network: which addresses the interfaces have.
//!
//! The names are those of the original's unikernels. Options without a group are for the network device `service`, or for
//! the first one where there is none of that name; `--GROUP-ipv4` and its kin are for the device GROUP. They are taken out
//! of the arguments, so that the program sees only what is its own. An interface of which they say nothing asks the network
//! for its addresses. `--name`, which is also the host name, is left to the program.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::str;

use netstack::{InterfaceConfig, Route};

/// The device that options without a group are for.
const MAIN: &[u8] = b"service";

/// What the options of interfaces mean, for `--help`.
pub const HELP: &str = "\
Network of this image:
      --ipv4=ADDRESS/BITS|dhcp     the IPv4 address of the interface `service`
      --ipv4-gateway=ADDRESS       the router for everything that is not on that network
      --ipv6=ADDRESS/BITS|auto     the same for IPv6; `auto` is what routers advertise
      --ipv6-gateway=ADDRESS
      --GROUP-ipv4=ADDRESS/BITS    the same four for another interface, by its name: --private-ipv4, ...
                                   an interface without any of them: dhcp and auto
      --name=NAME                  the host name; also an option of the program, if it has one
";

/// One interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// The device's name in the manifest.
    pub device: Vec<u8>,
    /// Its addresses and routes.
    pub config: InterfaceConfig,
    /// It gets an IPv4 address from a DHCP server.
    pub dhcp: bool,
    /// It gets IPv6 addresses from routers' advertisements.
    pub slaac: bool,
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Parsed<'a> {
    /// In the order of the devices.
    pub interfaces: Vec<Interface>,
    /// The host name.
    pub name: Option<&'a [u8]>,
    /// Whether the program is asked to explain itself.
    pub help: bool,
    /// The arguments for the program.
    pub rest: Vec<&'a [u8]>,
}

/// Why the command line can't be followed: what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

#[derive(Clone, Copy)]
enum Setting {
    Address { v6: bool },
    Gateway { v6: bool },
}

/// Takes the options of these network devices out of the arguments.
///
/// # Errors
/// [`Wrong`], for exit code 64.
pub fn parse<'a>(arguments: &[&'a [u8]], devices: &[&[u8]]) -> Result<Parsed<'a>, Wrong> {
    let make = |device: &&[u8]| Interface {
        device: (*device).to_owned(),
        config: InterfaceConfig::default(),
        dhcp: false,
        slaac: false,
    };
    let mut parsed = Parsed { interfaces: devices.iter().map(make).collect(), ..Parsed::default() };
    let main = devices.iter().position(|device| *device == MAIN).unwrap_or(0);
    let mut words = arguments.iter().copied();
    while let Some(word) = words.next() {
        if word == b"--" {
            // Everything behind is the program's, whatever it looks like.
            parsed.rest.push(word);
            parsed.rest.extend(words);
            break;
        }
        parsed.help |= matches!(word, b"--help" | b"-h");
        let (option, given) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) if word.starts_with(b"--") => (&word[..at], Some(&word[at + 1..])),
            _ => (word, None),
        };
        if option == b"--name" {
            parsed.name = given.or_else(|| words.clone().next());
        }
        let Some((group, setting)) = setting(option).filter(|_| !devices.is_empty()) else {
            parsed.rest.push(word);
            continue;
        };
        let index = match group {
            None => main,
            Some(group) => match devices.iter().position(|device| *device == group) {
                Some(index) => index,
                None => return Err(unknown(option, devices)),
            },
        };
        let value = given.or_else(|| words.next());
        let value = value.and_then(|value| str::from_utf8(value).ok()).filter(|v| !v.is_empty());
        let Some(value) = value else {
            return Err(Wrong(format!("{} needs a value", text(option))));
        };
        set(&mut parsed.interfaces[index], setting, value)
            .map_err(|why| Wrong(format!("{}={value}: {why}", text(option))))?;
    }
    for Interface { device, config, dhcp, slaac } in &mut parsed.interfaces {
        config.validate().map_err(|error| Wrong(format!("interface {}: {error}", text(device))))?;
        if config.addresses.iter().any(|(address, _)| address.is_loopback()) {
            let device = text(device);
            return Err(Wrong(format!(
                "interface {device}: loopback addresses are the host's own"
            )));
        }
        if config.addresses.is_empty() && !*dhcp && !*slaac {
            (*dhcp, *slaac) = (true, true);
        }
    }
    Ok(parsed)
}

/// The group and meaning of an option of an interface.
fn setting(option: &[u8]) -> Option<(Option<&[u8]>, Setting)> {
    let option = option.strip_prefix(b"--")?;
    let kinds = [
        (&b"ipv4"[..], Setting::Address { v6: false }),
        (b"ipv6", Setting::Address { v6: true }),
        (b"ipv4-gateway", Setting::Gateway { v6: false }),
        (b"ipv6-gateway", Setting::Gateway { v6: true }),
    ];
    kinds.into_iter().find_map(|(name, setting)| {
        let before = option.strip_suffix(name)?;
        match before {
            b"" => Some((None, setting)),
            _ => Some((Some(before.strip_suffix(b"-").filter(|g| !g.is_empty())?), setting)),
        }
    })
}

fn set(interface: &mut Interface, setting: Setting, value: &str) -> Result<(), String> {
    let config = &mut interface.config;
    match setting {
        Setting::Address { v6: false } if value == "dhcp" => interface.dhcp = true,
        Setting::Address { v6: true } if value == "auto" => interface.slaac = true,
        Setting::Address { v6 } => {
            let Some((address, bits)) = value.split_once('/') else {
                return Err("the prefix length is missing, as in 10.0.0.2/24".to_owned());
            };
            let address = family(address, v6)?;
            let most = if v6 { 128 } else { 32 };
            let bits = bits.parse().ok().filter(|&bits| bits <= most);
            let bits = bits.ok_or_else(|| format!("the prefix length must be 0 to {most}"))?;
            config.addresses.push((address, bits));
        }
        Setting::Gateway { v6 } => {
            let gateway = family(value, v6)?;
            let network = if v6 { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0_u8; 4]) };
            if config.routes.iter().any(|route| route.network == network) {
                return Err("there can be only one".to_owned());
            }
            config.routes.push(Route { network, prefix: 0, gateway });
        }
    }
    Ok(())
}

fn family(value: &str, v6: bool) -> Result<IpAddr, String> {
    let address = value.parse::<IpAddr>().ok().filter(|address| address.is_ipv6() == v6);
    let version = if v6 { 6 } else { 4 };
    address.ok_or_else(|| format!("{value} is no IPv{version} address"))
}

fn unknown(option: &[u8], devices: &[&[u8]]) -> Wrong {
    let names: Vec<String> = devices.iter().map(|device| text(device)).collect();
    Wrong(format!(
        "{}: this image has no such interface; it has {}",
        text(option),
        names.join(", ")
    ))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const DEVICES: [&[u8]; 2] = [b"private", b"service"];

    fn words(line: &str) -> Vec<&[u8]> {
        line.split_whitespace().map(str::as_bytes).collect()
    }

    fn wrong(line: &str) -> String {
        parse(&words(line), &DEVICES).unwrap_err().0
    }

    #[test]
    fn interfaces_get_their_addresses_and_the_program_the_rest() {
        let line = "--ipv4=10.0.0.2/24 --storage /dev/storage --ipv4-gateway 10.0.0.1 \
                    --private-ipv4=192.168.0.1/16 --name=edge --private-ipv6 fd00::1/64 -- --ipv4=x";
        let arguments = words(line);
        let parsed = parse(&arguments, &DEVICES).unwrap();
        let rest = words("--storage /dev/storage --name=edge -- --ipv4=x");
        assert_eq!(parsed.rest, rest);
        assert_eq!(parsed.name, Some(&b"edge"[..]));
        assert!(!parsed.help);
        let [private, service] = &parsed.interfaces[..] else { panic!() };
        assert_eq!(service.config.addresses, [("10.0.0.2".parse().unwrap(), 24)]);
        assert_eq!(service.config.routes[0].gateway, "10.0.0.1".parse::<IpAddr>().unwrap());
        let expected = [("192.168.0.1".parse().unwrap(), 16), ("fd00::1".parse().unwrap(), 64)];
        assert_eq!(private.config.addresses, expected);
    }

    #[test]
    fn without_network_devices_nothing_is_taken() {
        let arguments = words("--ipv4=10.0.0.2/24 --name x --help");
        let parsed = parse(&arguments, &[]).unwrap();
        assert_eq!(parsed.rest, arguments);
        assert_eq!(parsed.name, Some(&b"x"[..]));
        assert!(parsed.help);
    }

    #[test]
    fn the_first_device_stands_in_for_service() {
        let arguments = words("--ipv4=10.0.0.2/24");
        let parsed = parse(&arguments, &[b"net0", b"net1"]).unwrap();
        assert_eq!(parsed.interfaces[0].config.addresses.len(), 1);
        assert!(parsed.interfaces[1].config.addresses.is_empty());
        assert!(!parsed.interfaces[0].dhcp && parsed.interfaces[1].dhcp);
    }

    #[test]
    fn the_network_is_asked_for_addresses_where_none_are_given() {
        let sources = |line: &str| {
            let arguments = words(line);
            let parsed = parse(&arguments, &[b"service"]).unwrap();
            (parsed.interfaces[0].dhcp, parsed.interfaces[0].slaac)
        };
        assert_eq!(sources(""), (true, true));
        assert_eq!(sources("--ipv4=10.0.0.2/24"), (false, false));
        assert_eq!(sources("--ipv4=10.0.0.2/24 --ipv6=auto"), (false, true));
        assert_eq!(sources("--ipv4 dhcp"), (true, false));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, said) in [
            ("--ipv4=10.0.0.2", "prefix length"),
            ("--ipv4=10.0.0.2/33", "0 to 32"),
            ("--ipv4=fd00::1/64", "no IPv4 address"),
            ("--ipv6=10.0.0.1/24", "no IPv6 address"),
            ("--ipv4", "needs a value"),
            ("--ipv4=", "needs a value"),
            ("--ipv4=10.0.0.2/24 --ipv4-gateway=10.0.1.1", "none of the interface's networks"),
            ("--management-ipv4=10.0.0.2/24", "it has private, service"),
            ("--ipv4=224.0.0.1/24", "no address of a host"),
            ("--ipv4=127.0.0.1/8", "loopback addresses"),
            ("--ipv6=dhcp", "prefix length"),
            ("--ipv4=10.0.0.2/24 --ipv4-gateway=10.0.0.1 --ipv4-gateway=10.0.0.3", "only one"),
        ] {
            let found = wrong(line);
            assert!(found.contains(said), "{line}: {found}");
        }
    }
}
