//! A service on the socket that Keep.toml names: the sum of the numbers that a connection sends, a line for each. It serves
//! one connection after the other, and ends with the exit code 0 when one sends `end`.
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::wasi::io::FromRawFd;

/// Standard streams are 0 to 2; this is the first of the others in Keep.toml.
const LISTENER: i32 = 3;

/// Whether the connection asked for the end.
fn serve(connection: &TcpStream) -> io::Result<bool> {
    let mut answers = connection;
    let mut sum = 0i64;
    for line in BufReader::new(connection).lines() {
        let line = line?;
        if line == "end" {
            return Ok(true);
        }
        match line.trim().parse::<i64>().ok().and_then(|number| sum.checked_add(number)) {
            Some(next) => {
                sum = next;
                writeln!(answers, "{sum}")?;
            }
            None => writeln!(answers, "no number, or too large a sum: {line:?}")?,
        }
    }
    Ok(false)
}

fn main() -> io::Result<()> {
    // The keep has opened it, and nothing else in this program owns it.
    let listener = unsafe { TcpListener::from_raw_fd(LISTENER) };
    loop {
        let (connection, _) = listener.accept()?;
        match serve(&connection) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => eprintln!("a connection failed: {error}"),
        }
    }
}
