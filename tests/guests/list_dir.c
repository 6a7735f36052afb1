// Lists the folder argv[1] (default "/"), sorted: "d NAME", "f NAME", "l NAME", "o NAME" for others.
// On an error prints "PATH ERRNO" to stderr and exits 1.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest.h"

struct entry {
    char kind, *name;
};

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static int fail(const char *path) {
    fprintf(stderr, "%s %s\n", path, errno_name(errno));
    return 1;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "/";
    struct entry *all = NULL;
    size_t count = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return fail(path);
    for (;;) {
        errno = 0;
        struct dirent *d = readdir(dir);
        if (!d)
            break;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (count % 64 == 0)
            all = realloc(all, (count + 64) * sizeof *all);
        if (!all || !(all[count].name = strdup(d->d_name)))
            abort();
        all[count++].kind = d->d_type == DT_DIR   ? 'd'
                            : d->d_type == DT_REG ? 'f'
                            : d->d_type == DT_LNK ? 'l'
                                                  : 'o';
    }
    if (errno)
        return fail(path);
    if (count)
        qsort(all, count, sizeof *all, by_name);
    for (size_t i = 0; i < count; i++)
        printf("%c %s\n", all[i].kind, all[i].name);
    return 0;
}
