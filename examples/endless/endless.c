// Never ends by itself, to try timeouts and stop: spins in a loop (default),
// "sleep" sleeps for ever, "clock" asks the host for the time for ever.
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned spins;

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "spin";
    struct timespec now;

    if (strcmp(mode, "spin") == 0)
        for (;;)
            spins++;
    if (strcmp(mode, "sleep") == 0)
        for (;;)
            sleep(3600);
    if (strcmp(mode, "clock") == 0)
        for (;;)
            clock_gettime(CLOCK_MONOTONIC, &now);
    fputs("endless: unknown mode\n", stderr);
    return 2;
}
