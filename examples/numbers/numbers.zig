//! A library of functions on whole numbers.

/// The greatest common divisor.
export fn gcd(a: u64, b: u64) u64 {
    var x = a;
    var y = b;
    while (y != 0) {
        const rest = x % y;
        x = y;
        y = rest;
    }
    return x;
}

/// 1 for primes, 0 for other numbers.
export fn is_prime(n: u32) u32 {
    if (n < 2) return 0;
    var divisor: u64 = 2;
    while (divisor * divisor <= n) : (divisor += 1) {
        if (n % divisor == 0) return 0;
    }
    return 1;
}

/// How many steps of Collatz's rule lead from `n` to 1; traps for 0.
export fn collatz(n: u64) u32 {
    if (n == 0) @trap();
    var x = n;
    var steps: u32 = 0;
    while (x != 1) : (steps += 1) {
        x = if (x % 2 == 0) x / 2 else 3 * x + 1;
    }
    return steps;
}
