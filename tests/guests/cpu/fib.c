// CPU-bound: the naive Fibonacci number argv[1] (default 41); calls only. Prints it.
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) static unsigned long long fib(unsigned n) {
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

int main(int argc, char **argv) {
    printf("%llu\n", fib(argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 41));
    return 0;
}
