// Calls itself for ever until the stack ends; argv[1] is a depth to stop at and print instead.
#include <stdio.h>
#include <stdlib.h>

static volatile unsigned long seen;

// The volatile read after the call keeps it from becoming a loop.
__attribute__((noinline)) static unsigned long deeper(unsigned long left) {
    seen++;
    if (left == 0)
        return 0;
    return deeper(left - 1) + (seen != 0);
}

int main(int argc, char **argv) {
    unsigned long depth = argc > 1 ? strtoul(argv[1], NULL, 10) : (unsigned long)-1;
    printf("%lu\n", deeper(depth));
    return 0;
}
