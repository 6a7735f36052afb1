/* A command for WASI 0.2: what it reads comes out in capitals; with a file's name, into that file. */

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    FILE *out = argc > 1 ? fopen(argv[1], "w") : stdout;
    if (out == NULL) {
        perror(argv[1]);
        return 2;
    }
    unsigned long letters = 0;
    for (int c; (c = getchar()) != EOF; letters++)
        putc(toupper(c), out);
    if (fclose(out) != 0)
        return 1;
    const char *greeting = getenv("GREETING");
    fprintf(stderr, "%s%lu characters\n", greeting ? greeting : "", letters);
    return 0;
}
