// Enarx's memspike: 16,000,000 bytes at once, then its memory_stress_test: doubling up to 32 MiB, 32 MiB a hundred
// times, halving. Every block is touched.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void spike(size_t size) {
    char *block = malloc(size);
    if (!block) {
        fprintf(stderr, "no %zu bytes\n", size);
        exit(1);
    }
    memset(block, 1, size);
    if (block[size / 2] != 1)
        exit(2);
    free(block);
}

int main(int argc, char **argv) {
    const size_t most = 32 << 20;
    if (argc < 2 || strcmp(argv[1], "stress")) {
        spike(16000000);
        return 0;
    }
    for (size_t size = 1; size <= most; size *= 2)
        spike(size);
    for (int i = 0; i < 100; i++)
        spike(most);
    for (size_t size = most; size; size /= 2)
        spike(size);
    return 0;
}
