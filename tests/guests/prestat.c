// Prints the names of the preopened folders in order, between bars: "|/|/foo|", or "|" for none.
#include <stdio.h>
#include <wasi/api.h>

int main(void) {
    static char name[4096];
    __wasi_prestat_t prestat;
    putchar('|');
    for (int fd = 3; __wasi_fd_prestat_get(fd, &prestat) == 0; fd++) {
        size_t length = prestat.u.dir.pr_name_len;
        if (length > sizeof name || __wasi_fd_prestat_dir_name(fd, (uint8_t *)name, length) != 0)
            return 1;
        fwrite(name, 1, length, stdout);
        putchar('|');
    }
    putchar('\n');
    return 0;
}
