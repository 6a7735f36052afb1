// Grows its memory without end and touches every page, then, when no more is given, by argv[1]:
//   none: writes past the end anyway, as a program that checks nothing (trap: memory out of bounds)
//   trap: executes unreachable;  exit: prints the pages it has and exits 9;  spin: asks for ever
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define PAGE 65536ull

static int grow(size_t pages) {
    size_t old = __builtin_wasm_memory_grow(0, pages);
    if (old == SIZE_MAX)
        return 0;
    for (size_t i = old; i < old + pages; i++)
        *(volatile char *)(uintptr_t)(i * PAGE) = 1;
    return 1;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";

    while (grow(16))
        ;
    while (grow(1))
        ;
    if (strcmp(mode, "trap") == 0)
        __builtin_trap();
    if (strcmp(mode, "exit") == 0) {
        printf("%u pages\n", (unsigned)__builtin_wasm_memory_size(0));
        fflush(stdout);
        return 9;
    }
    if (strcmp(mode, "spin") == 0)
        for (;;)
            grow(1);
    // Four bytes inside, four outside: also past the end when memory is the full 4 GiB.
    *(volatile uint64_t *)(uintptr_t)(__builtin_wasm_memory_size(0) * PAGE - 4) = 1;
    return 1;
}
