//! `getaddrinfo` for what needs no name server: addresses in figures, and `localhost`. Other names fail at once with a
//! text that says what to do; programs here ask name servers themselves.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::ptr::null_mut;
use core::str;

use libc::{addrinfo, sockaddr};

use crate::net::address;

use super::super::string;

/// An entry of the list, with its address behind it.
#[repr(C)]
struct Answer {
    info: addrinfo,
    address: [u8; address::SIZE_V6],
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn getaddrinfo(
    name: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    out: *mut *mut addrinfo,
) -> c_int {
    // SAFETY: the caller's promise.
    let (family, kind, protocol) = match unsafe { hints.as_ref() } {
        Some(hints) => (hints.ai_family, hints.ai_socktype, hints.ai_protocol),
        None => (libc::AF_UNSPEC, 0, 0),
    };
    // SAFETY: the caller's promise.
    let (name, service) = unsafe {
        let text = |at: *const c_char| (!at.is_null()).then(|| str::from_utf8(string::bytes(at)));
        (text(name), text(service))
    };
    let port = match service {
        None => 0,
        Some(service) => match service.ok().and_then(|service| service.parse().ok()) {
            Some(port) => port,
            None => return libc::EAI_SERVICE,
        },
    };
    let addresses: Vec<IpAddr> = match name {
        None | Some(Ok("localhost")) => {
            Vec::from([Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()])
        }
        Some(Ok(name)) => name.parse().into_iter().collect(),
        Some(Err(_)) => Vec::new(),
    };
    let mut first = null_mut();
    for ip in addresses.into_iter().rev() {
        let own = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        if family != libc::AF_UNSPEC && family != own {
            continue;
        }
        let (bytes, len) = address::emit(SocketAddr::new(ip, port));
        let answer = Box::leak(Box::new(Answer {
            info: addrinfo {
                ai_flags: 0,
                ai_family: own,
                ai_socktype: if kind == 0 { libc::SOCK_STREAM } else { kind },
                ai_protocol: protocol,
                ai_addrlen: libc::socklen_t::try_from(len).unwrap_or(0),
                ai_addr: null_mut(),
                ai_canonname: null_mut(),
                ai_next: first,
            },
            address: bytes,
        }));
        answer.info.ai_addr = answer.address.as_mut_ptr().cast::<sockaddr>();
        first = (&raw mut *answer).cast();
    }
    if first.is_null() {
        return libc::EAI_NONAME;
    }
    // SAFETY: the caller's promise.
    unsafe { out.write(first) };
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn freeaddrinfo(list: *mut addrinfo) {
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: an entry of `getaddrinfo` above, given back once.
        unsafe {
            let answer = Box::from_raw(entry.cast::<Answer>());
            entry = answer.info.ai_next;
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn __res_init() -> c_int {
    0
}

/// The error text of `getaddrinfo`.
#[unsafe(no_mangle)]
extern "C" fn gai_strerror(code: c_int) -> *const c_char {
    match code {
        0 => c"Success",
        libc::EAI_SERVICE => c"services are known by their number only",
        _ => c"there is no resolver here: use an address, or give the program a name server",
    }
    .as_ptr()
}
