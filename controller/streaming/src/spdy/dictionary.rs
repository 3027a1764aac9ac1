//! The zlib dictionary that both sides of SPDY/3 start their header blocks from.
//!
//! The draft (section 2.6.10.1) gives it as a run of length-prefixed words and a
//! tail of values; it is assembled here from the same parts, and a test holds its
//! checksum to the identifier that peers put on the wire.

use std::sync::LazyLock;

const WORDS: &str = "options head post put delete trace accept accept-charset \
accept-encoding accept-language accept-ranges age allow authorization cache-control \
connection content-base content-encoding content-language content-length \
content-location content-md5 content-range content-type date etag expect expires from \
host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified \
location max-forwards pragma proxy-authenticate proxy-authorization range referer \
retry-after server te trailer transfer-encoding upgrade user-agent vary via warning \
www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
keep-alive origin";

const CODES: &str = "100101201202205206300302303304305306307402405406407408409410411412413\
414415416417502504505";

const PHRASES: &str = "203 Non-Authoritative Information204 No Content301 Moved Permanently\
400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error\
501 Not Implemented503 Service Unavailable";

const DATES: &str = "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT";

const VALUES: &str = "chunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(assemble);

/// The dictionary, assembled on first use.
pub(crate) fn dictionary() -> &'static [u8] {
    &DICTIONARY
}

fn assemble() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        // No word is longer than a byte can count.
        let length = u32::try_from(word.len()).unwrap_or(0);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(word.replace('_', " ").as_bytes());
    }
    for part in [CODES, PHRASES, DATES, VALUES] {
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_has_the_checksum_that_peers_ask_for() {
        let (mut low, mut high) = (1u32, 0u32);
        for byte in dictionary() {
            low = (low + u32::from(*byte)) % 65521;
            high = (high + low) % 65521;
        }
        assert_eq!(dictionary().len(), 1423);
        assert_eq!((high << 16) | low, 0xe3c6_a7c2);
    }
}
