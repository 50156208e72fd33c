//! What `serve` prints once it serves: where, and three lines to try.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use uuid::Uuid;

use crate::output::print_line;

/// Prints it.
pub(super) fn print(http: SocketAddr, grpc: SocketAddr, place: &str) -> io::Result<()> {
    let base = format!("http://{}", reachable(http));
    let grpc = format!("http://{}", reachable(grpc));
    let post = |path: &str, body: &str| {
        format!("curl -s {base}/v1/wallet/{path} -H 'content-type: application/json' -d '{body}'")
    };
    let open = |name: &str| post("accounts", &format!("{{\"account_id\":\"{name}\"}}"));
    let deposit = post(
        "deposit",
        &format!(
            "{{\"account\":\"alice\",\"amount\":\"100.00\",\"currency\":\"USD\",\"transaction_id\":\"{}\"}}",
            Uuid::now_v7()
        ),
    );
    let transfer = post(
        "balance_transfer",
        &format!(
            "{{\"from_account\":\"alice\",\"to_account\":\"bob\",\"amount\":\"12.50\",\"currency\":\"USD\",\
             \"transaction_id\":\"{}\"}}",
            Uuid::now_v7()
        ),
    );
    print_line(&format!(
        "jigap serves {place}\n  HTTP  {base}\n  gRPC  {grpc}\n\nTry it:\n{}; {}\n{deposit}\n{transfer}\n",
        open("alice"),
        open("bob"),
    ))
}

/// An address that a client on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_shown_as_one_that_can_be_reached() {
        let shown = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(shown("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(shown("10.1.2.3:80"), "10.1.2.3:80");
    }
}
