//! Numbers from the files named as arguments, or from standard input, one a line: how many, and their minimum, median,
//! mean and maximum. A line that is no number is named on standard error, and the exit code is 1.
use std::io::{self, Read, Write};
use std::{env, fs, process};

fn numbers(text: &str) -> Result<Vec<f64>, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| match line.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(format!("no number: {line:?}")),
        })
        .collect()
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

fn input() -> Result<String, String> {
    let mut text = String::new();
    let mut files = env::args().skip(1).peekable();
    if files.peek().is_none() {
        io::stdin().read_to_string(&mut text).map_err(|error| format!("standard input: {error}"))?;
    }
    for file in files {
        text += &fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        text.push('\n');
    }
    Ok(text)
}

fn main() {
    let summary = input().and_then(|text| numbers(&text)).and_then(|mut all| {
        all.sort_by(f64::total_cmp);
        let (first, last) = all.first().zip(all.last()).ok_or("no numbers")?;
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        Ok(format!("count {}\nmin {first}\nmedian {}\nmean {mean}\nmax {last}\n", all.len(), median(&all)))
    });
    match summary {
        Ok(text) => io::stdout().write_all(text.as_bytes()).expect("standard output takes the summary"),
        Err(message) => {
            eprintln!("median: {message}");
            process::exit(1);
        }
    }
}
