// Crashes in a chosen way, to see how a keep reports a trap:
//   unreachable (default), divide, bounds, stack (endless recursion), abort.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile int zero, number = 7;

// One call deeper for ever; the volatile read after the call keeps it from becoming a loop.
__attribute__((noinline)) static int deeper(int n) {
    if (n == -1)
        return 0;
    return deeper(n + 1 + zero + (n == -2)) + zero;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "unreachable";

    if (strcmp(mode, "unreachable") == 0)
        __builtin_trap();
    if (strcmp(mode, "divide") == 0)
        return number / zero;
    if (strcmp(mode, "bounds") == 0)
        return *(volatile int *)0xfffffff0u;
    if (strcmp(mode, "stack") == 0)
        return deeper(0);
    if (strcmp(mode, "abort") == 0) {
        fputs("crasher: calling abort()\n", stderr);
        abort();
    }
    fputs("crasher: unknown mode\n", stderr);
    return 2;
}
