// Reads the number in /data/counter (none: 0), adds one, writes it back and prints it.
// On an error prints "PATH ERRNO" to stderr and exits 1.
#include <errno.h>
#include <stdio.h>

#include "guest.h"

static const char path[] = "/data/counter";

static int fail(void) {
    fprintf(stderr, "%s %s\n", path, errno_name(errno));
    return 1;
}

int main(void) {
    unsigned long n = 0;
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%lu", &n) != 1)
            n = 0;
        fclose(file);
    } else if (errno != ENOENT) {
        return fail();
    }
    file = fopen(path, "w");
    if (!file)
        return fail();
    fprintf(file, "%lu\n", n + 1);
    if (fclose(file) != 0)
        return fail();
    printf("%lu\n", n + 1);
    return 0;
}
