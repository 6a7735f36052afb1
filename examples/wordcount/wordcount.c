// Counts lines, words and bytes of the files named as arguments, like wc.
// The summary goes to stdout, and to /output/counts.txt when the keep has an /output.
// Exit code 1 when a file cannot be read, 2 when none is named.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct counts {
    unsigned long long lines, words, bytes;
};

// The locale-independent white space of wc.
static int is_space(int c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int count(const char *path, struct counts *total) {
    static char buffer[65536];
    struct stat info;
    int in_word = 0;
    size_t n;
    FILE *file = fopen(path, "rb");
    if (!file)
        return -1;
    if (fstat(fileno(file), &info) == 0 && S_ISDIR(info.st_mode)) {
        fclose(file);
        errno = EISDIR;
        return -1;
    }
    while ((n = fread(buffer, 1, sizeof buffer, file)) > 0) {
        total->bytes += n;
        for (size_t i = 0; i < n; i++) {
            total->lines += buffer[i] == '\n';
            int space = is_space(buffer[i]);
            total->words += !space && !in_word;
            in_word = !space;
        }
    }
    int failed = ferror(file) ? errno : 0;
    fclose(file);
    errno = failed;
    return failed ? -1 : 0;
}

static void report(FILE *to, const struct counts *c, const char *name) {
    fprintf(to, "%llu %llu %llu %s\n", c->lines, c->words, c->bytes, name);
}

int main(int argc, char **argv) {
    struct counts total = {0, 0, 0};
    struct stat info;
    FILE *saved = NULL;
    int result = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: wordcount FILE...\n");
        return 2;
    }
    if (stat("/output", &info) == 0 && S_ISDIR(info.st_mode)) {
        saved = fopen("/output/counts.txt", "wb");
        if (!saved) {
            fprintf(stderr, "wordcount: /output/counts.txt: %s\n", strerror(errno));
            result = 1;
        }
    }
    for (int i = 1; i < argc; i++) {
        struct counts one = {0, 0, 0};
        if (count(argv[i], &one) != 0) {
            fprintf(stderr, "wordcount: %s: %s\n", argv[i], strerror(errno));
            result = 1;
            continue;
        }
        report(stdout, &one, argv[i]);
        if (saved)
            report(saved, &one, argv[i]);
        total.lines += one.lines;
        total.words += one.words;
        total.bytes += one.bytes;
    }
    if (argc > 2) {
        report(stdout, &total, "total");
        if (saved)
            report(saved, &total, "total");
    }
    if (saved && fclose(saved) != 0) {
        fprintf(stderr, "wordcount: /output/counts.txt: %s\n", strerror(errno));
        result = 1;
    }
    return fflush(stdout) == 0 ? result : 1;
}
