//! Offset message ids and the unique ids that a broker makes for messages without one.

use std::net::{IpAddr, SocketAddr};

/// Writes the offset message id: upper-case hex of host, port and commit log offset; 32 digits for
/// IPv4, 56 for IPv6. Java: `MessageDecoder.createMessageId`.
pub fn write_offset_id(out: &mut String, host: SocketAddr, physical_offset: u64) {
    match host.ip() {
        IpAddr::V4(ip) => hex(out, &ip.octets()),
        IpAddr::V6(ip) => hex(out, &ip.octets()),
    }
    hex(out, &u32::from(host.port()).to_be_bytes());
    hex(out, &physical_offset.to_be_bytes());
}

/// The offset message id as a new string.
pub fn offset_id(host: SocketAddr, physical_offset: u64) -> String {
    let mut id = String::with_capacity(56);
    write_offset_id(&mut id, host, physical_offset);
    id
}

/// Reads host and commit log offset back out of an offset message id.
pub fn parse_offset_id(id: &str) -> Option<(SocketAddr, u64)> {
    let bytes = unhex(id)?;
    let (ip, rest): (IpAddr, &[u8]) = match bytes.len() {
        16 => (<[u8; 4]>::try_from(&bytes[..4]).ok()?.into(), &bytes[4..]),
        28 => (<[u8; 16]>::try_from(&bytes[..16]).ok()?.into(), &bytes[16..]),
        _ => return None,
    };
    let port = u32::from_be_bytes(rest[..4].try_into().ok()?);
    let offset = u64::from_be_bytes(rest[4..12].try_into().ok()?);
    Some((SocketAddr::new(ip, u16::try_from(port).ok()?), offset))
}

/// Appends upper-case hex digits.
pub fn hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Reads hex digits of either case; `None` for anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// A unique id in the form of Java's `MessageClientIDSetter` for IPv4: address, process id, loader
/// hash, milliseconds, counter. `serial` supplies the last six bytes and must not repeat.
pub fn unique_id(host: IpAddr, process_id: u32, now_ms: i64, serial: u64) -> String {
    let mut id = String::with_capacity(56);
    match host {
        IpAddr::V4(ip) => hex(&mut id, &ip.octets()),
        IpAddr::V6(ip) => hex(&mut id, &ip.octets()),
    }
    hex(&mut id, &(process_id as u16).to_be_bytes());
    hex(&mut id, &((serial >> 16) as u32).to_be_bytes());
    hex(&mut id, &(now_ms as u32).to_be_bytes());
    hex(&mut id, &(serial as u16).to_be_bytes());
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_in_both_families() {
        // Golden: pair 29366e846bc9 of send.jsonl.
        let golden = "7F00000200004DC7000000000003BD41";
        let (host, offset) = parse_offset_id(golden).expect("golden id");
        assert_eq!((host.to_string().as_str(), offset), ("127.0.0.2:19911", 0x3BD41));
        assert_eq!(offset_id(host, offset), golden);
        let six: SocketAddr = "[::1]:10911".parse().expect("address");
        let id = offset_id(six, 5);
        assert_eq!((id.len(), parse_offset_id(&id)), (56, Some((six, 5))));
        for bad in ["", "zz", "7F0000", "7F00000200FF4DC7000000000003BD41"] {
            assert_eq!(parse_offset_id(bad), None, "{bad}");
        }
        assert_eq!(unique_id(six.ip(), 1, 2, 3).len(), 56);
    }
}
