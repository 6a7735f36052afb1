// Prints its arguments in order ("arg VALUE"), then its environment sorted ("env KEY=VALUE").
// Backslash, newline, tab and carriage return are written \\ \n \t \r, other control bytes \xNN.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static void line(const char *kind, const char *text) {
    fputs(kind, stdout);
    putchar(' ');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '\\')
            fputs("\\\\", stdout);
        else if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '\t')
            fputs("\\t", stdout);
        else if (c == '\r')
            fputs("\\r", stdout);
        else if (c < 0x20 || c == 0x7f)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    putchar('\n');
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(int argc, char **argv) {
    size_t count = 0;
    for (int i = 0; i < argc; i++)
        line("arg", argv[i]);
    while (environ && environ[count])
        count++;
    if (count)
        qsort(environ, count, sizeof *environ, by_text);
    for (size_t i = 0; i < count; i++)
        line("env", environ[i]);
    return 0;
}
